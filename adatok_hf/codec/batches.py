"""Pictures from the disk in batches of pixel values."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import ImageOps
from tqdm import tqdm

from ..data import ImageFileError, find_images, load_image


BATCH_SIZE = 32


class ImageBatches:
    """
    Reads pictures in batches; what cannot be read is reported and skipped.

    Args:
        paths (`list[Path]`): Pictures, or folders with pictures.
        processor ([`AdaTokImageProcessor`]): Makes the pixel values.
        say (`Callable`): Takes a sentence about each picture that is skipped.
        batch_size (`int`, *optional*, defaults to 32): Pictures in a batch.

    Yields names, sizes as `(height, width)`, and pixel values `(batch, 3, image_size, image_size)` in [-1, 1].

    Raises:
        `ValueError`: if the only path given cannot be read, or if none of many can.
    """

    def __init__(self, paths: list[Path], processor, say: Callable[[str], object], batch_size: int = BATCH_SIZE):
        self.processor, self.say, self.batch_size = processor, say, batch_size
        self.files: dict[Path, str] = {}  # and the names to report; a file given twice counts once
        self.skipped_files = self.skipped_paths = 0
        for path in paths:
            try:
                found = find_images([path])
            except ImageFileError as error:
                if len(paths) == 1:
                    raise
                self.skipped_paths += 1
                self.say(f"skipped {error}")
                continue
            for file in found:
                self.files.setdefault(file, path.name if file == path else file.relative_to(path).as_posix())

    def __iter__(self) -> Iterator[tuple[list[str], list[tuple[int, int]], torch.Tensor]]:
        batch = []
        for file, name in tqdm(self.files.items(), desc="Images", unit="image", disable=None):
            try:
                batch.append((name, *self._read(file)))
            except ValueError as error:
                if len(self.files) == 1 and not self.skipped_paths:
                    raise
                self.skipped_files += 1
                self.say(f"skipped {error}")
            if len(batch) == self.batch_size:
                names, sizes, pixel_values = zip(*batch)
                yield list(names), list(sizes), torch.cat(pixel_values)
                batch = []
        if batch:
            names, sizes, pixel_values = zip(*batch)
            yield list(names), list(sizes), torch.cat(pixel_values)
        if self.skipped_files == len(self.files):
            raise ValueError(f"None of the {len(self.files) + self.skipped_paths} pictures could be read.")

    def _read(self, file: Path) -> tuple[tuple[int, int], torch.Tensor]:
        image = load_image(file)
        try:
            pixel_values = self.processor(image, return_tensors="pt")["pixel_values"]
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        upright = ImageOps.exif_transpose(image)  # the size that a viewer shows, as the processor turns it too
        return (upright.height, upright.width), pixel_values

    @property
    def skipped(self) -> int:
        """How many pictures and folders could not be read."""
        return self.skipped_files + self.skipped_paths


__all__ = ["BATCH_SIZE", "ImageBatches"]
