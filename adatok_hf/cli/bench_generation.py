"""`adatok bench generation`: images a second by adaptive and by full budgets."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .common import find_device, prepare_folder
from .options import DeviceOption, TokenizerOption


PAPER = "paper"  # 256 px, at most 256 codes, LlamaGen-B, mean 118
TATOK_PAPER = "tatok-paper"  # 256 px, 256 patches, LlamaGen-B, mean 56.4


def bench_generation(
    generator: Annotated[
        str | None,
        typer.Option(
            metavar="PATH_OR_REPO|paper|tatok-paper",
            help="A pipeline or generator; paper for random weights of LlamaGen-B's size, 256 codes, mean 118; "
            "tatok-paper for the same with 16 global tokens and 256 patches, mean 56.4.",
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
    Time the generation of images with budgets of their own against the full budget for all, pixels included; of a
    TaTok, kept patches against all. The last line of the output is one JSON object.
    """
    from ..bench.bench import DTYPES
    from ..bench.generation import format_table, run_generation_benchmark
    from ..bench.tatok_generation import format_tatok_generation_table, run_tatok_generation_benchmark
    from ..files import write_json
    from ..modeling import TaTokModel

    if out is not None:
        if out.is_dir():
            raise ValueError(f"--out must name a file; {out} is a folder.")
        prepare_folder(out.parent)
    if dtype not in DTYPES:
        raise ValueError(f"--dtype must be one of {', '.join(DTYPES)}; got {dtype!r}.")
    place = find_device(device)
    language_model, tokenizer, usual_mean = load(generator, model)
    is_tatok = isinstance(tokenizer, TaTokModel)
    run = run_tatok_generation_benchmark if is_tatok else run_generation_benchmark
    result = {"generator": generator} | run(
        language_model.to(place, DTYPES[dtype]),
        tokenizer.to(place, DTYPES[dtype]),
        images=images,
        batch_size=batch_size,
        mean_budget=usual_mean if mean_budget is None else mean_budget,
        guidance_scale=guidance_scale,
        repeats=repeats,
        warmup=warmup,
        latency_images=latency_images,
    )
    if out is not None:
        write_json(out, result, indent=None)
    typer.echo((format_tatok_generation_table if is_tatok else format_table)(result))
    typer.echo(json.dumps(result))


def load(generator: str, model: str | None):
    """The generator, its tokenizer, and the mean budget of the paper where the weights are random."""
    import torch

    from ..bench.generation import random_generator
    from ..bench.tatok_generation import random_tatok_generator
    from ..generation.load_pipeline import load_pipeline, load_tatok_generator, writes_tatok
    from ..modeling import AdaTokConfig, AdaTokModel, TaTokConfig, TaTokModel

    torch.manual_seed(0)
    if generator == PAPER:
        tokenizer = AdaTokModel(AdaTokConfig()).eval()
        return random_generator(tokenizer.config), tokenizer, 118.0
    if generator == TATOK_PAPER:
        tokenizer = TaTokModel(TaTokConfig()).eval()
        return random_tatok_generator(tokenizer.config), tokenizer, 56.4
    if writes_tatok(generator):
        if model is None:
            raise ValueError(f"{generator} writes TaTok images; name the TaTok that decodes them by --model.")
        return *load_tatok_generator(generator, model)[:2], None
    pipe = load_pipeline(generator, model)
    return pipe.transformer, pipe.image_tokenizer, None
