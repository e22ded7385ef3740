"""Reading recipes and running them."""

import gc
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import get_args, get_origin, get_type_hints

from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool
from transformers.utils import logging

from ..files import parse_yaml, read_json, remove_left_overs, sole_user
from .stateful_trainer import IDENTITY_NAME, Identity


logger = logging.get_logger(__name__)

RECIPES_DIR = Path(__file__).parent.parent / "recipes"
WORDS = ("none", "null", "[]")  # that stand for no value and for no values, where a field may have none


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
        recipe (`str`): Name of a shipped recipe, or path of a YAML file. There and on the command line `none` or
            `null` unsets a field that may be unset, and `[]` is a list without items.
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
    arguments = []
    for key, value in values.items():
        items = value if isinstance(value, list) and value else [value]
        arguments += [f"--{key}", *("null" if item is None else str(item) for item in items)]
    parser = HfArgumentParser(list(argument_classes), allow_abbrev=False)
    parser.error = _raise_value_error
    for kind, read in ((int, int), (float, float), (string_to_bool, string_to_bool)):
        parser.register("type", kind, _or_word(read))
    namespace, unknown = parser.parse_known_args([*arguments, *overrides])
    if unknown:
        _raise_value_error(f"there is no key for {' '.join(unknown)}")
    parsed = vars(namespace)
    for argument_class in argument_classes:
        _replace_words(parsed, argument_class)
    return parser.parse_dict(parsed)


def _or_word(read: Callable) -> Callable:
    return lambda text: text if text in WORDS else read(text)


def _replace_words(values: dict, argument_class: type):
    """Puts `None` and empty lists where the words for them stand."""
    hints = get_type_hints(argument_class)
    for field in fields(argument_class):
        word = values.get(field.name)
        word = word[0] if isinstance(word, list) and len(word) == 1 else word
        if word not in WORDS:
            continue
        kinds = {get_origin(kind) or kind for kind in (hints[field.name], *get_args(hints[field.name]))}
        is_text = word == "none" and str in kinds and (NoneType not in kinds or field.default == "none")
        if word == "[]" and list in kinds:
            values[field.name] = []
        elif word != "[]" and NoneType in kinds and not is_text:
            values[field.name] = None
        elif not is_text:
            _raise_value_error(f"{field.name} cannot be {word}")


def run_recipe(
    stage: str, recipe: str, overrides: Sequence[str], argument_classes: Sequence[type], train: Callable[..., dict]
):
    """
    Runs a training and prints its metrics as JSON, once for all processes.

    Args:
        stage, recipe, overrides, argument_classes: See [`parse_recipe`].
        train (`Callable`): Takes one instance of each class, gives the metrics.

    Raises:
        `ValueError`: as [`parse_recipe`], if FSDP is asked for, if another run writes into the same
            output folder, and what `train` raises.
    """
    parsed = parse_recipe(stage, recipe, overrides, argument_classes)
    (arguments,) = (each for each in parsed if isinstance(each, TrainingArguments))
    _check_sharding(arguments)
    folder = arguments.output_dir
    state = PartialState()
    with sole_user(folder) if state.is_main_process else nullcontext():
        if state.is_main_process:
            remove_left_overs(folder)
        metrics = train(*parsed)
        if state.is_main_process:
            print(json.dumps(metrics))
    # A process that ends while another still writes takes that one's connection away, and it aborts.
    state.wait_for_everyone()
    # A model that still knows the group keeps the group's threads, which abort an ending process now and then.
    gc.collect()
    state.destroy_process_group()


def _check_sharding(arguments: TrainingArguments):
    """Averages, revivals and checkpoints need the whole model in every process; parts of it would do silent harm."""
    if arguments.fsdp or os.environ.get("ACCELERATE_USE_FSDP") == "true":
        raise ValueError("Trainings run under DDP, not FSDP: take adatok_hf/recipes/accelerate/ddp.yaml.")


def named(source: str | None) -> str | None:
    """A name by which data or a checkpoint is known again: where it lies, if it lies here."""
    return str(Path(source).resolve()) if source and Path(source).exists() else source


def checkpoint_to_resume(arguments: TrainingArguments, identity: Identity | None = None) -> str | None:
    """
    The checkpoint that a run goes on from: the one that the arguments name, or else the last whole one in their output
    folder, if there is any. A later one that a cut left damaged is named in a warning. Earlier ones that a kill kept
    from being deleted, or left half deleted, are removed: a finished run would keep them, and the Trainer's own
    rotation takes what was half deleted for the newest.

    Args:
        arguments ([`~transformers.TrainingArguments`]): The arguments.
        identity (`Identity`, *optional*): What the run is of, see [`ResumableTrainer`]. A checkpoint that the
            arguments name is taken whatever it is of.

    Raises:
        `ValueError`: if the arguments name a checkpoint that is not whole, or the one found is of another run.
    """
    if arguments.resume_from_checkpoint is not None:
        damage = find_damage(Path(arguments.resume_from_checkpoint))
        if damage is not None:
            raise ValueError(f"{arguments.resume_from_checkpoint} cannot be resumed: {damage}.")
        return arguments.resume_from_checkpoint
    found = [path for path in Path(arguments.output_dir).glob("checkpoint-*") if path.name[11:].isdecimal()]
    limit = arguments.save_total_limit or 0  # 0 too keeps all
    rotates = limit > 0 and arguments.should_save
    newest, best, kept = None, None, 0
    for checkpoint in sorted(found, key=lambda path: int(path.name[11:]), reverse=True):
        damage = find_damage(checkpoint)
        if damage is not None and newest is None:
            logger.warning(f"{checkpoint} is left aside, it is not whole: {damage}.")
            continue
        if newest is None:
            newest = str(checkpoint)
            _check_identity(checkpoint, identity or {})
            best = Path(read_json(checkpoint / "trainer_state.json").get("best_model_checkpoint") or "").name
        kept += damage is None
        if rotates and checkpoint.name != best and (damage is not None or kept > limit):
            shutil.rmtree(checkpoint, ignore_errors=True)
    return newest


def _check_identity(checkpoint: Path, identity: Identity):
    path = checkpoint / IDENTITY_NAME
    for name, found in read_json(path).items() if path.is_file() else ():
        if name in identity and found != identity[name]:
            raise ValueError(
                f"{checkpoint} is of another run, with {name}={found!r} in place of {identity[name]!r}; give another "
                "--output-dir, or name it by --resume-from-checkpoint to go on from it all the same."
            )


def find_damage(checkpoint: Path) -> str | None:
    """What a checkpoint of a Trainer lacks, `None` if it is whole."""
    for pattern in ("trainer_state.json", "*.safetensors", "optimizer.pt", "scheduler.pt", "*.pt", "rng_state*.pth"):
        files = list(checkpoint.glob(pattern))
        if not files:
            return f"{pattern} is missing"
        for file in files:
            if not _is_whole(file):
                return f"{file.name} is damaged"
    return None


def _is_whole(file: Path) -> bool:
    try:
        if file.suffix == ".json":
            return isinstance(json.loads(file.read_text(encoding="utf-8")), dict)
        if file.suffix == ".safetensors":
            with safe_open(file, "pt"):
                return True
        return zipfile.is_zipfile(file)  # torch writes zip files, whose directory stands at the end
    except (OSError, ValueError, SafetensorError):
        return False


def _raise_value_error(message: str):
    raise ValueError(f"The recipe or its overrides do not fit: {message}.")
