"""`accelerate launch` with the shipped configuration trains as one process does."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file
from tiny_recipe import RECIPE

import adatok_hf
from adatok_hf.training import train_tokenizer as tokenizer


CONFIG = Path(adatok_hf.__file__).parent / "recipes" / "accelerate" / "ddp.yaml"
STEPS = 50
# What a process draws or averages for itself is left out: random crops, batch statistics, revivals and the critic.
CROPS_APART = {"dataloader_num_workers": 1}  # square pictures have one crop, drawn where no other numbers are
ALIKE = {**CROPS_APART, "freeze_latent_norm_step": 0, "revive_steps": 0, "adversarial_weight": 0.0}


@pytest.fixture(scope="module")
def train(tmp_path_factory, write_pictures):
    """Trains on square pictures, alone or in two processes; gives the folder."""
    home = tmp_path_factory.mktemp("accelerate")
    pictures = write_pictures(home / "pictures", 24)
    for path in pictures.iterdir():
        Image.open(path).resize((32, 32)).save(path)

    def run(name: str, processes: int, **options) -> Path:
        values = {**RECIPE, "max_steps": STEPS, "save_steps": STEPS // 2, "train_data": str(pictures), **options}
        values |= {"output_dir": str(home / name), "per_device_train_batch_size": 4 // processes}
        (home / f"{name}.yaml").write_text(yaml.safe_dump(values))
        recipe = str(home / f"{name}.yaml")
        if processes == 1:
            tokenizer.train_recipe(recipe)
            return home / name
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIG)]
        launch += ["--num_processes", str(processes), "--main_process_port", "0", "-m", "adatok_hf.cli"]
        launch += ["train", "tokenizer", "--recipe", recipe, "--ddp-backend", "gloo"]
        process = subprocess.run(
            launch,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert process.returncode == 0, process.stderr[-4000:]
        return home / name

    return run


def losses(folder: Path) -> list[float]:
    state = json.loads((folder / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    return [line["loss"] for line in state["log_history"] if "loss" in line]


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_at_the_same_global_batch(train, capsys):
    alone, together = losses(train("alone", 1, **ALIKE)), losses(train("together", 2, **ALIKE))
    largest = max(abs(one - other) for one, other in zip(alone, together))
    with capsys.disabled():
        print(f"\nlosses from {alone[0]:.4f} to {alone[-1]:.4f}, largest difference {largest:.2g}")
    assert len(alone) == len(together) == STEPS and alone[0] > 1.2 * alone[-1]
    assert together == pytest.approx(alone, rel=1e-3)


@pytest.mark.slow
def test_two_processes_that_are_cut_off_end_as_if_they_had_not_been(train):
    whole = train("whole", 2, **CROPS_APART)
    shutil.copytree(whole / f"checkpoint-{STEPS // 2}", whole.parent / "cut" / f"checkpoint-{STEPS // 2}")
    cut = train("cut", 2, **CROPS_APART)
    assert losses(cut) == losses(whole)
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, cut))
    assert [name for name in one if not one[name].equal(other[name])] == []


@pytest.mark.parametrize("asked_by", ["launcher", "recipe"])
def test_fsdp_is_refused(tmp_path, monkeypatch, one_sentence, asked_by):
    if asked_by == "launcher":
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    options = ["--fsdp", "full_shard"] if asked_by == "recipe" else []
    with one_sentence("ddp.yaml"):
        tokenizer.train_recipe("tiny-64", ["--output-dir", str(tmp_path / "out"), *options])
    assert not (tmp_path / "out").exists()
