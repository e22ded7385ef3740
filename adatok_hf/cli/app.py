"""The application: all commands, and how it ends when one of them fails."""

import sys

import typer

from . import heads, study, train
from .bench import bench
from .bench_generation import bench_generation
from .calibrate import calibrate
from .check_conversion import check_conversion
from .check_metrics import check_metrics
from .common import say, sentence
from .convert import convert
from .decode import decode
from .encode import encode
from .evaluate import evaluate
from .generate import generate
from .push import push
from .reconstruct import reconstruct
from .reward_table import reward_table
from .tokenize_dataset import tokenize_dataset
from .train_generator import generator


COMMANDS = (
    reconstruct,
    encode,
    decode,
    evaluate,
    generate,
    tokenize_dataset,
    reward_table,
    calibrate,
    convert,
    push,
    check_metrics,
    check_conversion,
)
OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}  # of a recipe, `--key value`


def make_app() -> typer.Typer:
    """Puts the commands together."""
    app = typer.Typer(
        name="adatok",
        help="An image tokenizer that decides how many tokens an image deserves.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    for command in COMMANDS:
        app.command()(command)
    train_app = typer.Typer(help="Train a model from a recipe.", no_args_is_help=True)
    train_app.command(cls=train.RecipeCommand, context_settings=OVERRIDES)(train.tokenizer)
    train_app.command(cls=train.RecipeCommand, context_settings=OVERRIDES)(train.policy)
    app.add_typer(train_app, name="train")
    study_app = typer.Typer(help="Find out by experiments with controls what a part is worth.", no_args_is_help=True)
    study_app.command(cls=train.RecipeCommand, context_settings=OVERRIDES)(study.policy)
    study_app.command()(study.heads)
    app.add_typer(study_app, name="study")
    heads_app = typer.Typer(help="Exchange the decoder's heads with the PEFT library.", no_args_is_help=True)
    heads_app.command(name="export")(heads.export_heads)
    heads_app.command(name="import")(heads.import_heads)
    app.add_typer(heads_app, name="heads")
    train_app.command(cls=train.RecipeCommand, context_settings=OVERRIDES)(generator)
    bench_app = typer.Typer(invoke_without_command=True)
    bench_app.callback()(bench)
    bench_app.command(name="generation")(bench_generation)
    app.add_typer(bench_app, name="bench")
    return app


def main(arguments: list[str] | None = None):
    """
    Console entry point. Exit codes: 0 all well, 1 some pictures were skipped, 2 bad input.

    Args:
        arguments (`list[str]`, *optional*): The command line without the program's name; `sys.argv` if not given.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        make_app()(arguments, prog_name="adatok", obj=arguments)
    except (ValueError, OSError, ImportError) as error:
        say(f"error: {sentence(error)}")
        sys.exit(2)
