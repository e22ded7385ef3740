"""What every image metric takes: 8-bit RGB images of one size."""

import numpy as np
import torch
from PIL import Image


def check_images(images: torch.Tensor) -> torch.Tensor:
    """
    Refuses what is no batch of 8-bit RGB images. Float images are refused as well, and so NaN, because a metric must
    not guess their range nor how they are rounded.

    Args:
        images (`torch.Tensor` of shape `(batch, 3, height, width)`): uint8, in 0..255.

    Returns:
        `torch.Tensor`: the same images.

    Raises:
        `ValueError`: if the type or the shape is another one, or there is no image.
    """
    _check_dtype(images)
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"A batch of RGB images has three channels and four dimensions; got the shape {tuple(images.shape)}."
        )
    if images.numel() == 0:
        raise ValueError(f"There are no images: the batch has the shape {tuple(images.shape)}; give at least one.")
    return images


def _check_dtype(images: torch.Tensor):
    if images.dtype != torch.uint8:
        raise ValueError(
            f"Images must be uint8, in 0..255; got {images.dtype}: clip and round float images first, as "
            "`processor.post_process` does."
        )


def to_uint8(pixel_values: torch.Tensor) -> torch.Tensor:
    """Clips pixel values to [-1, 1] and rounds them to 0..255; `ValueError` if there is NaN among them."""
    if pixel_values.isnan().any():
        raise ValueError("The model gives NaN for some images; its weights are damaged or overflow in this precision.")
    return ((pixel_values.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_pixel_values(images: torch.Tensor) -> torch.Tensor:
    """uint8 images in 0..255 to pixel values in [-1, 1], float32."""
    return images / 127.5 - 1


def to_images(images) -> torch.Tensor:
    """
    Brings a batch into the form the metrics compute with.

    Args:
        images (`torch.Tensor` or `np.ndarray` of shape `(batch, height, width, 3)`, or a list of `PIL.Image.Image` or
            of arrays of shape `(height, width, 3)`):
            uint8 in 0..255, RGB, all of one size.

    Returns:
        `torch.Tensor` of shape `(batch, 3, height, width)`: uint8, in 0..255.

    Raises:
        `ValueError`: if the images are not uint8 RGB, differ in size, or there is none.

    Example:

    ```python
    >>> from PIL import Image
    >>> from adatok_hf.metrics.images import to_images

    >>> to_images([Image.new("RGB", (64, 32), "teal")]).shape
    torch.Size([1, 3, 32, 64])

    ```"""
    if not isinstance(images, torch.Tensor | np.ndarray):
        images = list(images)
        if not images:
            raise ValueError("There are no images: the batch is empty; give at least one.")
        modes = {image.mode for image in images if isinstance(image, Image.Image)} - {"RGB"}
        if modes:
            raise ValueError(
                f"Pictures must be RGB; got the modes {sorted(modes)}: convert them by `picture.convert('RGB')`."
            )
        arrays = [np.asarray(image) for image in images]
        shapes = sorted({array.shape for array in arrays})
        if len(shapes) > 1:
            raise ValueError(f"The images of one batch must have one size; got the shapes {shapes}.")
        images = np.stack(arrays)
    if isinstance(images, np.ndarray):
        images = torch.tensor(images)
    _check_dtype(images)
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(
            f"Images are given as (batch, height, width, 3), channels last; got the shape {tuple(images.shape)}."
        )
    return check_images(images.permute(0, 3, 1, 2))


__all__ = ["check_images", "to_images", "to_pixel_values", "to_uint8"]
