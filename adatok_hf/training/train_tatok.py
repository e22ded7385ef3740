"""TaTok: from a recipe to a checkpoint, `adatok train tatok`."""

from collections.abc import Sequence

from .recipe import run_recipe
from .tatok_arguments import ARGUMENT_CLASSES, TaTokModelArguments, TaTokTrainingArguments
from .tatok_trainer import TaTokTrainer
from .tokenizer_arguments import DataArguments
from .train_tokenizer import train as train_tokenizer


def train(
    model_arguments: TaTokModelArguments, data_arguments: DataArguments, arguments: TaTokTrainingArguments
) -> dict[str, float]:
    """
    Trains, evaluates and exports a TaTok into `arguments.output_dir`; a run that was cut off is resumed.

    Returns:
        `dict[str, float]`: the final metrics; empty without evaluation data.
    """
    return train_tokenizer(model_arguments, data_arguments, arguments, TaTokTrainer)


def train_recipe(recipe: str, overrides: Sequence[str] = ()):
    """
    Runs a recipe and prints its metrics as JSON.

    Args:
        recipe (`str`): Name of a shipped recipe, or path of a YAML file.
        overrides (`Sequence[str]`, *optional*): Any field of the argument classes, as in `--learning-rate 1e-4`.
    """
    run_recipe("tatok", recipe, overrides, ARGUMENT_CLASSES, train)
