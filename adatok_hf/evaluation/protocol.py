"""The protocol of the papers' reconstruction numbers, and the crop it is named after."""

from dataclasses import dataclass

import numpy as np
from PIL import Image


def adm_center_crop(image: Image.Image, size: int) -> Image.Image:
    """
    The centre crop of ADM's data loader, by which ImageNet is cut for published FIDs: halve by box averaging while the
    shorter edge is at least twice the size, resize it to the size by bicubic interpolation, cut out the middle.

    Args:
        image (`PIL.Image.Image`): A picture of any mode and size. It is converted to RGB as it is stored: neither its
            EXIF orientation nor its transparency is applied, as that loader does not either.
        size (`int`): Height and width in pixels of the result.

    Returns:
        `PIL.Image.Image`: RGB of `size` x `size` pixels, without EXIF data.

    Source: huggingface.co/papers/2105.05233

    Example:

    ```python
    >>> from PIL import Image
    >>> from adatok_hf.evaluation.protocol import adm_center_crop

    >>> adm_center_crop(Image.new("RGB", (500, 375)), 256).size
    (256, 256)

    ```"""
    image = image.convert("RGB")
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    top, left = (image.height - size) // 2, (image.width - size) // 2
    # Through an array, since a crop keeps the EXIF orientation, which the image processor would then apply.
    return Image.fromarray(np.asarray(image)[top : top + size, left : left + size].copy())


@dataclass(frozen=True)
class Protocol:
    """
    What an evaluation has to do so that its numbers stand beside published ones.

    Args:
        name (`str`): What to call it.
        image_size (`int`): Height and width in pixels of the images.
        num_images (`int`): How many there must be.
        steps (`tuple[str, ...]`): What is done, in words.
    """

    name: str
    image_size: int
    num_images: int
    steps: tuple[str, ...]

    def check_model(self, image_size: int):
        """Raises `ValueError` for a model of another image size."""
        if image_size != self.image_size:
            raise ValueError(
                f"The protocol {self.name} is for models of {self.image_size} px; this one has {image_size} px. Leave "
                "--protocol out."
            )

    def check_images(self, num_images: int):
        """Raises `ValueError` for another number of images."""
        if num_images != self.num_images:
            raise ValueError(
                f"The protocol {self.name} needs exactly {self.num_images:,} images; got {num_images:,}. Name the "
                "whole validation split, without --max-images."
            )

    def prepare(self, image: Image.Image) -> Image.Image:
        """The crop, see [`adm_center_crop`]; the image processor then finds nothing left to resize."""
        return adm_center_crop(image, self.image_size)

    def describe(self) -> str:
        """The steps, one a line."""
        return "\n".join([f"Protocol {self.name}:", *(f"  {step}" for step in self.steps)])


IMAGENET_50K = Protocol(
    name="imagenet-50k",
    image_size=256,
    num_images=50_000,
    steps=(
        "images: all 50,000 of the ImageNet-1K (ILSVRC 2012) validation split, whatever their order",
        "preprocessing: ADM centre crop to 256 x 256 pixels (box halving, bicubic, crop), RGB, 8 bits",
        "reconstructions: one per image, clipped to [-1, 1] and rounded to 8 bits; no flips, no sampling",
        "evaluator: Inception of 2015-12-05 (TensorFlow's) as torch-fidelity ports it, 2048 features of pool3",
        "rFID: Frechet distance of the 50,000 reconstructions to the same 50,000 cropped images, not to training data",
    ),
)


def find_protocol(name: str | None) -> Protocol | None:
    """The preset of a name, `None` for `None`; `ValueError` for an unknown one."""
    if name is None:
        return None
    if name != IMAGENET_50K.name:
        raise ValueError(f"--protocol must be {IMAGENET_50K.name}, or left out; got {name!r}.")
    return IMAGENET_50K


__all__ = ["IMAGENET_50K", "Protocol", "adm_center_crop", "find_protocol"]
