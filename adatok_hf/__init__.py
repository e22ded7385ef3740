"""AdaTok for the Hugging Face Hub."""

from importlib.metadata import version
from pathlib import Path

from transformers import AutoConfig, AutoImageProcessor, AutoModel

from .modeling import AdaTokConfig, AdaTokImageProcessor, AdaTokImageProcessorPil, AdaTokModel, AdaTokPreTrainedModel


__version__ = version("adatok-hf")


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
    path = Path(__file__).parent / "checkpoints" / "adatok-tiny-64"
    if not (path / "config.json").is_file():
        raise ValueError(f"The embedded checkpoint is missing from {path}; reinstall adatok-hf or name a checkpoint.")
    return str(path)


# With the package imported, the Auto classes load AdaTok without trust_remote_code ...
AutoConfig.register(AdaTokConfig.model_type, AdaTokConfig, exist_ok=True)
AutoModel.register(AdaTokConfig, AdaTokModel, exist_ok=True)
AutoImageProcessor.register(
    AdaTokConfig,
    image_processor_classes={"torchvision": AdaTokImageProcessor, "pil": AdaTokImageProcessorPil},
    exist_ok=True,
)
# ... and `save_pretrained` copies the code along, for those who load it without the package.
AdaTokConfig.register_for_auto_class("AutoConfig")
AdaTokModel.register_for_auto_class("AutoModel")
AdaTokImageProcessor.register_for_auto_class("AutoImageProcessor")
AdaTokImageProcessorPil.register_for_auto_class("AutoImageProcessor")

__all__ = [
    "AdaTokConfig",
    "AdaTokImageProcessor",
    "AdaTokImageProcessorPil",
    "AdaTokModel",
    "AdaTokPreTrainedModel",
    "default_checkpoint",
]
