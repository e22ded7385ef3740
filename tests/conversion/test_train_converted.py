"""The cheap road: a converted tokenizer, then its heads, then its policy."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from adatok_hf.allocation.reward_table import RewardTable, build_reward_table
from adatok_hf.checkpoint import load_checkpoint
from adatok_hf.cli import main
from adatok_hf.codec.codes_file import ImageCodes
from adatok_hf.conversion import convert_checkpoint
from adatok_hf.data import load_image_dataset


FIXTURES = Path(__file__).parent / "fixtures"
QUIET = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1, "save_strategy": "no"}


def write_recipe(path: Path, **values) -> str:
    path.write_text(yaml.safe_dump({**QUIET, **values}))
    return str(path)


@pytest.fixture
def pictures(tmp_path) -> str:
    """A folder of eighty pictures, every other one of a single colour."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(80):
        size = 1 if index % 2 else 8
        pixels = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((24, 16)).save(folder / f"{index:02d}.png")
    return str(folder)


@pytest.mark.parametrize("variant", ["one-d-piece_s256", "titok_sl256_vq8k"])
def test_heads_and_policy_of_a_converted_model_train(variant, tmp_path, pictures):
    family = "one-d-piece" if variant.startswith("one") else "titok"
    weights = FIXTURES / ("titok_s128" if family == "one-d-piece" else variant) / "model.safetensors"
    (config,) = (FIXTURES / variant).glob("config.*")
    converted, trained, adaptive = (tmp_path / name for name in ("converted", "trained", "adaptive"))
    before = convert_checkpoint(weights, converted, family, config=config, budgets=[4, 8, 16]).state_dict()

    recipe = write_recipe(tmp_path / "heads.yaml", max_steps=3, perceptual_weight=0.0, learning_rate=1e-2)
    options = ["--init_from", str(converted), "--output_dir", str(trained), "--per_device_train_batch_size", "4"]
    main_exits_well(["train", "tokenizer", "--recipe", recipe, "--data", pictures, "--train-heads-only", *options])
    model, processor = load_checkpoint(trained)
    after = model.state_dict()
    assert all(
        torch.equal(before[name], after[name]) != (".lora_B." in name) for name in before if ".lora_A." not in name
    )

    table = tmp_path / "rewards"
    build_reward_table(model, processor, load_image_dataset(pictures, "train"), mean_difference, table)
    assert RewardTable.load(table, model).lpips.isfinite().all()
    recipe = write_recipe(tmp_path / "policy.yaml", max_steps=5, per_device_train_batch_size=8)
    options = ["--init_from", str(trained), "--reward_table", str(table), "--output_dir", str(adaptive)]
    main_exits_well(["train", "policy", "--recipe", recipe, *options])
    assert load_checkpoint(adaptive)[0].config.is_policy_trained
    main_exits_well(["encode", pictures, "--model", str(adaptive), "--out", str(tmp_path / "codes.safetensors")])
    codes = ImageCodes.load(tmp_path / "codes.safetensors")
    assert len(codes) == 80 and set(codes.budgets.tolist()) <= {4, 8, 16}


def mean_difference(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Stands for LPIPS: two batches to one distance each."""
    return (first - second).abs().mean(dim=(1, 2, 3))


def main_exits_well(arguments: list[str]):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert not stopped.value.code
