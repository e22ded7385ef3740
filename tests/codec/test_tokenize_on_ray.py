"""Ray makes the shards of the local engine, each image once, whatever is killed."""

import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import datasets
import psutil
import pytest

from adatok_hf import default_checkpoint
from adatok_hf.codec.tokenize_dataset import ShardWriter, TokenizeJob, read_skipped, tokenize_dataset
from adatok_hf.codec.tokenize_on_ray import ShardWorker, tokenize_on_ray
from adatok_hf.files import is_temporary


NAMES = {"actor": "ray::MapWorker", "node": "raylet/raylet"}


@pytest.fixture
def make_job(tmp_path, write_pictures):
    """A job of so many pictures, of which the third cannot be read, five in a shard."""

    def make(model: Path | str, images: int, **options) -> TokenizeJob:
        folder = write_pictures(tmp_path / "pictures", images)
        (folder / "picture-02.png").write_bytes(b"not a picture")
        return TokenizeJob(str(model), str(folder), images_per_shard=5, **options)

    return make


def load(folder: Path) -> list[dict]:
    return list(datasets.load_dataset("parquet", data_files=f"{folder}/*.parquet", split="train"))


def shards(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.parquet") if not is_temporary(path.name))


def kill_one(process: psutil.Process, kind: str, choose: random.Random) -> bool:
    """Ends a process of that kind among the children of a driver, as the kernel would; whether there was one."""
    found = []
    for child in process.children(recursive=True):
        try:
            if NAMES[kind] in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    if found:
        choose.choice(found).kill()
    return bool(found)


@pytest.mark.slow
def test_an_actor_is_killed_and_the_rows_are_those_of_the_local_engine(make_job, tmp_path, tiny_checkpoint):
    job, out, killed, said = make_job(tiny_checkpoint, 40, variants=8), tmp_path / "ray", [], []
    local = tokenize_dataset(job, tmp_path / "local")

    def kill_after_the_first_shard():
        while not shards(out):
            time.sleep(0.01)
        killed.append(kill_one(psutil.Process(), "actor", random.Random(0)))

    killer = threading.Thread(target=kill_after_the_first_shard)
    killer.start()
    made = tokenize_on_ray(job, out, say=said.append, workers=1)
    killer.join()
    assert killed == [True]
    assert made == local and (made["shards"], made["skipped"]) == (8, 1)
    assert load(out) == load(tmp_path / "local")
    assert len(said) == 1 and "picture-02.png" in said[0]
    assert list(read_skipped(shards(out)[0])) == ["picture-02.png"]
    assert sorted(out.iterdir()) == shards(out)
    assert tokenize_on_ray(job, out)["shards_there"] == 8


def run_through_kills(
    command: list[str], out: Path, wanted: int, kinds: list[str], minutes: int
) -> tuple[Counter, int]:
    """
    Starts a command until its folder has all shards, and kills a process of each kind, the last first, whenever a
    shard has been added; gives the kills and the starts. A run that takes longer than so many minutes fails.
    """
    choose, killed, driver, starts, there = random.Random(0), Counter(), None, 0, 0
    end = time.monotonic() + 60 * minutes
    try:
        while driver is None or driver.poll() is None or len(shards(out)) < wanted:
            assert time.monotonic() < end, f"{len(shards(out))} of {wanted} shards, {killed}, {starts} starts"
            if driver is None or driver.poll() is not None:
                driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                starts += 1
            if kinds and len(shards(out)) > there:
                time.sleep(choose.random() * 0.3)
                if kinds[-1] == "driver":
                    driver.send_signal(signal.SIGKILL)
                    hit = driver.wait() == -signal.SIGKILL
                else:
                    hit = kill_one(psutil.Process(driver.pid), kinds[-1], choose)
                if hit:
                    killed[kinds.pop()] += 1
                    there = len(shards(out))
            time.sleep(0.02)
    finally:
        if driver.poll() is None:
            for process in (*psutil.Process(driver.pid).children(recursive=True), driver):
                process.kill()
    return killed, starts


@pytest.mark.slow
@pytest.mark.parametrize(
    "kills, images, minutes",
    [({"actor": 1, "node": 1}, 100, 15), ({"actor": 14, "driver": 3, "node": 3}, 400, 60)],
    ids=["two", "twenty"],
)
def test_kills_lose_and_double_nothing(make_job, tmp_path, capsys, kills, images, minutes):
    kinds = [kind for kind, number in kills.items() for _ in range(number)]
    random.Random(0).shuffle(kinds)
    job, out = make_job(default_checkpoint(), images, variants=8), tmp_path / "ray"
    command = [sys.executable, "-m", "adatok_hf.cli", "tokenize-dataset", "--data", job.data, "--out", str(out)]
    command += ["--images-per-shard", "5", "--variants", "8", "--engine", "ray", "--workers", "2", "--device", "cpu"]
    killed, starts = run_through_kills(command, out, images // 5, kinds, minutes)
    tokenize_dataset(job, tmp_path / "local")
    rows, wanted = load(out), load(tmp_path / "local")
    ids = Counter((row["image_id"], row["variant"]) for row in rows)
    missing = {(row["image_id"], row["variant"]) for row in wanted} - ids.keys()
    doubled = [row for row, number in ids.items() if number > 1]
    skipped = [image for path in shards(out) for image in read_skipped(path)]
    with capsys.disabled():
        print(f"\nkilled {dict(killed)}, {starts} starts, {len(shards(out))} shards, {len(rows)} rows,")
        print(f"{len(missing)} missing, {len(doubled)} doubled, skipped {skipped}")
    assert killed == kills
    assert rows == wanted and len(rows) == (images - 1) * 8
    assert skipped == ["picture-02.png"]
    again = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert again.returncode == 1  # nothing to do, and still one picture that was skipped


def test_an_actor_refuses_a_model_that_has_changed_since_the_start(make_job, tmp_path, tiny_checkpoint, one_sentence):
    job, out = make_job(tiny_checkpoint, 5), tmp_path / "out"
    facts = ShardWriter(job, out).facts
    worker = ShardWorker(job, out, "cpu", 4, facts | {"model_hash": "0" * 64})
    with one_sentence("model_hash", "has changed since the start"):
        raise pickle.loads(worker({"index": 0})["error"])
    assert not shards(out)


def test_an_error_of_an_actor_keeps_its_kind(make_job, tmp_path, tiny_checkpoint):
    job, out = make_job(tiny_checkpoint, 5), tmp_path / "absent"
    error = pickle.loads(ShardWorker(job, out, "cpu", 4, ShardWriter(job, out).facts)({"index": 0})["error"])
    assert isinstance(error, FileNotFoundError) and str(out) in error.filename


def test_a_cluster_that_does_not_answer_is_named(make_job, tmp_path, tiny_checkpoint, one_sentence, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with one_sentence("127.0.0.1:1"):
        tokenize_on_ray(make_job(tiny_checkpoint, 5), tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []
