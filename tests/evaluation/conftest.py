"""Images, a checkpoint and weights for `adatok evaluate`."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adatok_hf.metrics.inception import INCEPTION_FILE


@pytest.fixture
def write_images():
    """Writes ten pictures of ever finer random squares, of differing sizes, into a folder and gives the folder."""

    def write(folder: Path, seed: int = 0) -> Path:
        folder.mkdir(parents=True)
        generator = np.random.default_rng(seed)
        for index in range(10):
            squares = Image.fromarray(generator.integers(0, 256, (2 + index, 2 + index, 3), dtype=np.uint8))
            squares.resize((36 + index, 40), Image.Resampling.NEAREST).save(folder / f"{index:03d}.png")
        return folder

    return write


@pytest.fixture
def images(tmp_path, write_images) -> Path:
    return write_images(tmp_path / "images")


@pytest.fixture
def checkpoint(tmp_path, tiny_model, processor) -> Path:
    """Its policy counts as trained and chooses differing budgets."""
    tiny_model.config.is_policy_trained = True
    with torch.no_grad():
        for parameter in tiny_model.policy.parameters():
            torch.nn.init.normal_(parameter, std=1.0)
    tiny_model.save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def weights(tmp_path, weights_dir) -> Path:
    """Random AlexNet weights, and a file in the place of Inception's."""
    folder = tmp_path / "weights"
    shutil.copytree(weights_dir, folder)
    (folder / INCEPTION_FILE).write_bytes(b"weights")
    return folder
