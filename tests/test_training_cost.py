"""What `docs/training_cost.py` counts without data is what a step with data computes."""

import importlib.util
from pathlib import Path

import pytest
import torch
import yaml
from tiny_recipe import RECIPE

from adatok_hf.bench.instruments import count_flops, peak_memory


PHASES = {"perceptual_start": 1, "adversarial_start": 2, "max_steps": 7}


@pytest.fixture(scope="module")
def cost():
    """The script as a module."""
    path = Path(__file__).parent.parent / "docs" / "training_cost.py"
    spec = importlib.util.spec_from_file_location("training_cost", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def recipe(tmp_path) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE | PHASES | {"output_dir": str(tmp_path / "out")}))
    return str(path)


def test_a_step_without_data_has_the_flops_and_bytes_of_one_with_data(cost, recipe):
    counted, parts = cost.count(recipe), cost.load_parts(recipe, "cpu")
    step = cost.make_step(parts, 4)
    assert counted["flops_of_an_image"]["adversarial"] == count_flops(step) / 4
    assert counted["bytes"]["gradients and activations"] == pytest.approx(
        peak_memory(step, torch.device("cpu")), rel=0.05
    )
    assert counted["parameters"] == parts.model.num_parameters()
    flops = counted["flops_of_an_image"]
    assert 0 < flops["reconstruction"] < flops["perceptual"] < flops["adversarial"]
    assert counted["phase_steps"] == {"reconstruction": 1, "perceptual": 1, "adversarial": 5}


def test_times_are_those_of_the_measured_step_by_flops(cost, recipe):
    row = cost.count(recipe)
    measured = {"recipe": recipe, "batch_size": 2, "seconds": 3.0, "device": "a clock"}
    gpu = {"peak_flops_per_second": 1e9, "utilisation": 0.5, "dollars_an_hour": 2.0}
    cost.add_times([row], gpu, measured)
    assert row["measured_step_seconds"] == pytest.approx(3.0 * row["batch_size"] / 2)
    flops = row["flops_of_an_image"]
    work = 4 * (flops["reconstruction"] + flops["perceptual"] + 5 * flops["adversarial"])
    assert row["gpu_hours"] == pytest.approx(work / 0.5e9 / 3600)
    assert row["dollars"] == pytest.approx(2 * row["gpu_hours"])
