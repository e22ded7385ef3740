"""`adatok tokenize-dataset`: images to a dataset of image codes."""

import os
from pathlib import Path
from typing import Annotated

import typer

from ..extras import require
from .common import find_device, prepare_folder, say
from .options import CostBiasOption, DataOption, DeviceOption, MaxImagesOption, ModelOption, check_cost_bias


ENGINES = ("local", "ray")


def tokenize_dataset(
    data: DataOption,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the parquet shards go.")],
    split: Annotated[str, typer.Option(help="Split of the data.")] = "train",
    max_images: MaxImagesOption = None,
    budgets: Annotated[str, typer.Option(metavar="auto|N", help="The model's choice, or one for all.")] = "auto",
    cost_bias: CostBiasOption = None,
    variants: Annotated[
        int, typer.Option(min=1, help="Rows of an image: itself, then random squares, every other one mirrored.")
    ] = 1,
    min_crop: Annotated[float, typer.Option(help="Least side of these squares, of the shortest edge.")] = 0.8,
    images_per_shard: Annotated[int, typer.Option(min=1, help="Images in a file.")] = 4096,
    batch_size: Annotated[int, typer.Option(min=1, help="Images encoded together.")] = 32,
    seed: Annotated[int, typer.Option(help="Of the random squares.")] = 0,
    engine: Annotated[str, typer.Option(metavar="local|ray", help="What shares out the shards.")] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes of the ray engine; one for each GPU, or CPU, if not given.")
    ] = None,
    model: ModelOption = None,
    device: DeviceOption = None,
):
    """
    Turn images into a dataset of image codes, to train a generator on. What was cut off goes on when started again;
    under torchrun every process makes its share, and by --engine ray a machine or a cluster does.
    """
    if engine not in ENGINES:
        raise ValueError(f"--engine must be local or ray; got {engine!r}.")
    if engine == "ray":
        require("scale", "ray")
    elif workers is not None:
        raise ValueError("--workers is for --engine ray; several processes of the local engine are torchrun's.")
    from .. import default_checkpoint
    from ..checkpoint import ANY_MODEL, load_checkpoint
    from ..codec.sequential_tatok import in_sequences
    from ..codec.tokenize_dataset import TokenizeJob
    from ..codec.tokenize_dataset import tokenize_dataset as tokenize
    from ..codec.tokenize_on_ray import tokenize_on_ray
    from .options import parse_budget

    check_cost_bias(cost_bias, budgets)
    prepare_folder(out)
    model = model or default_checkpoint()
    config = in_sequences(load_checkpoint(model, kinds=ANY_MODEL)[0]).config if budgets != "auto" else None
    job = TokenizeJob(
        model=model,
        data=data,
        split=split,
        max_images=max_images,
        budgets=parse_budget(budgets, config) if config is not None else None,
        cost_bias=cost_bias,
        variants=variants,
        min_crop=min_crop,
        images_per_shard=images_per_shard,
        seed=seed,
    )
    if engine != "ray" or device is None:  # the workers of Ray may have a GPU that this machine lacks
        device = find_device(device)
    if engine == "ray":
        made = tokenize_on_ray(job, out, device, batch_size, say, workers)
    else:
        made = tokenize(job, out, device, batch_size, say)
    mean = f", mean budget {made['mean_budget']:.1f}" if made["rows"] else ""
    typer.echo(
        f"{made['rows']} rows{mean}, {made['shards']} shards written to {out}, {made['shards_there']} were there"
    )
    # A launcher stops all processes at the first that ends with an error, in the midst of their shards.
    if made["skipped"] and os.environ.get("WORLD_SIZE", "1") == "1":
        raise typer.Exit(1)
