"""Finding, reading and collating images: files, folders, parquet files, or a dataset of the Hub."""

import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import BaseImageProcessor

from .modeling.image_processing_adatok import DAMAGE


MAX_PIXELS = 100_000_000
SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class ImageFileError(ValueError):
    """A file or folder that gives no image; the message is one sentence that names it."""


def load_image(path: str | Path) -> Image.Image:
    """
    Reads one image file, completely decoded.

    Args:
        path (`str` or `Path`): The file. Its first frame is read where it has several.

    Returns:
        `PIL.Image.Image`: in the mode of the file and as stored; the image processor converts it and applies its EXIF
        orientation.

    Raises:
        [`ImageFileError`]: if the file is missing, a folder, empty, no image, damaged, or has more than 100 million
        pixels, which is told from its header before anything is decoded.
    """
    path = Path(path)
    if path.is_dir():
        raise ImageFileError(f"{path} is a folder, not an image file.")
    if not path.is_file():
        raise ImageFileError(f"There is no image file {path}.")
    if path.stat().st_size == 0:
        raise ImageFileError(f"{path} is empty, not an image file.")
    too_large = f"{path} has too many pixels; at most {MAX_PIXELS // 10**6} million are read."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is checked instead
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ImageFileError(too_large)
                image.load()
    except Image.DecompressionBombError as error:
        raise ImageFileError(too_large) from error
    except Image.UnidentifiedImageError as error:
        raise ImageFileError(f"{path} is not an image file of a known format.") from error
    except ImageFileError:
        raise
    except DAMAGE as error:
        raise ImageFileError(f"{path} is damaged or cannot be read: {error}.") from error
    return image


def find_images(paths: Iterable[str | Path]) -> list[Path]:
    """
    Expands folders to the image files in them.

    Args:
        paths (iterable of `str` or `Path`):
            Files, which are kept whatever their suffix, and folders, which are searched with their subfolders for the
            suffixes of images.

    Returns:
        `list[Path]`: in the order given, each folder's files sorted, none twice.

    Raises:
        [`ImageFileError`]: if a path is missing or a folder has no images.
    """
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            images = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
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


def load_image_dataset(
    source: str, split: str = "train", max_images: int | None = None, *, keep_label: bool = False
) -> Dataset:
    """
    Opens images for training or evaluation. Items are dictionaries with a PIL picture under `"image"` and its kind
    under `"group"`: the subfolder, the label up to its first slash, or the `source` column; `""` where there is none.

    Args:
        source (`str`):
            A folder of images; a parquet file, a folder of parquet files or a glob of them, with an `image` column; or
            the name of a dataset on the Hub.
        split (`str`, *optional*, defaults to `"train"`):
            Split of a Hub dataset, perhaps with a slice as in `"train[:1000]"` or `"train[10%:]"`. In a folder of
            parquet files, those whose names begin with it. A folder of images has no splits, so of its only the slice
            counts.
        max_images (`int`, *optional*): Takes that many images, spread evenly over the source.
        keep_label (`bool`, *optional*, defaults to `False`): Whether a `label` column stays beside the two.

    Returns:
        `torch.utils.data.Dataset`

    Raises:
        `ValueError`: if there is no such source, it has no images, or the slice is none.
    """
    path = Path(source)
    name, bracket, rest = split.partition("[")
    if "*" in source or path.suffix == ".parquet":
        dataset = _load_parquet([source], bracket + rest, keep_label)
    elif path.is_dir():
        parquet_files = sorted(str(file) for file in path.glob(f"{name}*.parquet"))
        rows = bracket + rest
        dataset = _load_parquet(parquet_files, rows, keep_label) if parquet_files else _load_folder(path, rows)
    else:
        dataset = _load_hub_dataset(source, split, keep_label)
    if max_images is not None and max_images < len(dataset):
        indices = torch.linspace(0, len(dataset) - 1, max_images).long().tolist()
        dataset = torch.utils.data.Subset(dataset, indices)
    return dataset


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


def _load_parquet(files: list[str], rows: str, keep_label: bool) -> Dataset:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        dataset = load_dataset("parquet", data_files={"train": files}, split=f"train{rows}")
    except (OSError, ValueError, DatasetGenerationError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ValueError(f"{files[0]!r} gives no parquet data ({reason}); name an existing file or glob.") from error
    return _with_image_column(dataset, files[0], keep_label)


def _load_hub_dataset(name: str, split: str, keep_label: bool) -> Dataset:
    from datasets import load_dataset

    try:
        dataset = load_dataset(name, split=split)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{name!r} is neither a folder, nor parquet files, nor a dataset that can be loaded: {reason.rstrip('.')}."
        ) from error
    return _with_image_column(dataset, name, keep_label)


def _with_image_column(dataset: Dataset, source: str, keep_label: bool) -> Dataset:
    from datasets import Image as ImageFeature

    if "image" not in dataset.column_names:
        raise ValueError(f"{source!r} needs a column named 'image'; it has {dataset.column_names}.")
    groups = _groups(dataset)
    kept = ["image", "label"] if keep_label and "label" in dataset.column_names else ["image"]
    return dataset.select_columns(kept).cast_column("image", ImageFeature()).add_column("group", groups)


def _groups(dataset: Dataset) -> list[str]:
    from datasets import ClassLabel

    if isinstance(dataset.features.get("label"), ClassLabel):
        names = [name.split("/")[0] for name in dataset.features["label"].names]
        return [names[label] if label is not None and label >= 0 else "" for label in dataset["label"]]
    if "source" in dataset.column_names:
        return [str(source) for source in dataset["source"]]
    return [""] * len(dataset)


class RandomCrops(Dataset):
    """
    The images of another dataset, each cut to a random square that the image processor then resizes.

    Args:
        dataset (`Dataset`): Items are dictionaries with a PIL picture under `"image"`.
        min_crop (`float`, *optional*, defaults to 1.0):
            Least side of the square as a share of the shortest edge, in (0, 1].

    Raises:
        `ValueError`: if `min_crop` lies outside of (0, 1].
    """

    def __init__(self, dataset: Dataset, min_crop: float = 1.0):
        if not 0 < min_crop <= 1:
            raise ValueError(f"min_crop must be above 0 and at most 1; got {min_crop}.")
        self.dataset = dataset
        self.min_crop = min_crop

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Image.Image | str]:
        item = self.dataset[index]
        image = item["image"]
        size_share, left_share, top_share = torch.rand(3).tolist()
        size = max(round(min(image.size) * (self.min_crop + (1 - self.min_crop) * size_share)), 1)
        left = round((image.width - size) * left_share)
        top = round((image.height - size) * top_share)
        return {**item, "image": image.crop((left, top, left + size, top + size))}


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
