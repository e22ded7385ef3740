"""The scores that a calibration needs, and the checkpoint that it gives."""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import PreTrainedConfig

from ..checkpoint import copy_checkpoint, read_metrics
from ..data import read_images
from ..files import check_empty
from ..model_card import CARD_NAME, CHOICE_LABEL, describe, metric_names
from ..modeling import AdaTokImageProcessor, AdaTokImageProcessorPil, AdaTokModel, TaTokModel


@torch.inference_mode()
def score_images(
    model: AdaTokModel,
    processor: AdaTokImageProcessor | AdaTokImageProcessorPil,
    dataset: Dataset,
    batch_size: int = 32,
    warn: Callable[[str], object] = print,
) -> torch.Tensor:
    """
    Runs encoder and policy over images, without decoding any.

    Args:
        model ([`AdaTokModel`]): In evaluation mode.
        processor ([`AdaTokImageProcessor`]): The model's image processor.
        dataset (`Dataset`): Items with a PIL picture under `"image"`.
        batch_size (`int`, *optional*, defaults to 32): Images encoded together.
        warn (`Callable`, *optional*): Takes a sentence about each image that cannot be read, which is left out.

    Returns:
        `torch.FloatTensor` of shape `(images, len(config.budgets))`: the policy's scores before any cost bias, on the
        CPU.

    Raises:
        `ValueError`: if there are no images, or none can be read.

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

    return _over_images(model, processor, dataset, batch_size, warn, score)


@torch.inference_mode()
def score_patches(
    model: TaTokModel,
    processor: AdaTokImageProcessor | AdaTokImageProcessorPil,
    dataset: Dataset,
    batch_size: int = 32,
    warn: Callable[[str], object] = print,
    entropy: str | None = None,
) -> torch.Tensor:
    """
    The conditional entropies by which a TaTok filters the patches of images; the other arguments and the errors are
    those of [`score_images`].

    Args:
        entropy (`str`, *optional*): Their kind, see [`TaTokConfig`]; that of the configuration if not given.

    Returns:
        `torch.FloatTensor` of shape `(images, num_patches)`: falling, in bits or the unit of the proxy, on the CPU.
    """

    def score(pixel_values: torch.Tensor) -> torch.Tensor:
        encoded = model.encode(pixel_values, num_tokens=model.config.num_latent_tokens, entropy=entropy)
        return encoded.patch_entropy.gather(1, encoded.patch_order)

    return _over_images(model, processor, dataset, batch_size, warn, score)


def _over_images(
    model: AdaTokModel | TaTokModel, processor, dataset: Dataset, batch_size: int, warn: Callable, score: Callable
) -> torch.Tensor:
    if len(dataset) == 0:
        raise ValueError("Calibration needs at least one image; the data hold none.")
    scores = []
    with tqdm(total=len(dataset), desc="Calibration", unit="image", disable=None) as progress:
        for start in range(0, len(dataset), batch_size):
            rows = range(start, min(start + batch_size, len(dataset)))
            progress.update(len(rows))
            pixel_values = [values for _, _, values in read_images(dataset, rows, processor, warn)]
            if pixel_values:
                scores.append(score(torch.cat(pixel_values).to(model.device)).float().cpu())
    if not scores:
        raise ValueError(f"None of the {len(dataset)} images can be read.")
    return torch.cat(scores)


def save_calibrated(
    source: str | Path,
    out: str | Path,
    model: AdaTokModel | TaTokModel,
    processor: AdaTokImageProcessor | AdaTokImageProcessorPil,
    **choice: float | str,
):
    """
    Copies a checkpoint with another choice of how much is kept, see [`~adatok_hf.checkpoint.copy_checkpoint`]. What
    was measured of the own choice of the model is not true of the copy, so metrics and card go without it.

    Args:
        source (`str` or `Path`): Folder of the checkpoint.
        out (`str` or `Path`): Folder of the copy, absent or empty. It appears complete or not at all.
        model ([`AdaTokModel`] or [`TaTokModel`]): The checkpoint's model; it stays as it is.
        processor ([`AdaTokImageProcessor`]): The checkpoint's image processor.
        choice (`float` or `str`): For the configuration of the copy: `cost_bias` of an AdaTok, `threshold`,
            `threshold_rule` and `entropy` of a TaTok.

    Raises:
        `ValueError`: if `out` is a file or not empty, or the configuration refuses a value.
    """
    check_empty(out)
    config = copy.deepcopy(model.config)
    for name, value in choice.items():
        setattr(config, name, value if isinstance(value, str) else float(value))
    config.validate_architecture()
    metrics, card = without_choice(Path(source), model.config, config)
    copy_checkpoint(source, out, model, processor, config=config, metrics=metrics, card=card)


def without_choice(folder: Path, config: PreTrainedConfig, wanted: PreTrainedConfig) -> tuple[dict | None, str | None]:
    """
    Metrics and card of a checkpoint without what was measured of the policy's own choice, and with what the card says
    of the wanted configuration's; `None` for what is as it was, or is not there.
    """
    metrics, card = read_metrics(folder) or {}, folder / CARD_NAME
    metric_names(metrics.get("rows", []))  # proves that they are rows
    rows = [row for row in metrics.get("rows", []) if row["budget"] != "auto"]
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    text = text.replace(describe(config)[0], describe(wanted)[0])
    kept = [line for line in text.splitlines(keepends=True) if not line.startswith(f"| {CHOICE_LABEL}")]
    return (
        metrics | {"rows": rows} if rows != metrics.get("rows", []) else None,
        "".join(kept) if card.is_file() else None,
    )


__all__ = ["save_calibrated", "score_images", "score_patches"]
