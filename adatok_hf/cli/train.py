"""`adatok train tokenizer`, `train tatok` and `train policy`: a model from a recipe."""

from importlib import import_module
from typing import Annotated

import typer
from typer.core import TyperCommand

from .options import RecipeOption


class RecipeCommand(TyperCommand):
    """A command whose further arguments override a recipe: its help lists them too."""

    def format_help(self, ctx, formatter):
        from ..training.argument_help import describe_arguments

        super().format_help(ctx, formatter)
        arguments = import_module(f"..training.{self.name}_arguments", __package__)
        typer.echo(describe_arguments(arguments.ARGUMENT_CLASSES))


def tokenizer(
    context: typer.Context,
    recipe: RecipeOption,
    data: Annotated[str | None, typer.Option(help="What to train on; the recipe's data if not given.")] = None,
    train_heads_only: Annotated[
        bool, typer.Option("--train-heads-only", help="Leave all but the heads of --init_from as it is.")
    ] = False,
):
    """Train the tokenizer (stage 1). Any further `--key value` overrides the recipe."""
    from ..training.train_tokenizer import train_recipe

    options = ["--train_data", data] if data is not None else []
    options += ["--train_only", "heads"] if train_heads_only else []
    train_recipe(recipe, [*options, *context.args])


def tatok(
    context: typer.Context,
    recipe: RecipeOption,
    data: Annotated[str | None, typer.Option(help="What to train on; the recipe's data if not given.")] = None,
):
    """Train a TaTok, with global tokens and filtered patch tokens. Any further `--key value` overrides the recipe."""
    from ..training.train_tatok import train_recipe

    train_recipe(recipe, [*(["--train_data", data] if data is not None else []), *context.args])


def policy(
    context: typer.Context,
    recipe: RecipeOption,
    data: Annotated[str | None, typer.Option(help="Images to make the reward table of, if it is not there.")] = None,
):
    """Train the policy that chooses budgets (stage 2). Any further `--key value` overrides the recipe."""
    from ..training.train_policy import train_recipe

    train_recipe(recipe, [*(["--train_data", data] if data is not None else []), *context.args])
