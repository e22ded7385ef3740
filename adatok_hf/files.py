"""Files that appear whole or not at all, JSON, and fingerprints."""

import errno
import hashlib
import json
import math
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from safetensors import SafetensorError


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PREFIX = ".adatok-"
TEMPORARY = re.compile(rf"{re.escape(PREFIX)}(?P<machine>[0-9a-f]{{8}})-(?P<pid>\d+)-[0-9a-f]{{32}}(\..*)?")
STALE_SECONDS = 24 * 3600
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def temporary_beside(path: Path) -> Path:
    """A new name beside `path` that tells which process of which machine writes there."""
    return path.with_name(f"{PREFIX}{_machine()}-{os.getpid()}-{uuid.uuid4().hex}{path.suffix}")


def is_temporary(name: str) -> bool:
    """Whether a file or folder of that name is what a run writes aside, or left there when it was killed."""
    return TEMPORARY.fullmatch(name) is not None


def remove_left_overs(folder: str | Path):
    """Removes what killed runs have left in a folder: of processes of this machine that are gone, or a day old."""
    for path in Path(folder).glob(f"{PREFIX}*"):
        name = TEMPORARY.fullmatch(path.name)
        if name is None:
            continue
        try:
            is_old = time.time() - path.lstat().st_mtime > STALE_SECONDS
            if is_old or (name["machine"] == _machine() and not _is_alive(int(name["pid"]))):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except OSError:  # another process was faster, or it belongs to somebody else
            continue


def _machine() -> str:
    try:
        processes = os.readlink("/proc/self/ns/pid")  # containers of one host number their processes on their own
    except OSError:
        processes = ""
    return hashlib.sha256(f"{platform.node()} {uuid.getnode()} {processes}".encode()).hexdigest()[:8]


def _is_alive(pid: int) -> bool:
    if os.name != "posix":  # there, asking would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Names the file that could not be written, which libraries leave out, or call by its temporary name."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL or error.filename is None and error.strerror:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    except SafetensorError as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
    except RuntimeError as error:
        if "inline_container" not in str(error):  # where torch.save writes, and says no more than that it could not
            raise
        raise OSError(errno.EIO, "Cannot be written, perhaps the disk is full", str(path)) from error


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """
    Gives a temporary path beside `path` to write to; renames it when all went well, removes it otherwise. The file has
    the rights of any new file, whatever the library that writes it gives.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        with named_errors(path):
            temporary.touch()
            mode = temporary.stat().st_mode
            yield temporary
            temporary.chmod(mode)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def sole_user(folder: str | Path) -> Iterator[None]:
    """
    Keeps a folder, which is made if need be, for this process alone; whatever ends it, the system gives it free.

    Raises:
        `ValueError`: if another process of this machine keeps it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path):
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(f"Another run writes into {folder}; wait for its end or name another folder.") from error
    except OSError:  # a file system without locks
        pass


def check_empty(out: str | Path):
    """Raises `ValueError` unless a folder is absent or empty, so that no checkpoint is lost or mixed with another."""
    out = Path(out)
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"The output folder {out} is not empty; name another one.")
    if out.exists() and not out.is_dir():
        raise ValueError(f"The output folder {out} is a file; name a folder.")


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """
    Gives a temporary folder beside `path` to fill; renames it when all went well, removes it otherwise. A folder that
    is there already, a mount point perhaps, stays and is filled.
    """
    path = Path(path).absolute()
    if path.is_dir():
        with whole_files(path) as temporary:
            yield temporary
        return
    temporary = temporary_beside(path)
    try:
        with named_errors(path):
            temporary.mkdir()
            yield temporary
            _open_up(temporary)
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def whole_files(folder: str | Path) -> Iterator[Path]:
    """Gives a temporary folder inside `folder` to fill; moves each of its files up when all have been written."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    remove_left_overs(folder)
    temporary = temporary_beside(folder / "files")
    try:
        with named_errors(folder):
            temporary.mkdir()
            yield temporary
            _open_up(temporary)
            for file in sorted(temporary.iterdir()):
                file.replace(folder / file.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _open_up(folder: Path):
    """Gives the files in a new folder the rights of any new file."""
    mode = folder.stat().st_mode & 0o666
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(mode)


def parse_yaml(text: str, name: str | Path):
    """Parses YAML of plain values. Aliases are refused: a few lines of them stand for more than any memory holds."""
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(f"{name} is not YAML: {' '.join(str(error.problem).split())}{place}.") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: dates that are none
        raise ValueError(f"{name} is not YAML: {first_line(error)}") from error
    except RecursionError as error:
        raise ValueError(f"{name} is not YAML that can be read: it is nested too deep.") from error


class _PlainLoader(yaml.SafeLoader):
    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", self.peek_event().start_mark)
        return super().compose_node(parent, index)


def read_json(path: Path) -> dict:
    """The content of a JSON file; raises `ValueError` unless that is an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: also bytes that are no text, numbers of many digits
        raise ValueError(f"{path} holds no valid JSON: {first_line(error)}") from error
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


def printable(text: str) -> str:
    """A text whose control characters, which could command a terminal, are written as escapes."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "replace").decode("ascii")
        for character in text
    )
