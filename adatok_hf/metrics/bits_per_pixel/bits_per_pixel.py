"""The mean rate of images at their budgets."""

from collections import Counter

import datasets
import evaluate
import torch

from adatok_hf import AdaTokConfig
from adatok_hf.metrics.rate import bits_per_pixel
from adatok_hf.metrics.streaming import StreamingMetric


_DESCRIPTION = """\
The rate of an image is what its image codes and the index of its budget take without further compression, divided
by the pixels: (budget * log2(codebook_size) + log2(choices)) / image_size ** 2. The index counts among the candidate
budgets where the budget is one of them, else among all `num_latent_tokens`.
"""

_CITATION = """\
@article{shannon1948mathematical,
    title = {A Mathematical Theory of Communication},
    author = {Shannon, Claude E.},
    journal = {Bell System Technical Journal},
    year = {1948},
    doi = {10.1002/j.1538-7305.1948.tb01338.x}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (tensor of shape `(batch,)` or list of `int`): Budgets, in 1..num_latent_tokens.
    candidate_budgets (`list[int]`): To `compute`: `config.budgets`; the last one is `num_latent_tokens`.
    codebook_size (`int`): To `compute`: of the model's config.
    image_size (`int`): To `compute`: of the model's config, in pixels.

Returns:
    bits_per_pixel (`float`): Mean over the images.

Example:

    >>> import evaluate
    >>> from adatok_hf.metrics import metric_path

    >>> from adatok_hf import AdaTokConfig
    >>> config = AdaTokConfig()
    >>> rate = evaluate.load(metric_path("bits_per_pixel"))
    >>> rate.add_batch(predictions=[32, 32])
    >>> rate.compute(
    ...     candidate_budgets=config.budgets, codebook_size=config.codebook_size, image_size=config.image_size
    ... )
    {'bits_per_pixel': 0.0059051513671875}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class BitsPerPixel(StreamingMetric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Value("int64")}),
            reference_urls=["https://huggingface.co/papers/2606.07185"],
        )

    def _reset(self):
        self._counts: Counter[int] = Counter()

    def _update(self, predictions) -> int:
        budgets = torch.as_tensor(predictions)
        if budgets.ndim != 1 or not budgets.numel():
            raise ValueError(f"Give one budget for each image; got the shape {tuple(budgets.shape)}.")
        if budgets.is_floating_point() or budgets.min() < 1:
            raise ValueError(f"Budgets are whole numbers from 1 on; got {budgets.min().item()} ({budgets.dtype}).")
        self._counts.update(budgets.tolist())
        return len(budgets)

    def _compute(self, candidate_budgets: list[int], codebook_size: int, image_size: int) -> dict[str, float]:
        largest = max(candidate_budgets)
        if max(self._counts) > largest:
            raise ValueError(f"Budgets must be at most {largest}, the last candidate; got {max(self._counts)}.")
        config = AdaTokConfig(
            image_size=image_size,
            patch_size=image_size,
            num_latent_tokens=largest,
            budgets=sorted(set(candidate_budgets)),
            codebook_size=codebook_size,
        )
        total = sum(count * bits_per_pixel(budget, config) for budget, count in self._counts.items())
        return {self.name: total / self._count}
