"""Mean structural similarity of reconstructions, by torchmetrics."""

import evaluate
import torch

from adatok_hf.metrics.pairs import ssim
from adatok_hf.metrics.streaming import PairMetric, image_info


_DESCRIPTION = """\
Structural similarity compares the local means, contrasts and correlations of a reconstruction with those of its
original. It is computed for each image by torchmetrics with its defaults (Gaussian window of 11 pixels, sigma 1.5,
K1 0.01, K2 0.03, mean over the RGB channels), data_range 255, in float64, and averaged over the images.
"""

_CITATION = """\
@article{wang2004image,
    title = {Image quality assessment: from error visibility to structural similarity},
    author = {Wang, Zhou and Bovik, Alan C. and Sheikh, Hamid R. and Simoncelli, Eero P.},
    journal = {IEEE Transactions on Image Processing},
    year = {2004},
    doi = {10.1109/TIP.2003.819861}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions, references (array or tensor of shape `(batch, height, width, 3)`, or list of RGB pictures):
        Reconstructions and their originals: uint8 in 0..255, one size in a batch, at least 11 x 11 pixels.

Returns:
    ssim (`float`): Mean over the images, in [-1, 1]. Higher is better, 1 for equal images.

Example:

    >>> import evaluate
    >>> from adatok_hf.metrics import metric_path

    >>> import numpy as np
    >>> ssim = evaluate.load(metric_path("ssim"))
    >>> black = np.zeros((2, 16, 16, 3), dtype=np.uint8)
    >>> ssim.add_batch(predictions=black, references=black)
    >>> ssim.add_batch(predictions=black + 10, references=black)
    >>> {name: round(value, 3) for name, value in ssim.compute().items()}
    {'ssim': 0.531}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Ssim(PairMetric):
    def _info(self) -> evaluate.MetricInfo:
        return image_info(
            _DESCRIPTION,
            _CITATION,
            _KWARGS_DESCRIPTION,
            "https://lightning.ai/docs/torchmetrics/stable/image/structural_similarity.html",
        )

    def _measure(self, references: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
        return ssim(references, reconstructions)
