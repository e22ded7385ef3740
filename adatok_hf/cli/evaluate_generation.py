"""`adatok evaluate-generation`: quality of generated images."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from .common import find_device, load_generator, prepare_folder, say
from .options import (
    AUTO,
    DataOption,
    DeviceOption,
    GeneratorOption,
    GuidanceScheduleOption,
    MaxImagesOption,
    TemperatureOption,
    TokenizerOption,
    TopKOption,
    TopPOption,
    parse_names,
    parse_numbers,
    parse_reals,
)


def evaluate_generation(
    context: typer.Context,
    data: DataOption,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where results.json and finished parts go.")],
    split: Annotated[str, typer.Option(help="Split of the data.")] = "validation",
    budgets: Annotated[
        str, typer.Option(metavar="auto,N...", help="Budgets as drawn, and candidates for all images.")
    ] = AUTO,
    guidance_scale: Annotated[
        str, typer.Option(metavar="X,...", help="Above 1 the class shows more; 1 is none; 1,2.5 measures both.")
    ] = "1",
    guidance_schedule: GuidanceScheduleOption = "constant",
    temperature: TemperatureOption = 1.0,
    top_k: TopKOption = 0,
    top_p: TopPOption = 1.0,
    seed: Annotated[int, typer.Option(help="Image i gets seed + i.")] = 0,
    max_images: MaxImagesOption = None,
    kid_subset_size: Annotated[int, typer.Option(min=2, help="Images of a subset in KID.")] = 1000,
    batch_size: Annotated[int, typer.Option(min=1, help="Images written together.")] = 64,
    generator: GeneratorOption = None,
    model: TokenizerOption = None,
    weights_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder with Inception; else ADATOK_WEIGHTS_DIR.")
    ] = None,
    device: DeviceOption = None,
):
    """
    Measure a generator: gFID and KID against real images, and how often a linear classifier sees the class that was
    asked for. A run that was cut off goes on where it stopped. The last line of the output is one JSON object.
    """
    from ..data import load_image_dataset
    from ..evaluation.generation import GenerationSettings, format_table
    from ..evaluation.generation import evaluate_generation as evaluate
    from ..evaluation.reference import describe_evaluator
    from ..metrics.inception import load_inception

    chosen = [AUTO if name == AUTO else parse_numbers(name, "--budgets")[0] for name in parse_names(budgets)]
    settings = GenerationSettings(
        budgets=tuple(chosen),
        guidance_scales=tuple(parse_reals(guidance_scale, "--guidance-scale")),
        guidance_schedule=guidance_schedule,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        batch_size=batch_size,
        kid_subset_size=kid_subset_size,
    )
    device = find_device(device)
    prepare_folder(out)
    pipe, name = load_generator(generator, model, device)
    images = load_image_dataset(data, split, max_images)
    facts = {"generator": name, "data": data, "split": split, "command": shlex.join(["adatok", *context.obj])}
    inception = load_inception(weights_dir)
    weights = describe_evaluator(weights_dir)
    report = evaluate(pipe, images, out, settings, inception, weights=weights, facts=facts, warn=say)
    typer.echo(format_table(report))
    typer.echo(json.dumps({name: report[name] for name in ("num_images", "real_class_accuracy", "rows")}))
    if report["skipped_images"]:
        raise typer.Exit(1)
