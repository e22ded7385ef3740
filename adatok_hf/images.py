"""Finding and reading image files, with one clear sentence for every file that is no good."""

import warnings
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

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
