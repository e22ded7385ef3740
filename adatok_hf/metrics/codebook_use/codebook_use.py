"""How much of a codebook the image codes of a set use."""

import math
from collections import Counter

import datasets
import evaluate
import torch

from adatok_hf.metrics.streaming import StreamingMetric


_DESCRIPTION = """\
Codebook use is the share of a codebook that occurs in the image codes of a set at all. The perplexity of the codes
tells how evenly: it is the number of codes that, used equally often, would have the same entropy.
"""

_CITATION = """\
@inproceedings{oord2017neural,
    title = {Neural Discrete Representation Learning},
    author = {van den Oord, Aaron and Vinyals, Oriol and Kavukcuoglu, Koray},
    booktitle = {NeurIPS},
    year = {2017}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (tensor of shape `(batch, num_latent_tokens)`, or list of lists of any size):
        Image codes, integers in 0..codebook_size. The pad code, `codebook_size`, does not count, so that the codes
        of `model.encode` can be given as they are.
    codebook_size (`int`): To `compute`: how many codes there are.

Returns:
    codebook_use (`float`): In [0, 1].
    perplexity (`float`): In 1..codebook_size.

Example:

    >>> import evaluate
    >>> from adatok_hf.metrics import metric_path

    >>> codebook_use = evaluate.load(metric_path("codebook_use"))
    >>> codebook_use.add_batch(predictions=[[0, 1, 2, 3], [2, 3]])
    >>> codebook_use.add_batch(predictions=[[0, 1, 8, 8]])  # two codes and two pad codes
    >>> {name: round(value, 3) for name, value in codebook_use.compute(codebook_size=8).items()}
    {'codebook_use': 0.5, 'perplexity': 4.0}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class CodebookUse(StreamingMetric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Sequence(datasets.Value("int64"))}),
            reference_urls=["https://huggingface.co/papers/1711.00937"],
        )

    def _reset(self):
        self._counts: Counter[int] = Counter()

    def _update(self, predictions) -> int:
        rows = [torch.as_tensor(codes) for codes in predictions]
        codes = torch.cat([row.flatten() for row in rows]) if rows else torch.zeros(0)
        if not codes.numel():
            raise ValueError("There are no image codes in the batch; give at least one.")
        if codes.is_floating_point() or codes.min() < 0:
            raise ValueError(f"Image codes are whole numbers from 0 on; got {codes.min().item()} ({codes.dtype}).")
        values, counts = codes.unique(return_counts=True)
        self._counts.update(dict(zip(values.tolist(), counts.tolist())))
        return len(rows)

    def _compute(self, codebook_size: int) -> dict[str, float]:
        if max(self._counts) > codebook_size:
            raise ValueError(
                f"Image codes must be at most {codebook_size}, the pad code of this codebook_size; got "
                f"{max(self._counts)}."
            )
        counts = [count for code, count in self._counts.items() if code != codebook_size]
        if not counts:
            raise ValueError("All image codes are pad codes; give codes within a budget.")
        total = sum(counts)
        entropy = -sum(count / total * math.log(count / total) for count in counts)
        return {self.name: len(counts) / codebook_size, "perplexity": math.exp(entropy)}
