"""`adatok convert`: a foreign checkpoint to one of AdaTok."""

from pathlib import Path
from typing import Annotated

import typer

from .options import parse_numbers


def convert(
    source: Annotated[str, typer.Argument(help="Hub id, folder, or file of weights (safetensors, bin or pth).")],
    family: Annotated[str, typer.Option("--from", metavar="titok|one-d-piece", help="What kind of model it is.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the checkpoint goes; must not exist yet.")],
    budgets: Annotated[
        str | None, typer.Option(metavar="N,N...", help="Candidate budgets; eight equal steps if not given.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The original YAML or JSON, if not beside the weights.")
    ] = None,
    filename: Annotated[str | None, typer.Option(help="Which weights, where the source holds several.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit, for a Hub id.")] = None,
):
    """Turn a public TiTok or One-D-Piece tokenizer into an AdaTok checkpoint that gives the same codes and pixels."""
    from transformers.utils import logging

    from ..conversion import convert_checkpoint

    logging.disable_progress_bar()  # writing is quick, and standard error is for what went wrong
    candidates = None if budgets is None else parse_numbers(budgets, "--budgets")
    model = convert_checkpoint(
        source, out, family, budgets=candidates, config=config, filename=filename, revision=revision
    )
    typer.echo(
        f"{model.num_parameters() / 1e6:.1f} million parameters, {model.config.image_size} px, candidate budgets "
        f"{', '.join(map(str, model.config.budgets))}, written to {out}"
    )
