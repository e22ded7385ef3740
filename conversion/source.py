"""Original checkpoints: a Hub repository, a folder or a file, read without running anything in it."""

import os
import pickle
import pickletools
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..files import first_line, parse_yaml
from ..hub import find_folder
from ..model_card import CARD_NAME, read_license


USUAL_WEIGHTS = ["model.safetensors", "pytorch_model.bin"]
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
MAX_GROWTH = 64  # sizes, strides and offsets may count a tensor several times
LEGACY_PICKLES = 4  # magic number, version, facts of the system, content; the list of storages follows with the data
CONFIG_NAMES = ["config.json", "config.yaml"]


@dataclass
class OriginalCheckpoint:
    """
    What was read of an original checkpoint.

    Args:
        name (`str`): Where it is from, as the user gave it.
        is_on_hub (`bool`): Whether the name is that of a repository on the Hub.
        tensors (`dict[str, torch.Tensor]`): The weights, in single precision, under their original names.
        config (`dict`, *optional*): Its configuration, if there is one.
        license (`str`, *optional*): The licence that its card names, if there is one.
    """

    name: str
    is_on_hub: bool
    tensors: dict[str, torch.Tensor]
    config: dict | None = None
    license: str | None = None


def read_original(
    source: str | Path,
    *,
    config: str | Path | None = None,
    filename: str | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> OriginalCheckpoint:
    """
    Reads weights, configuration and licence of an original checkpoint.

    Args:
        source (`str` or `Path`): File of weights, folder that holds one, or repository id on the Hub.
        config (`str` or `Path`, *optional*): JSON or YAML file to read in place of the one beside the weights.
        filename (`str`, *optional*): Which weights to take of a folder or repository that holds several.
        revision (`str`, *optional*): Branch, tag or commit, for a repository id.
        token (`str`, *optional*): Hub token; the one of `hf auth login` or `HF_TOKEN` when unset.

    Returns:
        [`OriginalCheckpoint`]

    Raises:
        `ValueError`: if there is no such source, if it holds no weights or several and none is chosen, and if a file
            is damaged or might run code.
    """
    path = Path(os.path.expanduser(source))
    is_on_hub = not path.exists()
    if path.is_file():
        folder, weights = path.parent, path
    else:
        patterns = [*([filename] if filename else USUAL_WEIGHTS), *CONFIG_NAMES, CARD_NAME]
        folder = find_folder(source, revision, token, patterns)
        weights = _choose_weights(folder, source, filename)
    beside = next((folder / name for name in CONFIG_NAMES if (folder / name).is_file()), None)
    config_path = Path(os.path.expanduser(config)) if config is not None else beside
    return OriginalCheckpoint(
        name=str(source),
        is_on_hub=is_on_hub,
        tensors=read_weights(weights),
        config=None if config_path is None else read_config(config_path),
        license=read_license(folder),
    )


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file or of a pickle of nothing but tensors; raises `ValueError` for any other."""
    tensors = _load_safetensors(path) if path.suffix == ".safetensors" else _load_pickle(path)
    if not isinstance(tensors, dict) or not all(map(_is_plain_tensor, tensors.values())):
        raise ValueError(f"{path} must hold a flat state dict, plain tensors by name; it holds something else.")
    if sum(tensor.numel() for tensor in tensors.values()) > MAX_GROWTH * path.stat().st_size:
        raise ValueError(f"{path} is small, but its tensors would fill far more memory than it has bytes.")
    return {name: tensor.float() for name, tensor in tensors.items()}


def read_config(path: Path) -> dict:
    """The content of a JSON or YAML file; raises `ValueError` unless that is a mapping."""
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), "it")  # JSON is YAML too
    except (OSError, ValueError) as error:
        raise ValueError(f"The configuration {path} cannot be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"The configuration {path} must hold a mapping; got {type(content).__name__}.")
    return content


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or no file of weights: {first_line(error)}") from error


def _load_pickle(path: Path):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that are refused below
            if _expands(path):
                raise ValueError("it would grow far beyond its size")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is no pickle of plain tensors; anything else might run code, so it is not read."
        ) from error
    # A damaged pickle is a damaged program: it may fail in any way, and torch may recommend to run it all the same.
    except Exception as error:
        raise ValueError(f"{path} is damaged, or no file of weights; get it again.") from error


def _expands(path: Path) -> bool:
    """
    Whether a pickle announces much more than its file holds: by members that are compressed, or by sizes in its
    program, which for tensors of a file all count what is in the file.
    """
    size, announced = path.stat().st_size, 0
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > 2 * size:
                return True
            pickles = [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
        return sum(map(_sum_of_numbers, pickles)) > MAX_GROWTH * size
    with open(path, "rb") as file:
        for _ in range(LEGACY_PICKLES):
            announced += _sum_of_numbers(file)
            if file.tell() == size:
                break
    return announced > MAX_GROWTH * size


def _sum_of_numbers(program: bytes | BinaryIO) -> int:
    numbers = (argument for _, argument, _ in pickletools.genops(program) if isinstance(argument, int))
    return sum(abs(number) for number in numbers if number != torch.serialization.MAGIC_NUMBER)


def _is_plain_tensor(value) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.device.type == "cpu"
        and value.layout == torch.strided
        and not (value.is_quantized or value.is_nested or value.is_complex())
    )


def _choose_weights(folder: Path, source: str | Path, filename: str | None) -> Path:
    # `glob` finds nothing in a folder that is not there, as when no file of a repository fits the patterns.
    candidates = sorted(path.name for path in folder.glob("*") if path.name.endswith(WEIGHT_SUFFIXES))
    if filename is not None and filename not in candidates:
        raise ValueError(f"{source} has no weights {filename}; there are {', '.join(candidates) or 'none'}.")
    chosen = [filename] if filename else [name for name in USUAL_WEIGHTS if name in candidates][:1] or candidates
    if not chosen:
        raise ValueError(
            f"{source} holds no weights under a usual name ({', '.join(USUAL_WEIGHTS)}); name them by --filename."
        )
    if len(chosen) > 1:
        raise ValueError(f"{source} holds several files of weights; choose one by --filename: {', '.join(chosen)}.")
    return folder / chosen[0]
