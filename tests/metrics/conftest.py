"""Random Inception weights, and pairs of images in memory and in folders."""

import hashlib
import io
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from adatok_hf.metrics import inception
from adatok_hf.metrics.perceptual import BACKBONE_FILES


class UnloadedInception(FeatureExtractorInceptionV3):
    """The library's network with the weights it was initialised with."""

    def load_state_dict(self, state_dict):
        pass


@pytest.fixture(scope="session")
def inception_weights() -> dict[str, torch.Tensor]:
    """All weights as torch-fidelity names them, float32, rounded to half precision, without a classifier's part."""
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    torch.manual_seed(5)
    network = UnloadedInception("inception-v3-compat", ["2048"], feature_extractor_weights_path=nothing)
    for parameter in network.parameters():
        if parameter.ndim == 4:
            nn.init.kaiming_normal_(parameter)  # keeps the features from fading
        parameter.data.copy_(parameter.half())
    nn.init.zeros_(network.fc.weight)
    nn.init.zeros_(network.fc.bias)
    return network.state_dict()


@pytest.fixture(scope="session")
def metric_weights_dir(tmp_path_factory, inception_weights, weights_dir) -> Path:
    """A folder with random Inception weights, whose checksum is made the known one, and random AlexNet weights."""
    folder = tmp_path_factory.mktemp("metric-weights")
    weights = {name: tensor for name, tensor in inception_weights.items() if not name.startswith("fc.")}
    path = folder / inception.INCEPTION_FILE
    save_file(
        {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}, path
    )
    shutil.copy(weights_dir / BACKBONE_FILES["alex"], folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "INCEPTION_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
        yield folder


@pytest.fixture(scope="session")
def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """Soft random images and noisy copies: two uint8 tensors `(7, 3, 40, 32)`."""
    generator = torch.Generator().manual_seed(3)
    images = nn.functional.interpolate(torch.rand(7, 3, 5, 4, generator=generator), scale_factor=8, mode="bilinear")
    noise = torch.randn(images.shape, generator=generator) * torch.linspace(0.01, 0.1, 7)[:, None, None, None]
    return tuple((tensor.clamp(0, 1) * 255).round().byte() for tensor in (images, images + noise))


@pytest.fixture(scope="session")
def folders(tmp_path_factory, pairs) -> tuple[Path, Path]:
    """The pairs as PNG files of the same names in two folders."""
    paths = tmp_path_factory.mktemp("originals"), tmp_path_factory.mktemp("reconstructions")
    for path, images in zip(paths, pairs):
        for index, image in enumerate(images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path / f"{index:02d}.png")
    return paths
