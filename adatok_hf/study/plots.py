"""The pictures of a study."""

from collections.abc import Callable
from pathlib import Path

from ..plotting import new_figure
from .arms import MIRRORED


COLORS = {
    "policy": "#0b5fa5",
    "checkpoint policy": "#56b4e9",
    "uniform": "#8a8a8a",
    "shuffled": "#d55e00",
    "random": "#cc79a7",
    "regressor": "#009e73",
    "by WebP size": "#e69f00",
    "by WebP size, reversed": "#f0cf8a",
    "time-sharing hull": "#b5b5b5",
    "oracle (reward)": "#222222",
    "oracle (LPIPS)": "#666666",
    MIRRORED: "#a6761d",
    "gradient": "#0b5fa5",
    "gradient from 0.25": "#56b4e9",
    "gradient from 0.75": "#5e3c99",
    "hypervolume": "#d55e00",
    "target mean": "#009e73",
}
DASHED = {"time-sharing hull": ":", "oracle (reward)": "--"}


def plot_study(result: dict, out: str | Path) -> list[str]:
    """
    Draws the figures of a study.

    Args:
        result (`dict`): What [`~adatok_hf.study.policy_study.run_study`] gives.
        out (`str` or `Path`): Folder for the pictures; made if need be.

    Returns:
        `list[str]`: their names: `front.png` (quality against mean budget, all arms), `groups.png` (budgets by kind of
        image), `training.png` (weights, gradient norms and mean budget over the steps) and `sweep.png` (Dynamic Pareto
        Weighting among fixed weights).

    Raises:
        `ImportError`: without matplotlib.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    drawings: dict[str, tuple[Callable, tuple[float, float]]] = {
        "front.png": (_draw_front, (8.4, 6.4)),
        "groups.png": (_draw_groups, (8.4, 1.3 + 0.36 * len(result["groups"]))),
        "training.png": (_draw_training, (8.4, 2.9)),
        "sweep.png": (_draw_sweep, (8.4, 3.6)),
    }
    for name, (draw, size) in drawings.items():
        with new_figure(out / name, size) as figure:
            draw(figure, result)
    return list(drawings)


def plot_tatok(result: dict, path: str | Path):
    """
    Draws quality against bits, side information counted: both models, and the ways to choose patches.

    Args:
        result (`dict`): What [`~adatok_hf.study.tatok_study.run_tatok_study`] gives.
        path (`str` or `Path`): The picture.

    Raises:
        `ImportError`: without matplotlib.
    """
    curves = {"TaTok": "#d55e00", "AdaTok": "#0b5fa5"}
    with new_figure(path, (8.4, 3.6)) as figure:
        for axes, metric, label in zip(figure.subplots(1, 2), ("lpips", "psnr"), ("LPIPS", "PSNR (dB)")):
            for name, color in curves.items():
                rows = [row for row in result["rows"] if row["arm"].startswith(f"{name}, ")]
                points = sorted((row["bits"], row[metric]) for row in rows)
                axes.plot(*zip(*points), "o-", color=color, markersize=3, label=name)
            for row in result["rows"]:
                if row["arm"] == "random" or row["arm"].startswith(("DTF", "pixel")):
                    axes.plot(row["bits"], row[metric], ".", color="#8a8a8a", zorder=1)
            axes.set(xlabel="bits of an image", ylabel=label)
        axes.legend()


def _draw_front(figure, result: dict):
    """Above, the quality itself; below, what it is better than uniform by, where the arms come apart."""
    grid = figure.subplots(2, 2, sharex=True)
    names = list(dict.fromkeys(row["arm"] for row in result["front"]))
    uniform = {row["wanted_mean"]: row for row in result["front"] if row["arm"] == "uniform"}
    at_mean = {row["arm"]: row for row in result["rows"]}
    handles = {}
    for column, (metric, sign, unit) in enumerate((("lpips", -1, "LPIPS"), ("psnr", 1, "PSNR (dB)"))):
        for name in names:
            rows = [row for row in result["front"] if row["arm"] == name]
            style = {"color": COLORS[name], "linestyle": DASHED.get(name, "-"), "zorder": 3 if name == "policy" else 2}
            means = [row["mean_budget"] for row in rows]
            (handles[name],) = grid[0, column].plot(means, [row[metric] for row in rows], **style, label=name)
            gains = [sign * (row[metric] - uniform[row["wanted_mean"]][metric]) for row in rows]
            grid[1, column].plot(means, gains, **style)
        for name in at_mean:
            if name in names or name == "oracle (LPIPS)":
                continue
            x, y = at_mean[name]["mean_budget"], at_mean[name][metric]
            gain = sign * (y - at_mean["uniform"][metric])
            for axes, value in ((grid[0, column], y), (grid[1, column], gain)):
                handles[name] = axes.scatter(x, value, s=26, color=COLORS[name], edgecolor="white", zorder=4)
        grid[0, column].set_title(f"{unit}, {'lower' if sign < 0 else 'higher'} is better")
        grid[1, column].set_title(f"{unit.split()[0]} gained over uniform{' (dB)' if metric == 'psnr' else ''}")
        grid[1, column].set_xlabel("mean budget (image codes)")
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=5)


def _draw_groups(figure, result: dict):
    axes = figure.subplots()
    budgets, groups = result["budgets"], result["groups"]
    from matplotlib import colormaps

    shades = [colormaps["YlGnBu"](0.12 + 0.8 * index / max(1, len(budgets) - 1)) for index in range(len(budgets))]
    for place, row in enumerate(groups):
        left = 0.0
        for shade, share in zip(shades, row["histogram"]):
            axes.barh(place, share, left=left, color=shade, height=0.72, edgecolor="white", linewidth=0.5)
            left += share
        axes.text(1.012, place, f"{row['mean_budget']:.1f}", va="center", fontweight="bold")
        axes.text(1.075, place, f"{row['oracle_mean_budget']:.1f}", va="center", color="#666666")
    for x, word in ((1.012, "mean"), (1.075, "oracle's")):
        axes.text(x, len(groups) - 0.42, word, va="bottom", fontsize=8, color="#666666")
    axes.set_yticks(range(len(groups)), [f"{row['group'] or 'all'} ({row['n']:,})" for row in groups])
    axes.set(xlim=(0, 1.15), xlabel="share of the images")
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(left=False)
    axes.grid(False)
    bars = [axes.barh(0, 0, color=shade) for shade in shades]
    figure.legend(bars, budgets, loc="outside lower center", ncols=min(8, len(budgets)), title="budget (image codes)")


def _draw_training(figure, result: dict):
    from matplotlib.lines import Line2D

    weights, norms, means = figure.subplots(1, 3)
    objectives = {"fidelity": "-", "efficiency": "--"}
    for rule, history in result["histories"].items():
        steps, color = [row["step"] for row in history], COLORS[rule]
        weights.plot(steps, [row["weight_fidelity"] for row in history], color=color)
        means.plot(steps, [row["mean_budget"] for row in history], color=color)
        for objective, line in objectives.items():
            values = [row[f"grad_norm_{objective}"] for row in history]
            norms.plot(steps, values, color=color, linestyle=line, linewidth=1.1)
    weights.set_title("weight of fidelity")
    norms.set_title("norm of each objective's gradient")
    norms.set_ylim(bottom=0)
    means.set_title("mean budget (image codes)")
    for axes in (weights, norms, means):
        axes.set_xlabel("step")
    handles = [Line2D([], [], color=COLORS[rule]) for rule in result["histories"]]
    handles += [Line2D([], [], color="#222222", linestyle=line, linewidth=1.1) for line in objectives.values()]
    figure.legend(handles, [*result["histories"], *objectives], loc="outside lower center", ncols=5)


def _draw_sweep(figure, result: dict):
    axes = figure.subplots()
    rows = sorted(result["ablations"]["weighting"], key=lambda row: row["mean_budget"])
    fixed = [row for row in rows if row["arm"].startswith("fixed")]
    axes.axhline(0, color=COLORS["uniform"], linewidth=1)
    axes.plot([row["mean_budget"] for row in fixed], [row["gain_over_uniform"] for row in fixed], color="#bbbbbb")
    for row in rows:
        is_fixed = row in fixed
        gain, (low, high) = row["gain_over_uniform"], row["gain_ci"]
        axes.errorbar(
            row["mean_budget"],
            gain,
            yerr=[[gain - low], [high - gain]],
            fmt="o" if is_fixed else "D",
            markersize=4 if is_fixed else 7,
            color="#999999" if is_fixed else COLORS[row["arm"]],
            elinewidth=1,
            label=None if is_fixed else row["arm"],
            zorder=2 if is_fixed else 3,
        )
        if is_fixed:
            word = row["arm"].removeprefix("fixed ")
            axes.annotate(word, (row["mean_budget"], low), (0, -3), textcoords="offset points", ha="center", va="top")
    axes.margins(y=0.15)
    axes.set_title("LPIPS gained over uniform at each policy's own mean; grey: fixed weights of fidelity")
    axes.set_xlabel("mean budget (image codes)")
    axes.legend(loc="best")


__all__ = ["plot_study", "plot_tatok"]
