"""Image processors of AdaTok: pictures of any kind to pixel values in [-1, 1], and back to pictures."""

import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_utils import ChannelDimension, PILImageResampling, SizeDict
from transformers.utils import is_torchvision_available


CHANNEL_COUNTS = (1, 3, 4)
# What the decoders of PIL raise on damaged data.
DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, RuntimeError, struct.error, zlib.error)
PIL.Image.init()
# What may be opened, as far as this PIL can: it knows many more formats, of which PostScript starts another program.
RASTER_FORMATS = tuple(
    name for name in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM", "TIFF", "AVIF") if name in PIL.Image.OPEN
)
MAX_ASPECT_RATIO = 200  # the shortest edge sets the scale, so a longer strip would grow to gigabytes


def read_pixels(
    image, input_data_format: str | ChannelDimension | None = None, do_convert_rgb: bool = True
) -> np.ndarray:
    """
    Brings an accepted image to the one form that both backends start from.

    Args:
        image (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`):
            A picture of any mode (its EXIF orientation is applied), or an array of shape `(height, width)`,
            `(height, width, channels)` or `(channels, height, width)` with 1, 3 or 4 channels: uint8 in 0..255, uint16
            in 0..65535 or floats in [0, 1]. Transparent pixels are laid over white. Pictures of mode "I" reach to 255
            or 65535 and those of mode "F" to 1 or 255, whichever holds their largest value.
        input_data_format (`str` or `ChannelDimension`, *optional*):
            Where the channels of an array are. Without it they are looked for first in a tensor and last in a numpy
            array, then at the other end.
        do_convert_rgb (`bool`, *optional*, defaults to `True`):
            Whether the result is RGB. Otherwise the channels of an array stay as they are, and a picture has one if it
            is grey, four if it is transparent, three if it is neither.

    Returns:
        `np.ndarray`: uint8 of shape `(channels, height, width)` in 0..255.

    Raises:
        `ValueError`: if the type, shape, number format or range is another, or the picture cannot be decoded.
    """
    if isinstance(image, PIL.Image.Image):
        pixels = _decode(image, do_convert_rgb)
    elif isinstance(image, np.ndarray | torch.Tensor):
        pixels = _to_uint8(_channels_last(image, input_data_format))
    else:
        raise ValueError(f"An image must be a PIL image, a numpy array, a tensor or a path; got {type(image)}.")
    height, width, channels = pixels.shape
    if not 0 < max(height, width) <= MAX_ASPECT_RATIO * min(height, width):
        raise ValueError(
            f"An image must have pixels and an aspect ratio of at most {MAX_ASPECT_RATIO}; got {width}x{height}."
        )
    if not do_convert_rgb:
        return np.array(pixels.transpose(2, 0, 1), order="C")
    if channels == 4:
        picture = PIL.Image.fromarray(np.ascontiguousarray(pixels))
        white = PIL.Image.new("RGBA", picture.size, "white")
        pixels = np.asarray(PIL.Image.alpha_composite(white, picture))[..., :3]
    return np.array(np.broadcast_to(pixels, (height, width, 3)).transpose(2, 0, 1), order="C")


def _decode(picture: PIL.Image.Image, do_convert_rgb: bool) -> np.ndarray:
    try:
        picture.load()
        picture = PIL.ImageOps.exif_transpose(picture)
    except DAMAGE as error:
        raise ValueError(f"The picture cannot be decoded: {error}.") from error
    if picture.mode.startswith("I;16"):
        pixels = np.asarray(picture)[..., None]
        return _to_uint8(np.where(pixels == picture.info.get("transparency"), np.uint16(65535), pixels))
    if picture.mode in ("I", "F"):
        pixels = np.asarray(picture)[..., None]
        whites = (255, 65535) if picture.mode == "I" else (1, 255)
        return _quantize(pixels, whites[0] if pixels.max(initial=0) <= whites[0] else whites[1])
    if picture.mode in ("1", "L") and not picture.has_transparency_data and not do_convert_rgb:
        return np.asarray(picture.convert("L"))[..., None]
    return np.asarray(picture.convert("RGBA" if picture.has_transparency_data else "RGB"))


def _channels_last(image: np.ndarray | torch.Tensor, input_data_format: str | ChannelDimension | None) -> np.ndarray:
    axes = (2, 0)
    if isinstance(image, torch.Tensor):
        axes = (0, 2)
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    if image.ndim == 2:
        return image[..., None]
    if input_data_format is not None:
        axes = (0,) if ChannelDimension(input_data_format) is ChannelDimension.FIRST else (2,)
    axis = next((axis for axis in axes if image.ndim == 3 and image.shape[axis] in CHANNEL_COUNTS), None)
    if axis is None:
        raise ValueError(
            "An image array must be (height, width) or have 1, 3 or 4 channels, first or last; got shape "
            f"{image.shape}."
        )
    return np.moveaxis(image, axis, 2)


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    kind, size = pixels.dtype.kind, pixels.dtype.itemsize
    if kind == "u" and size == 1:
        return pixels
    if kind == "u" and size == 2:
        return _quantize(pixels, 65535)
    if kind == "f":
        return _quantize(pixels, 1)
    found = f" in [{pixels.min()}, {pixels.max()}]" if pixels.size and kind != "O" else ""
    raise ValueError(
        f"An image array must be uint8 in 0..255, uint16 in 0..65535 or float in [0, 1]; got {pixels.dtype}{found}."
    )


def _quantize(pixels: np.ndarray, white: int) -> np.ndarray:
    low, high = pixels.min(initial=0), pixels.max(initial=0)
    if np.isnan(low) or np.isnan(high):
        raise ValueError("An image must not contain NaN; replace them by values in [0, 1].")
    if low < 0 or high > white:
        raise ValueError(
            f"A {pixels.dtype} image must lie in [0, {white}]; got values in [{low}, {high}]. Rescale it first."
        )
    return np.rint(pixels.astype(np.float32) * np.float32(255 / white)).astype(np.uint8)


class AdaTokImageProcessorMixin:
    """What both backends share: the defaults, the way in, the way back and the entry in `auto_map`."""

    resample = PILImageResampling.BICUBIC
    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.5, 0.5, 0.5]
    size = {"shortest_edge": 256}
    crop_size = {"height": 256, "width": 256}
    default_to_square = False  # an int as size is the shortest edge
    do_convert_rgb = True
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True

    def fetch_images(self, images):
        if isinstance(images, list | tuple):
            return [self.fetch_images(image) for image in images]
        if not isinstance(images, str | Path):
            return images
        try:
            with PIL.Image.open(images, formats=RASTER_FORMATS) as picture:
                picture.load()
                return picture
        except (*DAMAGE, PIL.Image.DecompressionBombError) as error:
            raise ValueError(f"{images} cannot be read as an image file: {error}.") from error

    def _prepare_images_structure(self, images, expected_ndims: int = 3) -> list:
        flat = []
        for image in images if isinstance(images, list | tuple) else [images]:
            if isinstance(image, list | tuple):
                flat.extend(self._prepare_images_structure(image))
            elif isinstance(image, np.ndarray | torch.Tensor) and image.ndim == 4:
                flat.extend(image)
            else:
                flat.append(self.fetch_images(image))
        if not flat:
            raise ValueError("At least one image is needed; got none.")
        return flat

    def _read(
        self,
        image,
        input_data_format=None,
        do_convert_rgb=True,
        do_normalize=False,
        image_mean=None,
        image_std=None,
        **kwargs,
    ) -> np.ndarray:
        """[`read_pixels`], whose channels must be as many as there are means and deviations."""
        pixels = read_pixels(image, input_data_format, do_convert_rgb)
        for name, values in (("image_mean", image_mean), ("image_std", image_std)):
            if do_normalize and isinstance(values, list | tuple) and len(values) != len(pixels):
                raise ValueError(
                    f"{name} must have a value for each channel of an image; got {len(values)} values for "
                    f"{len(pixels)} channels. With do_convert_rgb=True every image has three."
                )
        return pixels

    def _validate_preprocess_kwargs(self, do_rescale=None, do_normalize=None, **kwargs):
        if do_normalize and not do_rescale:
            raise ValueError(
                "do_rescale must stay True beside do_normalize, as every image is brought to 0..255 first; got "
                f"do_rescale={do_rescale}."
            )
        super()._validate_preprocess_kwargs(do_rescale=do_rescale, do_normalize=do_normalize, **kwargs)

    def post_process(self, pixel_values: torch.Tensor) -> list[PIL.Image.Image]:
        """
        Turns pixel values, as `AdaTokModel.decode` gives them, into pictures.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, 3, height, width)`):
                Of any float type and on any device, nominally in [-1, 1]; values outside are clipped.

        Returns:
            `list[PIL.Image.Image]`: one RGB picture per image, its values rounded to 0..255.

        Raises:
            `ValueError`: if it is no float tensor of that shape, or contains NaN.
        """
        if not isinstance(pixel_values, torch.Tensor) or not pixel_values.is_floating_point():
            kind = pixel_values.dtype if isinstance(pixel_values, torch.Tensor) else type(pixel_values)
            raise ValueError(f"pixel_values must be a float tensor in [-1, 1]; got {kind}.")
        if pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
            raise ValueError(
                f"pixel_values must have shape (batch, 3, height, width); got {tuple(pixel_values.shape)}."
            )
        pixel_values = pixel_values.detach().float()
        if pixel_values.isnan().any():
            raise ValueError("pixel_values contain NaN and show no picture; the model or its input is at fault.")
        pixels = ((pixel_values.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return [PIL.Image.fromarray(image) for image in pixels.permute(0, 2, 3, 1).cpu().contiguous().numpy()]

    def to_dict(self) -> dict:
        values = super().to_dict()
        if "auto_map" in values and type(self) in (AdaTokImageProcessor, AdaTokImageProcessorPil):
            module = type(self).__module__.rsplit(".", 1)[-1]
            # The pair (PIL, torchvision) lets AutoImageProcessor choose by what is installed where it is loaded.
            classes = (AdaTokImageProcessorPil, AdaTokImageProcessor)
            values["auto_map"]["AutoImageProcessor"] = [f"{module}.{cls.__name__}" for cls in classes]
        return values


class AdaTokImageProcessor(AdaTokImageProcessorMixin, TorchvisionBackend):
    r"""
    Makes pixel values for [`AdaTokModel`] and pictures from them, with torchvision. Pictures are turned upright, laid
    over white where transparent, resized (shortest edge, bicubic, antialiased), cropped in the middle and scaled to
    [-1, 1]. Accepted are a path, a PIL image of any mode, a numpy array or a tensor (see [`read_pixels`] for shapes
    and ranges), a batch of shape `(batch, ...)`, or a list of these. Where torchvision is missing, use
    [`AdaTokImageProcessorPil`], as `AutoImageProcessor` does by itself.

    Args:
        size (`dict[str, int]`, *optional*, defaults to `{"shortest_edge": 256}`):
            Size after resizing.
        crop_size (`dict[str, int]`, *optional*, defaults to `{"height": 256, "width": 256}`):
            Size after cropping, equal to the model's `image_size`.
        do_convert_rgb (`bool`, *optional*, defaults to `True`):
            Whether every image becomes RGB. `False` is for models with another `num_channels`: the channels stay as
            they come, and `image_mean` and `image_std` need a value for each.
        kwargs:
            `resample`, `image_mean` and the like, as for every image processor of transformers.

    Returns:
        `BatchFeature`: with `return_tensors="pt"`, `pixel_values` of shape `(batch, 3, height, width)`, float32 in
        [-1, 1]; other numbers of channels only with `do_convert_rgb=False`.

    Raises:
        `ValueError`: if an image is of another kind or range, contains NaN, has no pixels or cannot be decoded.
        `ImportError`: if torchvision is not installed.

    Example, a processor for a model of 64 px:

    ```python
    >>> import numpy as np
    >>> from adatok_hf import AdaTokImageProcessor

    >>> processor = AdaTokImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    >>> inputs = processor(np.zeros((80, 120, 3), dtype=np.uint8), return_tensors="pt")
    >>> inputs.pixel_values.shape, inputs.pixel_values.min().item()
    (torch.Size([1, 3, 64, 64]), -1.0)
    >>> processor.post_process(inputs.pixel_values)[0].size
    (64, 64)

    ```"""

    def __init__(self, **kwargs):
        if not is_torchvision_available():
            raise ImportError(
                "AdaTokImageProcessor needs torchvision; without it use AdaTokImageProcessorPil or AutoImageProcessor."
            )
        super().__init__(**kwargs)

    def process_image(self, image, device=None, **kwargs) -> torch.Tensor:
        return torch.from_numpy(self._read(image, **kwargs)).to(device or "cpu")

    def resize(self, image: torch.Tensor, size: SizeDict, **kwargs) -> torch.Tensor:
        # PIL clips and rounds between the pass along the width and the one along the height. Kernels for floats, all
        # there are on GPUs and on some CPUs, do not: sharp edges would come out up to 16 levels apart.
        height, width = super().resize(image.to("meta"), size, **kwargs).shape[-2:]
        for target in (SizeDict(height=image.shape[-2], width=width), SizeDict(height=height, width=width)):
            image = super().resize(image.float(), target, **kwargs).clamp(0, 255).round()
        return image.to(torch.uint8)


class AdaTokImageProcessorPil(AdaTokImageProcessorMixin, PilBackend):
    """
    [`AdaTokImageProcessor`] by PIL and numpy alone, where torchvision is missing. Same arguments, same results, but
    that PIL takes a fourth channel for transparency when it resizes.
    """

    def process_image(self, image, **kwargs) -> np.ndarray:
        return self._read(image, **kwargs)


__all__ = ["AdaTokImageProcessor", "AdaTokImageProcessorPil"]
