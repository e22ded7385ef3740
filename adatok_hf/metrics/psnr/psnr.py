"""Mean peak signal-to-noise ratio of reconstructions."""

import evaluate
import torch

from adatok_hf.metrics.pairs import psnr
from adatok_hf.metrics.streaming import PairMetric, image_info


_DESCRIPTION = """\
The peak signal-to-noise ratio tells how far the pixels of a reconstruction are from those of its original, in
decibels. It is computed for each image, as torchmetrics does, and the ratios are averaged over the images.
"""

_CITATION = """\
@misc{torchmetrics,
    title = {TorchMetrics - Measuring Reproducibility in PyTorch},
    author = {Detlefsen, Nicki Skafte and Borovec, Jiri and Schock, Justus and others},
    year = {2022},
    doi = {10.21105/joss.04101}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions, references (array or tensor of shape `(batch, height, width, 3)`, or list of RGB pictures):
        Reconstructions and their originals: uint8 in 0..255, one size in a batch.

Returns:
    psnr (`float`): Mean over the images, in dB. Higher is better; `inf` as soon as one pair is equal.

Example:

    >>> import evaluate
    >>> from adatok_hf.metrics import metric_path

    >>> import numpy as np
    >>> psnr = evaluate.load(metric_path("psnr"))
    >>> black = np.zeros((2, 16, 16, 3), dtype=np.uint8)
    >>> psnr.add_batch(predictions=black + 1, references=black)
    >>> psnr.add_batch(predictions=black + 10, references=black)
    >>> {name: round(value, 2) for name, value in psnr.compute().items()}
    {'psnr': 38.13}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Psnr(PairMetric):
    def _info(self) -> evaluate.MetricInfo:
        return image_info(
            _DESCRIPTION,
            _CITATION,
            _KWARGS_DESCRIPTION,
            "https://lightning.ai/docs/torchmetrics/stable/image/peak_signal_noise_ratio.html",
        )

    def _measure(self, references: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
        return psnr(references, reconstructions)
