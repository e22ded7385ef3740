"""Files that appear whole or not at all, JSON, and fingerprints."""

import hashlib
import json
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside `path` to write to; renames it when all went well, removes it otherwise."""
    path = Path(path)
    temporary = path.with_name(f".adatok-{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_empty(out: str | Path):
    """Raises `ValueError` unless a folder is absent or empty, so that no checkpoint is lost or mixed with another."""
    out = Path(out)
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"The output folder {out} is not empty; name another one.")
    if out.exists() and not out.is_dir():
        raise ValueError(f"The output folder {out} is a file; name a folder.")


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Gives a temporary folder beside `path` to fill; renames it when all went well, removes it otherwise."""
    path = Path(path).absolute()
    temporary = path.with_name(f".adatok-{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        yield temporary
        if path.is_dir():
            path.rmdir()  # refuses unless it is empty; not every system renames onto a folder
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def whole_files(folder: str | Path) -> Iterator[Path]:
    """Gives a temporary folder inside `folder` to fill; moves each of its files up when all have been written."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        yield Path(temporary)
        for file in sorted(Path(temporary).iterdir()):
            file.replace(folder / file.name)


def read_json(path: Path) -> dict:
    """The content of a JSON file; raises `ValueError` unless that is an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} holds no valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object; got {type(content).__name__}.")
    return content


def write_json(path: str | Path, content: dict, indent: int | None = 2):
    """
    Writes a JSON file whole or not at all.

    Args:
        path (`str` or `Path`): Its name.
        content (`dict`): What to write; infinite numbers and NaN become null, for JSON has neither.
        indent (`int`, *optional*, defaults to 2): Spaces a level; `None` for a single line.
    """
    with whole_file(path) as temporary:
        text = json.dumps(_finite(content), indent=indent, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def hash_file(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def first_line(error: BaseException) -> str:
    """What an error says first, as one sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".") + "."
