"""Complete checkpoints: loading, writing, copying, pushing and telling them apart. No other file writes one."""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import AutoImageProcessor, PreTrainedConfig
from transformers.dynamic_module_utils import custom_object_save

from . import AdaTokImageProcessor, AdaTokImageProcessorPil, AdaTokModel, TaTokModel
from .files import first_line, read_json, remove_left_overs, whole_folder, write_json
from .hub import complete_repo_id, find_folder, push_folder, require_token
from .model_card import CARD_NAME, model_card, parse_front_matter, read_license
from .weights import check_config, check_weights, weight_files


METRICS_NAME = "metrics.json"
WEIGHT_FILES = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
MAX_RESIZE = 16  # times the model's size, to which an image is resized at most before it is cropped
CHOOSERS = ("policy", "cost_bias", "prior", "threshold", "entropy")  # in names of what decides how much is kept
ANY_MODEL = (AdaTokModel, TaTokModel)
Model = AdaTokModel | TaTokModel
Processor = AdaTokImageProcessor | AdaTokImageProcessorPil


def load_checkpoint(
    checkpoint: str | Path,
    *,
    kinds: tuple[type[Model], ...] = (AdaTokModel,),
    revision: str | None = None,
    token: str | None = None,
) -> tuple[Model, Processor]:
    """
    Loads a complete checkpoint, or says what is wrong with it. Only the code of this package runs, never the
    checkpoint's own.

    Args:
        checkpoint (`str` or `Path`): Folder, or repository id on the Hub.
        kinds (`tuple[type]`, *optional*): Classes of which the model may be, [`AdaTokModel`] alone if not given.
        revision (`str`, *optional*): Branch, tag or commit, for a repository id.
        token (`str`, *optional*): Hub token; the one of `hf auth login` or `HF_TOKEN` when unset.

    Returns:
        `tuple`: the model, in evaluation mode, and its image processor.

    Raises:
        `ValueError`: if the checkpoint cannot be found or reached, is of no such kind, is damaged, lacks tensors, has
            wrong or superfluous ones, or if its processor does not fit the model.

    Example:

    ```python
    >>> from adatok_hf import default_checkpoint
    >>> from adatok_hf.checkpoint import load_checkpoint

    >>> model, processor = load_checkpoint(default_checkpoint())
    >>> processor.crop_size["height"] == model.config.image_size
    True

    ```"""
    return _load_folder(find_folder(checkpoint, revision, token), checkpoint, kinds)


def save_checkpoint(
    folder: str | Path,
    model: Model,
    processor: Processor,
    *,
    metrics: dict | None = None,
    license: str | None = None,
    state_dict: dict[str, torch.Tensor] | None = None,
):
    """
    Writes a model as a complete checkpoint: weights, configuration, the code to load them, image processor, metrics
    and card. What is there is replaced only when all of it has been written.

    Args:
        folder (`str` or `Path`): Where to; made if need be.
        model ([`AdaTokModel`] or [`TaTokModel`]): The model.
        processor ([`AdaTokImageProcessor`]): Its image processor.
        metrics (`dict`, *optional*): For `metrics.json` and the card, see [`model_card`].
        license (`str`, *optional*): Licence identifier of the Hub, see
            [`~adatok_hf.model_card.read_license`]; `apache-2.0` if not given.
        state_dict (`dict[str, torch.Tensor]`, *optional*): In place of the model's weights, in the precision to store.

    Raises:
        `ValueError`: if the folder is a file or the model carries an adapter, or as [`model_card`].
    """
    if model._hf_peft_config_loaded:
        raise ValueError("The model carries an adapter, which would be saved in its place; merge or delete it first.")
    card = model_card(model.config, Path(folder).absolute().name, metrics, license=license)
    with _whole(folder) as temporary:
        model.save_pretrained(temporary, state_dict=state_dict)
        processor.save_pretrained(temporary)
        _describe(temporary, metrics, card)


def copy_checkpoint(
    source: str | Path,
    folder: str | Path,
    model: Model,
    processor: Processor,
    *,
    config: PreTrainedConfig | None = None,
    tensors: dict[str, torch.Tensor] | None = None,
    metrics: dict | None = None,
    card: str | None = None,
):
    """
    Copies a checkpoint with something in it replaced. Weights are the same byte for byte, in the precision that they
    are stored in, but for the tensors that are replaced. The code beside them is that of this package, since what an
    older checkpoint brings along may not know the configuration. What is there is replaced only when all of the copy
    has been written.

    Args:
        source (`str` or `Path`): Folder of the checkpoint.
        folder (`str` or `Path`): Where to; made if need be.
        model ([`AdaTokModel`]): The checkpoint's model; it stays as it is.
        processor ([`AdaTokImageProcessor`]): The checkpoint's image processor.
        config ([`AdaTokConfig`], *optional*): For the copy; the model's if not given.
        tensors (`dict[str, torch.Tensor]`, *optional*):
            Replacements by name, each to be stored in the precision of what it replaces.
        metrics (`dict`, *optional*): For `metrics.json`; the source's if not given, none if empty.
        card (`str`, *optional*): The card; the source's, if it has one, if not given.

    Raises:
        `ValueError`: if the folder is a file, or the source has no such tensor.
    """
    source, config = Path(source), config or model.config
    kept = [source / name for name, given in ((METRICS_NAME, metrics), (CARD_NAME, card)) if given is None]
    with _whole(folder) as temporary:
        for path in (*weight_files(source), *(path for path in kept if path.is_file())):
            shutil.copyfile(path, temporary / path.name)
        if tensors:
            _replace_tensors(temporary, tensors)
        custom_object_save(model, temporary, config=config)  # as `save_pretrained` does it, but without the weights
        config.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        _describe(temporary, metrics, card)
        if tensors:
            _load_folder(temporary, folder, ANY_MODEL)


def push_checkpoint(
    checkpoint: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload AdaTok",
    metrics: dict | None = None,
    renew_card: bool = False,
) -> str:
    """
    Sends a checkpoint to the Hub in one commit: weights as they are stored, configurations, the code to load them and
    a model card. Nothing is sent unless the checkpoint loads without a missing or superfluous tensor.

    Args:
        checkpoint (`str` or `Path`): Folder, or repository id on the Hub.
        repo_id (`str`): Where to, as `namespace/name`, or `name` for one's own namespace. Created if need be.
        private (`bool`, *optional*, defaults to `False`): Whether a created repository is private.
        token (`str`, *optional*): Hub token with write access; the one of `hf auth login` or `HF_TOKEN` when unset.
        revision (`str`, *optional*): Branch to commit to, `main` when unset. Created if need be.
        commit_message (`str`, *optional*): First line of the commit.
        metrics (`dict`, *optional*): See [`model_card`]. Without it, what `metrics.json` beside the weights holds.
        renew_card (`bool`, *optional*, defaults to `False`): Whether to replace a card the checkpoint has.

    Returns:
        `str`: URL of the repository.

    Raises:
        `ValueError`: as [`load_checkpoint`], and if the id is malformed, no token is found, the token has no right to
            write there, or the Hub cannot be reached.
    """
    token = require_token(token)
    repo_id = complete_repo_id(repo_id, token)
    source = find_folder(checkpoint, None, token)
    _refuse_links(source)
    model, processor = _load_folder(source, checkpoint, ANY_MODEL)
    metrics = metrics or read_metrics(source)
    if (source / CARD_NAME).is_file() and not renew_card:
        card = (source / CARD_NAME).read_text(encoding="utf-8")
        parse_front_matter(card, source / CARD_NAME)
        # A card written where the model was trained names its folder; the snippet must load from the repository.
        card = re.sub(r'from_pretrained\("[^"/]+"', f'from_pretrained("{repo_id}"', card)
    else:
        card = model_card(model.config, repo_id, metrics, license=read_license(source))
    with tempfile.TemporaryDirectory() as folder:
        copy_checkpoint(source, folder, model, processor, metrics=metrics, card=card)
        return push_folder(folder, repo_id, token, private=private, revision=revision, commit_message=commit_message)


def model_hash(model: torch.nn.Module) -> str:
    """
    Fingerprint of everything that gives image codes their meaning: the architecture and all weights but those that
    decide how much is kept, so that a policy trained or calibrated later on the same tokenizer still reads the codes.

    Args:
        model ([`AdaTokModel`]): The model.

    Returns:
        `str`: 64 hexadecimal digits.
    """
    return _fingerprint(model, architecture(model.config), ("policy.", "prior."))


def codes_hash(model: torch.nn.Module) -> str:
    """
    Fingerprint of what decides which codes an image gets: as [`model_hash`], but without the decoder, so that what was
    trained on codes, such as a generator, stays with a tokenizer whose decoder goes on to be trained.

    Args:
        model ([`AdaTokModel`] or [`TaTokModel`]): The model.

    Returns:
        `str`: 64 hexadecimal digits.
    """
    of_encoder = {
        name: value
        for name, value in architecture(model.config).items()
        if not name.startswith(("decoder_", "pixel_decoder_", "lora_"))
    }
    return _fingerprint(model, of_encoder, ("policy.", "prior.", "decoder."))


def _fingerprint(model: torch.nn.Module, facts: dict, left_out: tuple[str, ...]) -> str:
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if not name.startswith(left_out):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def architecture(config: PreTrainedConfig) -> dict:
    """
    What a configuration says of the tokenizer. A switch left at its default is not mentioned, so that a switch which
    a later version adds changes no fingerprint.
    """
    facts = {}
    for name in config.__dataclass_fields__:
        if name in PreTrainedConfig.__dataclass_fields__:
            continue
        value, default = getattr(config, name), config.__dataclass_fields__[name].default
        is_untouched = value is default and (default is None or isinstance(default, bool))
        if not is_untouched and not any(part in name for part in CHOOSERS):
            facts[name] = architecture(value) if isinstance(value, PreTrainedConfig) else value
    return facts


def policy_hash(model: torch.nn.Module) -> str:
    """SHA-256 of the policy's weights and what shifts its choice, which [`model_hash`] leaves out."""
    digest = hashlib.sha256(model.config.choice.encode())
    for name, tensor in sorted(model.policy.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def checkpoint_name(folder: str | Path) -> str:
    """What a checkpoint is called: as its folder, or as the pipeline that it is part of."""
    folder = Path(folder)
    return folder.parent.name if folder.name in ("image_tokenizer", "transformer") else folder.name


def read_metrics(folder: Path) -> dict | None:
    """The content of `metrics.json` in a checkpoint folder, if there is one."""
    path = folder / METRICS_NAME
    return read_json(path) if path.is_file() else None


def _refuse_links(folder: Path):
    """
    Raises `ValueError` for a link to what is not part of the checkpoint: it would be published under its name. The
    code is never the folder's own, see [`copy_checkpoint`].
    """
    homes = [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":  # in the cache of the Hub client every file is a link to a blob
        homes.append(folder.resolve().parent.parent / "blobs")
    for path in folder.iterdir():
        if (
            path.is_symlink()
            and path.suffix != ".py"
            and not any(path.resolve().is_relative_to(home) for home in homes)
        ):
            raise ValueError(f"{path} is a link out of the checkpoint folder; put the file itself there to push it.")


@contextmanager
def _whole(folder: str | Path) -> Iterator[Path]:
    """
    A temporary folder to fill: a new folder appears at once, in one that is there each file is replaced, and weights
    in another number of files go, which would be loaded in place of the new ones.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"The output folder {folder} is a file; name a folder.")
    stale = {path for pattern in WEIGHT_FILES for path in folder.glob(pattern)}
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    remove_left_overs(folder.absolute().parent)
    with whole_folder(folder) as temporary:
        yield temporary
        stale -= {folder / path.name for path in temporary.iterdir()}
    for path in stale:
        path.unlink(missing_ok=True)


def _describe(folder: Path, metrics: dict | None, card: str | None):
    if metrics:
        write_json(folder / METRICS_NAME, metrics)
    if card is not None:
        (folder / CARD_NAME).write_text(card, encoding="utf-8")


def _replace_tensors(folder: Path, tensors: dict[str, torch.Tensor]):
    """Puts tensors in the place of those of the same names in the weights of a folder."""
    left = set(tensors)
    for path in weight_files(folder):
        if path.suffix != ".safetensors":
            continue
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            stored = {name: file.get_tensor(name) for name in file.keys()}
        for name in stored.keys() & left:
            stored[name] = tensors[name].to(stored[name].dtype).contiguous()
            left.remove(name)
        save_file(stored, path, metadata=metadata)
    if left:
        raise ValueError(f"The weights to copy lack {min(left)}, which is to be replaced.")


def _load_folder(folder: Path, name: str | Path, kinds: tuple[type[Model], ...]) -> tuple[Model, Processor]:
    model_class, config = _load_config(folder, name, kinds)
    model = _load_model(folder, model_class, config, name)
    return model, _load_processor(folder, config, name)


def _load_config(
    folder: Path, name: str | Path, kinds: tuple[type[Model], ...]
) -> tuple[type[Model], PreTrainedConfig]:
    if not (folder / "config.json").is_file():
        raise ValueError(f"{name} has no config.json, so it is no checkpoint.")
    content = read_json(folder / "config.json")
    found = [kind for kind in kinds if kind.config_class.model_type == content.get("model_type")]
    if not found:
        names = " or ".join(kind.__name__.removesuffix("Model") for kind in kinds)
        raise ValueError(f"{name} is no {names} checkpoint: its model_type is {content.get('model_type')!r}.")
    check_config(content, name)
    try:
        return found[0], found[0].config_class.from_pretrained(folder)
    # It may hold anything under the names that transformers reads, which then fails in any way.
    except Exception as error:
        reason = first_line(error.__cause__ or error)
        raise ValueError(f"The config.json of {name} is not valid: {reason}") from error


def _load_model(folder: Path, model_class: type[Model], config: PreTrainedConfig, name: str | Path) -> Model:
    if (folder / "adapter_config.json").exists():
        raise ValueError(f"{name} has an adapter_config.json, which could put other weights in place of its own.")
    check_weights(folder, model_class, config, name)
    try:
        model = model_class.from_pretrained(folder, config=config, use_safetensors=True)
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"The weights of {name} cannot be read: {first_line(error)}") from error
    for key, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(f"The weights of {name} cannot be used: {key} is not finite, the training has diverged.")
    return model


def _load_processor(folder: Path, config: PreTrainedConfig, name: str | Path) -> Processor:
    path, size = folder / "preprocessor_config.json", config.image_size
    if not path.is_file():
        raise ValueError(f"{name} has no preprocessor_config.json; save the image processor beside the model.")
    try:
        read_json(path)
        processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
        is_ours = isinstance(processor, Processor)
        made = (processor.crop_size["height"], processor.crop_size["width"]) if is_ours else None
        resized = [edge for edge in dict(processor.size).values() if edge is not None] if is_ours else []
    # As for config.json.
    except Exception as error:
        raise ValueError(f"The preprocessor_config.json of {name} cannot be used: {first_line(error)}") from error
    if not is_ours:
        raise ValueError(f"The image processor of {name} must be an AdaTokImageProcessor; got {type(processor)}.")
    if made != (size, size):
        raise ValueError(f"The image processor of {name} makes images of {made}, the model takes {size}.")
    if not resized or not all(isinstance(edge, int) and 0 < edge <= MAX_RESIZE * size for edge in resized):
        raise ValueError(
            f"The image processor of {name} must resize to between 1 and {MAX_RESIZE * size} pixels; got "
            f"{dict(processor.size)}."
        )
    try:
        pixel_values = processor(Image.new("RGB", (9, 8)), return_tensors="pt")["pixel_values"]
        is_fit = pixel_values.shape == (1, 3, size, size) and bool(pixel_values.isfinite().all())
    except Exception as error:
        raise ValueError(f"The preprocessor_config.json of {name} cannot be used: {first_line(error)}") from error
    if not is_fit:
        raise ValueError(
            f"The preprocessor_config.json of {name} cannot be used: it makes pixel values of shape "
            f"{tuple(pixel_values.shape)}, or some that are not finite."
        )
    return processor


__all__ = [
    "ANY_MODEL",
    "checkpoint_name",
    "codes_hash",
    "copy_checkpoint",
    "load_checkpoint",
    "model_hash",
    "push_checkpoint",
    "save_checkpoint",
]
