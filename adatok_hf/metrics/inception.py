"""FID and KID: the Inception network of torch-fidelity, streamed statistics of its features, and their distances."""

import hashlib
import io
import os
import pickle
from pathlib import Path

import torch
from safetensors.torch import load_file

from ..extras import require
from .images import check_images


INCEPTION_FILE = "inception_v3_fid_2015_fp16.safetensors"
INCEPTION_SHA256 = "75132c814b021b999971267c9f793e36f95b51fbc584e12eb72a09dd7b74e43a"
FEATURE_SIZE = 2048
MIN_IMAGES = 2048  # fewer than there are features, and the covariance cannot have full rank


class Inception(torch.nn.Module):
    """
    The pool3 features of torch-fidelity's `inception-v3-compat`, which resizes images to 299 x 299 as TensorFlow 1 did
    it.

    Args:
        extractor (`torch_fidelity.FeatureExtractorInceptionV3`): Made for the features `"2048"` alone.
    """

    def __init__(self, extractor: torch.nn.Module):
        super().__init__()
        # Channels last, convolutions on a CPU take three fifths of the time.
        self.extractor = extractor.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 images `(batch, 3, height, width)` in 0..255 to features `(batch, 2048)`, float32."""
        return self.extractor(check_images(images))[0]


def load_inception(weights_dir: str | Path | None = None) -> Inception:
    """
    Loads the Inception network of 2015-12-05 by which FID is defined, as torch-fidelity has it, frozen and in
    evaluation mode.

    Args:
        weights_dir (`str` or `Path`, *optional*):
            Folder with `inception_v3_fid_2015_fp16.safetensors`, the weights in half precision up to the pool3
            features. Without it, the environment variable `ADATOK_WEIGHTS_DIR`, and without that torch-fidelity's
            download in single precision.

    Returns:
        [`Inception`]: maps uint8 images `(batch, 3, height, width)` in 0..255, of any size, to float32 features
        `(batch, 2048)`.

    Raises:
        `ValueError`: if the weights are not in the folder, are not the known ones, or cannot be downloaded.

    Source: huggingface.co/papers/1706.08500
    """
    weights_dir = weights_dir or os.environ.get("ADATOK_WEIGHTS_DIR")
    if weights_dir is not None:
        return Inception(_extractor(_checked_weights(Path(weights_dir) / INCEPTION_FILE))).eval()
    try:
        return Inception(_extractor(None)).eval()
    except OSError as error:
        raise ValueError(
            f"The Inception weights for FID could not be downloaded ({error}); put {INCEPTION_FILE} into a folder and "
            "name it by ADATOK_WEIGHTS_DIR or --weights-dir."
        ) from error
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"The downloaded Inception weights are damaged ({reason}); delete weights-inception-2015-12-05-*.pth from "
            f"{torch.hub.get_dir()}/checkpoints and try again."
        ) from error


def _extractor(weights) -> torch.nn.Module:
    require("eval", "torch_fidelity")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    return FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=weights)


def _checked_weights(path: Path) -> io.BytesIO:
    """The weights of a folder in the form that torch-fidelity reads: single precision, by `torch.load`."""
    if not path.is_file():
        raise ValueError(
            f"No Inception weights at {path}; ADATOK_WEIGHTS_DIR or --weights-dir must name their folder."
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != INCEPTION_SHA256:
        raise ValueError(
            f"{path} is damaged or another file: its sha256 is {digest}, not {INCEPTION_SHA256}; copy it again."
        )
    weights = {
        name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in load_file(path).items()
    }
    # The classifier comes after the features; torch-fidelity asks for it all the same.
    weights |= {"fc.weight": torch.zeros(1008, FEATURE_SIZE), "fc.bias": torch.zeros(1008)}
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    buffer.seek(0)
    return buffer


class FeatureStatistics:
    """
    Mean and covariance of features that arrive in batches, from sums in float64 on the CPU.

    Args:
        keep_features (`bool`, *optional*, defaults to `False`):
            Whether to keep the features themselves, which KID needs: 8 kB an image.
        feature_size (`int`, *optional*, defaults to 2048): Width of the features.

    Attributes:
        n (`int`): How many images there were.
        total (`torch.DoubleTensor` of shape `(feature_size,)`): Sum of the features.
        products (`torch.DoubleTensor` of shape `(feature_size, feature_size)`): Sum of their outer products.

    Example:

    ```python
    >>> import torch
    >>> from adatok_hf.metrics.inception import FeatureStatistics

    >>> statistics = FeatureStatistics(feature_size=2)
    >>> statistics.update(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
    >>> statistics.update(torch.tensor([[4.0, 0.0]]))
    >>> statistics.n, statistics.mean.tolist(), statistics.covariance.tolist()
    (3, [2.0, 2.0], [[4.0, -1.0], [-1.0, 7.0]])

    ```"""

    def __init__(self, *, keep_features: bool = False, feature_size: int = FEATURE_SIZE):
        self.n = 0
        self.total = torch.zeros(feature_size, dtype=torch.float64)
        self.products = torch.zeros(feature_size, feature_size, dtype=torch.float64)
        self.keep_features = keep_features
        self._features: list[torch.Tensor] = []

    def update(self, features: torch.Tensor):
        """
        Adds a batch.

        Args:
            features (`torch.Tensor` of shape `(batch, feature_size)`): On any device.

        Raises:
            `ValueError`: if the shape is another one or a feature is NaN or infinite.
        """
        if features.ndim != 2 or features.shape[1] != len(self.total):
            raise ValueError(f"Features must have the shape (batch, {len(self.total)}); got {tuple(features.shape)}.")
        features = features.detach().cpu()
        if not features.isfinite().all():
            raise ValueError("Some features are NaN or infinite; check the weights of the network.")
        if self.keep_features:
            self._features.append(features.clone())
        features = features.double()
        self.n += len(features)
        self.total += features.sum(dim=0)
        self.products += features.T @ features

    @property
    def mean(self) -> torch.Tensor:
        """`(feature_size,)`, float64; `ValueError` without images."""
        self._require(1)
        return self.total / self.n

    @property
    def covariance(self) -> torch.Tensor:
        """`(feature_size, feature_size)`, float64, with n - 1 in the denominator; `ValueError` below two images."""
        self._require(2)
        return (self.products - self.n * torch.outer(self.mean, self.mean)) / (self.n - 1)

    @property
    def features(self) -> torch.Tensor:
        """`(n, feature_size)` in the order they came; `ValueError` if they were not kept or there are none."""
        if not self.keep_features:
            raise ValueError("The features were not kept; make the statistics with keep_features=True.")
        self._require(1)
        return torch.cat(self._features)

    def _require(self, count: int):
        if self.n < count:
            raise ValueError(f"These statistics need at least {count} image{'s' * (count > 1)}; got {self.n}.")


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics, *, min_images: int = MIN_IMAGES) -> float:
    """
    The Fréchet distance of two sets of features, which with those of Inception is FID. torch-fidelity computes it,
    from means and covariances in float64.

    Args:
        first, second ([`FeatureStatistics`]): Of both sets; only `n`, `mean` and `covariance` are read.
        min_images (`int`, *optional*, defaults to 2048):
            Refuse smaller sets. torch-fidelity itself needs two images, but below 2,048 the covariance of the 2,048
            features is singular and the number depends on n more than on the images; its bias is felt up to some
            5,000 and more.

    Returns:
        `float`: 0 for equal sets, but for rounding.

    Raises:
        `ValueError`: if one set is too small.

    Source: huggingface.co/papers/1706.08500
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    if min(first.n, second.n) < max(min_images, 2):
        raise ValueError(
            f"FID needs at least {max(min_images, 2):,} images in each set, got {first.n:,} and {second.n:,}; add "
            "images or use KID."
        )
    moments = [{"mu": part.mean.numpy(), "sigma": part.covariance.numpy()} for part in (first, second)]
    return fid_statistics_to_metric(*moments, verbose=False)[KEY_METRIC_FID]


def kernel_distance(
    first_features: torch.Tensor,
    second_features: torch.Tensor,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> tuple[float, float]:
    """
    The squared maximum mean discrepancy of two sets of features under a cubic kernel, which with those of Inception is
    KID. torch-fidelity computes it, on random subsets. Unlike FID it is unbiased.

    Args:
        first_features, second_features (`torch.Tensor` of shape `(images, features)`): Of both sets.
        subsets (`int`, *optional*, defaults to 100): How many subsets are drawn.
        subset_size (`int`, *optional*, defaults to 1000): Images of a subset.
        seed (`int`, *optional*, defaults to 2020): Of the draws. The same images in another order are other draws.

    Returns:
        `tuple[float, float]`: mean and standard deviation over the subsets; the mean may be slightly negative.

    Raises:
        `ValueError`: if a set has fewer than `subset_size` images, or there is no subset.

    Source: huggingface.co/papers/1801.01401
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    if subsets < 1 or subset_size < 2:
        raise ValueError(
            f"KID needs at least one subset of at least two images; got {subsets} subsets of {subset_size}."
        )
    sizes = len(first_features), len(second_features)
    if min(sizes) < subset_size:
        raise ValueError(
            f"KID needs at least {subset_size:,} images in each set, as its subsets have, got {sizes[0]:,} and "
            f"{sizes[1]:,}; add images or choose a smaller subset_size."
        )
    result = kid_features_to_metric(
        first_features, second_features, kid_subsets=subsets, kid_subset_size=subset_size, rng_seed=seed, verbose=False
    )
    return result[KEY_METRIC_KID_MEAN], result[KEY_METRIC_KID_STD]


__all__ = [
    "FEATURE_SIZE",
    "INCEPTION_FILE",
    "INCEPTION_SHA256",
    "MIN_IMAGES",
    "FeatureStatistics",
    "Inception",
    "frechet_distance",
    "kernel_distance",
    "load_inception",
]
