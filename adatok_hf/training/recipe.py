"""Reading recipes and running them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate import PartialState
from transformers import HfArgumentParser, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from ..files import parse_yaml


RECIPES_DIR = Path(__file__).parent.parent / "recipes"


def find_recipe(stage: str, name_or_path: str) -> Path:
    """
    Path of a recipe: a file, or the name of one that ships with the package for the stage.

    Raises:
        `ValueError`: if there is neither; the message lists the names.
    """
    shipped = RECIPES_DIR / stage / f"{name_or_path}.yaml"
    for path in (Path(name_or_path), shipped):
        if path.is_file():
            return path
    names = ", ".join(sorted(path.stem for path in shipped.parent.glob("*.yaml")))
    raise ValueError(f"There is no recipe {name_or_path!r}; name a YAML file or one of {names}.")


def parse_recipe(stage: str, recipe: str, overrides: Sequence[str], argument_classes: Sequence[type]) -> tuple:
    """
    Fills argument classes from a flat YAML recipe and command-line overrides.

    Args:
        stage (`str`): Which of the package's recipes a name stands for, `"tokenizer"` or `"policy"`.
        recipe (`str`): Name of a shipped recipe, or path of a YAML file.
        overrides (`Sequence[str]`): As on a command line, `["--learning-rate", "1e-4"]`; they win over the recipe.
        argument_classes (`Sequence[type]`): Dataclasses for [`~transformers.HfArgumentParser`].

    Returns:
        `tuple`: one instance of each class.

    Raises:
        `ValueError`: for an unknown recipe, a file that is not flat YAML, or a key or value that does not fit.
    """
    path = find_recipe(stage, recipe)
    values = parse_yaml(path.read_text(encoding="utf-8"), path)
    if not isinstance(values, dict) or any(isinstance(value, dict) for value in values.values()):
        raise ValueError(f"{path} must be one flat list of 'key: value' lines.")
    parser = HfArgumentParser(list(argument_classes), allow_abbrev=False)
    parser.error = _raise_value_error
    arguments = []
    for key, value in values.items():
        if value is None:
            continue
        items = value if isinstance(value, list) else [value]
        arguments += [f"--{key}", *map(str, items)]
    *parsed, unknown = parser.parse_args_into_dataclasses([*arguments, *overrides], return_remaining_strings=True)
    if unknown:
        _raise_value_error(f"there is no key for {' '.join(unknown)}")
    return tuple(parsed)


def run_recipe(
    stage: str, recipe: str, overrides: Sequence[str], argument_classes: Sequence[type], train: Callable[..., dict]
):
    """
    Runs a training and prints its metrics as JSON, once for all processes.

    Args:
        stage, recipe, overrides, argument_classes: See [`parse_recipe`].
        train (`Callable`): Takes one instance of each class, gives the metrics.
    """
    metrics = train(*parse_recipe(stage, recipe, overrides, argument_classes))
    if PartialState().is_main_process:
        print(json.dumps(metrics))


def checkpoint_to_resume(arguments: TrainingArguments) -> str | None:
    """The checkpoint that the arguments name, or else the last one in their output folder, if there is any."""
    if arguments.resume_from_checkpoint is not None:
        return arguments.resume_from_checkpoint
    return get_last_checkpoint(arguments.output_dir) if Path(arguments.output_dir).is_dir() else None


def _raise_value_error(message: str):
    raise ValueError(f"The recipe or its overrides do not fit: {message}.")
