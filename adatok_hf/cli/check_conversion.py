"""`adatok check-conversion`: a converted model against the original code."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import parse_numbers


def check_conversion(
    code: Annotated[Path, typer.Option(metavar="DIR", help="Clone of the original repository; its code is run.")],
    config: Annotated[Path, typer.Option(metavar="FILE", help="The model's YAML or JSON file.")],
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="File of weights; random if not given.")] = None,
    budgets: Annotated[
        str | None, typer.Option(metavar="N,N...", help="Candidate budgets, the last all codes; eight if not given.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 2,
    repeats: Annotated[int, typer.Option(min=0, help="Timed rounds, 0 for none.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the random weights.")] = 0,
):
    """
    Compare a converted model with the original code in codes, pixels and speed, at full size. Needs what that code
    imports (omegaconf, einops). The last line of the output is one JSON object.
    """
    from ..conversion.check_conversion import compare, format_rows, load_original, make_images
    from ..conversion.source import OriginalCheckpoint, read_config
    from ..conversion.titok import convert_original, family_of

    content = read_config(config)
    original = load_original(code, content, weights, seed)
    checkpoint = OriginalCheckpoint(config.stem, False, original.state_dict(), content)
    candidates = None if budgets is None else parse_numbers(budgets, "--budgets")
    model = convert_original(checkpoint, family_of(content), candidates)
    result = compare(original, model, make_images(batch_size, model.config.image_size), repeats)
    typer.echo(format_rows(result))
    typer.echo(json.dumps({"model": config.stem, "batch_size": batch_size, **result}))
