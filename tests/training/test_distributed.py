"""Two processes train one model."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_recipe import RECIPE

from adatok_hf.training import train_tokenizer as tokenizer


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def train_in_two_processes(recipe: Path, *overrides: str) -> subprocess.CompletedProcess:
    worker = Path(__file__).parent.parent / "helpers" / "record_ranks.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_addr", "127.0.0.1", "--master_port", str(free_port()), str(worker), str(recipe)]
    process = subprocess.run(
        [*command, "--ddp_backend", "gloo", *overrides],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    return process


@pytest.fixture(scope="module")
def run(tmp_path_factory, write_pictures) -> tuple[Path, str, str]:
    """Folder, printed lines and warnings of three steps in two processes."""
    folder = tmp_path_factory.mktemp("distributed")
    values = {
        **RECIPE,
        "per_device_train_batch_size": 2,
        "revive_until": 1.0,
        "save_steps": 1,  # between the first and the second step, codes have been counted and not been revived
        "output_dir": str(folder / "out"),
        "train_data": str(write_pictures(folder / "train", 10)),
        "eval_data": str(write_pictures(folder / "validation", 5)),  # one picture more than both take at once
        "per_device_eval_batch_size": 2,
        "dataloader_num_workers": 1,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    process = train_in_two_processes(folder / "recipe.yaml")
    return folder, process.stdout, process.stderr


@pytest.fixture(scope="module")
def ranks(run) -> list[dict]:
    """What the two processes end with."""
    return [torch.load(run[0] / "out" / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]


def differing(one: dict, other: dict) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def test_each_process_sees_other_images(ranks):
    first, second = (torch.cat(rank["batches"]) for rank in ranks)
    assert len(first) == len(second) == 6
    assert not any(torch.equal(image, other) for image in ranks[0]["batches"][0] for other in ranks[1]["batches"][0])


def test_each_process_draws_budgets_of_its_own(ranks):
    first, second = (torch.cat(rank["budgets"]) for rank in ranks)
    assert len(first) == len(second) == 6 and not torch.equal(first, second)


@pytest.mark.parametrize("part", ["model", "average", "discriminator", "lecam"])
def test_both_processes_end_with_the_same_state(ranks, part):
    assert differing(ranks[0][part], ranks[1][part]) == []


def test_revived_codes_are_the_same_in_both_processes(ranks):
    books = [rank["model"]["quantizer.codebook.weight"] for rank in ranks]
    assert torch.equal(ranks[0]["first_codebook"], ranks[1]["first_codebook"])
    # Used codes move by their gradients; that every single one has moved is the revival's doing.
    assert (books[0] != ranks[0]["first_codebook"]).any(dim=1).all()
    assert torch.equal(*books)
    assert 0 < ranks[0]["codebook_use"] == ranks[1]["codebook_use"] < 1


def test_exported_weights_are_the_average_of_both_processes(run, ranks):
    exported = load_file(run[0] / "out" / "model.safetensors")
    assert differing(exported, ranks[0]["average"]) == []
    assert differing(exported, ranks[1]["average"]) == []


def test_no_search_for_unused_weights_slows_the_steps(run):
    assert "find_unused_parameters" not in run[2]


def test_steps_and_metrics_are_printed_once(run):
    assert run[1].count("{'loss'") == 3
    assert run[1].count('"eval_psnr_16"') == 1


def test_no_process_with_threads_of_the_group_is_forked(ranks):
    assert [rank["start_method"] for rank in ranks] == ["forkserver"] * 2


def test_no_thread_of_the_group_outlives_it(run):
    threads = [(run[0] / f"threads-{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    assert all(threads) and not any("gloo" in name for of_rank in threads for name in of_rank)


def test_metrics_are_those_of_one_process(run, capsys):
    folder, printed, _ = run
    overrides = ["--do_train", "false", "--init_from", str(folder / "out"), "--output_dir", str(folder / "evaluation")]
    tokenizer.train_recipe(str(folder / "recipe.yaml"), overrides)
    alone = json.loads(capsys.readouterr().out.splitlines()[-1])
    together = next(json.loads(line) for line in printed.splitlines() if '"eval_psnr_16"' in line)
    for name in ("eval_psnr_4", "eval_psnr_8", "eval_psnr_16", "eval_codebook_use"):
        assert together[name] == pytest.approx(alone[name], abs=1e-4), name


def test_resumed_processes_end_where_the_uninterrupted_ones_end(run, ranks):
    folder = run[0]
    options = (
        "--resume_from_checkpoint",
        str(folder / "out" / "checkpoint-1"),
        "--output_dir",
        str(folder / "resumed"),
    )
    train_in_two_processes(folder / "recipe.yaml", *options)
    for rank, whole in enumerate(ranks):
        resumed = torch.load(folder / "resumed" / f"rank-{rank}.pt", weights_only=True)
        for part in ("model", "average", "discriminator", "lecam"):
            assert differing(resumed[part], whole[part]) == [], part
        assert resumed["codebook_use"] == whole["codebook_use"]
    assert differing(*(load_file(folder / name / "model.safetensors") for name in ("out", "resumed"))) == []
