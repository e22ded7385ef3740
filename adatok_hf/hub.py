"""The Hugging Face Hub: what is downloaded and uploaded, with every failure said in one sentence."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, get_token, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# The client's HTTP library differs between its versions; the base of its network errors is always here.
from huggingface_hub.errors import HTTPError as NetworkError
from huggingface_hub.utils import validate_repo_id

from .model_card import CARD_NAME


CHECKPOINT_PATTERNS = ["*.json", "*.safetensors", CARD_NAME]
WEIGHT_PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json"]


def find_folder(
    checkpoint: str | Path,
    revision: str | None = None,
    token: str | None = None,
    patterns: list[str] = CHECKPOINT_PATTERNS,
) -> Path:
    """
    Folder of a checkpoint. If it is a repository id, the files that fit the patterns are downloaded; arguments and
    errors are those of [`~adatok_hf.checkpoint.load_checkpoint`].
    """
    folder = Path(os.path.expanduser(checkpoint))
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


def require_token(token: str | None = None) -> str:
    """The token given, or the one of `hf auth login` or `HF_TOKEN`; raises `ValueError` where there is none."""
    token = token or get_token()
    if token is None:
        raise ValueError("No Hub token was found: run `hf auth login`, set HF_TOKEN or pass one.")
    return token


def complete_repo_id(repo_id: str, token: str) -> str:
    """A repository id with its namespace, the token owner's if it has none; `ValueError` if it is malformed."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no repository id; it must read like namespace/name.") from error
    if "/" in repo_id:
        return repo_id
    with plain_hub_errors(repo_id):
        return f"{HfApi(token=token).whoami()['name']}/{repo_id}"


def push_folder(
    folder: str | Path,
    repo_id: str,
    token: str,
    *,
    private: bool = False,
    revision: str | None = None,
    commit_message: str = "Upload AdaTok",
) -> str:
    """
    Sends a folder with weights to the Hub in one commit.

    Args:
        folder (`str` or `Path`): All that it holds is sent; weights in the repository that it lacks are deleted.
        repo_id (`str`): Where to, as `namespace/name`. Created if need be.
        token (`str`): Hub token with write access.
        private (`bool`, *optional*, defaults to `False`): Whether a created repository is private.
        revision (`str`, *optional*): Branch to commit to, `main` when unset. Created if need be.
        commit_message (`str`, *optional*): First line of the commit.

    Returns:
        `str`: URL of the repository.

    Raises:
        `ValueError`: if the token has no right to write there, or the Hub cannot be reached or refuses a file.
    """
    api = HfApi(token=token)
    with plain_hub_errors(repo_id):
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
