"""Charts for web pages: SVG and HTML in the colours of the page, light or dark, that a screen reader reads aloud."""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from PIL import Image


ACCENT = "var(--adatok-accent, #d9480f)"
WIDTH, HEIGHT = 420, 220
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 26, 40  # room for the numbers at the axes
MAX_THUMBNAIL = 96  # pixels
MIN_TICK = 30  # units of the drawing between two numbers at an axis


class Placed(NamedTuple):
    """A picture and how many codes it got; `name` is read aloud and shown on hover."""

    name: str
    picture: Image.Image
    budget: int


def policy_chart(policy: dict[int, float], chosen: int) -> str:
    """
    Draws the policy's probabilities of the candidate budgets as bars.

    Args:
        policy (`dict[int, float]`): Probability in [0, 1] of each candidate budget.
        chosen (`int`): The budget whose bar is coloured.

    Returns:
        `str`: an SVG element.

    Example:

    ```python
    >>> from adatok_hf.charts import policy_chart

    >>> policy_chart({4: 0.25, 8: 0.75}, chosen=8).count("<rect")
    2

    ```"""
    highest = max(policy.values())
    step = (WIDTH - LEFT - RIGHT) / len(policy)
    parts, last_label = [], -MIN_TICK
    for index, (budget, probability) in enumerate(policy.items()):
        height = max(1.0, (HEIGHT - TOP - BOTTOM) * probability / highest)
        left, top, middle = LEFT + index * step, HEIGHT - BOTTOM - height, LEFT + (index + 0.5) * step
        color, weight = (ACCENT, "600") if budget == chosen else ("currentColor", "400")
        opacity = "1" if budget == chosen else "0.22"
        parts.append(
            f'<rect x="{left + step * 0.1:.1f}" y="{top:.1f}" width="{step * 0.8:.1f}" height="{height:.1f}" rx="3" '
            f'fill="{color}" opacity="{opacity}"/>'
        )
        if budget == chosen:
            parts.append(_text(middle, top - 7, f"{probability:.0%}", weight=weight, color=color))
        if budget == chosen or middle - last_label >= MIN_TICK:
            parts.append(_text(middle, HEIGHT - BOTTOM + 18, str(budget), weight=weight, color=color))
            last_label = middle
    parts.append(_line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, "tokens", opacity=0.75))
    spoken = ", ".join(f"{budget} tokens {probability:.0%}" for budget, probability in policy.items())
    return _svg(f"Probability of each budget: {spoken}.", parts)


def quality_chart(points: Sequence[tuple[int, float]], marked: tuple[int, float], unit: str = "dB") -> str:
    """
    Draws quality against budget as a curve with one point marked.

    Args:
        points (`Sequence[tuple[int, float]]`): Budgets, ascending, and the quality of each; what is infinite, as the
            PSNR of two equal pictures, is left out.
        marked (`tuple[int, float]`): Budget and quality of the point in colour.
        unit (`str`, *optional*, defaults to `"dB"`): Of the quality.

    Returns:
        `str`: an SVG element.

    Example:

    ```python
    >>> from adatok_hf.charts import quality_chart

    >>> quality_chart([(4, 18.0), (8, 20.5)], marked=(6, 19.0)).count("<circle")
    3

    ```"""
    points = [point for point in points if abs(point[1]) != float("inf")]
    shown = [*points, marked] if abs(marked[1]) != float("inf") else points
    if not shown:
        return _svg("The reconstruction equals the picture at every budget.", [])
    budgets, qualities = zip(*shown)
    low, high = min(qualities), max(qualities)
    low, high = low - 0.08 * (high - low + 0.5), high + 0.08 * (high - low + 0.5)
    first, last = min(budgets), max(max(budgets), min(budgets) + 1)

    def place(budget: int, quality: float) -> tuple[float, float]:
        x = LEFT + 12 + (WIDTH - LEFT - RIGHT - 24) * (budget - first) / (last - first)
        return x, TOP + (HEIGHT - TOP - BOTTOM) * (high - quality) / (high - low)

    parts = []
    for share in (0.1, 0.5, 0.9):
        quality = low + share * (high - low)
        y = place(first, quality)[1]
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y, opacity=0.14))
        parts.append(_text(LEFT - 6, y + 4, f"{quality:.1f}", anchor="end", opacity=0.75))
    places = [place(*point) for point in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts.append(f'<polyline points="{path}" fill="none" stroke="currentColor" stroke-width="2" opacity="0.55"/>')
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="currentColor" opacity="0.55"/>' for x, y in places]
    last_label, marked_x = -MIN_TICK, place(*marked)[0]
    for (budget, _), (x, _) in zip(points, places):
        if x - last_label >= MIN_TICK and abs(x - marked_x) >= MIN_TICK:
            parts.append(_text(x, HEIGHT - BOTTOM + 18, str(budget)))
            last_label = x
    parts.append(_text(marked_x, HEIGHT - BOTTOM + 18, str(marked[0]), weight="600", color=ACCENT))
    if marked in shown:
        x, y = place(*marked)
        side, anchor = (1, "start") if x < WIDTH * 0.7 else (-1, "end")
        parts.append(_line(x, y, x, HEIGHT - BOTTOM, color=ACCENT, opacity=0.5))
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7" fill="{ACCENT}"/>')
        parts.append(_text(x + side * 10, y + 24, f"{marked[1]:.1f} {unit}", anchor, weight="600", color=ACCENT))
    parts.append(_line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, "tokens", opacity=0.75))
    spoken = ", ".join(f"{quality:.1f} {unit} from {budget} tokens" for budget, quality in points)
    return _svg(f"Quality at each budget: {spoken}; marked are {marked[0]} tokens.", parts)


def picture_histogram(items: Sequence[Placed], budgets: Sequence[int]) -> str:
    """
    Stacks pictures over the budgets they got.

    Args:
        items (`Sequence[Placed]`): Pictures with one of the budgets each.
        budgets (`Sequence[int]`): The columns, from left to right.

    Returns:
        `str`: HTML. Small pictures are enlarged without blur by the class `adatok-histogram`.

    Example:

    ```python
    >>> from PIL import Image
    >>> from adatok_hf.charts import Placed, picture_histogram

    >>> picture_histogram([Placed("a sky", Image.new("RGB", (8, 8), "skyblue"), 4)], [4, 8]).count("<img")
    1

    ```"""
    columns = []
    for budget in budgets:
        pictures = []
        for item in items:
            if item.budget == budget:
                name = escape(f"{item.name}: {item.budget} tokens", quote=True)
                pictures.append(f'<img src="{data_uri(_thumbnail(item.picture))}" alt="{name}" title="{name}">')
        columns.append(f"<div>{''.join(pictures)}<span>{budget}</span></div>")
    return f'<div class="adatok-histogram">{"".join(columns)}</div><p class="adatok-axis">tokens</p>'


def data_uri(content: Image.Image | bytes, kind: str = "image/png") -> str:
    """A picture (as PNG), or bytes of some kind, as an address that holds all of it."""
    if isinstance(content, Image.Image):
        buffer = io.BytesIO()
        content.save(buffer, "PNG")
        content = buffer.getvalue()
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _thumbnail(picture: Image.Image) -> Image.Image:
    small = picture.copy()
    small.thumbnail((MAX_THUMBNAIL, MAX_THUMBNAIL))
    return small


def _svg(spoken: str, parts: list[str]) -> str:
    return (
        f'<svg class="adatok-chart" role="img" aria-label="{escape(spoken, quote=True)}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-size="13" font-family="inherit">{"".join(parts)}</svg>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    anchor: str = "middle",
    weight: str = "400",
    color: str = "currentColor",
    opacity: float = 1,
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="{color}" '
        f'opacity="{opacity}">{escape(text)}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, color: str = "currentColor", opacity: float = 0.4) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" stroke-width="1" '
        f'opacity="{opacity}"/>'
    )


__all__ = ["Placed", "data_uri", "picture_histogram", "policy_chart", "quality_chart"]
