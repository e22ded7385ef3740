"""What a model is worth: evaluate, bench and study."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from .common import DeviceOption, ModelOption, app, load_model, prepare_folder


@app.command()
def evaluate(
    context: typer.Context,
    data: Annotated[str, typer.Option(help="Image folder, parquet files or Hub dataset.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where results.json, plots and finished parts go.")],
    model: ModelOption = None,
    split: Annotated[str, typer.Option(help="Split of the data.")] = "validation",
    budgets: Annotated[
        str, typer.Option(metavar="auto,all,N...", help="The policy's choice, all candidates, any budgets.")
    ] = "auto,all",
    metrics: Annotated[
        str, typer.Option(metavar="NAME,...", help="Out of rfid, kid, lpips, psnr and ssim.")
    ] = "rfid,kid,lpips,psnr,ssim",
    codecs: Annotated[str, typer.Option(metavar="NAME,...", help="Baselines out of jpeg, webp and avif.")] = "",
    max_images: Annotated[
        int | None, typer.Option(min=1, help="How many images, evenly spread; all if not given.")
    ] = None,
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
    from ..evaluation.evaluate import EvaluationSettings, parse_budgets, start_processes
    from ..evaluation.protocol import find_protocol
    from ..evaluation.quality import evaluate_checkpoint, format_table, last_line

    prepare_folder(out)
    if save_reference is not None:
        prepare_folder(save_reference.absolute().parent)
    network, model_id, processor = load_model(model, start_processes(device))
    settings = EvaluationSettings(
        budgets=parse_budgets(budgets, network.config),
        metrics=names(metrics),
        codecs=names(codecs),
        batch_size=batch_size,
        kid_subset_size=kid_subset_size,
        protocol=find_protocol(protocol),
    )
    report = evaluate_checkpoint(
        network,
        processor,
        load_image_dataset(data, split, max_images),
        out,
        settings,
        weights_dir=weights_dir,
        reference=reference,
        save_reference=save_reference,
        say=typer.echo,
        facts={"model": model_id, "data": data, "split": split, "command": shlex.join(["adatok", *context.obj])},
    )
    if report is not None:  # in the first process
        typer.echo(format_table(report))
        typer.echo(last_line(report))


@app.command()
def bench(
    model: ModelOption = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of which the median is taken.")] = 5,
    sweep: Annotated[str, typer.Option(metavar="N,N...", help="Batch sizes of the sweep.")] = "1,8,32",
    dtype: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME...", help="float32, bfloat16, float16; the first two if not given."),
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Measure torch.compile too; takes minutes.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the result here, as JSON.")] = None,
    device: DeviceOption = None,
):
    """
    Time encoding and decoding, beside a plain ViT, a search for budgets and the speed of a matmul. The last line of
    the output is one JSON object.
    """
    from ..bench.bench import format_table, parse_sizes, run_benchmark
    from ..files import write_json

    if out is not None:
        if out.is_dir():
            raise ValueError(f"--out must name a file; {out} is a folder.")
        prepare_folder(out.parent)
    sizes = parse_sizes(sweep)
    dtypes = [name.strip() for name in dtype.split(",")] if dtype is not None else None
    network, model_id, processor = load_model(model, device)
    pictures = sample_pixel_values(processor) if network.config.is_policy_trained else None
    measured = run_benchmark(
        network, batch_size, repeats, pictures=pictures, sweep=sizes, dtypes=dtypes, compile=compile
    )
    result = {"model": model_id, **measured}
    line = json.dumps(result)
    if out is not None:
        write_json(out, result, indent=None)
    typer.echo(format_table(result))
    typer.echo(line)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def study(
    context: typer.Context,
    train_table: Annotated[Path, typer.Option(metavar="DIR", help="Reward table the policies learn from.")],
    eval_table: Annotated[Path, typer.Option(metavar="DIR", help="Reward table of held-out images.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where study.json, study.md and the plots go.")],
    recipe: Annotated[str, typer.Option(metavar="NAME_OR_PATH", help="How the policies are trained.")],
    mean_budget: Annotated[
        float | None, typer.Option(help="Common mean of all arms in codes; the policy's own if not given.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How often each network is trained.")] = 3,
    model: ModelOption = None,
):
    """
    Is choosing the budget per image worth something? Policy, controls and ablations on held-out images. Any further
    `--key value` overrides the recipe. The last line of the output is one JSON object.
    """
    from ..allocation.reward_table import RewardTable
    from ..study.plots import plot_study
    from ..study.policy_study import run_study
    from ..study.report import format_study_table, last_line, write_report
    from ..training.recipe import parse_recipe
    from ..training.train_policy import PolicyDataArguments, PolicyTrainingArguments

    prepare_folder(out)
    network, _, _ = load_model(model, "cpu")
    quiet = ["--save_strategy", "no", "--disable_tqdm", "true", "--log_level", "error", "--output_dir", str(out)]
    _, arguments = parse_recipe(
        "policy", recipe, [*context.args, *quiet], [PolicyDataArguments, PolicyTrainingArguments]
    )
    result = run_study(
        RewardTable.load(train_table, network),
        RewardTable.load(eval_table, network),
        network.config,
        arguments,
        out,
        policy=network.policy if network.config.is_policy_trained else None,
        seeds=seeds,
        mean_budget=mean_budget,
    )
    plot_study(result, out)
    report = write_report(out)
    typer.echo(format_study_table(result))
    typer.echo(f"The report is {report}.")
    typer.echo(last_line(result))


def sample_pixel_values(processor) -> "torch.Tensor":  # noqa: F821
    """The pictures that come with the package, as `(pictures, 3, image_size, image_size)` in [-1, 1]."""
    from ..data import find_images, load_image

    files = find_images([Path(__file__).parent.parent / "samples"])
    return processor([load_image(file) for file in files], return_tensors="pt")["pixel_values"]


def names(text: str) -> list[str]:
    """Reads names with commas between them, each once."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
