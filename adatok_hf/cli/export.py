"""`adatok export`: a model as graphs for other runtimes."""

from pathlib import Path
from typing import Annotated

import typer

from .common import load_model, sample_pixel_values
from .options import ModelOption


def export(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the graphs go; must be absent or empty.")],
    format: Annotated[str, typer.Option(metavar="onnx|torch", help="For ONNX Runtime, or torch.export.")] = "onnx",
    int8: Annotated[
        bool, typer.Option("--int8", help="Also write ONNX graphs with weights of 8 bits, and what they cost.")
    ] = False,
    model: ModelOption = None,
):
    """
    Write encoder and decoder as graphs that run without this package, for batches of any size and any mix of budgets,
    and compare them with the model on the sample pictures.
    """
    from ..export.export import export_model

    network, _, processor = load_model(model, "cpu")
    report = export_model(network, processor, out, format, int8=int8, pixel_values=sample_pixel_values(processor))
    for name, size in report["bytes"].items():
        typer.echo(f"{out / name}: {size / 2**20:.1f} MiB")
    typer.echo(
        f"{report['images']} pictures: {report['codes_equal']:.2%} of the codes and {report['budgets_equal']:.2%} of "
        f"the budgets are the model's, pixels differ by at most {report['pixels_difference']:.1e}"
    )
    if int8:
        damage = report["int8"]
        typer.echo(
            f"int8: {damage['codes_equal']:.2%} of the codes and {damage['budgets_equal']:.2%} of the budgets are the "
            f"model's, PSNR {damage['psnr_rounded']:.2f} dB instead of {damage['psnr_exact']:.2f}, "
            f"{damage['psnr_rounded_decoder']:.2f} where the decoder alone is int8"
        )
