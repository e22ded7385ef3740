"""Checkpoints from a folder or the Hub, and to the Hub, with every failure said in one sentence."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from huggingface_hub import HfApi, ModelCard, get_token, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassError,
)

# The client's HTTP library differs between its versions; the base of its network errors is always here.
from huggingface_hub.errors import HTTPError as NetworkError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from transformers import AutoImageProcessor
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import logging

from . import AdaTokConfig, AdaTokImageProcessor, AdaTokImageProcessorPil, AdaTokModel
from .model_card import model_card


METRICS_NAME = "metrics.json"
CARD_NAME = "README.md"
CHECKPOINT_PATTERNS = ["*.json", "*.safetensors", CARD_NAME]
WEIGHT_PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json"]


def load_checkpoint(
    checkpoint: str | Path, *, revision: str | None = None, token: str | None = None
) -> tuple[AdaTokModel, AdaTokImageProcessor | AdaTokImageProcessorPil]:
    """
    Loads a complete checkpoint, or says what is wrong with it. Only the code of this package runs, never the
    checkpoint's own.

    Args:
        checkpoint (`str` or `Path`): Folder, or repository id on the Hub.
        revision (`str`, *optional*): Branch, tag or commit, for a repository id.
        token (`str`, *optional*): Hub token; the one of `hf auth login` or `HF_TOKEN` when unset.

    Returns:
        `tuple`: the model, in evaluation mode, and its image processor.

    Raises:
        `ValueError`: if the checkpoint cannot be found or reached, is none of AdaTok, is damaged, lacks tensors or has
            wrong or superfluous ones, or if its processor does not fit the model.

    Example:

    ```python
    >>> from adatok_hf import default_checkpoint
    >>> from adatok_hf.hub import load_checkpoint

    >>> model, processor = load_checkpoint(default_checkpoint())
    >>> processor.crop_size["height"] == model.config.image_size
    True

    ```"""
    return _load_folder(find_folder(checkpoint, revision, token), checkpoint)


def push(
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
    Sends a checkpoint to the Hub in one commit: weights, configurations, the code to load them and a model card.
    Nothing is sent unless the checkpoint loads without a missing or superfluous tensor.

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
    token = token or get_token()
    if token is None:
        raise ValueError("No Hub token was found: run `hf auth login`, set HF_TOKEN or pass one.")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no repository id; it must read like namespace/name.") from error
    source = find_folder(checkpoint, None, token)
    model, processor = _load_folder(source, checkpoint)
    metrics = metrics or read_metrics(source)
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder, plain_hub_errors(repo_id):
        if "/" not in repo_id:
            repo_id = f"{api.whoami()['name']}/{repo_id}"
        folder = Path(folder)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        if metrics:
            (folder / METRICS_NAME).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        if (source / CARD_NAME).is_file() and not renew_card:
            card = (source / CARD_NAME).read_text(encoding="utf-8")
            # A card written where the model was trained names its folder; the snippet must load from the repository.
            card = re.sub(r'from_pretrained\("[^"/]+"', f'from_pretrained("{repo_id}"', card)
        else:
            card = model_card(model.config, repo_id, metrics)
        (folder / CARD_NAME).write_text(card, encoding="utf-8")
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=commit_message,
            # Weights of an earlier push in another number of files would be loaded in place of these.
            delete_patterns=WEIGHT_PATTERNS,
        )
    return str(url)


def copy_checkpoint(
    source: str | Path,
    folder: str | Path,
    model: AdaTokModel,
    processor: AdaTokImageProcessor | AdaTokImageProcessorPil,
    config: AdaTokConfig,
):
    """
    Copies a checkpoint with another configuration. Weights, card and metrics are the same byte for byte; the code
    beside them is that of this package, since what an older checkpoint brings along may not know the configuration.

    Args:
        source (`str` or `Path`): Folder of the checkpoint.
        folder (`str` or `Path`): Where to.
        model ([`AdaTokModel`]): The checkpoint's model; it stays as it is.
        processor ([`AdaTokImageProcessor`]): The checkpoint's image processor.
        config ([`AdaTokConfig`]): For the copy.
    """
    files = {path for pattern in CHECKPOINT_PATTERNS for path in Path(source).glob(pattern) if path.is_file()}
    for path in sorted(files):
        shutil.copyfile(path, Path(folder) / path.name)
    custom_object_save(model, folder, config=config)  # as `save_pretrained` does it, but without the weights
    config.save_pretrained(folder)
    processor.save_pretrained(folder)


def read_metrics(folder: Path) -> dict | None:
    """The content of `metrics.json` in a checkpoint folder, if there is one."""
    path = folder / METRICS_NAME
    return read_json(path) if path.is_file() else None


@contextmanager
def plain_hub_errors(name: str | Path) -> Iterator[None]:
    """Turns what the Hub client raises about a repository into one `ValueError` of one sentence."""
    try:
        yield
    except GatedRepoError as error:
        raise ValueError(f"Access to {name} on the Hub must be granted first: ask for it on its page.") from error
    except RepositoryNotFoundError as error:
        raise ValueError(f"The Hub has no model {name}, or it is private and needs the right token.") from error
    except RevisionNotFoundError as error:
        raise ValueError(f"The model {name} on the Hub has no such revision.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        reasons = {401: "the token is not valid", 403: "the token gives no right to do this there"}
        reason = reasons.get(status, error.server_message or f"it answered with status {status}")
        raise ValueError(f"The Hub refused {name}: {reason.splitlines()[0].rstrip('.')}.") from error
    except OfflineModeIsEnabled as error:
        raise ValueError(f"The Hub cannot be asked for {name} while HF_HUB_OFFLINE is set.") from error
    except LocalEntryNotFoundError as error:
        raise ValueError(f"The Hub could not be reached for {name}, and the local cache lacks it.") from error
    except NetworkError as error:
        raise ValueError(f"The Hub could not be reached for {name}; check the network.") from error
    except ValueError as error:  # the client's own checks, for example of a card's front matter
        raise ValueError(" ".join(str(error).split())) from error


def find_folder(
    checkpoint: str | Path,
    revision: str | None = None,
    token: str | None = None,
    patterns: list[str] = CHECKPOINT_PATTERNS,
) -> Path:
    """
    Folder of a checkpoint. If it is a repository id, the files that fit the patterns are downloaded; arguments and
    errors are those of [`load_checkpoint`].
    """
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ValueError(f"{checkpoint} is a file; name the checkpoint folder that holds config.json and the weights.")
    try:
        validate_repo_id(str(checkpoint))
    except HFValidationError as error:
        raise ValueError(f"There is no folder {checkpoint}, and this is no Hub repository id either.") from error
    with plain_hub_errors(checkpoint):
        return Path(snapshot_download(str(checkpoint), revision=revision, token=token, allow_patterns=patterns))


def _load_folder(folder: Path, name: str | Path) -> tuple[AdaTokModel, AdaTokImageProcessor | AdaTokImageProcessorPil]:
    config = _load_config(folder, name)
    model = _load_model(folder, config, name)
    if not (folder / "preprocessor_config.json").is_file():
        raise ValueError(f"{name} has no preprocessor_config.json; save the image processor beside the model.")
    try:
        processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"The preprocessor_config.json of {name} cannot be used: {first_line(error)}") from error
    if not isinstance(processor, AdaTokImageProcessor | AdaTokImageProcessorPil):
        raise ValueError(f"The image processor of {name} must be an AdaTokImageProcessor; got {type(processor)}.")
    made = (processor.crop_size["height"], processor.crop_size["width"])
    if made != (config.image_size, config.image_size):
        raise ValueError(f"The image processor of {name} makes images of {made}, the model takes {config.image_size}.")
    return model, processor


def _load_config(folder: Path, name: str | Path) -> AdaTokConfig:
    if not (folder / "config.json").is_file():
        raise ValueError(f"{name} has no config.json, so it is no checkpoint.")
    content = read_json(folder / "config.json")
    if content.get("model_type") != AdaTokConfig.model_type:
        raise ValueError(f"{name} is no AdaTok checkpoint: its model_type is {content.get('model_type')!r}.")
    try:
        return AdaTokConfig.from_pretrained(folder)
    except (StrictDataclassError, ValueError, TypeError) as error:
        reason = first_line(error.__cause__ or error)
        raise ValueError(f"The config.json of {name} is not valid: {reason}") from error


def _load_model(folder: Path, config: AdaTokConfig, name: str | Path) -> AdaTokModel:
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # the table that transformers prints says at length what is raised below
    try:
        model, info = AdaTokModel.from_pretrained(
            folder, config=config, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"The weights of {name} cannot be read: {first_line(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
    if info["mismatched_keys"]:
        tensor, found, expected = min(info["mismatched_keys"])
        raise ValueError(
            f"The weights of {name} do not fit its config.json: {tensor} has shape {tuple(found)} in place of "
            f"{tuple(expected)}."
        )
    for kind, problem in (("missing_keys", "lack"), ("unexpected_keys", "have the superfluous")):
        if info[kind]:
            raise ValueError(
                f"The weights of {name} do not fit its config.json: they {problem} {min(info[kind])}, the first of "
                f"{len(info[kind])}."
            )
    return model


def read_license(folder: Path) -> str | None:
    """The licence that the card in a folder names, if it has a card and that names one."""
    path = folder / CARD_NAME
    try:
        return ModelCard.load(path).data.license if path.is_file() else None
    except (ValueError, yaml.YAMLError):  # front matter that is none
        return None


def read_json(path: Path) -> dict:
    """The content of a JSON file; raises `ValueError` unless that is an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} holds no valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object; got {type(content).__name__}.")
    return content


def first_line(error: BaseException) -> str:
    """What an error says first, as one sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".") + "."
