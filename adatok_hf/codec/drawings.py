"""Pictures about reconstructions: where they are wrong, how they grow code after code, and beside their original."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageOps

from .grid import CHOSEN_BAR, FONT_SIZE, GREY, HAIRLINE, INK, Reconstruction, enlarge


FULL_ERROR = 96  # grey levels of 255 that get the brightest colour
ERROR_COLORS = {"black": "#0d0828", "mid": "#c43c4e", "white": "#fdf5b0"}
FRAME = 256  # pixels: least width of an animation
FRAME_MILLISECONDS, LAST_MILLISECONDS = 450, 1500


def error_map(original: Image.Image, picture: Image.Image) -> Image.Image:
    """
    Colours each pixel by how far it is off.

    Args:
        original, picture (`PIL.Image.Image`): RGB, of one size.

    Returns:
        `PIL.Image.Image`: RGB; dark where both are equal, red at a mean difference of 48 levels (of 255) over the
        channels, pale yellow from 96 on. The scale is the same for all pictures.

    Example:

    ```python
    >>> from PIL import Image
    >>> from adatok_hf.codec.drawings import error_map

    >>> grey = Image.new("RGB", (8, 8), "grey")
    >>> error_map(grey, grey).getpixel((0, 0))
    (13, 8, 40)

    ```"""
    errors = np.asarray(ImageChops.difference(original, picture)).mean(axis=2)
    levels = np.rint(errors * (255 / FULL_ERROR)).clip(0, 255).astype(np.uint8)
    return ImageOps.colorize(Image.fromarray(levels), **ERROR_COLORS)


def side_by_side(original: Image.Image, picture: Image.Image) -> Image.Image:
    """The original and its reconstruction, with a gap of a few pixels between them."""
    gap = max(1, original.width // 32)
    pair = Image.new("RGB", (2 * original.width + gap, original.height), "white")
    pair.paste(original, (0, 0))
    pair.paste(picture, (original.width + gap, 0))
    return pair


def animate(seen: Sequence[Reconstruction], num_latent_tokens: int) -> bytes:
    """
    Shows a picture grow with its budget.

    Args:
        seen (`Sequence[Reconstruction]`): One for each frame, all square and of one size.
        num_latent_tokens (`int`): What counts as a full budget.

    Returns:
        `bytes`: a lossless WebP that plays once, with the budget below each frame.
    """
    font = ImageFont.load_default(FONT_SIZE)
    frames = []
    for item in seen:
        picture = enlarge(item.picture, FRAME)
        frame = Image.new("RGB", (picture.width, picture.height + FONT_SIZE + 24), "white")
        frame.paste(picture, (0, 0))
        draw, y = ImageDraw.Draw(frame), picture.height + 8
        draw.text((8, y + 4), f"{item.budget} / {num_latent_tokens}", fill=INK, font=font)
        left, right = 96, picture.width - 10
        draw.rectangle((left, y + 9, right, y + 15), fill=HAIRLINE, outline=GREY)
        end = left + round((right - left) * item.budget / num_latent_tokens)
        draw.rectangle((left, y + 9, end, y + 15), fill=CHOSEN_BAR)
        frames.append(frame)
    durations = [FRAME_MILLISECONDS] * (len(frames) - 1) + [LAST_MILLISECONDS]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], duration=durations, loop=1, lossless=True)
    return buffer.getvalue()


__all__ = ["animate", "error_map", "side_by_side"]
