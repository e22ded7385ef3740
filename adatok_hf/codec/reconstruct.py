"""What a reconstruction costs and how good it is."""

import math
from dataclasses import asdict, dataclass
from statistics import fmean

import torch
from PIL import Image

from ..files import printable
from ..metrics.images import to_images
from ..metrics.pairs import perceptual_distance, psnr
from ..metrics.rate import bits_per_pixel
from ..tables import align_columns
from .grid import GridRow, Reconstruction, shade_dropped
from .sequential_tatok import SequentialTaTok


@torch.inference_mode()
def reconstruct(
    model, processor, pixel_values: torch.Tensor, budgets: list[int] | None = None, cost_bias: float | None = None
) -> list[list[Reconstruction]]:
    """
    Reconstructs a batch at one or many budgets after a single encoder pass.

    Args:
        model ([`AdaTokModel`]): In evaluation mode.
        processor ([`AdaTokImageProcessor`]): Turns pixel values into pictures.
        pixel_values (`torch.Tensor` of shape `(batch, 3, image_size, image_size)`): In [-1, 1].
        budgets (`list[int]`, *optional*): Budgets in `1 .. num_latent_tokens`. Without them the policy chooses.
        cost_bias (`float`, *optional*): Shifts its choice, see [`AdaTokModel.encode`].

    Returns:
        `list[list[Reconstruction]]`: for each image, one for each budget. The policy's probabilities are there where
        it has been trained and chose.

    Raises:
        `ValueError`: as [`AdaTokModel.encode`] and [`AdaTokModel.decode`].
    """
    encoded = model.encode(pixel_values, budgets=max(budgets) if budgets else None, cost_bias=cost_bias)
    policies = [None] * len(pixel_values)
    if not budgets and model.config.is_policy_trained and not isinstance(model, SequentialTaTok):
        probabilities = model.budget_distribution(encoded.budget_logits, cost_bias).tolist()
        policies = [dict(zip(model.config.budgets, row)) for row in probabilities]
    columns = []
    for budget in budgets or [encoded.budgets]:
        decoded = model.decode(encoded.image_codes, budgets=budget)
        kept = torch.as_tensor(budget).expand(len(pixel_values)).tolist()
        maps = _draw_kept(model, processor, pixel_values, encoded.image_codes, budget)
        columns.append(map(Reconstruction, kept, processor.post_process(decoded.pixel_values), policies, maps))
    return [list(row) for row in zip(*columns)]


def _draw_kept(model, processor, pixel_values: torch.Tensor, image_codes: torch.Tensor, budget) -> list:
    """The originals with their dropped patches shaded, `None` for each where a model has no patches to drop."""
    if not isinstance(model, SequentialTaTok):
        return [None] * len(pixel_values)
    _, _, kept_mask = model.take_apart(image_codes, budget)
    side = math.isqrt(kept_mask.shape[1])
    grids = kept_mask.unflatten(1, (side, side)).tolist()
    return [shade_dropped(*pair) for pair in zip(processor.post_process(pixel_values), grids)]


@dataclass
class Result:
    """
    One line of the table: an image or a mean of images, at one budget. Rate in bits per pixel, PSNR in dB; `policy` as
    in [`Reconstruction`].
    """

    image: str
    budget: float
    bits_per_pixel: float
    psnr: float
    lpips: float | None
    policy: dict[int, float] | None = None

    def to_dict(self) -> dict:
        """For JSON; the policy is left out where it had no part."""
        return {name: value for name, value in asdict(self).items() if name != "policy" or value is not None}


def measure(
    name: str,
    original: Image.Image,
    reconstructions: list[Reconstruction],
    config,
    lpips: torch.nn.Module | None = None,
) -> tuple[GridRow, list[Result]]:
    """
    Compares one image with its reconstructions.

    Args:
        name (`str`): What to call the image.
        original (`PIL.Image.Image`): The picture the model saw.
        reconstructions (`list[Reconstruction]`): As [`reconstruct`] gives them.
        config ([`AdaTokConfig`]): The architecture.
        lpips (`torch.nn.Module`, *optional*):
            Perceptual network, see [`~adatok_hf.metrics.pairs.perceptual_distance`].

    Returns:
        `tuple[GridRow, list[Result]]`: for [`draw_grid`] and for [`format_table`].
    """
    device = "cpu" if lpips is None else next(lpips.parameters()).device
    seen, results = to_images([original]).to(device), []
    for item in reconstructions:
        pair = seen, to_images([item.picture]).to(device)
        results.append(
            Result(
                image=name,
                budget=item.budget,
                bits_per_pixel=bits_per_pixel(item.budget, config),
                psnr=psnr(*pair).item(),
                lpips=None if lpips is None else perceptual_distance(lpips, *pair).item(),
                policy=item.policy,
            )
        )
    cells = [(item, result.psnr) for item, result in zip(reconstructions, results)]
    return GridRow(name, original, cells), results


def mean_results(results: list[Result], by_budget: bool) -> list[Result]:
    """
    Means over the images, none where there is a single image.

    Args:
        results (`list[Result]`): Of all images.
        by_budget (`bool`): Whether every image has the same budgets, which gives a mean for each of them.
    """
    groups: dict[float, list[Result]] = {}
    for result in results:
        groups.setdefault(result.budget if by_budget else 0, []).append(result)
    return [
        Result(
            image="mean",
            budget=fmean(result.budget for result in group),
            bits_per_pixel=fmean(result.bits_per_pixel for result in group),
            psnr=fmean(result.psnr for result in group),
            lpips=None if group[0].lpips is None else fmean(result.lpips for result in group),
        )
        for group in groups.values()
        if len(group) > 1
    ]


def format_table(results: list[Result]) -> str:
    """Lays the results out as plain text, one line each."""
    lines = [("image", "budget", "bits/pixel", "PSNR (dB)", "LPIPS")]
    for result in results:
        lpips = "-" if result.lpips is None else f"{result.lpips:.4f}"
        budget = f"{result.budget:.4g}"
        lines.append((printable(result.image), budget, f"{result.bits_per_pixel:.4f}", f"{result.psnr:.2f}", lpips))
    return align_columns(lines)


__all__ = ["Result", "format_table", "mean_results", "measure", "reconstruct"]
