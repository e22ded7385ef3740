"""A disk that is full, under every command that writes: one sentence with the path, and the old file stays whole."""

import os
import subprocess
from functools import partial
from pathlib import Path

import pytest
import yaml
from distance import Distance
from evaluate_worker import NUM_FEATURES, SmallInception
from originals import read_original
from tiny_recipe import RECIPE, TATOK_RECIPE

from adatok_hf.allocation.reward_table import build_reward_table
from adatok_hf.cli import main
from adatok_hf.data import load_image_dataset
from adatok_hf.evaluation import generation, reference
from adatok_hf.metrics import inception


SHORT = {"use_cpu": True, "max_steps": 2, "save_steps": 1, "report_to": "none", "disable_tqdm": True}
RECIPES = {
    "tokenizer": RECIPE,
    "policy": SHORT | {"output_dir": ""},
    "tatok": TATOK_RECIPE,
    "llama": SHORT | {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "output_dir": ""},
}
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
    "heads import": "heads import {heads} --out {disk}/new --model {checkpoint}",
    "convert": "convert {titok} --from titok --out {disk}/new --budgets 16",
    "export": "export --format torch --out {disk}/new --model {checkpoint}",
    "train tokenizer": "train tokenizer --recipe {tokenizer} --data {pictures} --output_dir {disk}/new",
    "train tokenizer, grid": "train tokenizer --recipe {tokenizer} --data {pictures} --output_dir {disk}/new "
    "--eval_data {pictures} --eval_strategy steps --eval_steps 1",
    "train tatok": "train tatok --recipe {tatok} --data {pictures} --output_dir {disk}/new",
    "train generator": "train generator --recipe {llama} --data {dataset} --output_dir {disk}/new",
    "train policy": "train policy --recipe {policy} --reward_table {table} --output_dir {disk}/new",
    "evaluate-generation": "evaluate-generation --generator {generator} --data {labelled} --split train "
    "--kid-subset-size 4 --out {disk}/new {model}",
    "study policy": "study policy --recipe {policy} --seeds 2 --out {disk}/new --model {checkpoint} "
    "--reward-table {table} --eval-reward-table {others}",
    "study heads": "study heads --train-data {pictures} --eval-data {pictures} --steps 1 --seeds 2 --batch-size 2 "
    "--weights-dir {weights} --out {disk}/new --model {checkpoint}",
    "study tatok": "study tatok --model {tatok_checkpoint} --adatok {checkpoint} --tokens 9 --data {pictures} "
    "--split train --weights-dir {weights} --out {disk}/new",
    "study fixed": "study fixed --recipe {tokenizer} --policy-recipe {policy} --fixed-budget 8 --seeds 1 "
    "--train-data {pictures} --eval-data {pictures} --policy-images 80 --max-eval-images 4 --weights-dir {weights} "
    "--out {disk}/new",
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


@pytest.fixture(autouse=True)
def light_inception(monkeypatch):
    """A network that finds eight images enough."""
    evaluate = partial(generation.evaluate_generation, min_images=NUM_FEATURES + 1)
    monkeypatch.setattr(generation, "evaluate_generation", evaluate)
    monkeypatch.setattr(inception, "load_inception", lambda weights_dir: SmallInception())
    monkeypatch.setattr(reference, "describe_evaluator", lambda weights_dir: {"name": "small"})


@pytest.fixture
def line(
    tmp_path, tiny_model, processor, pictures, write_pictures, weights_dir, generator, tatok_checkpoint, small_disk
):
    """The words of a command whose output goes to the small disk."""

    def words(command: str) -> list[str]:
        tiny_model.config.is_policy_trained = True
        checkpoint = tmp_path / "checkpoint"
        tiny_model.save_pretrained(checkpoint)
        processor.save_pretrained(checkpoint)
        places = {"checkpoint": checkpoint, "pictures": pictures, "disk": small_disk, "weights": weights_dir}
        places["model"] = f"--model {checkpoint} --device cpu"
        places["tatok_checkpoint"] = tatok_checkpoint
        for name in ("generator", "heads", "titok", "dataset", "labelled", "table", "others", *RECIPES):
            places[name] = tmp_path / name
        places["codes"] = tmp_path / "codes.safetensors"
        text = COMMANDS[command]
        if "{generator}" in text:
            generator.save_pretrained(places["generator"])
        if "{codes}" in text:
            run(f"encode {pictures} --out {places['codes']} {places['model']}".split())
        if "{heads}" in text:
            run(f"heads export --out {places['heads']} --model {checkpoint}".split())
        if "{titok}" in text:
            read_original("titok_s128").publish(places["titok"])
        if "{dataset}" in text:
            run(f"tokenize-dataset --data {pictures} --out {places['dataset']} {places['model']}".split())
        if "{labelled}" in text:
            write_pictures(places["labelled"] / "emoji", 8)
        if "{table}" in text:
            folder = str(write_pictures(tmp_path / "more", 240))
            for name, rows in (("table", "train[:120]"), ("others", "train[120:]")):
                build_reward_table(tiny_model, processor, load_image_dataset(folder, rows), Distance(), places[name])
        for name, values in RECIPES.items():
            start = {"init_from": str(checkpoint)} if name == "policy" else {}
            places[name].write_text(yaml.safe_dump(values | start))
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
