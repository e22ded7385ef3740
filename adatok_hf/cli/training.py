"""Training and what belongs to the policy: train, reward-table and calibrate."""

from pathlib import Path
from typing import Annotated

import typer

from .common import DeviceOption, ModelOption, WeightsOption, app, load_model, parse_budgets, prepare_folder, train_app


@train_app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def tokenizer(
    context: typer.Context,
    recipe: Annotated[str, typer.Option(metavar="NAME_OR_PATH", help="A recipe of the package, or a YAML file.")],
    data: Annotated[str | None, typer.Option(help="What to train on; the recipe's data if not given.")] = None,
    train_heads_only: Annotated[
        bool, typer.Option("--train-heads-only", help="Leave all but the heads of --init_from as it is.")
    ] = False,
):
    """Train the tokenizer (stage 1). Any further `--key value` overrides the recipe."""
    from ..training.train_tokenizer import main as train

    options = ["--train_data", data] if data is not None else []
    options += ["--train_only", "heads"] if train_heads_only else []
    train(["--recipe", recipe, *options, *context.args])


@train_app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def policy(
    context: typer.Context,
    recipe: Annotated[str, typer.Option(metavar="NAME_OR_PATH", help="A recipe of the package, or a YAML file.")],
    data: Annotated[str | None, typer.Option(help="Images to make the reward table of, if it is not there.")] = None,
):
    """Train the policy that chooses budgets (stage 2). Any further `--key value` overrides the recipe."""
    from ..training.train_policy import main as train

    train(["--recipe", recipe, *(["--train_data", data] if data is not None else []), *context.args])


@app.command(name="reward-table")
def reward_table(
    data: Annotated[str, typer.Option(help="Image folder, parquet files or Hub dataset.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the table goes; an unfinished one is continued.")],
    split: Annotated[str, typer.Option(help="Split of the data.")] = "train",
    budget: Annotated[str, typer.Option(metavar="all|N,N...", help="All candidates, or budgets.")] = "all",
    max_images: Annotated[
        int | None, typer.Option(min=1, help="How many images, evenly spread; all if not given.")
    ] = None,
    model: ModelOption = None,
    weights_dir: WeightsOption = None,
    device: DeviceOption = None,
):
    """Measure every image at every budget, once: what training and judging a policy needs."""
    from accelerate import PartialState

    from ..allocation.reward_table import RewardTable, build_reward_table
    from ..data import load_image_dataset
    from ..metrics.perceptual import load_lpips

    prepare_folder(out)
    network, model_id, processor = load_model(model, device)
    budgets = parse_budgets(budget, network.config)
    if budgets is None:
        raise ValueError("--budget must be all, or budgets with commas between them; the policy plays no part here.")
    lpips = load_lpips("alex", weights_dir).to(network.device)
    dataset = load_image_dataset(data, split, max_images)
    build_reward_table(
        network, processor, dataset, lpips, out, budgets=budgets, model_name=model_id, data_name=f"{data} ({split})"
    )
    if PartialState().is_main_process:
        table = RewardTable.load(out)
        typer.echo(f"{len(table)} images at {len(table.budgets)} budgets written to {out}")


@app.command()
def calibrate(
    mean_budget: Annotated[float, typer.Option(help="The wanted mean budget, in codes per image.")],
    data: Annotated[str, typer.Option(help="Image folder, parquet files or Hub dataset.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the calibrated copy of the model goes.")],
    split: Annotated[str, typer.Option(help="Split of the data.")] = "train",
    max_images: Annotated[
        int | None, typer.Option(min=1, help="How many images, evenly spread; all if not given.")
    ] = None,
    model: ModelOption = None,
    device: DeviceOption = None,
):
    """Make a copy of a model whose policy spends a wanted mean budget, measured on calibration images."""
    from .. import default_checkpoint
    from ..allocation.calibrate import save_calibrated, score_images
    from ..allocation.calibration import calibrate_cost_bias, check_mean_budget, choose_columns
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
    logits = score_images(network, processor, load_image_dataset(data, split, max_images))
    cost_bias = calibrate_cost_bias(logits, candidates, mean_budget)
    save_calibrated(find_folder(model or default_checkpoint()), out, network, processor, cost_bias)
    counts = choose_columns(logits, candidates, cost_bias).bincount(minlength=len(candidates)).tolist()
    mean = sum(budget * count for budget, count in zip(candidates, counts)) / len(logits)
    histogram = ", ".join(f"{budget}: {count}" for budget, count in zip(candidates, counts))
    typer.echo(
        f"{len(logits)} images, cost bias {cost_bias:.4g}, mean budget {mean:.2f} (images per budget {histogram}), "
        f"written to {out}"
    )
