"""The oldest versions that `setup.py` allows do."""

import os
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent
# Built against others, or too large to be had twice.
LEFT_OUT = {"torch", "torchvision", "numpy"}
PARTS = ("", 'extra == "generate"', 'extra == "train"')
TESTS = (
    "tests/modeling/test_pipeline_adatok.py",
    "tests/modeling/test_peft_on_top.py",
    "tests/training/test_resume.py",
    "tests/training/test_generator_trainer.py",
    "tests/generation",
)


def floors() -> list[str]:
    """The core and two extras as `name==floor`."""
    found = []
    for line in requires("adatok-hf"):
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        floor = re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement)
        if floor and marker in PARTS and floor[1] not in LEFT_OUT:
            found.append(f"{floor[1]}=={floor[2]}")
    return sorted(set(found))


@pytest.mark.slow
def test_the_oldest_versions_allowed_do(tmp_path):
    wanted = floors()
    assert {"transformers", "peft", "diffusers", "datasets"} <= {each.partition("==")[0] for each in wanted}
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*pip, *wanted], check=True, timeout=600)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    finished = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert finished.returncode == 0, finished.stdout[-4000:]
