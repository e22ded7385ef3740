"""Heads to PEFT adapter folders and back."""

import copy
import json
import os
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft import __version__ as peft_version
from peft.tuners.lora import LoraLayer
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..checkpoint import copy_checkpoint, read_metrics
from ..files import check_empty, read_json, whole_folder
from ..hub import find_folder
from ..model_card import CARD_NAME, lasting_facts, model_card, read_license
from ..modeling import AdaTokImageProcessor, AdaTokImageProcessorPil, AdaTokModel
from ..modeling.modeling_adatok import AdaTokDecoder


# Fields of a `LoraConfig` that leave what a finished adapter computes as it is; all others must be those of our heads.
FREE_FIELDS = {
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "inference_mode",
    "init_lora_weights",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "task_type",
}
# The other starts (PiSSA, OLoRA, LoftQ and so on) change the base weights, which an adapter does not bring along.
FREE_STARTS = (True, False, "gaussian", "orthogonal", "eva")


def base_decoder(model: AdaTokModel) -> AdaTokDecoder:
    """
    The decoder without its heads, as PEFT wants to wrap it. It is a copy: whatever is done to it, a merged adapter
    included, leaves `model` alone.

    Args:
        model ([`AdaTokModel`]): The model.

    Returns:
        [`AdaTokDecoder`]: plain linear layers with the base weights, on the device and of the type of `model`. Called
        with quantized codes of shape `(batch, tokens, codebook_dim)`, as `model.quantizer.lookup` gives them, it
        returns pixels of shape `(batch, num_channels, image_size, image_size)`, nominally in [-1, 1].

    Example:

    ```python
    >>> import torch
    >>> from adatok_hf import AdaTokModel, default_checkpoint
    >>> from adatok_hf.conversion.heads import base_decoder
    >>> from peft import LoraConfig, get_peft_model

    >>> model = AdaTokModel.from_pretrained(default_checkpoint())
    >>> config = model.config
    >>> lora = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=["fc1", "fc2"])
    >>> head = get_peft_model(base_decoder(model), lora)  # train it, then head.save_pretrained("heads/budget_0008")
    >>> pixels = head(model.quantizer.lookup(torch.zeros(1, 8, dtype=torch.long)))
    >>> tuple(pixels.shape)
    (1, 3, 64, 64)

    ```"""
    decoder = copy.deepcopy(model.decoder)
    for module in list(decoder.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, LoraLayer):
                setattr(module, name, layer.get_base_layer())
    del decoder.peft_config  # PEFT would take the decoder for one that has adapters
    return decoder


def export_heads(model: AdaTokModel, folder: str | Path, base_model: str):
    """
    Writes every head as a PEFT adapter: `folder/budget_0032/adapter_config.json` and `adapter_model.safetensors`, one
    folder per candidate budget. `PeftModel.from_pretrained(base_decoder(model), folder / "budget_0032")` reads it.

    Args:
        model ([`AdaTokModel`]): The model; it stays as it is.
        folder (`str` or `Path`): Where to, absent or empty. It appears complete or not at all.
        base_model (`str`): Hub id or folder of the model, noted in the adapters as `base_model_name_or_path`.

    Raises:
        `ValueError`: if `folder` is a file or not empty.

    Example:

    ```python
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory

    >>> from adatok_hf import AdaTokModel, default_checkpoint
    >>> from adatok_hf.conversion.heads import export_heads

    >>> model = AdaTokModel.from_pretrained(default_checkpoint())
    >>> with TemporaryDirectory() as folder:
    ...     export_heads(model, folder, "someone/a-model")
    ...     sorted(path.name for path in Path(folder).iterdir())[:3]
    ['budget_0008', 'budget_0016', 'budget_0024']

    ```"""
    check_empty(folder)
    peft_model = _as_peft_model(model)
    for config in peft_model.peft_config.values():
        config.base_model_name_or_path = base_model
        config.target_modules = sorted(config.target_modules)  # a set would give another file each time
    Path(folder).absolute().parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as temporary:
        peft_model.save_pretrained(temporary, save_embedding_layers=False)
        (temporary / CARD_NAME).unlink()  # PEFT's form, with nothing filled in


def import_heads(model: AdaTokModel, folder: str | Path) -> list[int]:
    """
    Replaces heads by PEFT adapters. Whoever trained them must have done so on [`base_decoder`] of this very model,
    with the rank and alpha of its heads. Either all of them are read, or the model stays as it is.

    Args:
        model ([`AdaTokModel`]): The model, changed in place.
        folder (`str` or `Path`):
            Folder with an adapter in `budget_0032` and so on, for any of the candidate budgets, or one adapter folder
            of such a name itself.

    Returns:
        `list[int]`: the candidate budgets whose heads were replaced, ascending.

    Raises:
        `ValueError`: if there is no adapter, one has the name of no candidate budget, is of another kind, rank, alpha
            or extent than the heads, is damaged or a pickle, or if tensors are missing, superfluous, of a wrong shape
            or not finite.

    Example:

    ```python
    >>> from tempfile import TemporaryDirectory

    >>> from adatok_hf import AdaTokModel, default_checkpoint
    >>> from adatok_hf.conversion.heads import export_heads, import_heads

    >>> model = AdaTokModel.from_pretrained(default_checkpoint())
    >>> with TemporaryDirectory() as folder:
    ...     export_heads(model, folder, "someone/a-model")
    ...     import_heads(model, f"{folder}/budget_0008")
    [8]

    ```"""
    heads = dict(zip(model.decoder.peft_config, model.config.budgets))
    adapters = _find_adapters(folder, list(heads))
    peft_model = _as_peft_model(model)
    states = {}
    for name, path in adapters.items():
        _check_config(path, model.decoder.peft_config[name])
        expected = get_peft_model_state_dict(peft_model, adapter_name=name, save_embedding_layers=False)
        states[name] = _read_tensors(path, expected)
    for name, state in states.items():
        set_peft_model_state_dict(peft_model, state, adapter_name=name)  # into the tensors of `model`
    return [budget for name, budget in heads.items() if name in adapters]


def find_adapters(adapters: str | Path) -> Path:
    """
    Folder of some adapters, downloaded if it is a repository id on the Hub.

    Args:
        adapters (`str` or `Path`): Folder, or repository id.

    Returns:
        `Path`: for [`import_heads`].

    Raises:
        `ValueError`: if there is no such folder, and the name is no repository id, or the Hub does not give it or has
            no adapter in it.
    """
    if Path(os.path.expanduser(adapters)).is_file():
        raise ValueError(f"{adapters} is a file; name the folder that holds the adapters.")
    # A pattern's asterisk matches slashes too: the files lie in one folder per budget.
    folder = find_folder(adapters, patterns=[f"*{CONFIG_NAME}", f"*{SAFETENSORS_WEIGHTS_NAME}"])
    if not folder.is_dir():  # no file of the repository matched
        raise ValueError(f"The repository {adapters} holds no PEFT adapter saved as safetensors.")
    return folder


def save_imported(
    source: str | Path,
    out: str | Path,
    model: AdaTokModel,
    processor: AdaTokImageProcessor | AdaTokImageProcessorPil,
    facts: dict[str, str],
):
    """
    Writes the checkpoint of a model whose heads were imported. Its quality is unknown, so that no `metrics.json` goes
    along and a fresh card says so; the licence and what is known of the training stay.

    Args:
        source (`str` or `Path`): Folder of the checkpoint that the model was loaded from.
        out (`str` or `Path`): Folder of the copy, absent or empty. It appears complete or not at all.
        model ([`AdaTokModel`]): The model.
        processor ([`AdaTokImageProcessor`]): The checkpoint's image processor.
        facts (`dict[str, str]`): Of the heads, for the card.

    Raises:
        `ValueError`: if `out` is a file or not empty.
    """
    check_empty(out)
    source = Path(source)
    training = lasting_facts(read_metrics(source))
    card = model_card(model.config, Path(out).name, {"training": training | facts}, license=read_license(source))
    heads = {name: tensor for name, tensor in model.state_dict().items() if "lora_" in name}
    copy_checkpoint(source, out, model, processor, tensors=heads, metrics={}, card=card)


def _as_peft_model(model: AdaTokModel) -> PeftModel:
    """The decoder and its heads under PEFT's own names. The heads' tensors are those of `model`, not copies."""
    configs = {name: copy.deepcopy(config) for name, config in model.decoder.peft_config.items()}
    first, *others = configs
    peft_model = PeftModel(base_decoder(model), configs[first], adapter_name=first)
    for name in others:
        peft_model.add_adapter(name, configs[name])
    heads = tuple(f".{name}.weight" for name in configs)  # without what a user has put on top
    state = {name: tensor for name, tensor in model.decoder.state_dict().items() if name.endswith(heads)}
    peft_model.get_base_model().load_state_dict(state, assign=True, strict=False)
    return peft_model


def _find_adapters(folder: str | Path, names: list[str]) -> dict[str, Path]:
    """Path of every adapter in a folder by the name of its head; no other adapter is passed over in silence."""
    folder = Path(os.path.abspath(os.path.expanduser(folder)))  # "." has no name to tell a budget
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}; name one that holds PEFT adapters.")
    subfolders = sorted(path for path in folder.iterdir() if path.is_dir())
    paths = [path for path in subfolders if path.name in names or _is_adapter(path)]
    paths = [folder, *paths] if _is_adapter(folder) else paths
    choice = ", ".join(names)
    if not paths:
        raise ValueError(f"{folder} holds no PEFT adapter; put each into a folder named after its budget: {choice}.")
    for path in paths:
        if path.name not in names:
            raise ValueError(
                f"The name {path.name!r} of the adapter {path} tells no candidate budget of this model; it must be "
                f"one of {choice}."
            )
    return {path.name: path for path in paths}


def _is_adapter(path: Path) -> bool:
    return any((path / name).is_file() for name in (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME))


def _check_config(folder: Path, config: LoraConfig):
    """Raises `ValueError` unless an adapter computes what a head computes, given tensors of the same names."""
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise ValueError(f"The adapter {folder} lacks {CONFIG_NAME}; PEFT's save_pretrained writes it.")
    content = read_json(path)
    if content.get("peft_type") != config.peft_type.value:
        raise ValueError(
            f"The peft_type of the adapter {folder} must be {config.peft_type.value}; got "
            f"{content.get('peft_type')!r}, so train it with a LoraConfig."
        )
    wanted, defaults = _to_json(config), _to_json(LoraConfig())
    for name in sorted(content.keys() | wanted.keys()):
        found = content.get(name, defaults.get(name))
        if name not in wanted and found:
            raise ValueError(
                f"The adapter {folder} has {name}={found!r}, which PEFT {peft_version} does not know; upgrade peft."
            )
        found = sorted(found, key=str) if isinstance(found, list) else found
        right = wanted.get(name)
        # Empty, false and absent mean the same to PEFT, and not the same in every version's files.
        if name not in FREE_FIELDS and (found or None) != (right or None):
            raise ValueError(
                f"The {name} of the adapter {folder} must be {right!r}, as in the heads of this model; got {found!r}, "
                f"so train it with r={config.r}, lora_alpha={config.lora_alpha}, "
                f"target_modules={sorted(config.target_modules)} and nothing else."
            )
    start = content.get("init_lora_weights", True)
    if start not in FREE_STARTS:
        raise ValueError(
            f"The init_lora_weights of the adapter {folder} must be one of {', '.join(map(str, FREE_STARTS))}; got "
            f"{start!r}, which changes the base weights too."
        )


def _to_json(config: LoraConfig) -> dict:
    return json.loads(json.dumps(config.to_dict(), default=sorted))  # sets become lists


def _read_tensors(folder: Path, expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of an adapter, if they are like the expected ones."""
    path = folder / SAFETENSORS_WEIGHTS_NAME
    if not path.is_file() and (folder / WEIGHTS_NAME).is_file():
        raise ValueError(
            f"The adapter {folder} holds only {WEIGHTS_NAME}, a pickle, which could run code; save it as safetensors."
        )
    if not path.is_file():
        raise ValueError(f"The adapter {folder} lacks {SAFETENSORS_WEIGHTS_NAME}; PEFT's save_pretrained writes it.")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated, damaged or no safetensors file ({error}).") from error
    for names, problem in ((expected.keys() - tensors, "lacks"), (tensors.keys() - expected, "has the superfluous")):
        if names:
            raise ValueError(
                f"{path} {problem} {min(names)}, the first of {len(names)}; an adapter must hold the tensors of one "
                f"head and no others."
            )
    for name, tensor in tensors.items():
        right = expected[name]
        if tensor.shape != right.shape or not tensor.is_floating_point():
            raise ValueError(
                f"{name} in {path} must be floats of shape {tuple(right.shape)}; got {tensor.dtype} of shape "
                f"{tuple(tensor.shape)}."
            )
        if not tensor.to(right.dtype).isfinite().all():
            raise ValueError(
                f"{name} in {path} has NaN, infinite values or some beyond {right.dtype}; all must be finite numbers."
            )
    return tensors


__all__ = ["base_decoder", "export_heads", "find_adapters", "import_heads", "save_imported"]
