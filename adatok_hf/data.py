"""Finding, reading and collating images: files, folders, parquet files, or a dataset of the Hub."""

import hashlib
import io
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset
from transformers import BaseImageProcessor

from .extras import require
from .files import first_line, is_temporary
from .modeling.image_processing_adatok import DAMAGE, RASTER_FORMATS
from .parquet import check_parquet


MAX_PIXELS = 100_000_000
ROWS_AT_ONCE = 128  # of a parquet file: a row group of pictures may be larger than the memory
SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class ImageFileError(ValueError):
    """A file or folder that gives no image; the message is one sentence that names it."""


def load_image(path: str | Path, name: str | None = None) -> Image.Image:
    """
    Reads one image file, completely decoded.

    Args:
        path (`str` or `Path`): The file. Its first frame is read where it has several.
        name (`str`, *optional*): What errors call it; its path if not given.

    Returns:
        `PIL.Image.Image`: in the mode of the file and as stored; the image processor converts it and applies its EXIF
        orientation.

    Raises:
        [`ImageFileError`]: if the file is missing, a folder, empty, no image, damaged, or has more than 100 million
        pixels, which is told from its header before anything is decoded.
    """
    path, name = Path(path), name or str(path)
    if path.is_dir():
        raise ImageFileError(f"{name} is a folder, not an image file.")
    if not path.is_file():
        raise ImageFileError(f"There is no image file {name}.")
    if path.stat().st_size == 0:
        raise ImageFileError(f"{name} is empty, not an image file.")
    return _decode(path, name)


def _decode(source: Path | BinaryIO, name: str) -> Image.Image:
    too_large = f"{name} has too many pixels; at most {MAX_PIXELS // 10**6} million are read."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is checked instead
            with Image.open(source, formats=RASTER_FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ImageFileError(too_large)
                image.load()
    except Image.DecompressionBombError as error:
        raise ImageFileError(too_large) from error
    except Image.UnidentifiedImageError as error:
        raise ImageFileError(f"{name} is not an image file of a known format.") from error
    except ImageFileError:
        raise
    except DAMAGE as error:
        raise ImageFileError(f"{name} is damaged or cannot be read: {first_line(error)}") from error
    if image.format == "PPM" and image.mode == "I":  # sixteen bits in 32, of which a dark part shows no sign
        return Image.fromarray(np.asarray(image).astype(np.uint16))
    return image


def find_images(paths: Iterable[str | Path], without: str | Path | None = None) -> list[Path]:
    """
    Expands folders to the image files in them.

    Args:
        paths (iterable of `str` or `Path`):
            Files, which are kept whatever their suffix, and folders, which are searched with their subfolders for the
            suffixes of images. What killed runs of this package left behind is passed over.
        without (`str` or `Path`, *optional*): A folder that is not searched, where it lies inside of another.

    Returns:
        `list[Path]`: in the order given, each folder's files sorted, none twice.

    Raises:
        [`ImageFileError`]: if a path is missing or a folder has no images.
    """
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            files = (file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            images = sorted(file for file in files if not any(map(is_temporary, file.relative_to(path).parts)))
            if without is not None and path.resolve() in Path(without).resolve().parents:
                images = [file for file in images if Path(without).resolve() not in file.resolve().parents]
            if not images:
                raise ImageFileError(f"The folder {path} has no image files.")
            found.extend(images)
        elif path.exists():
            found.append(path)
        else:
            raise ImageFileError(f"There is no file or folder {path}.")
    return list(dict.fromkeys(found))


class ImageFolder(Dataset):
    """
    Every image below a folder, in sorted order.

    Args:
        folder (`str` or `Path`): The folder.

    Raises:
        `ValueError`: if the folder is missing or holds no image.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.paths = find_images([folder])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Image.Image | str]:
        path = self.paths[index]
        inner = path.relative_to(self.folder).parts
        return {"image": load_image(path), "group": inner[0] if len(inner) > 1 else ""}


def load_image_dataset(source: str, split: str = "train", max_images: int | None = None) -> Dataset:
    """
    Opens images for training or evaluation. Items are dictionaries with a PIL picture under `"image"` and its kind
    under `"group"`: the subfolder, the label up to its first slash, or the `source` column; `""` where there is none.

    Args:
        source (`str`):
            A folder of images; a parquet file, a folder of parquet files or a glob of them, with an `image` column;
            the same of tar files as `webdataset` has them, with one picture a sample; or the name of a dataset on the
            Hub. Files and globs may be addresses of an object store that `fsspec` knows, `s3://bucket/train-*.tar`.
        split (`str`, *optional*, defaults to `"train"`):
            Split of a Hub dataset, perhaps with a slice as in `"train[:1000]"` or `"train[10%:]"`. In a folder of
            parquet or tar files, those whose names begin with it. A folder of images has no splits, so of its only the
            slice counts.
        max_images (`int`, *optional*): Takes that many images, spread evenly over the source.

    Returns:
        `torch.utils.data.Dataset`

    Raises:
        `ValueError`: if there is no such source, it has no images, or the slice is none.
    """
    name, bracket, rest = split.partition("[")
    rows = bracket + rest
    kind, files = find_tables(source, name)
    if kind == "webdataset":
        dataset = _load_tars(files, rows)
    elif kind == "parquet":
        dataset = ImageTable(load_table(kind, files, f"train{rows}"), files[0])
    else:
        dataset = _load_folder(Path(source), rows) if Path(source).is_dir() else _load_hub_dataset(source, split)
    chosen = spread_evenly(len(dataset), max_images)
    return dataset if len(chosen) == len(dataset) else Subset(dataset, chosen)


def spread_evenly(count: int, most: int | None) -> Sequence[int]:
    """At most so many of `count` rows, the first and the last among them; all for `None`."""
    if most is None or most >= count:
        return range(count)
    return [row * (count - 1) // max(most - 1, 1) for row in range(most)]


def find_tables(source: str, split: str) -> tuple[str | None, list[str]]:
    """
    The files of a source as [`load_image_dataset`] takes it, and their kind: `"parquet"`, `"webdataset"`, or `None`
    and no files where it is a folder of images or a dataset of the Hub.
    """
    path = Path(source)
    if path.suffix == ".tar":
        return "webdataset", [source]
    if "*" in source or path.suffix == ".parquet":
        return "parquet", [source]
    if "://" in source:
        raise ValueError(f"Of an object store, name parquet or tar files, or a glob of them; got {source!r}.")
    if path.is_dir():
        for kind, end in (("parquet", ".parquet"), ("webdataset", ".tar")):
            files = sorted(map(str, path.glob(f"{split}*{end}")))
            if files:
                return kind, files
    return None, []


def _load_folder(folder: Path, rows: str) -> Dataset:
    dataset = ImageFolder(folder)
    if not rows:
        return dataset
    from datasets import ReadInstruction

    try:
        parts = ReadInstruction.from_spec(f"train{rows}").to_absolute({"train": len(dataset)})
    except (ValueError, AssertionError) as error:
        raise ValueError(
            f"A slice of the {len(dataset)} images in {folder} is written as [:1000] or [10%:]; got {rows!r}."
        ) from error
    return torch.utils.data.Subset(dataset, [row for part in parts for row in range(part.from_, part.to)])


class ImageTable(Dataset):
    """
    Images in the cells of a table. An image is what a cell holds in bytes: a path in a table from elsewhere could
    name any file of this machine, or an address.

    Args:
        table (`datasets.Dataset`): With a column `image`.
        source (`str`): What to call the table.
        reads_paths (`bool`, *optional*, defaults to `False`): Whether cells without bytes are read by their path.

    Raises:
        `ValueError`: if the column is missing or holds no images.
    """

    def __init__(self, table, source: str, reads_paths: bool = False):
        from datasets import Image as ImageFeature

        if "image" not in table.column_names:
            raise ValueError(f"{source!r} needs a column named 'image'; it has {table.column_names}.")
        feature = table.features["image"]
        if not isinstance(feature, ImageFeature) and not _holds_bytes(feature):
            raise ValueError(f"The column 'image' of {source!r} must hold images as bytes; it holds {feature}.")
        self.table, self.source, self.reads_paths = table, source, reads_paths
        self.groups = _groups(table)
        self.cells = table.select_columns("image").cast_column("image", ImageFeature(decode=False))

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, index: int) -> dict[str, Image.Image | str]:
        name, cell = f"Row {index} of {self.source}", self.cells[index]["image"] or {}
        if self.reads_paths and cell.get("path") and not cell.get("bytes"):
            image = load_image(cell["path"])
        else:
            image = decode_cell(cell, name)
        return {"image": image, "group": self.groups[index]}


def decode_cell(cell: dict, name: str) -> Image.Image:
    """The image of a cell as `datasets` gives it undecoded; `ImageFileError` where it is no good or has no bytes."""
    if not cell.get("bytes"):
        raise ImageFileError(f"{name} holds no bytes of an image; a path alone is not followed.")
    return _decode(io.BytesIO(cell["bytes"]), name)


def _holds_bytes(feature) -> bool:
    fields = feature if isinstance(feature, dict) else {"bytes": feature}
    kind = getattr(fields.get("bytes"), "dtype", None)
    return kind in ("binary", "large_binary") and set(fields) <= {"bytes", "path"}


def _load_tars(files: list[str], rows: str) -> Dataset:
    table = load_table("webdataset", files, f"train{rows}")
    names = {picture_column(table, files[0]): "image"} | ({"cls": "label"} if "cls" in table.column_names else {})
    return ImageTable(table.rename_columns(names), files[0])


def picture_column(table, source: str) -> str:
    """The column of pictures in what `datasets` makes of tar files; `ValueError` unless there is one."""
    from datasets import Image as ImageFeature

    pictures = [name for name, feature in table.features.items() if isinstance(feature, ImageFeature)]
    if len(pictures) != 1:
        raise ValueError(f"A sample of {source!r} needs one picture; its files are {table.column_names}.")
    return pictures[0]


def load_table(kind: str, files: list[str], split: str, streaming: bool = False):
    """What `datasets` makes of parquet files, or of tar files in the format of webdataset."""
    require("train", "datasets")
    from datasets import load_dataset

    options = {}
    if kind == "parquet":
        for file in files:
            check_parquet(file)
        options["batch_size"] = ROWS_AT_ONCE
    try:
        return load_dataset(kind, data_files={"train": files}, split=split, streaming=streaming, **options)
    # A damaged file may fail anywhere in its reader, and in any way.
    except Exception as error:
        reason = first_line(error.__cause__ or error).rstrip(".")
        raise ValueError(f"{files[0]!r} gives no {kind} data ({reason}); name an existing file or glob.") from error


def _load_hub_dataset(name: str, split: str) -> Dataset:
    require("train", "datasets")
    from datasets import load_dataset

    try:
        table = load_dataset(name, split=split)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name!r} is neither a folder, nor parquet files, nor a dataset that can be loaded: {first_line(error)}"
        ) from error
    # The builder of image folders writes the paths itself, of files that came with the dataset.
    return ImageTable(table, name, reads_paths=table.builder_name == "imagefolder")


def _groups(table) -> list[str]:
    from datasets import ClassLabel

    if isinstance(table.features.get("label"), ClassLabel):
        names = [name.split("/")[0] for name in table.features["label"].names]
        return [names[label] if label is not None and 0 <= label < len(names) else "" for label in table["label"]]
    if "source" in table.column_names:
        return [str(source) for source in table["source"]]
    return [""] * len(table)


class ReadableImages(Dataset):
    """
    The images of another dataset, where the next one that can be read stands in for each that cannot: a training goes
    on, in the same way whenever it is resumed.

    Args:
        dataset (`Dataset`): Items are dictionaries with a PIL picture under `"image"`.
        warn (`Callable`): Takes a sentence about each image that cannot be read, when it is met for the first time.

    Attributes:
        unreadable (`torch.BoolTensor` of shape `(images,)`):
            Those met so far, by this process and the workers of its data loader.

    Raises:
        `ImageFileError`: on reading, if none of the images can be read.
    """

    def __init__(self, dataset: Dataset, warn: Callable[[str], object]):
        self.dataset, self.warn = dataset, warn
        self.unreadable = torch.zeros(len(dataset), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Image.Image | str]:
        for row in itertools.chain(range(index, len(self)), range(index)):
            if self.unreadable[row]:
                continue
            try:
                return self.dataset[row]
            except ImageFileError as error:
                self.unreadable[row] = True
                self.warn(f"skipped {error}")
        raise ImageFileError(f"None of the {len(self)} images can be read.")


def read_images(
    dataset: Dataset, rows: Iterable[int], processor: BaseImageProcessor, warn: Callable[[str], object]
) -> Iterator[tuple[int, dict[str, Image.Image | str], torch.Tensor]]:
    """
    Reads images one by one and passes over those that cannot be used.

    Args:
        dataset (`Dataset`): Items are dictionaries with a PIL picture under `"image"`.
        rows (iterable of `int`): Which of them.
        processor (`BaseImageProcessor`): Makes the pixel values.
        warn (`Callable`): Takes a sentence about each that is passed over.

    Yields the row, the item, and its pixel values of shape `(1, 3, image_size, image_size)` in [-1, 1].
    """
    for row in rows:
        try:
            item = dataset[row]
            pixel_values = processor(item["image"], return_tensors="pt")["pixel_values"]
        except ImageFileError as error:
            warn(f"skipped {error}")
        except ValueError as error:
            warn(f"skipped image {row} of the data: {error}")
        else:
            yield row, item, pixel_values


def generator_of(key: str) -> torch.Generator:
    """Random numbers that depend on a text alone."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
    return torch.Generator().manual_seed(seed)


def check_min_crop(min_crop: float):
    """Raises `ValueError` unless the least side of a random square lies in (0, 1]."""
    if not 0 < min_crop <= 1:
        raise ValueError(f"min_crop must be above 0 and at most 1; got {min_crop}.")


def random_square(image: Image.Image, min_crop: float, key: str) -> Image.Image:
    """
    A random square of an image, the same one for the same key.

    Args:
        image (`PIL.Image.Image`): Any.
        min_crop (`float`): Least side of the square as a share of the shortest edge, in (0, 1].
        key (`str`): What the randomness depends on.
    """
    size_share, left_share, top_share = torch.rand(3, generator=generator_of(key)).tolist()
    size = max(round(min(image.size) * (min_crop + (1 - min_crop) * size_share)), 1)
    left, top = round((image.width - size) * left_share), round((image.height - size) * top_share)
    return image.crop((left, top, left + size, top + size))


def load_readable_images(
    source: str, split: str, max_images: int | None, processor: BaseImageProcessor, warn: Callable[[str], object]
) -> Subset:
    """
    Those of [`load_image_dataset`] that [`read_images`] does not pass over, found out by reading all of them.

    Raises:
        `ValueError`: if there are none, and as [`load_image_dataset`].
    """
    images = load_image_dataset(source, split, max_images)
    rows = [row for row, _, _ in read_images(images, range(len(images)), processor, warn)]
    if not rows:
        raise ValueError(f"None of the {len(images)} images of {source} can be read.")
    return Subset(images, rows)


class RandomCrops(Dataset):
    """
    The images of another dataset, each cut to a random square that the image processor then resizes. The square
    depends on the seed, the epoch and the image alone: whoever resumes a training in the middle of an epoch, with
    batches read ahead or skipped, gets the same ones.

    Args:
        dataset (`Dataset`): Items are dictionaries with a PIL picture under `"image"`.
        min_crop (`float`, *optional*, defaults to 1.0):
            Least side of the square as a share of the shortest edge, in (0, 1].
        seed (`int`, *optional*, defaults to 0): Of the squares.

    Raises:
        `ValueError`: if `min_crop` lies outside of (0, 1].
    """

    def __init__(self, dataset: Dataset, min_crop: float = 1.0, seed: int = 0):
        check_min_crop(min_crop)
        self.dataset, self.min_crop, self.seed = dataset, min_crop, seed
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()  # with the workers of a data loader

    def set_epoch(self, epoch: int):
        """Makes the squares of another epoch."""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Image.Image | str]:
        item = self.dataset[index]
        return {**item, "image": random_square(item["image"], self.min_crop, f"{self.seed} {int(self.epoch)} {index}")}


class ImageCollator:
    """
    Makes a batch of pixel values, shape `(batch, 3, image_size, image_size)` in [-1, 1].

    Args:
        processor (`BaseImageProcessor`): The image processor of the model.
    """

    def __init__(self, processor: BaseImageProcessor):
        self.processor = processor

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        images = [example["image"] for example in examples]
        return {"pixel_values": self.processor(images, return_tensors="pt")["pixel_values"]}
