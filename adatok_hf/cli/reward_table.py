"""`adatok reward-table`: every image at every budget."""

from pathlib import Path
from typing import Annotated

import typer

from .common import load_model, prepare_folder, say, start_processes
from .options import AUTO, DataOption, DeviceOption, MaxImagesOption, ModelOption, WeightsOption, parse_budgets


def reward_table(
    data: DataOption,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the table goes; an unfinished one is continued.")],
    split: Annotated[str, typer.Option(help="Split of the data.")] = "train",
    budgets: Annotated[str, typer.Option(metavar="all|N,N...", help="All candidates, or budgets.")] = "all",
    max_images: MaxImagesOption = None,
    mirrored: Annotated[
        bool, typer.Option("--mirrored", help="Measure the mirror images, for `study policy --mirrored-reward-table`.")
    ] = False,
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
    network, model_id, processor = load_model(model, start_processes(device))
    chosen = parse_budgets(budgets, network.config)
    if AUTO in chosen:
        raise ValueError("--budgets must be all, or budgets with commas between them; the policy plays no part here.")
    lpips = load_lpips("alex", weights_dir).to(network.device)
    dataset = load_image_dataset(data, split, max_images)
    facts = {"model_name": model_id, "data_name": f"{data} ({split})", "mirrored": mirrored}
    skipped = build_reward_table(network, processor, dataset, lpips, out, budgets=chosen, warn=say, **facts)
    state = PartialState()
    if state.is_main_process:
        table = RewardTable.load(out)
        typer.echo(f"{len(table)} images at {len(table.budgets)} budgets written to {out}")
    state.wait_for_everyone()  # a launcher stops all processes at the first that ends with an error
    if skipped:
        raise typer.Exit(1)
