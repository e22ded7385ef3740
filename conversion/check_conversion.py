"""A converted model against the original code, in codes, pixels and speed, at full size: `adatok check-conversion`."""

import importlib
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from ..bench.instruments import time_interleaved
from ..modeling import AdaTokModel
from ..tables import align_columns
from .source import read_weights
from .titok import family_of


ORIGINAL_CLASSES = {"titok": ("modeling.titok", "TiTok"), "one-d-piece": ("modeling.one_d_piece", "OneDPiece")}


def load_original(code: Path, config: dict, weights: Path | None = None, seed: int = 0) -> torch.nn.Module:
    """
    Builds the original model from its own code.

    Args:
        code (`Path`): Clone of bytedance/1d-tokenizer or turingmotors/One-D-Piece. Its code is run.
        config (`dict`): The model's configuration, see [`~adatok_hf.conversion.source.read_config`].
        weights (`Path`, *optional*): File of weights; random ones when unset.
        seed (`int`, *optional*, defaults to 0): Of the random weights.

    Returns:
        `torch.nn.Module`: in evaluation mode, without gradients.
    """
    if not (code / "modeling").is_dir():
        raise ValueError(f"{code} is no clone of the original code: it has no folder named modeling.")
    sys.path.insert(0, str(code))  # before the current folder, which may have a `modeling` too
    from omegaconf import OmegaConf

    module, name = ORIGINAL_CLASSES[family_of(config)]
    model = getattr(importlib.import_module(module), name)(OmegaConf.create(config))
    if weights is not None:
        model.load_state_dict(read_weights(weights))
    else:
        randomize(model, seed)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def randomize(model: torch.nn.Module, seed: int):
    """Random weights that let signals through, so that an error anywhere shows in pixels, which lie near [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            is_scale = name.endswith("weight")
            parameter.copy_(is_scale + 0.1 * noise)
        elif "embedding" in name or "token" in name:
            parameter.copy_(0.5 * noise)
        else:
            gain = 4 if "patch_embed" in name else 1
            parameter.copy_(gain * noise * (1.5 / parameter[0].numel()) ** 0.5)
    last = (model.pixel_decoder if model.finetune_decoder else model.decoder).conv_out
    last.weight.mul_(0.2)
    last.bias.add_(0.5)


def make_images(batch_size: int, size: int, seed: int = 1) -> torch.Tensor:
    """Smooth random images with some noise: `(batch_size, 3, size, size)` in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch_size, 3, 8, 8, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")
    return (images + 0.1 * torch.randn(images.shape, generator=generator)).clamp(0, 1)


@torch.inference_mode()
def compare(original: torch.nn.Module, model: AdaTokModel, images: torch.Tensor, repeats: int) -> dict:
    """
    Compares codes, pixels and times.

    Args:
        original (`torch.nn.Module`): The original model.
        model ([`AdaTokModel`]): What it was converted to.
        images (`torch.Tensor` of shape `(batch, 3, size, size)`): Values in [0, 1].
        repeats (`int`): How often every call is timed, after one call to warm up; 0 times none.

    Returns:
        `dict`: `codes` and how many of them `differ`; `rows`, one for encoding and one per budget of decoding, with
        the largest difference of pixels in [0, 1] and the median `milliseconds` of a batch, of both models.
    """
    full = model.config.num_latent_tokens
    is_nested = type(original).__name__ == "OneDPiece"  # TiTok's code decodes all codes or none
    codes = original.encode(images)[1]["min_encoding_indices"].flatten(1)
    inputs = images * 2 - 1
    calls: dict[str, tuple[Callable, Callable]] = {
        "encode": (lambda: original.encode(images), lambda: model.encode(inputs, budgets=full).image_codes)
    }
    for budget in model.config.budgets if is_nested else [full]:
        calls[f"decode {budget}"] = (
            lambda budget=budget: original.decode_tokens(codes[:, None, :budget]),
            lambda budget=budget: (model.decode(codes, budgets=budget).pixel_values + 1) / 2,
        )
    rows = []
    for name, (theirs, ours) in calls.items():
        row = {"call": name}
        if name != "encode":
            row["difference"] = (theirs() - ours()).abs().max().item()
        if repeats:
            times = time_interleaved({"original": theirs, "converted": ours}, images.device, repeats, warmup=1)
            row["milliseconds"] = {key: statistics.median(values) for key, values in times.items()}
        rows.append(row)
    differ = (model.encode(inputs, budgets=full).image_codes != codes).sum().item()
    return {"codes": codes.numel(), "differ": differ, "rows": rows}


def format_rows(result: dict) -> str:
    """The result as a table."""
    lines = [("call", "largest difference", "original ms", "converted ms", "original / converted")]
    for row in result["rows"]:
        times = row.get("milliseconds")
        difference = (
            f"{row['difference']:.1e}" if "difference" in row else "{differ} of {codes} codes".format(**result)
        )
        cells = ["", "", ""]
        if times is not None:
            theirs, ours = times["original"], times["converted"]
            cells = [f"{theirs:.0f}", f"{ours:.0f}", f"{theirs / ours:.2f}"]
        lines.append((row["call"], difference, *cells))
    return align_columns(lines)
