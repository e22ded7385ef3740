"""Mean learned perceptual distance of reconstructions, by the `lpips` package."""

from collections.abc import Callable

import evaluate
import torch

from adatok_hf.metrics.pairs import perceptual_distance
from adatok_hf.metrics.perceptual import load_lpips
from adatok_hf.metrics.streaming import PairMetric, image_info


_DESCRIPTION = """\
LPIPS compares a reconstruction with its original in the features of a network that sees images more like people do
than pixels are. It is computed for each image by the `lpips` package and averaged over the images.
"""

_CITATION = """\
@inproceedings{zhang2018unreasonable,
    title = {The Unreasonable Effectiveness of Deep Features as a Perceptual Metric},
    author = {Zhang, Richard and Isola, Phillip and Efros, Alexei A. and Shechtman, Eli and Wang, Oliver},
    booktitle = {CVPR},
    year = {2018}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions, references (array or tensor of shape `(batch, height, width, 3)`, or list of RGB pictures):
        Reconstructions and their originals: uint8 in 0..255, one size in a batch, at least 31 x 31 pixels.
    net (`str`, *optional*, defaults to `"alex"`): To `evaluate.load`: the backbone, `"alex"` or `"vgg"`.
    weights_dir (`str`, *optional*):
        To `evaluate.load`: a folder with the backbone's weights. Without it `ADATOK_WEIGHTS_DIR`, and without that
        torchvision's download.
    device (`str`, *optional*, defaults to `"cpu"`): To `evaluate.load`: where the network runs.
    network (`Callable`, *optional*): To `evaluate.load`: another network on two batches in [-1, 1].

Returns:
    lpips (`float`): Mean over the images. Lower is better, 0 for equal images.

Example:

    >>> import evaluate
    >>> from adatok_hf.metrics import metric_path

    >>> import numpy as np
    >>> def distance(first, second):  # without it, the AlexNet of the `lpips` package
    ...     return (first - second).abs().mean(dim=(1, 2, 3))
    >>> lpips = evaluate.load(metric_path("lpips"), network=distance)
    >>> black = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    >>> lpips.add_batch(predictions=black + 51, references=black)
    >>> {name: round(value, 3) for name, value in lpips.compute().items()}
    {'lpips': 0.4}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Lpips(PairMetric):
    def _info(self) -> evaluate.MetricInfo:
        return image_info(
            _DESCRIPTION, _CITATION, _KWARGS_DESCRIPTION, "https://github.com/richzhang/PerceptualSimilarity"
        )

    def __init__(
        self,
        config_name: str | None = None,
        net: str = "alex",
        weights_dir: str | None = None,
        device: str = "cpu",
        network: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        **kwargs,
    ):
        super().__init__(config_name, **kwargs)
        self._net, self._weights_dir, self._device, self._network = net, weights_dir, device, network

    def _measure(self, references: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
        if self._network is None:
            self._network = load_lpips(self._net, self._weights_dir).to(self._device)
        return perceptual_distance(self._network, references.to(self._device), reconstructions.to(self._device))
