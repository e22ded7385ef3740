"""`adatok train generator`: a language model of image codes from a recipe."""

from typing import Annotated

import typer

from .options import RecipeOption


def generator(
    context: typer.Context,
    recipe: RecipeOption,
    data: Annotated[
        str | None, typer.Option(metavar="DIR", help="What `tokenize-dataset` wrote; the recipe's if not given.")
    ] = None,
):
    """Train the generator that writes image codes (stage 3). Any further `--key value` overrides the recipe."""
    from ..training.train_generator import train_recipe

    train_recipe(recipe, [*(["--train_data", data] if data is not None else []), *context.args])
