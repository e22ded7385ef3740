"""Statistics of the real images: computed once, kept with their provenance, never taken for other ones."""

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..files import hash_file, whole_file
from ..metrics.inception import INCEPTION_FILE
from ..metrics.perceptual import find_weights


FORMAT = "adatok-reference-statistics"
DOWNLOADED_INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # as torch-fidelity names it
PROCESSOR_FIELDS = ("do_resize", "size", "resample", "do_center_crop", "crop_size")


@dataclass
class Provenance:
    """
    What some statistics are of.

    Args:
        data (`str`): The images, as they were named.
        split (`str`): Their split.
        num_images (`int`): How many.
        image_list_hash (`str`): See [`hash_image_list`].
        image_size (`int`): Height and width in pixels.
        preprocessing (`str`): See [`describe_preprocessing`].
        evaluator (`dict[str, str]`): See [`describe_evaluator`].
    """

    data: str
    split: str
    num_images: int
    image_list_hash: str
    image_size: int
    preprocessing: str
    evaluator: dict[str, str]


@dataclass
class ReferenceStatistics:
    r"""
    Mean and covariance of Inception features of real images.

    Args:
        mean (`torch.DoubleTensor` of shape `(2048,)`): Of the features.
        covariance (`torch.DoubleTensor` of shape `(2048, 2048)`): With the divisor `n - 1`.
        provenance ([`Provenance`]): What they are of.

    Raises:
        `ValueError`: if shapes do not agree, values are not finite, or there are fewer than two images.

    Example:

    ```python
    >>> import torch
    >>> from adatok_hf.evaluation.reference import Provenance, ReferenceStatistics
    >>> from tempfile import TemporaryDirectory

    >>> provenance = Provenance("photos", "validation", 5000, "0" * 64, 64, "centre crop", {"name": "Inception"})
    >>> statistics = ReferenceStatistics(torch.zeros(2048), torch.eye(2048), provenance)
    >>> with TemporaryDirectory() as folder:
    ...     statistics.save(f"{folder}/photos.safetensors")
    ...     ReferenceStatistics.load(f"{folder}/photos.safetensors").n
    5000

    ```"""

    mean: torch.Tensor
    covariance: torch.Tensor
    provenance: Provenance

    def __post_init__(self):
        self.mean, self.covariance = self.mean.double(), self.covariance.double()
        width = len(self.mean)
        if self.covariance.shape != (width, width):
            raise ValueError(
                f"A mean of {width} features needs a covariance of shape ({width}, {width}); got "
                f"{tuple(self.covariance.shape)}."
            )
        if self.n < 2 or not (self.mean.isfinite().all() and self.covariance.isfinite().all()):
            raise ValueError(f"Statistics must be finite and of at least two images; these are of {self.n}.")

    @property
    def n(self) -> int:
        """Number of images."""
        return self.provenance.num_images

    def save(self, path: str | Path):
        """Writes the file whole or not at all; `ValueError` unless its name ends in `.safetensors`."""
        check_reference_path(path)
        tensors = {"mean": self.mean.contiguous(), "covariance": self.covariance.contiguous()}
        with whole_file(path) as temporary:
            save_file(tensors, temporary, metadata={FORMAT: json.dumps(asdict(self.provenance))})

    @classmethod
    def load(cls, path: str | Path) -> "ReferenceStatistics":
        """Reads a file; `ValueError` if it is missing, damaged or something else."""
        check_reference_path(path)
        if not Path(path).is_file():
            raise ValueError(f"No reference statistics at {path}; --save-reference makes them.")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if FORMAT not in metadata:
                    raise ValueError(f"{path} holds no reference statistics; --save-reference makes them.")
                provenance = Provenance(**json.loads(metadata[FORMAT]))
                return cls(file.get_tensor("mean"), file.get_tensor("covariance"), provenance)
        except (SafetensorError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"The reference statistics {path} are damaged ({str(error).splitlines()[0]}).") from error

    def check(self, image_size: int, preprocessing: str, evaluator: dict[str, str]):
        """
        Raises `ValueError` unless the statistics are of images of this size, prepared in this way and seen by this
        evaluator.
        """
        wanted = {"image_size": image_size, "preprocessing": preprocessing, "evaluator": evaluator}
        reasons = {
            "image_size": "another image size",
            "preprocessing": "another preprocessing",
            "evaluator": "another evaluator",
        }
        for name, reason in reasons.items():
            found = asdict(self.provenance)[name]
            if found != wanted[name]:
                raise ValueError(
                    f"The reference statistics are of {reason}: {name} is {found!r} there and {wanted[name]!r} here; "
                    "make new ones with --save-reference."
                )


def check_reference_path(path: str | Path):
    """Raises `ValueError` for a name without `.safetensors`."""
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"A file of reference statistics must end in .safetensors; got {str(path)!r}.")


def describe_preprocessing(processor, protocol=None) -> str:
    """How pictures become pixels: the protocol's crop, else the image processor's settings as JSON."""
    if protocol is not None:
        return f"ADM centre crop to {protocol.image_size} px"
    values = processor.to_dict()
    return json.dumps({name: values[name] for name in PROCESSOR_FIELDS}, sort_keys=True)


def describe_evaluator(weights_dir: str | Path | None = None) -> dict[str, str]:
    """
    The evaluator of FID and KID, once it has been loaded: its name, the version of its library, and the SHA-256 of its
    weights' file, which lies in a folder as for loading them.
    """
    weights = find_weights(weights_dir, INCEPTION_FILE, DOWNLOADED_INCEPTION)
    return {
        "name": "torch-fidelity inception-v3-compat, 2048 features",
        "version": version("torch-fidelity"),
        "weights": weights.name,
        "weights_sha256": hash_file(weights),
    }


def hash_image_list(image_hashes: torch.Tensor) -> str:
    """
    Fingerprint of some images in their order.

    Args:
        image_hashes (`torch.ByteTensor` of shape `(images, 32)`): SHA-256 of each image's RGB bytes, row by row.

    Returns:
        `str`: SHA-256 of all these hashes one after the other, 64 hexadecimal digits.
    """
    return hashlib.sha256(image_hashes.contiguous().numpy().tobytes()).hexdigest()


__all__ = ["Provenance", "ReferenceStatistics", "describe_evaluator", "describe_preprocessing", "hash_image_list"]
