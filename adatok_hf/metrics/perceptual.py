"""LPIPS with weights from their library, or from a local folder where there is no network."""

import os
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..extras import require


BACKBONE_FILES = {"alex": "alexnet_features_fp16.safetensors", "vgg": "vgg16_features_fp16.safetensors"}
MIN_SIZES = {"alex": 31, "vgg": 16}  # pixels: smaller images are pooled away
DOWNLOADED_FILES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}  # as torchvision names them


def find_weights(weights_dir: str | Path | None, file_name: str, downloaded_name: str) -> Path:
    """Where weights lie: in the folder given or named by `ADATOK_WEIGHTS_DIR`, else where torch puts downloads."""
    folder = weights_dir or os.environ.get("ADATOK_WEIGHTS_DIR")
    return Path(folder) / file_name if folder else Path(torch.hub.get_dir()) / "checkpoints" / downloaded_name


def has_lpips(net: str = "alex", weights_dir: str | Path | None = None) -> bool:
    """Whether [`load_lpips`] can do without a download and an installation."""
    path = find_weights(weights_dir, BACKBONE_FILES[net], DOWNLOADED_FILES[net])
    return path.is_file() and find_spec("lpips") is not None


def load_lpips(net: str = "alex", weights_dir: str | Path | None = None) -> torch.nn.Module:
    """
    Loads the LPIPS network of the `lpips` package, frozen and in evaluation mode.

    Args:
        net (`str`, *optional*, defaults to `"alex"`): Backbone, `"alex"` (the metric's default) or `"vgg"`.
        weights_dir (`str` or `Path`, *optional*):
            Folder with the backbone's `features.*` tensors as safetensors. Without it, the environment variable
            `ADATOK_WEIGHTS_DIR`, and without that torchvision's download.

    Returns:
        `torch.nn.Module`: maps two batches `(batch, 3, height, width)` in [-1, 1] to distances `(batch, 1, 1, 1)`. It
        raises a `ValueError` for images below 31 pixels (`"alex"`) or 16 (`"vgg"`).

    Raises:
        `ValueError`: if the backbone is unknown, or its weights are neither in the folder nor can be downloaded.

    Source: huggingface.co/papers/1801.03924
    """
    require("eval", "lpips")
    import lpips

    if net not in BACKBONE_FILES:
        raise ValueError(f"net must be one of {sorted(BACKBONE_FILES)}; got {net!r}.")
    weights_dir = weights_dir or os.environ.get("ADATOK_WEIGHTS_DIR")
    warnings.filterwarnings("ignore", module="torchvision.models")  # lpips calls it in a way that is deprecated
    if weights_dir is None:
        try:
            return _prepare(lpips.LPIPS(net=net, verbose=False), net)
        except OSError as error:
            raise ValueError(
                f"The {net} weights for LPIPS could not be downloaded ({error}); put {BACKBONE_FILES[net]} into a "
                "folder and name it by ADATOK_WEIGHTS_DIR or --weights-dir."
            ) from error
    path = Path(weights_dir) / BACKBONE_FILES[net]
    if not path.is_file():
        raise ValueError(f"No LPIPS weights at {path}; ADATOK_WEIGHTS_DIR or --weights-dir must name their folder.")
    network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    try:
        features = load_file(path)
        for (
            name,
            parameter,
        ) in network.net.named_parameters():  # "slice2.3.weight" is torchvision's "features.3.weight"
            parameter.data.copy_(features["features." + name.split(".", 1)[1]])
    except (KeyError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{path} does not hold the features of torchvision's {net} network: {error}.") from error
    return _prepare(network, net)


def _prepare(network: torch.nn.Module, net: str) -> torch.nn.Module:
    def check_size(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]):
        size = min(inputs[0].shape[-2:])
        if size < MIN_SIZES[net]:
            raise ValueError(f"LPIPS ({net}) needs images of at least {MIN_SIZES[net]} pixels; these have {size}.")

    network.register_forward_pre_hook(check_size)
    return network.requires_grad_(False).eval()
