"""AdaTok for the Hugging Face Hub."""

import importlib
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from .registration import register_when_imported


if TYPE_CHECKING:
    from .codec.codec import AdaTokCodec
    from .modeling import (
        AdaTokConfig,
        AdaTokDecoderOutput,
        AdaTokEncoderOutput,
        AdaTokImageProcessor,
        AdaTokImageProcessorPil,
        AdaTokModel,
        AdaTokOutput,
        AdaTokPixelDecoderConfig,
        AdaTokPreTrainedModel,
        TaTokConfig,
        TaTokDecoderOutput,
        TaTokEncoderOutput,
        TaTokModel,
        TaTokOutput,
        TaTokPreTrainedModel,
    )


def __getattr__(name: str):
    # torch, transformers and PEFT take seconds to import, which a command that needs none of them should not wait for.
    if name in __all__:
        home = ".codec.codec" if name == "AdaTokCodec" else ".modeling"
        return getattr(importlib.import_module(home, __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__version__ = version("adatok-hf")
DEFAULT = "adatok-64"


def default_checkpoint() -> str:
    """
    Path of the checkpoint that comes with the package, so that examples run without a network.

    Returns:
        `str`: a folder for `AutoModel.from_pretrained` and `AutoImageProcessor.from_pretrained`.

    Raises:
        `ValueError`: if this installation lacks it.

    Example:

    ```python
    >>> from adatok_hf import AdaTokModel, default_checkpoint

    >>> AdaTokModel.from_pretrained(default_checkpoint()).config.image_size
    64

    ```"""
    if DEFAULT not in checkpoints():
        raise ValueError(f"The embedded checkpoint is missing: {DEFAULT}; reinstall adatok-hf or name a checkpoint.")
    return checkpoints()[DEFAULT]


def checkpoints() -> dict[str, str]:
    """
    All checkpoints that come with the package, those too that are part of a pipeline.

    Returns:
        `dict[str, str]`: from their names to folders for `AutoModel.from_pretrained`.

    Example:

    ```python
    >>> from adatok_hf import checkpoints, default_checkpoint

    >>> checkpoints()["adatok-64"] == default_checkpoint()
    True

    ```"""
    folder = Path(__file__).parent / "checkpoints"
    configs = [*folder.glob("*/config.json"), *folder.glob("*/image_tokenizer/config.json")]
    return {path.relative_to(folder).parts[0]: str(path.parent) for path in sorted(configs)}


register_when_imported()

__all__ = [
    "AdaTokCodec",
    "AdaTokConfig",
    "AdaTokDecoderOutput",
    "AdaTokEncoderOutput",
    "AdaTokImageProcessor",
    "AdaTokImageProcessorPil",
    "AdaTokModel",
    "AdaTokOutput",
    "AdaTokPixelDecoderConfig",
    "AdaTokPreTrainedModel",
    "TaTokConfig",
    "TaTokDecoderOutput",
    "TaTokEncoderOutput",
    "TaTokModel",
    "TaTokOutput",
    "TaTokPreTrainedModel",
    "checkpoints",
    "default_checkpoint",
]
