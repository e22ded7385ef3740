"""
Draws the curves of trainings from what their checkpoints have logged:
`python docs/draw_training.py tiny-64=outputs/tiny-64 tiny-128=outputs/tiny-128`.
"""

import argparse
from pathlib import Path

from adatok_hf.files import read_json, write_json
from adatok_hf.plotting import new_figure


DOCS = Path(__file__).parent
DATA = DOCS / "training.json"  # what is drawn; a run that is named takes the place of that name, or a new one


def read_history(run: Path) -> list[dict]:
    """What the newest checkpoint of a run has logged."""
    checkpoints = sorted(run.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")))
    return read_json(checkpoints[-1] / "trainer_state.json")["log_history"]


def curves(history: list[dict], images_per_step: int) -> dict[str, list]:
    """Images seen against reconstruction loss, and against PSNR at the smallest and the largest candidate budget."""
    losses = [(row["step"] * images_per_step, row["reconstruction"]) for row in history if "reconstruction" in row]
    found = {"loss": losses}
    for row in history:
        budgets = sorted(int(name.removeprefix("eval_psnr_")) for name in row if name.startswith("eval_psnr_"))
        for name, budget in zip(("smallest budget", "largest budget"), (budgets[:1] + budgets[-1:]) or ()):
            point = (row["step"] * images_per_step, row[f"eval_psnr_{budget}"])
            found.setdefault(f"{name}, {budget} codes", []).append(point)
    return found


def draw(runs: dict[str, dict[str, list]]):
    """Loss on the left, validation PSNR on the right."""
    with new_figure(DOCS / "training.png", (10, 3)) as figure:
        left, right = figure.subplots(1, 2)
        for number, (name, found) in enumerate(runs.items()):
            color = f"C{number}"
            left.plot(*zip(*found["loss"]), color=color, label=name)
            for key, style in ((key, "-" if key.startswith("largest") else ":") for key in found if key != "loss"):
                right.plot(*zip(*found[key]), style, color=color, marker=".", label=f"{name}, {key.split(', ')[1]}")
        left.set(title="Reconstruction loss at random budgets", yscale="log")
        right.set(title="PSNR of 256 validation images, dB")
        for axes in (left, right):
            axes.set_xlabel("images seen")
            axes.xaxis.set_major_formatter(lambda images, _: f"{images / 1000:g}k")
        left.legend()
        right.legend(loc="center left", bbox_to_anchor=(1, 0.5))  # beside the curves, which fill the plot


def named_run(argument: str) -> tuple[str, Path]:
    """A curve's name and the folder of its training, which must have a checkpoint."""
    name, _, run = argument.partition("=")
    if not any(Path(run).glob("checkpoint-*")):
        raise argparse.ArgumentTypeError(f"{argument!r} is not NAME=FOLDER of a training with checkpoints")
    return name, Path(run)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=named_run, metavar="NAME=FOLDER")
    found = {name: curves(read_history(run), 64) for name, run in parser.parse_args().runs}
    if found:
        write_json(DATA, read_json(DATA) | found, indent=None)
    draw(read_json(DATA))


if __name__ == "__main__":
    main()
