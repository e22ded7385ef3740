"""`adatok bench generation`: images a second by adaptive and by full budgets."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .common import prepare_folder
from .options import DeviceOption, TokenizerOption


PAPER = "paper"  # 256 px, at most 256 codes, LlamaGen-B, mean 118


def bench_generation(
    generator: Annotated[
        str | None,
        typer.Option(
            metavar="PATH_OR_REPO|paper",
            help="A pipeline or generator; paper for random weights of LlamaGen-B's size, 256 codes, mean 118.",
        ),
    ] = PAPER,
    model: TokenizerOption = None,
    images: Annotated[int, typer.Option(min=1, help="Requests of a round.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Images made together.")] = 64,
    mean_budget: Annotated[
        float | None, typer.Option(help="Mean of the adaptive budgets; drawn by the generator if not given.")
    ] = None,
    guidance_scale: Annotated[float, typer.Option(help="Unless 1, every row is computed twice.")] = 1.0,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of which the median is taken.")] = 3,
    warmup: Annotated[int, typer.Option(min=0, help="Untimed rounds before them.")] = 1,
    latency_images: Annotated[int, typer.Option(min=0, help="Images made one by one.")] = 16,
    dtype: Annotated[str, typer.Option(metavar="NAME", help="float32 or bfloat16.")] = "float32",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the result here, as JSON.")] = None,
    device: DeviceOption = None,
):
    """
    Time the generation of images with budgets of their own against the full budget for all, pixels included. The last
    line of the output is one JSON object.
    """
    import torch

    from ..bench.bench import DTYPES
    from ..bench.generation import format_table, random_generator, run_generation_benchmark
    from ..files import write_json
    from ..modeling import AdaTokConfig, AdaTokModel

    if out is not None:
        if out.is_dir():
            raise ValueError(f"--out must name a file; {out} is a folder.")
        prepare_folder(out.parent)
    if dtype not in DTYPES:
        raise ValueError(f"--dtype must be one of {', '.join(DTYPES)}; got {dtype!r}.")
    if generator == PAPER:
        torch.manual_seed(0)
        tokenizer = AdaTokModel(AdaTokConfig()).eval()
        language_model = random_generator(tokenizer.config)
        mean_budget = 118.0 if mean_budget is None else mean_budget
    else:
        from ..generation.load_pipeline import load_pipeline

        pipe = load_pipeline(generator, model)
        tokenizer, language_model = pipe.image_tokenizer, pipe.transformer
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    result = {"generator": generator} | run_generation_benchmark(
        language_model.to(place, DTYPES[dtype]),
        tokenizer.to(place, DTYPES[dtype]),
        images=images,
        batch_size=batch_size,
        mean_budget=mean_budget,
        guidance_scale=guidance_scale,
        repeats=repeats,
        warmup=warmup,
        latency_images=latency_images,
    )
    if out is not None:
        write_json(out, result, indent=None)
    typer.echo(format_table(result))
    typer.echo(json.dumps(result))
