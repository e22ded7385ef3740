"""What the `evaluate` modules share: batches go into sums at once, no image waits in a file or in memory."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import datasets
import evaluate
import torch

from .images import to_images
from .inception import FeatureStatistics, load_inception


IMAGE_FEATURES = {"predictions": datasets.Image(), "references": datasets.Image()}
TORCH_FIDELITY_CITATION = """\
@misc{obukhov2020torchfidelity,
    title = {High-fidelity performance metrics for generative models in PyTorch},
    author = {Obukhov, Anton and Seitzer, Maximilian and Wu, Po-Wei and Zhydenko, Semen and others},
    year = {2020},
    doi = {10.5281/zenodo.4957738}
}
"""


def image_info(description: str, citation: str, inputs_description: str, url: str) -> evaluate.MetricInfo:
    """What `evaluate` shows of a metric of reconstructions and originals."""
    return evaluate.MetricInfo(
        description=description,
        citation=citation,
        inputs_description=inputs_description,
        features=datasets.Features(IMAGE_FEATURES),
        reference_urls=[url],
    )


class StreamingMetric(evaluate.Metric, ABC):
    """
    A metric that keeps sums instead of its inputs. `add` and `add_batch` take what [`_info`] names as features,
    `compute` gives the result of everything since the last result and starts anew.

    Args:
        num_process (`int`, *optional*, defaults to 1): One, because the sums live in this process.
        **kwargs: As for `evaluate.Metric`.

    Raises:
        `ValueError`: for several processes.
    """

    def __init__(self, config_name: str | None = None, num_process: int = 1, **kwargs):
        if num_process != 1:
            raise ValueError(
                f"This metric keeps its sums in one process, got num_process={num_process}; gather the inputs in one "
                "process, or use `adatok evaluate`."
            )
        super().__init__(config_name, **kwargs)
        self._count = 0
        self._reset()

    @abstractmethod
    def _info(self) -> evaluate.MetricInfo:
        """Description, citation, inputs."""

    @abstractmethod
    def _reset(self):
        """Starts anew."""

    @abstractmethod
    def _update(self, **inputs) -> int:
        """Takes a batch of every feature, `None` where it was not given, and returns how many examples it has."""

    @abstractmethod
    def _compute(self, **options) -> dict[str, float]:
        """The result from the sums."""

    def __len__(self) -> int:
        """How many examples the sums hold: pairs, images of both sets together, code sequences, or budgets."""
        return self._count

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Adds a batch to the sums; `ValueError` for inputs that the metric cannot take."""
        inputs = {"predictions": predictions, "references": references, **kwargs}
        inputs = {name: values for name, values in inputs.items() if values is not None}
        unknown = sorted(inputs.keys() - self.features.keys())
        if unknown or not inputs:
            raise ValueError(f"The inputs of {self.name} are {', '.join(self.features)}; got {unknown or 'none'}.")
        self._count += self._update(**{name: inputs.get(name) for name in self.features})

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Adds one example to the sums, see `add_batch`."""
        inputs = {"predictions": prediction, "references": reference, **kwargs}
        self.add_batch(**{name: [value] for name, value in inputs.items() if value is not None})

    def compute(self, *, predictions=None, references=None, **kwargs) -> dict[str, float]:
        """
        Gives the result of everything added since the last result, and of the inputs given here; starts anew.
        Keywords that are no inputs are options of the metric. `ValueError` if there is nothing to compute from, or too
        little: then everything stays added, also the inputs given here.
        """
        inputs = {"predictions": predictions, "references": references}
        inputs |= {name: kwargs.pop(name) for name in list(kwargs) if name in self.features}
        if any(values is not None for values in inputs.values()):
            self.add_batch(**inputs)
        if not self._count:
            raise ValueError(f"{self.name} has nothing to compute from; call `add_batch` first or give inputs.")
        result = self._compute(**kwargs)
        self._count = 0
        self._reset()
        return result


class PairMetric(StreamingMetric):
    """A mean over pairs of images; a subclass says what one pair has."""

    @abstractmethod
    def _measure(self, references: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
        """uint8 images `(batch, 3, height, width)` to one number per pair."""

    def _reset(self):
        self._total = 0.0

    def _update(self, predictions, references) -> int:
        if predictions is None or references is None:
            raise ValueError(f"{self.name} compares pairs; give both predictions and references.")
        values = self._measure(to_images(references), to_images(predictions))
        self._total += values.double().sum().item()
        return len(values)

    def _compute(self) -> dict[str, float]:
        return {self.name: self._total / self._count}


class FeatureMetric(StreamingMetric):
    """
    A distance of two sets of images in the features of a network. The sets need not be paired nor equally large, so a
    batch may hold only one of them.

    Args:
        weights_dir (`str` or `Path`, *optional*): As for [`load_inception`], which is called at the first batch.
        device (`str`, *optional*, defaults to `"cpu"`): Where the network runs.
        network (`Callable`, *optional*):
            Another network instead of Inception: uint8 images `(batch, 3, height, width)` to features `(batch,
            width)`. Its numbers are no FID and no KID in the sense of the literature.
        **kwargs: As for [`StreamingMetric`].
    """

    keep_features = False

    def __init__(
        self,
        config_name: str | None = None,
        weights_dir: str | None = None,
        device: str = "cpu",
        network: Callable[[torch.Tensor], torch.Tensor] | None = None,
        **kwargs,
    ):
        super().__init__(config_name, **kwargs)
        self._weights_dir, self._device, self._network = weights_dir, device, network

    def _reset(self):
        self._statistics: dict[str, FeatureStatistics] = {}

    def _update(self, **inputs) -> int:
        if self._network is None:
            self._network = load_inception(self._weights_dir).to(self._device)
        # All inputs are looked at before one of them is added.
        images = {name: to_images(values) for name, values in inputs.items() if values is not None}
        features = {name: self._network(batch.to(self._device)) for name, batch in images.items()}
        for name, batch in features.items():
            self._side(name, batch.shape[1]).update(batch)
        return sum(map(len, features.values()))

    def _side(self, name: str, feature_size: int) -> FeatureStatistics:
        if name not in self._statistics:
            self._statistics[name] = FeatureStatistics(keep_features=self.keep_features, feature_size=feature_size)
        return self._statistics[name]

    def _sides(self) -> tuple[FeatureStatistics, FeatureStatistics]:
        missing = [name for name in ("predictions", "references") if name not in self._statistics]
        if missing:
            raise ValueError(f"{self.name} compares two sets of images, but there are no {missing[0]}; add them.")
        return self._statistics["predictions"], self._statistics["references"]


__all__ = ["IMAGE_FEATURES", "FeatureMetric", "PairMetric", "StreamingMetric"]
