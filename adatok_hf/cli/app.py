"""The application: all commands, and how it ends when one of them fails."""

import os
import sys
import traceback
from itertools import takewhile
from typing import Annotated

import typer

from ..extras import missing_extra
from ..files import FULL
from . import heads, study, train, train_generator
from .bench import bench
from .bench_generation import bench_generation
from .bench_load import bench_load
from .calibrate import calibrate
from .check_conversion import check_conversion
from .check_metrics import check_metrics
from .common import say, sentence
from .convert import convert
from .decode import decode
from .encode import encode
from .evaluate import evaluate
from .evaluate_generation import evaluate_generation
from .export import export
from .generate import generate
from .push import push
from .reconstruct import reconstruct
from .reward_table import reward_table
from .tokenize_dataset import tokenize_dataset


COMMANDS = (
    reconstruct,
    encode,
    decode,
    evaluate,
    evaluate_generation,
    generate,
    tokenize_dataset,
    reward_table,
    calibrate,
    convert,
    export,
    push,
    check_metrics,
    check_conversion,
)
HELP = {"help_option_names": ["-h", "--help"]}
OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}  # of a recipe, `--key value`


def make_app() -> typer.Typer:
    """Puts the commands together."""
    app = typer.Typer(
        name="adatok",
        help="An image tokenizer that decides how many tokens an image deserves.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings=HELP,
    )
    app.callback()(_common)
    for command in COMMANDS:
        app.command()(command)
    bench_app = typer.Typer(invoke_without_command=True)
    bench_app.callback()(bench)
    bench_app.command(name="generation")(bench_generation)
    bench_app.command(name="load")(bench_load)
    app.add_typer(bench_app, name="bench")
    train_app = typer.Typer(help="Train a model from a recipe.", no_args_is_help=True)
    train_app.command(cls=train.RecipeCommand, context_settings=OVERRIDES)(train.tokenizer)
    train_app.command(cls=train.RecipeCommand, context_settings=OVERRIDES)(train.tatok)
    train_app.command(cls=train.RecipeCommand, context_settings=OVERRIDES)(train.policy)
    train_app.command(cls=train.RecipeCommand, context_settings=OVERRIDES)(train_generator.generator)
    app.add_typer(train_app, name="train")
    study_app = typer.Typer(help="Find out by experiments with controls what a part is worth.", no_args_is_help=True)
    study_app.command(cls=train.RecipeCommand, context_settings=OVERRIDES)(study.policy)
    study_app.command()(study.tatok)
    study_app.command()(study.heads)
    study_app.command(context_settings=OVERRIDES)(study.fixed)
    app.add_typer(study_app, name="study")
    heads_app = typer.Typer(help="Exchange the decoder's heads with the PEFT library.", no_args_is_help=True)
    heads_app.command(name="export")(heads.export_heads)
    heads_app.command(name="import")(heads.import_heads)
    app.add_typer(heads_app, name="heads")
    return app


def _say_version(wanted: bool):
    if wanted:
        from importlib.metadata import version

        typer.echo(f"adatok {version('adatok-hf')}")
        raise typer.Exit


def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Say which version this is.", callback=_say_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where in the code a failure happened.")] = False,
):
    """An image tokenizer that decides how many tokens an image deserves."""


def main(arguments: list[str] | None = None):
    """
    Console entry point. Exit codes: 0 all well, 1 some pictures were skipped, 2 bad input, 3 failed.

    Args:
        arguments (`list[str]`, *optional*): The command line without the program's name; `sys.argv` if not given.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        make_app()(arguments, prog_name="adatok", obj=arguments)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(3)
    # Whatever it is, a user gets one sentence.
    except Exception as error:
        if "--debug" in takewhile(lambda argument: argument.startswith("-"), arguments):
            traceback.print_exception(error)
        code, text = _explain(error)
        say(f"error: {text}")
        sys.exit(code)


def _explain(error: Exception) -> tuple[int, str]:
    """The exit code of an error and its sentence."""
    missing = missing_extra(error) if isinstance(error, ImportError) else None
    if missing:
        return 2, missing
    if isinstance(error, OSError):
        return 3 if error.errno in FULL else 2, sentence(error)
    if isinstance(error, ValueError | ImportError):
        return 2, sentence(error)
    text = sentence(error).rstrip(".")
    return 3, f"{type(error).__name__}{': ' * bool(text)}{text}; `adatok --debug ...` shows where."
