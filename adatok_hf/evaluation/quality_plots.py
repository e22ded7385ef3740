"""The pictures of an evaluation: quality against rate beside codecs, and the worst and the best images."""

from pathlib import Path

import torch
from PIL import Image

from ..codec.grid import GridRow, Reconstruction, draw_grid
from ..files import whole_file
from ..metrics.images import to_uint8
from ..metrics.pairs import psnr
from ..plotting import new_figure
from .evaluate import AUTO, EvaluationRun


COLORS = {"model": "#0b5fa5", "auto": "#e85d24", "jpeg": "#8a8a8a", "webp": "#009e73", "avif": "#cc79a7"}
PANELS = {
    "psnr": "PSNR (dB), higher is better",
    "lpips": "LPIPS, lower is better",
    "ssim": "SSIM, higher is better",
    "rfid": "rFID, lower is better",
}
EXTREMES = 6  # worst and best images each


def plot_quality(report: dict, out: str | Path) -> str | None:
    """
    Draws every metric of a report against bits per pixel: the model's budgets, its policy, and the codecs' qualities.
    A codec's curve ends where its smallest files are; a square marks where it has files as small as the model's.

    Args:
        report (`dict`): What [`~adatok_hf.evaluation.quality.summarize`] gives.
        out (`str` or `Path`): Folder for `quality.png`.

    Returns:
        `str` or `None`: the name of the picture, `None` if nothing of what it shows was measured.

    Raises:
        `ImportError`: without matplotlib.
    """
    panels = [name for name in PANELS if any(row.get(name) is not None for row in report["rows"])]
    if not panels:
        return None
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    with new_figure(Path(out) / "quality.png", (4.2 * columns, 0.5 + 3.1 * lines)) as figure:
        grid = figure.subplots(lines, columns, squeeze=False).flatten()
        for axes, metric in zip(grid, panels):
            _draw_panel(axes, report, metric)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        handles = {line.get_label(): line for axes in grid for line in axes.get_lines() if line.get_label()[0] != "_"}
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=5)
    return "quality.png"


def _draw_panel(axes, report: dict, metric: str):
    fixed = [row for row in report["rows"] if row["budget"] != AUTO]
    if fixed:
        rates = [row["bits_per_pixel"] for row in fixed]
        values = [row[metric] for row in fixed]
        axes.plot(rates, values, "o-", color=COLORS["model"], markersize=4, label="one budget for all")
        first, last = fixed[0], fixed[-1]
        for row in [first] if first is last else [first, last]:
            place = (row["bits_per_pixel"], row[metric])
            axes.annotate(f"{row['budget']}", place, (0, 6), textcoords="offset points", ha="center", fontsize=8)
    for row in report["rows"]:
        if row["budget"] == AUTO:
            style = {"color": COLORS["auto"], "markersize": 7, "linestyle": "none", "zorder": 4}
            axes.plot(row["bits_per_pixel"], row[metric], "D", label="the policy's budgets", **style)
    codecs = report["codecs"] if metric != "rfid" else []  # they are not run through Inception
    for codec in codecs:
        _draw_codec(axes, codec, metric)
    axes.set(title=PANELS[metric], xlabel="bits per pixel", xscale="log" if codecs else "linear")
    axes.margins(y=0.12)


def _draw_codec(axes, codec: dict, metric: str):
    color, curve = COLORS[codec["codec"]], codec["curve"]
    rates = [point["bits_per_pixel"] for point in curve]
    axes.plot(
        rates, [point[metric] for point in curve], ".-", color=color, linewidth=1.2, label=codec["codec"].upper()
    )
    for point in codec["at_equal_bytes"]:
        if point[metric] is not None:
            axes.plot(point["bits_per_pixel"], point[metric], "s", color=color, markersize=5, label="_")


def draw_extremes(run: EvaluationRun, out: str | Path) -> str | None:
    """
    Draws the images with the largest and the smallest LPIPS at the policy's budgets, or at the largest budget where
    the policy was not evaluated: original, reconstruction, and the rows' names say the LPIPS.

    Args:
        run ([`~adatok_hf.evaluation.evaluate.EvaluationRun`]): Measured, with LPIPS.
        out (`str` or `Path`): Folder for `worst-and-best.png`.

    Returns:
        `str` or `None`: the name of the picture, `None` without LPIPS.
    """
    columns = run.columns(f"budget-{run.settings.budgets[-1]}")
    if "lpips" not in columns:
        return None
    order = columns["lpips"].argsort(stable=True).tolist()
    count = min(EXTREMES, len(order) // 2) or 1
    halves = [_extreme_rows(run, columns, rows, word) for rows, word in ((order[::-1], "worst"), (order, "best"))]
    sheets = [draw_grid(rows[:count]) for rows in halves]
    sheet = Image.new("RGB", (sum(part.width for part in sheets), max(part.height for part in sheets)), "white")
    sheet.paste(sheets[0], (0, 0))
    sheet.paste(sheets[1], (sheets[0].width, 0))
    with whole_file(Path(out) / "worst-and-best.png") as path:
        sheet.save(path)
    return "worst-and-best.png"


@torch.inference_mode()
def _extreme_rows(run: EvaluationRun, columns: dict[str, torch.Tensor], order: list[int], word: str) -> list[GridRow]:
    rows, model = order[:EXTREMES], run.model
    pixel_values = run.pictures(rows).to(model.device)
    budgets = columns["budgets"][rows]
    codes = model.encode(pixel_values, budgets=model.config.num_latent_tokens).image_codes
    decoded = model.decode(codes, budgets=budgets.to(model.device)).pixel_values
    pair = [to_uint8(pixels).cpu() for pixels in (pixel_values, decoded)]
    pictures, qualities = zip(*(map(_to_picture, images) for images in pair)), psnr(*pair).tolist()
    grid_rows = []
    for row, budget, (original, reconstruction), quality in zip(rows, budgets.tolist(), pictures, qualities):
        name = f"{word} LPIPS {columns['lpips'][row]:.3f}"
        cell = Reconstruction(budget, reconstruction)
        grid_rows.append(GridRow(name, original, [(cell, quality)]))
    return grid_rows


def _to_picture(pixels: torch.Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


__all__ = ["draw_extremes", "plot_quality"]
