"""PSNR, SSIM and LPIPS of images and their reconstructions, one number per image."""

from collections.abc import Sequence
from functools import partial

import torch

from ..extras import require
from .images import check_images, to_pixel_values


SSIM_WINDOW = 11  # pixels


def check_pairs(references: torch.Tensor, reconstructions: torch.Tensor, min_size: int = 1):
    """
    Refuses what are no pairs of uint8 RGB images of one size.

    Args:
        references, reconstructions (`torch.Tensor` of shape `(batch, 3, height, width)`): uint8, in 0..255.
        min_size (`int`, *optional*, defaults to 1): Smallest height and width.

    Raises:
        `ValueError`: if one side is no batch of images, the shapes differ, or the images are too small.
    """
    check_images(references)
    check_images(reconstructions)
    if references.shape != reconstructions.shape:
        raise ValueError(
            "Every image needs one reconstruction of its size; got the shapes "
            f"{tuple(references.shape)} and {tuple(reconstructions.shape)}."
        )
    if min(references.shape[2:]) < min_size:
        raise ValueError(
            f"This metric needs images of at least {min_size} x {min_size} pixels; got {tuple(references.shape[2:])}."
        )


def _precise(images: torch.Tensor) -> torch.Tensor:
    # SSIM subtracts squares from each other: in float32 two equal flat images are off by up to 1e-3. Apple's GPUs lack
    # float64.
    return (images.cpu() if images.device.type == "mps" else images).double()


def psnr(references: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
    """
    Peak signal-to-noise ratio, as torchmetrics has it with `data_range=255`.

    Args:
        references, reconstructions (`torch.Tensor` of shape `(batch, 3, height, width)`): uint8, in 0..255.

    Returns:
        `torch.Tensor` of shape `(batch,)`: float64, in dB, `inf` where both images are equal.

    Raises:
        `ValueError`: as [`check_pairs`].

    Example:

    ```python
    >>> import torch
    >>> from adatok_hf.metrics.pairs import psnr

    >>> black = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    >>> round(psnr(black, black + 1).item(), 2)
    48.13

    ```"""
    check_pairs(references, reconstructions)
    errors = (_precise(reconstructions) - _precise(references)).square().mean(dim=(1, 2, 3))
    return psnr_of_error(errors, data_range=255)


def psnr_of_error(errors: torch.Tensor, data_range: float) -> torch.Tensor:
    """
    Peak signal-to-noise ratio in dB of mean squared errors.

    Args:
        errors (`torch.Tensor`): Of any shape; 0 gives `inf`.
        data_range (`float`): What lies between black and white: 255 for 8-bit values, 2 for pixel values in [-1, 1].
    """
    return 10 * torch.log10(data_range**2 / errors)


def ssim(references: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
    """
    Structural similarity by torchmetrics with its defaults (Gaussian window of 11 pixels, sigma 1.5, K1 0.01,
    K2 0.03, mean over the channels) and `data_range=255`.

    Args:
        references, reconstructions (`torch.Tensor` of shape `(batch, 3, height, width)`):
            uint8, in 0..255, at least 11 x 11 pixels.

    Returns:
        `torch.Tensor` of shape `(batch,)`: float64, in [-1, 1], 1 where both images are equal.

    Raises:
        `ValueError`: as [`check_pairs`].

    Example:

    ```python
    >>> import torch
    >>> from adatok_hf.metrics.pairs import ssim

    >>> black = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    >>> round(ssim(black, black + 10).item(), 3)
    0.061

    ```"""
    require("eval", "torchmetrics")
    from torchmetrics.functional.image import structural_similarity_index_measure

    check_pairs(references, reconstructions, min_size=SSIM_WINDOW)
    pairs = zip(_precise(reconstructions).split(1), _precise(references).split(1))
    # One at a time: convolutions in float64 unfold their input, which takes gigabytes for a batch.
    values = [structural_similarity_index_measure(*pair, data_range=255.0, reduction="none") for pair in pairs]
    return torch.cat(values)


@torch.inference_mode()
def perceptual_distance(
    network: torch.nn.Module, references: torch.Tensor, reconstructions: torch.Tensor
) -> torch.Tensor:
    """
    LPIPS.

    Args:
        network (`torch.nn.Module`):
            As [`~adatok_hf.metrics.perceptual.load_lpips`] gives it, on the device of the images.
        references, reconstructions (`torch.Tensor` of shape `(batch, 3, height, width)`):
            uint8, in 0..255, as large as the network needs them.

    Returns:
        `torch.Tensor` of shape `(batch,)`: float32, 0 where both images are equal.

    Raises:
        `ValueError`: as [`check_pairs`], and if the network gives something that is not finite.
    """
    check_pairs(references, reconstructions)
    distances = network(to_pixel_values(references), to_pixel_values(reconstructions)).flatten()
    if not distances.isfinite().all():
        raise ValueError("LPIPS gives NaN or infinity for some images; check the weights of the network.")
    return distances


class PairMetrics:
    """
    What can be said of an image and its reconstruction.

    Args:
        lpips (`torch.nn.Module`, *optional*):
            Perceptual network as [`~adatok_hf.metrics.perceptual.load_lpips`] gives it, on the device of the images.
        names (`Sequence[str]`, *optional*): Which of `psnr`, `ssim` and `lpips`; with or without the network all that
            there are.

    Example:

    ```python
    >>> import torch
    >>> from adatok_hf.metrics.pairs import PairMetrics

    >>> images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    >>> {name: values.tolist() for name, values in PairMetrics().measure(images, images).items()}
    {'psnr': [inf, inf, inf, inf], 'ssim': [1.0, 1.0, 1.0, 1.0]}

    ```"""

    def __init__(self, lpips: torch.nn.Module | None = None, names: Sequence[str] = ("psnr", "ssim", "lpips")):
        self.lpips, self.names = lpips, names

    def measure(self, references: torch.Tensor, reconstructions: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Measures a batch.

        Args:
            references, reconstructions (`torch.Tensor` of shape `(batch, 3, height, width)`): uint8, in 0..255.

        Returns:
            `dict[str, torch.Tensor]` of shape `(batch,)`: `psnr` in dB, `ssim` in [-1, 1], and with a network `lpips`,
            those of them that are wanted.

        Raises:
            `ValueError`: as [`psnr`], [`ssim`] and [`perceptual_distance`].
        """
        measures = {"psnr": psnr, "ssim": ssim}
        if self.lpips is not None:
            measures["lpips"] = partial(perceptual_distance, self.lpips)
        return {name: measures[name](references, reconstructions) for name in measures if name in self.names}


__all__ = ["PairMetrics", "check_pairs", "perceptual_distance", "psnr", "psnr_of_error", "ssim"]
