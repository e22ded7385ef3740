"""The scores that a calibration needs, and the checkpoint that it gives."""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from ..checkpoint import copy_checkpoint
from ..files import check_empty
from ..modeling import AdaTokImageProcessor, AdaTokImageProcessorPil, AdaTokModel, TaTokModel


@torch.inference_mode()
def score_images(
    model: AdaTokModel,
    processor: AdaTokImageProcessor | AdaTokImageProcessorPil,
    dataset: Dataset,
    batch_size: int = 32,
) -> torch.Tensor:
    """
    Runs encoder and policy over images, without decoding any.

    Args:
        model ([`AdaTokModel`]): In evaluation mode.
        processor ([`AdaTokImageProcessor`]): The model's image processor.
        dataset (`Dataset`): Items with a PIL picture under `"image"`.
        batch_size (`int`, *optional*, defaults to 32): Images encoded together.

    Returns:
        `torch.FloatTensor` of shape `(images, len(config.budgets))`: the policy's scores before any cost bias, on the
        CPU.

    Raises:
        `ValueError`: if there are no images, or one cannot be used.

    Example:

    ```python
    >>> from adatok_hf import AdaTokConfig, AdaTokImageProcessor, AdaTokModel
    >>> from adatok_hf.allocation.calibrate import score_images
    >>> from PIL import Image

    >>> config = AdaTokConfig(image_size=32, patch_size=8, hidden_size=32, num_attention_heads=2, budgets=[64, 256])
    >>> processor = AdaTokImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    >>> images = [{"image": Image.new("RGB", (32, 32), color)} for color in ("white", "teal", "navy")]
    >>> score_images(AdaTokModel(config).eval(), processor, images).shape
    torch.Size([3, 2])

    ```"""

    def score(pixel_values: torch.Tensor) -> torch.Tensor:
        # A forced budget keeps the policy's choice out of it; the scores do not depend on it.
        return model.encode(pixel_values, budgets=model.config.num_latent_tokens).budget_logits

    return _over_images(model, processor, dataset, batch_size, score)


@torch.inference_mode()
def score_patches(
    model: TaTokModel,
    processor: AdaTokImageProcessor | AdaTokImageProcessorPil,
    dataset: Dataset,
    batch_size: int = 32,
) -> torch.Tensor:
    """
    The conditional entropies by which a TaTok filters the patches of images; arguments and errors are those of
    [`score_images`].

    Returns:
        `torch.FloatTensor` of shape `(images, num_patches)`: falling, in bits or the unit of the proxy, on the CPU.
    """

    def score(pixel_values: torch.Tensor) -> torch.Tensor:
        encoded = model.encode(pixel_values, num_tokens=model.config.num_latent_tokens)
        return encoded.patch_entropy.gather(1, encoded.patch_order)

    return _over_images(model, processor, dataset, batch_size, score)


def _over_images(
    model: AdaTokModel | TaTokModel, processor, dataset: Dataset, batch_size: int, score: Callable
) -> torch.Tensor:
    if len(dataset) == 0:
        raise ValueError("Calibration needs at least one image; the data hold none.")
    scores = []
    with tqdm(total=len(dataset), desc="Calibration", unit="image", disable=None) as progress:
        for start in range(0, len(dataset), batch_size):
            rows = range(start, min(start + batch_size, len(dataset)))
            pixel_values = processor([dataset[row]["image"] for row in rows], return_tensors="pt")["pixel_values"]
            scores.append(score(pixel_values.to(model.device)).float().cpu())
            progress.update(len(rows))
    return torch.cat(scores)


def save_calibrated(
    source: str | Path,
    out: str | Path,
    model: AdaTokModel | TaTokModel,
    processor: AdaTokImageProcessor | AdaTokImageProcessorPil,
    **choice: float,
):
    """
    Copies a checkpoint with another choice of how much is kept, see [`~adatok_hf.checkpoint.copy_checkpoint`].

    Args:
        source (`str` or `Path`): Folder of the checkpoint.
        out (`str` or `Path`): Folder of the copy, absent or empty. It appears complete or not at all.
        model ([`AdaTokModel`] or [`TaTokModel`]): The checkpoint's model; it stays as it is.
        processor ([`AdaTokImageProcessor`]): The checkpoint's image processor.
        choice (`float`): For the configuration of the copy: `cost_bias` of an AdaTok, `threshold` of a TaTok.

    Raises:
        `ValueError`: if `out` is a file or not empty, or the configuration refuses a value.
    """
    check_empty(out)
    config = copy.deepcopy(model.config)
    for name, value in choice.items():
        setattr(config, name, float(value))
    config.validate_architecture()
    copy_checkpoint(source, out, model, processor, config=config)


__all__ = ["save_calibrated", "score_images", "score_patches"]
