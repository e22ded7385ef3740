"""`adatok reward-table` and `adatok study policy` from pictures to a report."""

import json

import numpy as np
import pytest
from PIL import Image

from adatok_hf.cli import main


@pytest.fixture
def adatok(capsys):
    """Runs the command; gives exit code, stdout and stderr."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


@pytest.fixture
def write_noise():
    """Writes pictures of ever finer random squares."""

    def write(folder, count, seed):
        folder.mkdir(parents=True)
        generator = np.random.default_rng(seed)
        for index in range(count):
            size = 2 + index % 31
            squares = Image.fromarray(generator.integers(0, 256, (size, size, 3), dtype=np.uint8))
            squares.resize((32, 32), Image.Resampling.NEAREST).save(folder / f"{index:03d}.png")
        return folder

    return write


@pytest.fixture
def tables(adatok, tmp_path, tiny_checkpoint, write_noise, weights_dir):
    """Reward tables of 120 pictures each, made by the command."""
    for name, seed in (("train", 0), ("held-out", 1)):
        pictures, table = write_noise(tmp_path / name, 120, seed), tmp_path / f"{name}-table"
        options = ["--model", tiny_checkpoint, "--weights-dir", weights_dir, "--device", "cpu"]
        code, out, _ = adatok("reward-table", "--data", pictures, "--out", table, *options)
        assert code == 0 and "120 images at 3 budgets" in out
    return tmp_path / "train-table", tmp_path / "held-out-table"


@pytest.fixture
def study(adatok, tables, tmp_path):
    """Runs a short study of a checkpoint; gives exit code, stdout and stderr."""

    def run(checkpoint):
        options = ["--reward-table", tables[0], "--eval-reward-table", tables[1], "--out", tmp_path / "study"]
        short = ["--recipe", "tiny-64", "--seeds", 1, "--max_steps", 2]
        return adatok("study", "policy", *options, "--model", checkpoint, *short)

    return run


def test_study_ends_in_rows_as_json_and_writes_a_report(study, tiny_checkpoint, tmp_path):
    code, out, _ = study(tiny_checkpoint)
    assert code == 0
    rows = json.loads(out.splitlines()[-1])["rows"]
    arms = {row["arm"] for row in rows}
    assert {"policy", "uniform", "shuffled", "random", "regressor", "oracle (reward)", "time-sharing hull"} <= arms
    assert all({"mean_budget", "lpips", "psnr", "ci"} <= row.keys() for row in rows)
    files = {path.name for path in (tmp_path / "study").iterdir()}
    assert {"study.md", "study.json", "front.png", "groups.png", "sweep.png", "training.png"} <= files


def test_table_of_another_checkpoint_is_one_sentence(study, tiny_model, processor, tmp_path):
    tiny_model.decoder.mask_token.data.add_(1)
    tiny_model.save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    code, _, error = study(tmp_path / "other")
    assert code == 2 and "weights are not those of this model" in error.splitlines()[-1]
