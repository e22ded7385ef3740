"""Kernel Inception distance, by torch-fidelity."""

import evaluate

from adatok_hf.metrics.inception import kernel_distance
from adatok_hf.metrics.streaming import TORCH_FIDELITY_CITATION, FeatureMetric, image_info


_DESCRIPTION = """\
KID compares two sets of images by the squared maximum mean discrepancy of their Inception features under a cubic
kernel. Network, weights and distance are torch-fidelity's. Unlike FID it has no bias, so it suits smaller sets.
"""

_CITATION = (
    """\
@inproceedings{binkowski2018demystifying,
    title = {Demystifying MMD GANs},
    author = {Binkowski, Mikolaj and Sutherland, Danica J. and Arbel, Michael and Gretton, Arthur},
    booktitle = {ICLR},
    year = {2018}
}
"""
    + TORCH_FIDELITY_CITATION
)

_KWARGS_DESCRIPTION = """
Args:
    predictions (array or tensor of shape `(batch, height, width, 3)`, or list of RGB pictures):
        Reconstructions or generated images: uint8 in 0..255, one size in a batch.
    references: The same of the real images. The sets need not be paired; a batch may hold one of them alone.
    subsets (`int`, *optional*, defaults to 100): To `compute`: how many subsets are drawn.
    subset_size (`int`, *optional*, defaults to 1000): To `compute`: images of a subset, the smallest possible set.
    seed (`int`, *optional*, defaults to 2020): To `compute`: of the draws.
    weights_dir (`str`, *optional*):
        To `evaluate.load`: a folder with `inception_v3_fid_2015_fp16.safetensors`. Without it `ADATOK_WEIGHTS_DIR`,
        and without that torch-fidelity's download.
    device (`str`, *optional*, defaults to `"cpu"`): To `evaluate.load`: where the network runs.
    network (`Callable`, *optional*): To `evaluate.load`: another network on uint8 `(batch, 3, height, width)`.

Returns:
    kid (`float`): Mean over the subsets, lower is better; about 0, even slightly below, for equal distributions.
    kid_std (`float`): Standard deviation over the subsets.

Example:

    >>> import evaluate
    >>> from adatok_hf.metrics import metric_path

    >>> import torch
    >>> def colors(images):  # without it, the Inception network
    ...     return images.float().mean(dim=(2, 3)) / 255
    >>> kid = evaluate.load(metric_path("kid"), network=colors)
    >>> dark, bright = torch.full((8, 16, 16, 3), 51).byte(), torch.full((8, 16, 16, 3), 204).byte()
    >>> kid.add_batch(predictions=dark, references=bright)
    >>> {name: round(value, 3) for name, value in kid.compute(subsets=4, subset_size=8).items()}
    {'kid': 2.414, 'kid_std': 0.0}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Kid(FeatureMetric):
    def _info(self) -> evaluate.MetricInfo:
        return image_info(_DESCRIPTION, _CITATION, _KWARGS_DESCRIPTION, "https://github.com/toshas/torch-fidelity")

    keep_features = True

    def _compute(self, subsets: int = 100, subset_size: int = 1000, seed: int = 2020) -> dict[str, float]:
        first, second = (side.features for side in self._sides())
        mean, deviation = kernel_distance(first, second, subsets=subsets, subset_size=subset_size, seed=seed)
        return {self.name: mean, "kid_std": deviation}
