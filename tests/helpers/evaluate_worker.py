"""The command `adatok evaluate` with a small network in Inception's place, for tests; run by torchrun too."""

import sys
from functools import partial
from unittest import mock

import torch

from adatok_hf import cli
from adatok_hf.evaluation import evaluate, quality


NUM_FEATURES = 6
IMAGES_PER_PART = 4


class SmallInception(torch.nn.Module):
    """Fixed random features of the pixels: `(batch, 3, 32, 32)` uint8 to `(batch, 6)`."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.register_buffer("weight", torch.randn(3 * 32 * 32, NUM_FEATURES, generator=generator) / 1000)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().flatten(1) @ self.weight


def main(arguments: list[str]):
    """Runs `adatok` with parts of four images, and with FID from seven images on."""
    settings = partial(evaluate.EvaluationSettings, images_per_part=IMAGES_PER_PART)
    with (
        mock.patch.object(quality, "load_inception", lambda weights_dir: SmallInception()),
        mock.patch.object(evaluate, "EvaluationSettings", settings),
        mock.patch.object(evaluate, "MIN_IMAGES", NUM_FEATURES + 1),
        mock.patch.object(quality, "MIN_IMAGES", NUM_FEATURES + 1),
    ):
        cli.main(arguments)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
