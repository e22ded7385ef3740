"""rFID of the arms of the fixed-length study: real images against reconstructions at the arm's own budgets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from ..checkpoint import load_checkpoint
from ..metrics.images import to_uint8
from ..metrics.inception import MIN_IMAGES, FeatureStatistics, frechet_distance


BATCH_SIZE = 64


class ReconstructionDistance:
    """
    Measures rFID on held-out images.

    Args:
        images (`Dataset`): The held-out images, at least `min_images`.
        inception (`torch.nn.Module`): See [`~adatok_hf.metrics.inception.load_inception`].
        min_images (`int`, *optional*, defaults to 2048): As [`~adatok_hf.metrics.inception.frechet_distance`].
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): What reconstructions are computed in.
    """

    def __init__(
        self,
        images: Dataset,
        inception: torch.nn.Module,
        min_images: int = MIN_IMAGES,
        dtype: torch.dtype = torch.float32,
    ):
        self.images, self.inception, self.min_images, self.dtype = images, inception, min_images, dtype
        self.real = None

    def __call__(self, checkpoint: str | Path, arm: str, budgets: Sequence[int] | np.ndarray) -> float:
        """rFID of a checkpoint whose images keep so many codes each; `arm` is for the progress bar."""
        model, processor = load_checkpoint(checkpoint)
        if self.real is None:
            self.real = self._statistics(processor, "real images")
        found = self._statistics(processor, arm, model.to(self.dtype), torch.as_tensor(np.asarray(budgets)).long())
        return frechet_distance(self.real, found, min_images=self.min_images)

    @torch.inference_mode()
    def _statistics(self, processor, what: str, model=None, budgets: torch.Tensor | None = None) -> FeatureStatistics:
        statistics = None
        for rows in tqdm(torch.arange(len(self.images)).split(BATCH_SIZE), desc=f"rFID, {what}", disable=None):
            pictures = [self.images[row]["image"] for row in rows.tolist()]
            pixel_values = processor(pictures, return_tensors="pt")["pixel_values"]
            if model is not None:
                pixel_values = model(pixel_values, budgets=budgets[rows]).pixel_values
            features = self.inception(to_uint8(pixel_values))
            statistics = statistics or FeatureStatistics(feature_size=features.shape[1])
            statistics.update(features)
        return statistics


__all__ = ["ReconstructionDistance"]
