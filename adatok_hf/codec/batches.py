"""Pictures from the disk or from tables, in batches of pixel values."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from ..data import find_images, load_image, load_image_dataset


BATCH_SIZE = 32


class ImageBatches:
    """
    Reads pictures in batches; what cannot be read is reported and skipped.

    Args:
        paths (`list[str | Path]`):
            Pictures, folders with pictures, parquet or tar files and globs and addresses of them, or with `split`
            whatever [`~adatok_hf.data.load_image_dataset`] takes.
        processor ([`AdaTokImageProcessor`]): Makes the pixel values.
        say (`Callable`): Takes a sentence about each picture that is skipped.
        batch_size (`int`, *optional*, defaults to 32): Pictures in a batch.
        split (`str`, *optional*): Split of datasets, which all paths then are.
        out (`str` or `Path`, *optional*): Folder that the results go into: pictures in it are no input.

    Yields names, sizes as `(height, width)`, and pixel values `(batch, 3, image_size, image_size)` in [-1, 1]. A name
    is the path below the folder given, or the table's and the number of the row.

    Raises:
        `ValueError`: if the only path given cannot be read, or if none of many can.
    """

    def __init__(
        self,
        paths: list[str | Path],
        processor,
        say: Callable[[str], object],
        batch_size: int = BATCH_SIZE,
        split: str | None = None,
        out: str | Path | None = None,
    ):
        self.processor, self.say, self.batch_size = processor, say, batch_size
        # What is given twice counts once: the name to report and how to read it, by file or by table and row.
        self.pictures: dict[Path | tuple[str, int], tuple[str, Callable[[], Image.Image]]] = {}
        self.skipped_files = self.skipped_paths = 0
        for path in paths:
            try:
                if split is not None or is_table(str(path)):
                    self._add_table(str(path), split)
                else:
                    self._add_files(Path(path), out)
            except ValueError as error:
                if len(paths) == 1:
                    raise
                self.skipped_paths += 1
                self.say(f"skipped {error}")

    def _add_files(self, path: Path, out: str | Path | None):
        for file in find_images([path], without=out):
            name = path.name if file == path else file.relative_to(path).as_posix()
            # A name of another encoding is no text, which the files of codes hold.
            name = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            self.pictures.setdefault(file, (name, partial(load_image, file)))

    def _add_table(self, path: str, split: str | None):
        images = load_image_dataset(path, split or "train")
        stem = Path(path).stem if "*" not in path else "table"
        for row in range(len(images)):
            self.pictures.setdefault((path, row), (f"{stem}/{row:06d}", partial(_read_row, images, row)))

    def __iter__(self) -> Iterator[tuple[list[str], list[tuple[int, int]], torch.Tensor]]:
        batch = []
        for key, (name, read) in tqdm(self.pictures.items(), desc="Images", unit="image", disable=None):
            try:
                batch.append((name, *self._prepare(key, read)))
            except ValueError as error:
                if len(self.pictures) == 1 and not self.skipped_paths:
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
        if self.skipped_files == len(self.pictures):
            raise ValueError(f"None of the {len(self.pictures) + self.skipped_paths} pictures could be read.")

    def _prepare(
        self, key: Path | tuple[str, int], read: Callable[[], Image.Image]
    ) -> tuple[tuple[int, int], torch.Tensor]:
        image = read()
        try:
            pixel_values = self.processor(image, return_tensors="pt")["pixel_values"]
        except ValueError as error:
            place = key if isinstance(key, Path) else f"Row {key[1]} of {key[0]}"
            raise ValueError(f"{place}: {error}") from error
        upright = ImageOps.exif_transpose(image)  # the size that a viewer shows, as the processor turns it too
        return (upright.height, upright.width), pixel_values

    @property
    def skipped(self) -> int:
        """How many pictures and folders could not be read."""
        return self.skipped_files + self.skipped_paths


def is_table(path: str) -> bool:
    """Whether a path names pictures in a table, or at an address, rather than a file or a folder of them."""
    is_glob = "*" in path.rsplit("/", 1)[-1] and not Path(path).is_file()
    return "://" in path or is_glob or path.endswith((".parquet", ".tar"))


def _read_row(images, row: int) -> Image.Image:
    return images[row]["image"]


__all__ = ["BATCH_SIZE", "ImageBatches"]
