"""A run that is killed, at whatever moment and however often, ends where the uninterrupted one ends."""

import json
import multiprocessing
import random
import time
from pathlib import Path

import pytest
import yaml
from tiny_recipe import RECIPE

from adatok_hf.files import is_temporary
from adatok_hf.training.recipe import find_damage
from adatok_hf.training.train_tokenizer import train_recipe


STEPS = 10
# Forks of one process that has imported everything start at once.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([train_recipe.__module__])


@pytest.fixture
def recipe(tmp_path, write_pictures) -> str:
    values = {
        **RECIPE,
        "train_data": str(write_pictures(tmp_path / "train", 10)),
        "max_steps": STEPS,
        "save_steps": 1,
        "save_total_limit": 3,
        "adversarial_start": 3,
        "discriminator_warmup": 1,
        "revive_steps": 3,
        "revive_until": 1.0,
        "revive_latents_steps": [4],
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def start(recipe: str, out: Path):
    process = CONTEXT.Process(target=train_recipe, args=(recipe, ["--output_dir", str(out)]))
    process.start()
    return process


def finish(recipe: str, out: Path):
    process = start(recipe, out)
    process.join(120)
    assert process.exitcode == 0


def is_saving(out: Path, since: int) -> bool:
    """Whether something that was begun after that time, in nanoseconds, is half written."""
    try:
        new = [path for path in out.glob("*") if path.stat().st_mtime_ns > since]
    except FileNotFoundError:  # renamed or rotated away just now
        return False
    return any(is_temporary(path.name) or path.name.startswith("checkpoint-") and find_damage(path) for path in new)


def result(out: Path) -> dict:
    """All that a finished run leaves, but for times and its own name."""
    state = json.loads((out / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    logs = [{name: value for name, value in entry.items() if "runtime" not in name} for entry in state["log_history"]]
    return {
        "logs": [{name: value for name, value in entry.items() if "per_second" not in name} for entry in logs],
        "exported": (out / "model.safetensors").read_bytes(),
        "trained": (out / f"checkpoint-{STEPS}" / "model.safetensors").read_bytes(),
        "metrics": (out / "metrics.json").read_bytes(),
        "files": sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.name != "runs"),
    }


@pytest.mark.parametrize("kills", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_a_killed_run_ends_where_the_uninterrupted_one_ends(recipe, tmp_path, kills):
    finish(recipe, tmp_path / "whole")
    began = time.monotonic()
    finish(recipe, tmp_path / "again")
    seconds, expected = time.monotonic() - began, result(tmp_path / "whole")
    assert result(tmp_path / "again") == expected
    draw, chain, resumed, saving = random.Random(kills), 0, 0, 0
    for kill in range(kills):
        out = tmp_path / f"chain-{chain}"
        process, since = start(recipe, out), time.time_ns()
        end = time.monotonic() + draw.uniform(0, seconds)
        is_aimed = kill % 2 == 0
        while process.is_alive() and not (is_saving(out, since) if is_aimed else time.monotonic() > end):
            time.sleep(0.001)
        saving += is_saving(out, since)
        process.kill()
        process.join()
        resumed += any(out.glob("checkpoint-*"))
        if process.exitcode == 0 or kill == kills - 1 or (out / "model.safetensors").is_file():
            finish(recipe, out)
            assert result(out) == expected
            finish(recipe, out)  # a finished run stays as it is
            assert result(out) == expected
            chain += 1
    assert resumed and saving >= kills // 4
