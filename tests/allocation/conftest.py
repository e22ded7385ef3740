"""Reward tables on disk."""

import pytest
import torch

from adatok_hf.allocation.reward_table import build_reward_table


def mean_difference(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Stands for LPIPS: two batches to one distance each."""
    return (first - second).abs().mean(dim=(1, 2, 3))


@pytest.fixture
def build(tiny_model, processor, sample_images, tmp_path):
    """Builds the table of ten pictures in parts of four; gives its folder."""

    def run(folder="table", model=tiny_model, images=None, distance=mean_difference, **options):
        images = sample_images * 3 if images is None else images
        items = [
            {"image": image, "group": ("flat", "gradient", "shapes", "noise")[i % 4]} for i, image in enumerate(images)
        ]
        build_reward_table(model, processor, items[:10], distance, tmp_path / folder, images_per_part=4, **options)
        return tmp_path / folder

    return run
