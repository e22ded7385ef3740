"""Generated pictures by class, in one picture."""

import math

from PIL import Image, ImageDraw, ImageFont

from ..codec.grid import enlarge


MIN_CELL = 96  # pixels: less is hard to look at
FONT_SIZE = 14
MARGIN = 8
INK, GREY = (28, 28, 30), (118, 118, 124)


def draw_sample_grid(rows: list[tuple[str, list[tuple[Image.Image, int]]]]) -> Image.Image:
    """
    Draws one line per class: its name above, its pictures with their budgets below.

    Args:
        rows (`list[tuple[str, list[tuple[PIL.Image.Image, int]]]]`): At least one; all pictures square and of one
            size.

    Returns:
        `PIL.Image.Image`: RGB, on white. Small pictures are enlarged by a whole factor, so their pixels stay true.
    """
    size = rows[0][1][0][0].width
    cell = size * math.ceil(MIN_CELL / size)
    font, line = ImageFont.load_default(FONT_SIZE), FONT_SIZE + 5
    height = cell + 2 * line + MARGIN
    width = max(
        max(len(pictures) for _, pictures in rows) * (cell + MARGIN),
        max(math.ceil(font.getlength(name)) for name, _ in rows) + MARGIN,
    )
    grid = Image.new("RGB", (MARGIN + width, MARGIN + len(rows) * height), (255, 255, 255))
    draw = ImageDraw.Draw(grid)
    for row, (name, pictures) in enumerate(rows):
        top = MARGIN + row * height
        draw.text((MARGIN, top), name, fill=INK, font=font)
        for column, (picture, budget) in enumerate(pictures):
            left = MARGIN + column * (cell + MARGIN)
            grid.paste(enlarge(picture, MIN_CELL), (left, top + line))
            codes = f"{budget} code{'s' * (budget != 1)}"
            draw.text((left, top + line + cell + 2), codes, fill=GREY, font=font)
    return grid


__all__ = ["draw_sample_grid"]
