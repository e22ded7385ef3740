"""
Images a second of bulk tokenisation on the same images: the local engine in one process and in two, Ray with two
actors, and `datasets.map(num_proc=2)`, each with one thread a process. Every run is a command of its own that takes so
many images or a few; the difference is the rate, the rest is the start. Codes of all are compared.

    python docs/measure_bulk.py --data pictures.parquet --images 4096
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import datasets
import torch

from adatok_hf import default_checkpoint
from adatok_hf.checkpoint import load_checkpoint
from adatok_hf.data import ImageTable, load_image_dataset
from adatok_hf.files import write_json


BATCH = 32
ARMS = ("local", "local x 2", "ray x 2", "datasets.map x 2")


def encode_rows(rows: dict[str, list]) -> dict[str, list]:
    """What `datasets.map` calls: a process loads its model with its first batch."""
    if not hasattr(encode_rows, "loaded"):
        model, processor = load_checkpoint(default_checkpoint())
        encode_rows.loaded = model.eval(), processor
    model, processor = encode_rows.loaded
    with torch.inference_mode():
        encoded = model.encode(processor(rows["image"], return_tensors="pt")["pixel_values"])
    budgets = encoded.budgets.tolist()
    codes = [codes[:budget] for codes, budget in zip(encoded.image_codes.tolist(), budgets)]
    return {"image_codes": codes, "budget": budgets}


def tokenize_by_map(data: str, split: str, images: int, out: Path):
    """The usual way without this package's engines."""
    torch.set_num_threads(1)
    table = open_table(data, split).table.select(range(images))
    table = table.select_columns("image").cast_column("image", datasets.Image())
    table = table.map(encode_rows, batched=True, batch_size=BATCH, num_proc=2, remove_columns="image")
    table.to_parquet(out / "codes.parquet")


def open_table(data: str, split: str) -> ImageTable:
    images = load_image_dataset(data, split)
    if not isinstance(images, ImageTable):
        raise SystemExit(
            f"--data must be parquet files or a dataset of the Hub, which datasets.map can read; got {data}."
        )
    return images


def command_of(arm: str, data: str, split: str, images: int, out: Path) -> list[str]:
    """The command of an arm. There are four shards a process, so that none waits long for another."""
    rows = f"{split}[:{images}]"
    python = [sys.executable, "-m"]
    words = ["tokenize-dataset", "--data", data, "--split", rows, "--out", str(out), "--device", "cpu"]
    words += ["--batch-size", str(BATCH), "--images-per-shard", str(-(-images // 8))]
    if arm == "local":
        return [*python, "adatok_hf.cli", *words]
    if arm == "local x 2":
        return [
            *python,
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "2",
            "-m",
            "adatok_hf.cli",
            *words,
        ]
    if arm == "ray x 2":
        return [*python, "adatok_hf.cli", *words, "--engine", "ray", "--workers", "2"]
    return [sys.executable, __file__, "--map", str(out), "--data", data, "--split", split, "--images", str(images)]


def run(arm: str, data: str, split: str, images: int) -> tuple[float, list[list[int]]]:
    """Seconds of a command from start to end, and the codes that it wrote."""
    with tempfile.TemporaryDirectory(prefix="measure-") as folder:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": f"{folder}/cache"}
        out = Path(folder) / "out"
        out.mkdir()
        command = command_of(arm, data, split, images, out)
        start = time.perf_counter()
        finished = subprocess.run(command, env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if finished.returncode:
            raise SystemExit(f"{arm} ended with {finished.returncode}: {finished.stderr[-2000:]}")
        written = datasets.load_dataset(
            "parquet", data_files=f"{out}/*.parquet", split="train", cache_dir=f"{folder}/read"
        )
        return seconds, written["image_codes"][:]


def measure(data: str, split: str, images: int, few: int, repeats: int) -> dict:
    """All arms in turns; medians."""
    available = len(open_table(data, split))
    if not 0 < few < images <= available:
        raise SystemExit(f"--few must be below --images, and these at most {available}; got {few} and {images}.")
    seconds = {(arm, number): [] for arm in ARMS for number in (few, images)}
    codes, differing = {}, dict.fromkeys(ARMS, 0)
    for _ in range(repeats):
        for arm, number in seconds:
            took, found = run(arm, data, split, number)
            seconds[arm, number].append(took)
            reference = codes.setdefault(number, found)
            wrong = sum(one != other for one, other in zip(reference, found)) + abs(len(reference) - len(found))
            differing[arm] = max(differing[arm], wrong)
    rows = []
    for arm in ARMS:
        all_of_it, start = median(seconds[arm, images]), median(seconds[arm, few])
        # On a busy machine many images may take no longer than few; then there is nothing to tell.
        rate = (images - few) / (all_of_it - start) if all_of_it > start else None
        rows.append(
            {
                "arm": arm,
                "images_per_second": rate,
                "ratio": None,
                "start_seconds": rate and start - few / rate,
                "seconds": seconds[arm, images],
                "images_with_other_codes": differing[arm],
            }
        )
    for row in rows:
        if row["images_per_second"] and rows[0]["images_per_second"]:
            row["ratio"] = row["images_per_second"] / rows[0]["images_per_second"]
    return {"rows": rows, "images": images, "few": few, "repeats": repeats, "batch_size": BATCH}


def main():
    """Measures, prints JSON as the last line and writes it where it shall go."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Parquet files with an image column, or a dataset of the Hub.")
    parser.add_argument("--split", default="train", help="Split of the data.")
    parser.add_argument("--images", type=int, default=4096, help="How many images a run takes.")
    parser.add_argument("--few", type=int, default=512, help="How many the run takes that shows the start.")
    parser.add_argument("--repeats", type=int, default=3, help="Rounds of which the median is taken.")
    parser.add_argument("--out", type=Path, help="Also write the result here, as JSON.")
    parser.add_argument("--map", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.map:
        tokenize_by_map(arguments.data, arguments.split, arguments.images, arguments.map)
        return
    result = measure(arguments.data, arguments.split, arguments.images, arguments.few, arguments.repeats)
    if arguments.out is not None:
        write_json(arguments.out, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
