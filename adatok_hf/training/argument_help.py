"""What the arguments of a training mean, as text: for `--help`, and out of docstrings."""

import dataclasses
import re
import shutil
import textwrap
from collections.abc import Sequence
from enum import Enum
from types import NoneType
from typing import get_args, get_origin, get_type_hints

from transformers import TrainingArguments


FLAG_WIDTH = 42
KINDS = {int: "INT", float: "NUMBER", bool: "BOOL"}


def docstring_help(documented: type) -> dict[str, str]:
    """
    What the docstring of a class says of each argument.

    Args:
        documented (`type`): Its docstring is in the format of transformers.

    Returns:
        `dict[str, str]`: the name of each argument and its description, on one line.
    """
    argument = re.compile(r"^( +)(\w+) \(.*\):\n((?:\1 +\S.*\n)+)", flags=re.MULTILINE)
    return {name: " ".join(text.split()) for _, name, text in argument.findall(documented.__doc__ or "")}


def describe_arguments(argument_classes: Sequence[type]) -> str:
    """
    Lists all fields of argument classes with their help and defaults, those of [`~transformers.TrainingArguments`]
    after our own.

    Args:
        argument_classes (`Sequence[type]`): Dataclasses for [`~transformers.HfArgumentParser`].

    Returns:
        `str`: as wide as the terminal.

    Example:

    ```python
    >>> from adatok_hf.training.argument_help import describe_arguments
    >>> from adatok_hf.training.policy_arguments import PolicyTrainingArguments

    >>> print(describe_arguments([PolicyTrainingArguments]).splitlines()[0])
    Keys of a recipe, `learning_rate: 1e-3`, and of the command line, `--learning-rate 1e-3`.

    ```"""
    inherited = TrainingArguments.__dataclass_fields__
    paragraphs = [
        "Keys of a recipe, `learning_rate: 1e-3`, and of the command line, `--learning-rate 1e-3`.\n"
        "`none` unsets what may be unset, `[]` is a list without items."
    ]
    others: list[str] = []
    for argument_class in argument_classes:
        hints, own = get_type_hints(argument_class), []
        for field in dataclasses.fields(argument_class):
            if field.init:
                entry = _describe(field, hints[field.name])
                (others if inherited.get(field.name) is field else own).append(entry)
        title = argument_class.__doc__.strip().split("\n\n")[0]
        paragraphs.append("\n".join([_plain(title), *own]))
    if others:
        paragraphs.append("\n".join(["Of every training by transformers.", *others]))
    return "\n\n".join(paragraphs)


def _describe(field: dataclasses.Field, hint) -> str:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    default = default.value if isinstance(default, Enum) else default
    shown = "none" if default is None else str(default).lower() if isinstance(default, bool) else repr(default)
    flag = f"  --{field.name.replace('_', '-')} {_kind(hint)}"
    text = f"{_plain(field.metadata['help'].strip())} (default: {shown})"
    width = max(shutil.get_terminal_size().columns, FLAG_WIDTH + 30)
    lines = textwrap.wrap(text, width, initial_indent=" " * FLAG_WIDTH, subsequent_indent=" " * FLAG_WIDTH)
    if len(flag) < FLAG_WIDTH:
        lines[0] = flag.ljust(FLAG_WIDTH) + lines[0].lstrip()
    else:
        lines.insert(0, flag)
    return "\n".join(lines)


def _kind(hint) -> str:
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not NoneType]
    if get_origin(hint) is list:
        return f"{_kind(kinds[0])}..."
    if len(kinds) > 1:
        return "JSON" if dict in [get_origin(kind) or kind for kind in kinds] else "TEXT"
    (kind,) = kinds
    return _kind(kind) if get_origin(kind) is list else KINDS.get(kind, "TEXT")


def _plain(text: str) -> str:
    """Without the marks of references and the escapes of argparse, and on one line."""
    return " ".join(re.sub(r"\[`~?(?:\w+\.)*(\w+)`\]", r"\1", text).replace("%%", "%").split())


__all__ = ["describe_arguments", "docstring_help"]
