"""A disk that is full, under every command that writes: one sentence with the path, and the old file stays whole."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from distance import Distance
from tiny_recipe import RECIPE

from adatok_hf.allocation.reward_table import build_reward_table
from adatok_hf.cli import main
from adatok_hf.data import load_image_dataset


SHORT = {"use_cpu": True, "max_steps": 2, "save_steps": 1, "report_to": "none", "disable_tqdm": True}
COMMANDS = {
    "encode": "encode {pictures} --out {disk}/old.safetensors {model}",
    "encode to parquet": "encode {pictures} --out {disk}/old.parquet {model}",
    "decode": "decode {codes} --out {disk} {model}",
    "reconstruct": "reconstruct {pictures} --out {disk} {model}",
    "tokenize-dataset": "tokenize-dataset --data {pictures} --out {disk}/new {model}",
    "heads export": "heads export --out {disk}/new --model {checkpoint}",
    "calibrate": "calibrate --mean-budget 10 --data {pictures} --out {disk}/new {model}",
    "reward-table": "reward-table --data {pictures} --out {disk}/new --weights-dir {weights} {model}",
    "evaluate": "evaluate --data {pictures} --metrics psnr --budgets 4 --out {disk}/new {model}",
    "bench": "bench --batch-size 1 --repeats 1 --dtype float32 --out {disk}/old.json {model}",
    "generate": "generate --generator {generator} --label emoji -n 1 --out {disk} {model}",
    "export": "export --format torch --out {disk}/new --model {checkpoint}",
    "train tokenizer": "train tokenizer --recipe {tokenizer} --data {pictures} --output_dir {disk}/new",
    "train tokenizer, grid": "train tokenizer --recipe {tokenizer} --data {pictures} --output_dir {disk}/new "
    "--eval_data {pictures} --eval_strategy steps --eval_steps 1",
    "train policy": "train policy --recipe {policy} --reward_table {table} --output_dir {disk}/new",
    "study policy": "study policy --recipe {policy} --seeds 2 --out {disk}/new --model {checkpoint} "
    "--reward-table {table} --eval-reward-table {others}",
    "study heads": "study heads --train-data {pictures} --eval-data {pictures} --steps 1 --seeds 2 --batch-size 2 "
    "--weights-dir {weights} --out {disk}/new --model {checkpoint}",
}
LARGE = ("heads export", "calibrate", "evaluate", "export", "train tokenizer", "train policy", "study policy")
OLD = ("old.safetensors", "old.parquet", "old.json", "a.png", "grid.png", "results.json")


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 128 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def line(tmp_path, tiny_model, processor, pictures, write_pictures, weights_dir, generator, small_disk):
    """The words of a command whose output goes to the small disk."""

    def words(command: str) -> list[str]:
        tiny_model.config.is_policy_trained = True
        checkpoint = tmp_path / "checkpoint"
        tiny_model.save_pretrained(checkpoint)
        processor.save_pretrained(checkpoint)
        places = {"checkpoint": checkpoint, "pictures": pictures, "disk": small_disk, "weights": weights_dir}
        places["model"] = f"--model {checkpoint} --device cpu"
        for name in ("generator", "codes", "tokenizer", "policy", "table", "others"):
            places[name] = tmp_path / {"codes": "codes.safetensors"}.get(name, name)
        text = COMMANDS[command]
        if "{generator}" in text:
            generator.save_pretrained(places["generator"])
        if "{codes}" in text:
            run(f"encode {pictures} --out {places['codes']} {places['model']}".split())
        if "{table}" in text:
            folder = str(write_pictures(tmp_path / "more", 240))
            for name, rows in (("table", "train[:120]"), ("others", "train[120:]")):
                build_reward_table(tiny_model, processor, load_image_dataset(folder, rows), Distance(), places[name])
        places["tokenizer"].write_text(yaml.safe_dump(RECIPE))
        places["policy"].write_text(yaml.safe_dump(SHORT | {"output_dir": "", "init_from": str(checkpoint)}))
        return text.format(**places).split()

    return words


def run(words: list[str]) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main(words)
    return exit_info.value.code


@pytest.mark.parametrize(
    ("command", "free"), [*((name, 0) for name in COMMANDS), *((name, 16 << 10) for name in LARGE)]
)
def test_a_full_disk_is_one_sentence_and_the_old_file_stays(command, free, line, small_disk, capsys):
    words = line(command)
    for name in OLD:
        (small_disk / name).write_text("old")
    space = os.statvfs(small_disk)
    (small_disk / "rest").write_bytes(bytes(space.f_bavail * space.f_frsize - free))
    capsys.readouterr()
    code, errors = run(words), capsys.readouterr().err
    (sentence,) = [text for text in errors.splitlines() if text.startswith("adatok: error: ")]
    assert code == 3 and sentence.endswith(".") and str(small_disk) in sentence, errors
    assert "No space left on device" in sentence or "perhaps the disk is full" in sentence
    assert all((small_disk / name).read_text() == "old" for name in OLD)
    assert not hidden(small_disk)


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.is_file()]
