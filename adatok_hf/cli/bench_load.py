"""`adatok bench load`: what requests of many users cost."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .common import load_model, prepare_folder, sample_pixel_values
from .options import ModelOption, parse_numbers


def bench_load(
    model: ModelOption = None,
    batches: Annotated[str, typer.Option(metavar="N,N...", help="Images of a request.")] = "1,2,4,8,16,32",
    threads: Annotated[str, typer.Option(metavar="N,N...", help="Threads that compute a request.")] = "1,2",
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of which the median is taken.")] = 5,
    warmup: Annotated[int, typer.Option(min=0, help="Untimed rounds before them.")] = 1,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the result here, as JSON.")] = None,
):
    """
    Time requests of several sizes with several numbers of threads on the CPU, and see how much memory each takes. The
    last line of the output is one JSON object.
    """
    from ..bench.load import format_load_table, run_load_benchmark
    from ..files import write_json

    if out is not None:
        if out.is_dir():
            raise ValueError(f"--out must name a file; {out} is a folder.")
        prepare_folder(out.parent)
    sizes, numbers = parse_numbers(batches, "--batches"), parse_numbers(threads, "--threads")
    network, model_id, processor = load_model(model, "cpu")
    pictures = sample_pixel_values(processor) if network.config.is_policy_trained else None
    result = {"model": model_id} | run_load_benchmark(network, sizes, numbers, repeats, warmup, pictures)
    if out is not None:
        write_json(out, result, indent=None)
    typer.echo(format_load_table(result))
    typer.echo(json.dumps(result))
