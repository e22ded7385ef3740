"""Training on a stream: a run that was cut off goes on exactly where it stood."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_recipe import RECIPE

from adatok_hf.training import train_tokenizer as tokenizer


STEPS, CUT = 9, 4  # 20 pictures in batches of four: the cut lies within an epoch, a file and a window


@pytest.fixture
def data(tmp_path, pictures) -> str:
    """Twenty pictures in four parquet files."""
    for index in range(4):
        cells = [image.rotate(90 * index) for image in pictures[index : index + 5]]
        table = datasets.Dataset.from_dict({"image": cells}).cast_column("image", datasets.Image())
        table.to_parquet(tmp_path / f"train-{index}.parquet")
    return str(tmp_path / "train-*.parquet")


@pytest.fixture
def train(tmp_path, data):
    """Trains on the stream in so many processes, gives the folder."""

    def run(name: str, processes: int = 1, **options) -> Path:
        values = {**RECIPE, "train_data": data, "streaming": True, "shuffle_window": 3, "min_crop": 0.5}
        values |= {"max_steps": STEPS, "save_steps": CUT, "output_dir": str(tmp_path / name), **options}
        values["per_device_train_batch_size"] = 4 // processes
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump(values))
        if processes == 1:
            tokenizer.train_recipe(str(recipe))
            return tmp_path / name
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        launch += ["-m", "adatok_hf.cli", "train", "tokenizer", "--recipe", str(recipe), "--ddp_backend", "gloo"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.run(launch, env=environment, capture_output=True, text=True, timeout=300)
        assert process.returncode == 0, process.stderr[-4000:]
        return tmp_path / name

    return run


def cut_off(whole: Path, name: str) -> Path:
    """A folder as if the run had been killed after its first checkpoint."""
    folder = whole.parent / name
    shutil.copytree(whole / f"checkpoint-{CUT}", folder / f"checkpoint-{CUT}")
    return folder


@pytest.mark.parametrize(
    "processes, options",
    [
        (1, {}),
        (1, {"dataloader_num_workers": 2, "gradient_accumulation_steps": 3}),
        pytest.param(2, {"dataloader_num_workers": 1}, marks=pytest.mark.slow),
    ],
    ids=["one process", "workers", "two processes"],
)
def test_a_run_that_was_cut_off_ends_with_the_weights_of_one_that_was_not(train, processes, options):
    whole = train("whole", processes, **options)
    cut_off(whole, "cut")
    cut = train("cut", processes, **options)
    ends = [folder / f"checkpoint-{STEPS}" for folder in (whole, cut)]
    for name in ("model.safetensors", f"checkpoint-{STEPS}/model.safetensors"):
        one, other = (load_file(folder / name) for folder in (whole, cut))
        assert one.keys() == other.keys() and [key for key in one if not one[key].equal(other[key])] == []
    one, other = (torch.load(end / "reconstruction_state.pt", weights_only=True)["stream"] for end in ends)
    assert one["places"].equal(other["places"]) and one["places"].shape[0] == one["facts"]["readers"]
    assert (ends[0] / "trainer_state.json").read_text() == (ends[1] / "trainer_state.json").read_text()


def test_another_stream_is_not_resumed(train, one_sentence):
    cut_off(train("whole"), "cut")
    with one_sentence("shuffle_window=3", "this one 4"):
        train("cut", shuffle_window=4)
    with one_sentence("a run with --streaming"):
        train("cut", streaming=False)


def test_a_stream_needs_an_end(train, one_sentence):
    with one_sentence("--max_steps"):
        train("endless", max_steps=-1)


def test_the_card_says_that_it_was_a_stream(train):
    assert "a stream" in (train("carded", max_steps=1) / "README.md").read_text()
