"""Figures in one style."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .extras import require
from .files import whole_file


STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.dpi": 150,
    "savefig.dpi": 150,
}


@contextmanager
def new_figure(path: str | Path, size: tuple[float, float]) -> Iterator["matplotlib.figure.Figure"]:  # noqa: F821
    """
    Gives an empty figure to draw into; writes it when all went well.

    Args:
        path (`str` or `Path`): The picture, which appears whole or not at all.
        size (`tuple[float, float]`): Width and height in inches.

    Raises:
        `ImportError`: without matplotlib.
    """
    require("eval", "matplotlib")
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE), whole_file(path) as temporary:
        figure = Figure(figsize=size, layout="constrained")  # no pyplot: nothing global, no window
        yield figure
        figure.savefig(temporary)


__all__ = ["new_figure"]
