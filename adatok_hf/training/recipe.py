"""Reading recipes."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from transformers import HfArgumentParser


RECIPES_DIR = Path(__file__).parent.parent / "recipes"


def find_recipe(name_or_path: str) -> Path:
    """
    Path of a recipe: a file, or the name of one that ships with the package.

    Raises:
        `ValueError`: if there is neither; the message lists the names.
    """
    shipped = RECIPES_DIR / f"{name_or_path}.yaml"
    for path in (Path(name_or_path), shipped):
        if path.is_file():
            return path
    names = ", ".join(sorted(path.stem for path in RECIPES_DIR.glob("*.yaml")))
    raise ValueError(f"There is no recipe {name_or_path!r}; name a YAML file or one of {names}.")


def parse_recipe(recipe: str, overrides: Sequence[str], argument_classes: Sequence[type]) -> tuple:
    """
    Fills argument classes from a flat YAML recipe and command-line overrides.

    Args:
        recipe (`str`): Name of a shipped recipe, or path of a YAML file.
        overrides (`Sequence[str]`): As on a command line, `["--learning_rate", "1e-4"]`; they win over the recipe.
        argument_classes (`Sequence[type]`): Dataclasses for [`~transformers.HfArgumentParser`].

    Returns:
        `tuple`: one instance of each class.

    Raises:
        `ValueError`: for an unknown recipe, a file that is not flat YAML, or a key or value that does not fit.
    """
    path = find_recipe(recipe)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
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
    return parser.parse_args_into_dataclasses([*arguments, *overrides])


def _raise_value_error(message: str):
    raise ValueError(f"The recipe or its overrides do not fit: {message}.")
