"""`adatok calibrate`: a policy with a wanted mean budget."""

from pathlib import Path
from typing import Annotated

import typer

from .common import load_model, prepare_folder, say
from .options import DataOption, DeviceOption, MaxImagesOption, ModelOption


def calibrate(
    mean_budget: Annotated[float, typer.Option(help="The wanted mean budget, in codes per image.")],
    data: DataOption,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the calibrated copy of the model goes.")],
    split: Annotated[str, typer.Option(help="Split of the data.")] = "train",
    max_images: MaxImagesOption = None,
    model: ModelOption = None,
    device: DeviceOption = None,
):
    """Make a copy of a model whose policy spends a wanted mean budget, measured on calibration images."""
    from .. import default_checkpoint
    from ..allocation.calibrate import save_calibrated, score_images
    from ..allocation.choice import calibrate_cost_bias, check_mean_budget, choose_columns
    from ..data import load_image_dataset
    from ..files import check_empty
    from ..hub import find_folder

    check_empty(out)
    prepare_folder(out.absolute().parent)
    network, model_id, processor = load_model(model, device)
    candidates = network.config.budgets
    if not network.config.is_policy_trained:
        raise ValueError(f"The policy of {model_id} has not been trained; train it first: adatok train policy.")
    check_mean_budget(mean_budget, candidates)
    images = load_image_dataset(data, split, max_images)
    logits = score_images(network, processor, images, warn=say)
    cost_bias = calibrate_cost_bias(logits, candidates, mean_budget)
    save_calibrated(find_folder(model or default_checkpoint()), out, network, processor, cost_bias)
    counts = choose_columns(logits, candidates, cost_bias).bincount(minlength=len(candidates)).tolist()
    mean = sum(budget * count for budget, count in zip(candidates, counts)) / len(logits)
    histogram = ", ".join(f"{budget}: {count}" for budget, count in zip(candidates, counts))
    typer.echo(
        f"{len(logits)} images, cost bias {cost_bias:.4g}, mean budget {mean:.2f} (images per budget {histogram}), "
        f"written to {out}"
    )
    if len(logits) < len(images):
        raise typer.Exit(1)
