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


def default_pipeline() -> str:
    """
    Path of the pipeline that comes with the package: the embedded checkpoint and a generator of its codes.

    Returns:
        `str`: a folder for `DiffusionPipeline.from_pretrained` with `trust_remote_code=True`, and for
            [`~adatok_hf.generation.load_pipeline.load_pipeline`].

    Raises:
        `ValueError`: if this installation lacks it.

    Example:

    ```python
    >>> from adatok_hf import default_pipeline
    >>> from adatok_hf.generation.load_pipeline import load_pipeline

    >>> len(load_pipeline(default_pipeline()).class_names)
    159

    ```"""
    folder = Path(default_checkpoint()).parent
    if not (folder / "model_index.json").is_file():
        raise ValueError(f"The embedded pipeline is missing: {DEFAULT}; reinstall adatok-hf or name a pipeline.")
    return str(folder)


def default_generator() -> str:
    """
    Path of the generator in [`default_pipeline`].

    Returns:
        `str`: a folder for `AutoModelForCausalLM.from_pretrained`, which needs no code of this package.

    Raises:
        `ValueError`: if this installation lacks it.

    Example:

    ```python
    >>> from transformers import AutoModelForCausalLM

    >>> from adatok_hf import default_generator

    >>> AutoModelForCausalLM.from_pretrained(default_generator()).config.model_type
    'llama'

    ```"""
    return str(Path(default_pipeline()) / "transformer")


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
    "default_generator",
    "default_pipeline",
]
