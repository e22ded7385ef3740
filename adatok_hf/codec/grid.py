"""Originals and their reconstructions in one picture, and what the policy thinks of each budget."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from ..files import printable


MIN_CELL = 144  # pixels: a label in a readable size needs that much room
FONT_SIZE = 15
MARGIN = 16
TICK_SIZE = 12  # of the numbers at the bars
INK, GREY, HAIRLINE = (28, 28, 30), (118, 118, 124), (224, 224, 228)
BAR, CHOSEN_BAR = (214, 214, 219), (232, 93, 36)


class Reconstruction(NamedTuple):
    """
    A picture at one budget. Where the policy chose the budget, `policy` holds its probabilities of the candidate
    budgets, in [0, 1]. Where patches are filtered, `kept_patches` is the original, pale where they are dropped.
    """

    budget: int
    picture: Image.Image
    policy: dict[int, float] | None = None
    kept_patches: Image.Image | None = None


@dataclass
class GridRow:
    """One image of a grid: its name, its original, and its reconstructions with their PSNRs (dB)."""

    name: str
    original: Image.Image
    cells: list[tuple[Reconstruction, float]]


def enlarge(picture: Image.Image, min_width: int) -> Image.Image:
    """Enlarges a picture by the least whole factor that makes it so wide, so that its pixels stay true."""
    factor = math.ceil(min_width / picture.width)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


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
    maps = [sum(item.kept_patches is not None for item, _ in row.cells) for row in rows]
    columns = 1 + max(len(row.cells) + len(chart) + count for row, chart, count in zip(rows, charts, maps))
    grid = Image.new(
        "RGB", (MARGIN + columns * (cell + MARGIN), MARGIN + len(rows) * (height + MARGIN)), (255, 255, 255)
    )
    draw = ImageDraw.Draw(grid)
    for row_index, (row, chart) in enumerate(zip(rows, charts)):
        y = MARGIN + row_index * (height + MARGIN)
        items = [(row.original, _fit(_drawable(row.name, font), font, cell), "original")]
        for item, quality in row.cells:
            items.append((item.picture, f"{item.budget} code{'s' * (item.budget != 1)}", f"{quality:.2f} dB"))
            if item.kept_patches is not None:
                items.append((item.kept_patches, "kept patches", ""))
        for column, (picture, first_label, second_label) in enumerate(items):
            x = MARGIN + column * (cell + MARGIN)
            grid.paste(enlarge(picture, MIN_CELL), (x, y))
            draw.rectangle((x - 1, y - 1, x + cell, y + cell), outline=HAIRLINE)
            draw.text((x, y + cell + 4), first_label, fill=INK, font=font)
            draw.text((x, y + cell + 4 + line), second_label, fill=GREY, font=font)
        for column, item in enumerate(chart, start=len(items)):
            x = MARGIN + column * (cell + MARGIN)
            _draw_bars(draw, x, y, cell, item, highest)
            draw.text((x, y + cell + 4 + line), "policy", fill=GREY, font=font)
    return grid


def shade_dropped(picture: Image.Image, kept: list[list[bool]]) -> Image.Image:
    """
    A picture that is pale where patches are dropped.

    Args:
        picture (`PIL.Image.Image`): RGB.
        kept (`list[list[bool]]`): For each row of patches, which are kept.

    Returns:
        `PIL.Image.Image`: of the same size.
    """
    mask = Image.new("L", (len(kept[0]), len(kept)))
    mask.putdata([255 if value else 60 for row in kept for value in row])
    pale = Image.new("RGB", picture.size, (255, 255, 255))
    return Image.composite(picture, pale, mask.resize(picture.size, Image.Resampling.NEAREST))


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


def _drawable(text: str, font: ImageFont.FreeTypeFont) -> str:
    """A text whose letters that the font lacks, of which all would look alike, are written by their numbers."""
    absent = bytes(font.getmask("\uffff"))
    return "".join(
        letter if letter.isascii() or bytes(font.getmask(letter)) != absent else f"[{ord(letter):X}]"
        for letter in printable(text)
    )


def _fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Cuts the middle out of a text that is too wide: names differ at both ends."""
    if font.getlength(text) <= width:
        return text
    kept = len(text) - 1
    while kept > 2 and font.getlength(text[: kept // 2] + "..." + text[len(text) - kept // 2 :]) > width:
        kept -= 1
    return text[: kept // 2] + "..." + text[len(text) - kept // 2 :]


__all__ = ["GridRow", "Reconstruction", "draw_grid", "enlarge", "shade_dropped"]
