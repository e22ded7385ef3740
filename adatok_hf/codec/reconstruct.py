"""What a reconstruction costs, how good it is, and how it looks beside its original."""

import math
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..tables import align_columns


MIN_CELL = 144  # pixels: a label in a readable size needs that much room
FONT_SIZE = 15
MARGIN = 16
TICK_SIZE = 12  # of the numbers at the bars
INK, GREY, HAIRLINE = (28, 28, 30), (118, 118, 124), (224, 224, 228)
BAR, CHOSEN_BAR = (214, 214, 219), (232, 93, 36)


class Reconstruction(NamedTuple):
    """
    A picture at one budget. Where the policy chose the budget, `policy` holds its probabilities of the candidate
    budgets, in [0, 1].
    """

    budget: int
    picture: Image.Image
    policy: dict[int, float] | None = None


def psnr(original: Image.Image, reconstruction: Image.Image) -> float:
    """
    Peak signal-to-noise ratio of two 8-bit pictures of one size.

    Args:
        original (`PIL.Image.Image`): The picture the model saw.
        reconstruction (`PIL.Image.Image`): Its reconstruction, clipped and rounded by `post_process`.

    Returns:
        `float`: in decibels, `inf` for equal pictures.

    Raises:
        `ValueError`: if the pictures differ in size or mode.

    Example:

    ```python
    >>> from PIL import Image
    >>> from adatok_hf.codec.reconstruct import psnr

    >>> round(psnr(Image.new("RGB", (8, 8), (0, 0, 0)), Image.new("RGB", (8, 8), (1, 1, 1))), 2)
    48.13

    ```"""
    first, second = (np.asarray(picture, dtype=np.float64) for picture in (original, reconstruction))
    if first.shape != second.shape:
        raise ValueError(f"Both pictures must have the same size and mode; got {first.shape} and {second.shape}.")
    error = np.mean((first - second) ** 2).item()
    return 10 * math.log10(255**2 / error) if error else math.inf


def bits_per_pixel(budget: int, config) -> float:
    """
    Rate of one image: its codes and the index of its budget, which a decoder has to be told.

    Args:
        budget (`int`): In `1 .. num_latent_tokens`.
        config ([`AdaTokConfig`]): The architecture.

    Returns:
        `float`: bits per pixel of the `image_size` x `image_size` picture. The index counts among the candidate
        budgets where the budget is one of them, else among all `num_latent_tokens`.

    Example:

    ```python
    >>> from adatok_hf import AdaTokConfig
    >>> from adatok_hf.codec.reconstruct import bits_per_pixel

    >>> bits_per_pixel(32, AdaTokConfig())  # (32 * 12 bits + 3 bits) / 256 ** 2
    0.0059051513671875

    ```"""
    choices = len(config.budgets) if budget in config.budgets else config.num_latent_tokens
    return (budget * math.log2(config.codebook_size) + math.log2(choices)) / config.image_size**2


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
    if not budgets and model.config.is_policy_trained:
        probabilities = model.budget_distribution(encoded.budget_logits, cost_bias).tolist()
        policies = [dict(zip(model.config.budgets, row)) for row in probabilities]
    columns = []
    for budget in budgets or [encoded.budgets]:
        decoded = model.decode(encoded.image_codes, budgets=budget)
        kept = torch.as_tensor(budget).expand(len(pixel_values)).tolist()
        columns.append(map(Reconstruction, kept, processor.post_process(decoded.pixel_values), policies))
    return [list(row) for row in zip(*columns)]


@torch.inference_mode()
def perceptual_distance(network: torch.nn.Module, original: Image.Image, reconstruction: Image.Image) -> float:
    """
    LPIPS of two 8-bit pictures.

    Args:
        network (`torch.nn.Module`): As [`~adatok_hf.metrics.perceptual.load_lpips`] gives it.
        original, reconstruction (`PIL.Image.Image`): RGB pictures of one size.

    Returns:
        `float`: 0 for equal pictures, larger for less similar ones.
    """
    device = next(network.parameters()).device
    first, second = (
        (torch.tensor(np.asarray(picture), device=device).permute(2, 0, 1)[None] / 127.5) - 1
        for picture in (original, reconstruction)
    )
    return network(first, second).item()


@dataclass
class GridRow:
    """One image of a grid: its name, its original, and its reconstructions with their PSNRs (dB)."""

    name: str
    original: Image.Image
    cells: list[tuple[Reconstruction, float]]


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
        lpips (`torch.nn.Module`, *optional*): Perceptual network, see [`perceptual_distance`].

    Returns:
        `tuple[GridRow, list[Result]]`: for [`draw_grid`] and for [`format_table`].
    """
    results = [
        Result(
            image=name,
            budget=item.budget,
            bits_per_pixel=bits_per_pixel(item.budget, config),
            psnr=psnr(original, item.picture),
            lpips=perceptual_distance(lpips, original, item.picture) if lpips is not None else None,
            policy=item.policy,
        )
        for item in reconstructions
    ]
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
        lines.append((result.image, budget, f"{result.bits_per_pixel:.4f}", f"{result.psnr:.2f}", lpips))
    return align_columns(lines)


def draw_grid(rows: list[GridRow]) -> Image.Image:
    """
    Draws one line per image: the original, then its reconstructions, labelled with budget and PSNR. Where the policy
    chose the budget, a bar chart of its probabilities follows, with the chosen budget in colour; all charts of a grid
    have one scale.

    Args:
        rows (`list[GridRow]`): At least one; all pictures square and of one size.

    Returns:
        `PIL.Image.Image`: RGB, on white. Small pictures are enlarged by a whole factor, so their pixels stay true.
    """
    size = rows[0].original.width
    cell = size * math.ceil(MIN_CELL / size)
    font, line = ImageFont.load_default(FONT_SIZE), FONT_SIZE + 4
    height = cell + 2 * line + 6
    charts = [[item for item, _ in row.cells if item.policy is not None] for row in rows]
    highest = max((max(item.policy.values()) for row in charts for item in row), default=1.0)
    columns = 1 + max(len(row.cells) + len(chart) for row, chart in zip(rows, charts))
    grid = Image.new(
        "RGB", (MARGIN + columns * (cell + MARGIN), MARGIN + len(rows) * (height + MARGIN)), (255, 255, 255)
    )
    draw = ImageDraw.Draw(grid)
    for row_index, (row, chart) in enumerate(zip(rows, charts)):
        y = MARGIN + row_index * (height + MARGIN)
        items = [(row.original, _fit(row.name, font, cell), "original")]
        items += [
            (item.picture, f"{item.budget} code{'s' * (item.budget != 1)}", f"{quality:.2f} dB")
            for item, quality in row.cells
        ]
        for column, (picture, first_label, second_label) in enumerate(items):
            x = MARGIN + column * (cell + MARGIN)
            grid.paste(picture.resize((cell, cell), Image.Resampling.NEAREST), (x, y))
            draw.rectangle((x - 1, y - 1, x + cell, y + cell), outline=HAIRLINE)
            draw.text((x, y + cell + 4), first_label, fill=INK, font=font)
            draw.text((x, y + cell + 4 + line), second_label, fill=GREY, font=font)
        for column, item in enumerate(chart, start=len(items)):
            x = MARGIN + column * (cell + MARGIN)
            _draw_bars(draw, x, y, cell, item, highest)
            draw.text((x, y + cell + 4 + line), "policy", fill=GREY, font=font)
    return grid


def _draw_bars(draw: ImageDraw.ImageDraw, x: int, y: int, cell: int, item: Reconstruction, highest: float):
    """Draws the policy's probabilities into a square cell, and the candidate budgets below it."""
    font = ImageFont.load_default(TICK_SIZE)
    base, room = y + cell, cell - TICK_SIZE - 8  # above the highest bar stands its number
    gap = max(1, min(6, cell // len(item.policy) // 4))
    step = (cell + gap) / len(item.policy)

    def place(text: str, center: float) -> tuple[float, float]:
        half = font.getlength(text) / 2
        center = min(max(center, x + half), x + cell - half)
        return center - half, center + half

    labels = []
    for index, (budget, probability) in enumerate(item.policy.items()):
        color, ink = (CHOSEN_BAR, CHOSEN_BAR) if budget == item.budget else (BAR, GREY)
        left, right = round(x + index * step), round(x + (index + 1) * step) - gap
        top = base - max(1, round(probability / highest * room))
        draw.rectangle((left, top, right - 1, base - 1), fill=color)
        center = (left + right) / 2
        labels.append((*place(str(budget), center), str(budget), ink))
        if budget == item.budget:
            percent = f"{probability:.0%}"
            draw.text((place(percent, center)[0], top - 4), percent, fill=ink, font=font, anchor="ls")
    draw.line((x, base, x + cell - 1, base), fill=GREY)
    if any(right - left + 4 > step for left, right, _, _ in labels):  # too many to write all of them
        labels = [labels[0], labels[-1], *(label for label in labels if label[3] == CHOSEN_BAR)]
    taken = []
    for left, right, text, ink in sorted(labels, key=lambda label: label[3] != CHOSEN_BAR):  # the chosen one first
        if all(right + 3 < start or left - 3 > end for start, end in taken):
            draw.text((left, base + 6), text, fill=ink, font=font, anchor="lt")
            taken.append((left, right))


def _fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Cuts the middle out of a text that is too wide: names differ at both ends."""
    if font.getlength(text) <= width:
        return text
    kept = len(text) - 1
    while kept > 2 and font.getlength(text[: kept // 2] + "..." + text[len(text) - kept // 2 :]) > width:
        kept -= 1
    return text[: kept // 2] + "..." + text[len(text) - kept // 2 :]


__all__ = ["GridRow", "Reconstruction", "Result", "bits_per_pixel", "draw_grid", "measure", "psnr", "reconstruct"]
