"""How faithful images are at some of their budgets."""

from collections.abc import Sequence

import torch
from torch import nn

from ..modeling import AdaTokModel
from .images import to_pixel_values, to_uint8
from .pairs import psnr_of_error


@torch.inference_mode()
def measure_budgets(
    model: AdaTokModel,
    image_codes: torch.LongTensor,
    pixel_values: torch.Tensor,
    lpips: nn.Module,
    budgets: Sequence[int],
) -> dict[str, torch.Tensor]:
    """
    Decodes images at some budgets, clips and rounds the pixels, and compares them with the originals.

    Args:
        model ([`AdaTokModel`]): In evaluation mode.
        image_codes (`torch.LongTensor` of shape `(batch, num_latent_tokens)`): All codes of the images.
        pixel_values (`torch.Tensor` of shape `(batch, 3, image_size, image_size)`): The originals, in [-1, 1].
        lpips (`nn.Module`): On the model's device.
        budgets (`Sequence[int]`): In `1 .. num_latent_tokens`.

    Returns:
        `dict[str, torch.Tensor]` of shape `(batch, budgets)`, on the CPU: `lpips`, `mse` of values in [-1, 1], and
        `psnr` in dB.
    """
    columns = [
        measure_pixels(model.decode(image_codes, budgets=budget).pixel_values, pixel_values, lpips)
        for budget in budgets
    ]
    return {name: torch.stack([column[name] for column in columns], dim=1) for name in columns[0]}


@torch.inference_mode()
def measure_pixels(
    reconstruction: torch.Tensor, pixel_values: torch.Tensor, lpips: nn.Module
) -> dict[str, torch.Tensor]:
    """
    Clips and rounds the pixels of reconstructions and compares them with the originals.

    Args:
        reconstruction (`torch.Tensor` of shape `(batch, 3, image_size, image_size)`): As a model decodes them.
        pixel_values (`torch.Tensor` of the same shape): The originals, in [-1, 1].
        lpips (`nn.Module`): On the device of both.

    Returns:
        `dict[str, torch.Tensor]` of shape `(batch,)`, on the CPU: `lpips`, `mse` of values in [-1, 1], and `psnr` in
        dB.
    """
    pixels = to_pixel_values(to_uint8(reconstruction))
    mse = (pixels - pixel_values).square().mean(dim=(1, 2, 3)).cpu()
    psnr = psnr_of_error(mse.clamp(min=1e-10), data_range=2)  # finite, since rewards must be
    return {"lpips": lpips(pixels, pixel_values).flatten().cpu(), "mse": mse, "psnr": psnr}


__all__ = ["measure_budgets", "measure_pixels"]
