"""Weights of a checkpoint before they are loaded: whether their headers fit the configuration, so that no number in
a configuration, which anyone may have written, decides how much memory and time are spent."""

import re
from collections.abc import Iterator
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from .files import first_line, read_json
from .modeling import AdaTokConfig


DEPTHS = ("num_hidden_layers", "decoder_num_hidden_layers", "prior_num_hidden_layers", "layers_per_block")
FLOAT_TYPES = ("float32", "bfloat16", "float16", "float64")
ATTENTION = (None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")


def weight_files(folder: Path) -> list[Path]:
    """
    The file of the weights, or their index and all that it names.

    Raises:
        `ValueError`: if the index lacks a `weight_map`, or that names anything but files beside it.
    """
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        return [folder / SAFE_WEIGHTS_NAME]
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{index} must hold a weight_map of tensor names to file names.")
    for name in names.values():
        if not re.fullmatch(r"[\w.-]+\.safetensors", name):
            raise ValueError(f"The weight_map of {index} must name .safetensors files beside it; got {name!r}.")
    return [index, *(folder / name for name in sorted(set(names.values())))]


def check_config(content: dict, name: str | Path):
    """Raises `ValueError` for what a configuration must not decide, or what no model can be built with."""
    for key in ("dtype", "torch_dtype"):
        if content.get(key) not in (None, *FLOAT_TYPES):
            raise ValueError(
                f"The config.json of {name} is not valid: {key} must be {' or '.join(FLOAT_TYPES)}; got "
                f"{content[key]!r}."
            )
    for key in ("attn_implementation", "_attn_implementation"):  # others may name code on the Hub
        if content.get(key) not in ATTENTION:
            raise ValueError(f"The config.json of {name} is not valid: {key} is {content[key]!r}.")
    for key in ("quantization_config", "transformers_weights"):
        if content.get(key) is not None:
            raise ValueError(f"The config.json of {name} is not valid: it must not hold a {key}.")
    activation = content.get("hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in ACT2FN:
        raise ValueError(f"The config.json of {name} is not valid: there is no hidden_act {activation!r}.")


def check_weights(folder: Path, model_class: type[PreTrainedModel], config: PreTrainedConfig, name: str | Path):
    """
    Compares the headers of the weights with the model that a configuration describes. No tensor is read or made.

    Args:
        folder (`Path`): Folder of the checkpoint.
        model_class (`type`): Class of its model.
        config (`PreTrainedConfig`): Its configuration.
        name (`str` or `Path`): What to call the checkpoint.

    Raises:
        `ValueError`: if the weights are missing or damaged, the configuration has sizes that they cannot have, or
            tensors are missing, superfluous or of another shape.
    """
    found = _read_shapes(folder, name)
    problem = _impossible_size(config, found)
    if problem:
        raise ValueError(f"The weights of {name} do not fit its config.json: {problem}.")
    try:
        with torch.device("meta"):
            expected = {key: tuple(value.shape) for key, value in model_class(config).state_dict().items()}
    except (RuntimeError, TypeError, ValueError, LookupError, ImportError, OverflowError) as error:
        raise ValueError(f"The config.json of {name} describes no model: {first_line(error)}") from error
    for key in sorted(found.keys() & expected.keys()):
        if found[key] != expected[key]:
            raise ValueError(
                f"The weights of {name} do not fit its config.json: {key} has shape {found[key]} in place of "
                f"{expected[key]}."
            )
    for keys, problem in (
        (expected.keys() - found.keys(), "lack"),
        (found.keys() - expected.keys(), "have the superfluous"),
    ):
        if keys:
            raise ValueError(
                f"The weights of {name} do not fit its config.json: they {problem} {min(keys)}, the first of "
                f"{len(keys)}."
            )


def _read_shapes(folder: Path, name: str | Path) -> dict[str, tuple[int, ...]]:
    shapes = {}
    try:
        for path in weight_files(folder):
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as file:
                    shapes |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"The weights of {name} cannot be read: {first_line(error)}") from error
    return shapes


def _impossible_size(config: PreTrainedConfig, shapes: dict[str, tuple[int, ...]]) -> str | None:
    """The first size that is beyond all that the weights hold, in words."""
    largest = sum(map(prod, shapes.values()))
    for key, value in _sizes(config):
        limit, unit = (len(shapes), "tensors") if key in DEPTHS else (largest, "numbers")
        if value > limit:
            return f"{key} is {value}, and they have {limit} {unit}"
    if not isinstance(config, AdaTokConfig):
        return None
    heads = config.decoder_num_hidden_layers * len(config.budgets)
    if heads > len(shapes):
        return f"{len(config.budgets)} budgets need at least {heads} tensors, and they have {len(shapes)}"
    return None


def _sizes(config: PreTrainedConfig) -> Iterator[tuple[str, int]]:
    for key in config.__dataclass_fields__:
        if key in PreTrainedConfig.__dataclass_fields__ or key == "lora_alpha":  # alpha is a factor
            continue
        value = getattr(config, key)
        if isinstance(value, PreTrainedConfig):
            yield from _sizes(value)
        elif isinstance(value, list | tuple):
            yield from ((key, item) for item in [len(value), *value])
        elif isinstance(value, int):
            yield key, value


__all__ = ["check_config", "check_weights", "weight_files"]
