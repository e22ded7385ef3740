"""Fréchet Inception distance, by torch-fidelity."""

import evaluate

from adatok_hf.metrics.inception import MIN_IMAGES, frechet_distance
from adatok_hf.metrics.streaming import TORCH_FIDELITY_CITATION, FeatureMetric, image_info


_DESCRIPTION = """\
FID compares two sets of images by the means and covariances of their Inception features. Of reconstructions and their
originals it is called rFID, of generated and real images gFID. Network, weights and distance are torch-fidelity's
(`inception-v3-compat`, 2048 features); only sums in float64 are kept, so a set may be of any size.
"""

_CITATION = (
    """\
@inproceedings{heusel2017gans,
    title = {GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium},
    author = {Heusel, Martin and Ramsauer, Hubert and Unterthiner, Thomas and Nessler, Bernhard and Hochreiter, Sepp},
    booktitle = {NeurIPS},
    year = {2017}
}
"""
    + TORCH_FIDELITY_CITATION
)

_KWARGS_DESCRIPTION = """
Args:
    predictions (array or tensor of shape `(batch, height, width, 3)`, or list of RGB pictures):
        Reconstructions or generated images: uint8 in 0..255, one size in a batch.
    references: The same of the real images. The sets need not be paired; a batch may hold one of them alone.
    min_images (`int`, *optional*, defaults to 2048): To `compute`: refuse smaller sets.
    weights_dir (`str`, *optional*):
        To `evaluate.load`: a folder with `inception_v3_fid_2015_fp16.safetensors`. Without it `ADATOK_WEIGHTS_DIR`,
        and without that torch-fidelity's download.
    device (`str`, *optional*, defaults to `"cpu"`): To `evaluate.load`: where the network runs.
    network (`Callable`, *optional*): To `evaluate.load`: another network on uint8 `(batch, 3, height, width)`.

Returns:
    fid (`float`): Lower is better, 0 for equal sets.

Example:

    >>> import evaluate
    >>> from adatok_hf.metrics import metric_path

    >>> import torch
    >>> def colors(images):  # without it, the Inception network
    ...     return images.float().mean(dim=(2, 3))
    >>> fid = evaluate.load(metric_path("fid"), network=colors)
    >>> images = torch.randint(200, (64, 16, 16, 3), dtype=torch.uint8)
    >>> fid.add_batch(predictions=images + 3, references=images)
    >>> {name: round(value, 3) for name, value in fid.compute(min_images=64).items()}
    {'fid': 27.0}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Fid(FeatureMetric):
    def _info(self) -> evaluate.MetricInfo:
        return image_info(_DESCRIPTION, _CITATION, _KWARGS_DESCRIPTION, "https://github.com/toshas/torch-fidelity")

    def _compute(self, min_images: int = MIN_IMAGES) -> dict[str, float]:
        return {self.name: frechet_distance(*self._sides(), min_images=min_images)}
