"""Two processes give the numbers of one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import evaluate_worker
import pytest
import torch


@pytest.fixture
def one_thread():
    """Sums over threads depend on how many there are, so the processes have one each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def arguments(checkpoint, images, weights) -> list[str]:
    """Of the command, all but its output folder."""
    line = ["evaluate", "--data", str(images), "--model", str(checkpoint), "--weights-dir", str(weights)]
    line += ["--metrics", "rfid,kid,psnr,ssim", "--codecs", "webp", "--kid-subset-size", "5", "--batch-size", "3"]
    return line


def run_two_processes(*words: str | Path) -> str:
    """What both print together."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_addr", "127.0.0.1", "--master_port", str(port), *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-4000:]
    return process.stdout


def test_two_processes_give_the_numbers_of_one_bit_for_bit(arguments, tmp_path, one_thread):
    one, two = tmp_path / "one", tmp_path / "two"
    with pytest.raises(SystemExit) as ended:
        evaluate_worker.main([*arguments, "--out", str(one)])
    assert ended.value.code == 0
    printed = run_two_processes(evaluate_worker.__file__, *arguments, "--out", two)
    alone, together = (json.loads((folder / "results.json").read_text()) for folder in (one, two))
    assert alone["rows"] == together["rows"] and alone["codecs"] == together["codecs"]
    assert alone["image_list_hash"] == together["image_list_hash"]
    assert None not in [alone["rows"][0][metric] for metric in ("rfid", "kid", "psnr", "ssim")]
    files = [path.relative_to(one) for path in (one / "parts").rglob("*.*") if path.is_file()]
    assert len(files) == 1 + 3 * (2 + 4 + 1 + 4)  # settings, then three parts of images, budgets and codec
    assert [file for file in files if (one / file).read_bytes() != (two / file).read_bytes()] == []
    assert len([line for line in printed.splitlines() if line.startswith("{")]) == 1  # the first process alone speaks


def test_two_processes_share_out_a_reward_table(checkpoint, images, weights, tmp_path):
    data = ["--data", images, "--split", "train", "--weights-dir", weights]
    line = ["reward-table", "--model", checkpoint, *data, "--out", tmp_path / "table"]
    printed = run_two_processes("-m", "adatok_hf.cli", *line)
    assert printed.count("10 images at 3 budgets") == 1
