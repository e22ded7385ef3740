"""`adatok bench`: speed."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .common import load_model, prepare_folder, sample_pixel_values
from .options import DeviceOption, ModelOption, parse_names, parse_numbers


def bench(
    context: typer.Context,
    model: ModelOption = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of which the median is taken.")] = 5,
    sweep: Annotated[str, typer.Option(metavar="N,N...", help="Batch sizes of the sweep.")] = "1,8,32",
    dtype: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME...", help="float32, bfloat16, float16; the first two if not given."),
    ] = None,
    export: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Measure this export of the model too; see adatok export.")
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Measure torch.compile too; takes minutes.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the result here, as JSON.")] = None,
    device: DeviceOption = None,
):
    """
    Time encoding and decoding, beside a plain ViT, a search for budgets and the speed of a matmul; of a TaTok, what
    filtering costs. The last line of the output is one JSON object.
    """
    given = {name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"}
    if context.invoked_subcommand is not None:
        for name in given:
            option, command = f"--{name.replace('_', '-')}", context.invoked_subcommand
            raise ValueError(f"{option} stands before {command}, which does not heed it there; put it behind.")
        return
    from ..bench import tatok
    from ..bench.bench import format_table, run_benchmark
    from ..checkpoint import model_hash
    from ..codec.sequential_tatok import SequentialTaTok
    from ..export.exported import load_exports
    from ..files import write_json

    if out is not None:
        if out.is_dir():
            raise ValueError(f"--out must name a file; {out} is a folder.")
        prepare_folder(out.parent)
    sizes = parse_numbers(sweep, "--sweep")
    dtypes = parse_names(dtype) if dtype is not None else None
    network, model_id, processor = load_model(model, device, with_tatok=True)
    if isinstance(network, SequentialTaTok):
        for name in given & {"sweep", "dtype", "export", "compile"}:
            raise ValueError(f"--{name} is for an AdaTok; {model_id} is a TaTok.")
        measured = tatok.run_tatok_benchmark(network.model, batch_size, repeats)
        format_table = tatok.format_tatok_table
    else:
        if export is not None and network.device.type != "cpu":
            raise ValueError(f"An export is measured on the CPU; add --device cpu to --export {export}.")
        exports = load_exports(export, model_hash(network)) if export is not None else None
        pictures = sample_pixel_values(processor) if network.config.is_policy_trained else None
        measured = run_benchmark(
            network,
            batch_size,
            repeats,
            pictures=pictures,
            sweep=sizes,
            dtypes=dtypes,
            exports=exports,
            compile=compile,
        )
    result = {"model": model_id, **measured}
    line = json.dumps(result)
    if out is not None:
        write_json(out, result, indent=None)
    typer.echo(format_table(result))
    typer.echo(line)
