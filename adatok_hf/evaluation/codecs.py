"""What JPEG, WebP and AVIF make of the same images: their rate and quality, and what they can do in as many bytes."""

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, features


CODECS = {"jpeg": range(1, 96), "webp": range(101), "avif": range(101)}  # and the qualities that Pillow knows
CURVE = (5, 10, 20, 35, 50, 65, 80, 95)  # after the codec's lowest quality
SLACK = 1.25  # files of one picture shrink by less than this from one quality to a higher one
OPTIONS = {"jpeg": {"optimize": True}, "webp": {"method": 6}, "avif": {"speed": 6}}


def check_codecs(codecs: list[str]):
    """Raises `ValueError` for a codec that is unknown or missing from this Pillow."""
    for codec in codecs:
        if codec not in CODECS:
            raise ValueError(f"--codecs must be out of {', '.join(CODECS)}; got {codec!r}.")
        if not features.check({"jpeg": "jpg"}.get(codec, codec)):
            raise ValueError(f"This Pillow was built without {codec}; leave it out of --codecs.")


def compress(picture: Image.Image, codec: str, quality: int) -> bytes:
    """
    One picture as a complete file, its header included.

    Args:
        picture (`PIL.Image.Image`): RGB.
        codec (`str`): `"jpeg"` (optimized Huffman tables), `"webp"` (method 6) or `"avif"` (speed 6).
        quality (`int`): In 1..95 for JPEG, else in 0..100.

    Returns:
        `bytes`: the file.

    Example:

    ```python
    >>> from PIL import Image
    >>> from adatok_hf.evaluation.codecs import compress, decompress

    >>> file = compress(Image.new("RGB", (64, 64), "teal"), "webp", 10)
    >>> len(file) < 100, decompress(file).shape
    (True, torch.Size([3, 64, 64]))

    ```"""
    buffer = io.BytesIO()
    picture.save(buffer, format=codec.upper(), quality=quality, **OPTIONS[codec])
    return buffer.getvalue()


def decompress(file: bytes) -> torch.Tensor:
    """The pixels of a compressed file: uint8 of shape `(3, height, width)` in 0..255."""
    with Image.open(io.BytesIO(file)) as picture:
        return _to_tensor(picture)


class CompressedBatch:
    """
    Some pictures compressed by one codec. Each file is made once, whatever asks for it.

    Args:
        pictures (`list[PIL.Image.Image]`): RGB, all of one size.
        codec (`str`): As for [`compress`].
        measure (`Callable`): Two uint8 batches, originals and reconstructions, to per-image metrics, as
            [`~adatok_hf.metrics.pairs.PairMetrics`] gives them.
    """

    def __init__(self, pictures: list[Image.Image], codec: str, measure: Callable):
        self.pictures, self.codec, self.measure = pictures, codec, measure
        self.originals = torch.stack([_to_tensor(picture) for picture in pictures])
        self._files: dict[tuple[int, int], bytes] = {}

    def file(self, index: int, quality: int) -> bytes:
        """One picture at one quality."""
        key = (index, quality)
        if key not in self._files:
            self._files[key] = compress(self.pictures[index], self.codec, quality)
        return self._files[key]

    def file_within(self, index: int, max_bytes: int) -> bytes | None:
        """
        One picture at the largest quality whose file is no larger than `max_bytes`, `None` where there is none. Files
        grow with quality, but here and there one shrinks: bisection finds the place, and the qualities above it are
        tried until their files are by `SLACK` too large.
        """
        qualities = CODECS[self.codec]
        low, high = -1, len(qualities)
        while high - low > 1:
            middle = (low + high) // 2
            fits = len(self.file(index, qualities[middle])) <= max_bytes
            low, high = (middle, high) if fits else (low, middle)
        best = None if low < 0 else self.file(index, qualities[low])
        for quality in qualities[low + 1 :]:
            file = self.file(index, quality)
            if len(file) <= max_bytes:
                best = file
            elif len(file) > SLACK * max_bytes:
                break
        return best

    def curve(self) -> dict[str, torch.Tensor]:
        """`bytes` and what `measure` gives at each quality of [`curve_qualities`], `(batch, qualities)` each."""
        columns: dict[str, list[torch.Tensor]] = {}
        for quality in curve_qualities(self.codec):
            files = [self.file(index, quality) for index in range(len(self.pictures))]
            values = self.measure(self.originals, torch.stack([decompress(file) for file in files]))
            for name, column in values.items() | {"bytes": torch.tensor([len(file) for file in files])}.items():
                columns.setdefault(name, []).append(column)
        return {name: torch.stack(column, dim=1) for name, column in columns.items()}

    def within(self, max_bytes: list[int]) -> dict[str, torch.Tensor]:
        """
        `bytes` and what `measure` gives within so many bytes for each picture, `(batch,)` each: 0 and NaN where no
        file is that small.
        """
        files = [self.file_within(index, limit) for index, limit in enumerate(max_bytes)]
        fits = torch.tensor([file is not None for file in files])
        # Where nothing fits, one original is measured against itself: it tells the names of the columns.
        rows = fits.nonzero().flatten().tolist() or [0]
        decoded = [self.originals[row] if files[row] is None else decompress(files[row]) for row in rows]
        columns = {"bytes": torch.tensor([len(file or b"") for file in files])}
        for name, values in self.measure(self.originals[rows], torch.stack(decoded)).items():
            column = values.new_full((len(files),), torch.nan)
            column[rows] = values
            columns[name] = torch.where(fits, column, torch.nan)
        return columns


def curve_qualities(codec: str) -> list[int]:
    """The qualities of a codec's curve: its lowest, which gives its smallest files, and those of `CURVE`."""
    return [CODECS[codec][0], *CURVE]


def _to_tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1)


__all__ = ["CODECS", "CompressedBatch", "check_codecs", "compress", "curve_qualities", "decompress"]
