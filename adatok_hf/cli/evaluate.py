"""`adatok evaluate`: quality against rate."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from .common import load_model, prepare_folder, say, start_processes
from .options import (
    AUTO,
    CostBiasOption,
    DataOption,
    DeviceOption,
    MaxImagesOption,
    ModelOption,
    check_cost_bias,
    check_policy,
    parse_budgets,
    parse_names,
)


def evaluate(
    context: typer.Context,
    data: DataOption,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where results.json, plots and finished parts go.")],
    model: ModelOption = None,
    split: Annotated[str, typer.Option(help="Split of the data.")] = "validation",
    budgets: Annotated[
        str, typer.Option(metavar="auto,all,N...", help="The policy's choice, all candidates, any budgets.")
    ] = "auto,all",
    cost_bias: CostBiasOption = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Out of rfid, kid, lpips, psnr and ssim; those that there are images enough for, if not given.",
        ),
    ] = None,
    codecs: Annotated[str, typer.Option(metavar="NAME,...", help="Baselines out of jpeg, webp and avif.")] = "",
    max_images: MaxImagesOption = None,
    protocol: Annotated[str | None, typer.Option(help="imagenet-50k: exactly what the papers do.")] = None,
    reference: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Statistics of real images for rFID; else those of the data.")
    ] = None,
    save_reference: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the statistics of the data's images here.")
    ] = None,
    kid_subset_size: Annotated[int, typer.Option(min=2, help="Images of a subset in KID.")] = 1000,
    batch_size: Annotated[int, typer.Option(min=1, help="Images encoded together.")] = 16,
    weights_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder with Inception and AlexNet; else ADATOK_WEIGHTS_DIR.")
    ] = None,
    device: DeviceOption = None,
):
    """
    Measure a model: rFID, KID, LPIPS, PSNR and SSIM against bits per pixel, at any budgets and at the policy's. A run
    that was cut off goes on where it stopped. The last line of the output is one JSON object.
    """
    from ..data import load_image_dataset
    from ..evaluation.evaluate import METRICS, EvaluationSettings, fitting_metrics
    from ..evaluation.protocol import find_protocol
    from ..evaluation.quality import evaluate_checkpoint, format_table, last_line

    check_cost_bias(cost_bias, budgets)
    prepare_folder(out)
    if save_reference is not None:
        prepare_folder(save_reference.absolute().parent)
    network, model_id, processor = load_model(model, start_processes(device), with_tatok=True)
    if cost_bias is not None:
        check_policy(network.config)
        network.config.cost_bias = cost_bias
    chosen = parse_budgets(budgets, network.config)
    images = load_image_dataset(data, split, max_images)
    names = list(METRICS) if metrics is None else parse_names(metrics)
    if metrics is None and protocol is None and images:
        names = fitting_metrics(len(images), kid_subset_size)
        if left_out := [name for name in METRICS if name not in names]:
            say(f"{' and '.join(left_out)} left out: {len(images):,} images are too few.")
    settings = EvaluationSettings(
        budgets=[*sorted(budget for budget in chosen if budget != AUTO), *([AUTO] if AUTO in chosen else [])],
        metrics=names,
        codecs=parse_names(codecs),
        batch_size=batch_size,
        kid_subset_size=kid_subset_size,
        protocol=find_protocol(protocol),
    )
    report = evaluate_checkpoint(
        network,
        processor,
        images,
        out,
        settings,
        weights_dir=weights_dir,
        reference=reference,
        save_reference=save_reference,
        say=typer.echo,
        warn=say,
        facts={"model": model_id, "data": data, "split": split, "command": shlex.join(["adatok", *context.obj])},
    )
    if report is not None:  # in the first process
        typer.echo(format_table(report))
        typer.echo(last_line(report))
        if report["skipped_images"]:
            say(f"{report['skipped_images']} of {len(images):,} images could not be read and are left out.")
            raise typer.Exit(1)
