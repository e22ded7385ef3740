"""Files appear whole, with the usual rights, and what killed runs leave goes away."""

import errno
import os
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from adatok_hf.data import find_images
from adatok_hf.files import (
    is_temporary,
    printable,
    remove_left_overs,
    sole_user,
    whole_file,
    whole_files,
    whole_folder,
)


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def rights(path) -> int:
    return path.stat().st_mode & 0o777


def test_files_have_the_rights_of_any_new_file(tmp_path, umask):
    with whole_file(tmp_path / "a.safetensors") as path:
        save_file({"a": torch.zeros(1)}, path)
    with whole_folder(tmp_path / "folder") as folder:
        save_file({"a": torch.zeros(1)}, folder / "b.safetensors")
    with whole_files(tmp_path / "folder") as folder:
        save_file({"a": torch.zeros(1)}, folder / "c.safetensors")
    for name in ("a.safetensors", "folder/b.safetensors", "folder/c.safetensors"):
        assert rights(tmp_path / name) == 0o666 & ~umask
    assert rights(tmp_path / "folder") == 0o777 & ~umask


KILLED = """
import os, sys
from pathlib import Path
from adatok_hf.files import whole_file, whole_folder
with whole_file(Path(sys.argv[1]) / "a.png") as path, whole_folder(Path(sys.argv[1]) / "b") as folder:
    path.write_bytes(b"half a picture")
    (folder / "c.png").write_bytes(b"half a picture")
    os._exit(9)
"""


def test_what_a_killed_run_leaves_is_no_picture_and_goes_away(tmp_path, pictures):
    subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    assert sum(is_temporary(path.name) for path in tmp_path.iterdir()) == 2
    pictures[0].save(tmp_path / "whole.png")
    assert find_images([tmp_path]) == [tmp_path / "whole.png"]
    remove_left_overs(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["whole.png"]


def test_what_a_living_run_writes_stays_unless_it_is_a_day_old(tmp_path):
    with whole_file(tmp_path / "a.txt") as path:
        path.write_text("on the way")
        foreign = tmp_path / f".adatok-{'0' * 8}-1-{'0' * 32}.txt"
        foreign.touch()
        remove_left_overs(tmp_path)
        assert path.exists() and foreign.exists()
        os.utime(foreign, (time.time() - 2 * 86400,) * 2)
        remove_left_overs(tmp_path)
        assert path.exists() and not foreign.exists()


def test_what_only_begins_like_a_left_over_is_somebodys_own(tmp_path, pictures):
    for name in (".adatok-notes", ".adatok-12345678-1-abc"):
        (tmp_path / name).mkdir()
        pictures[0].save(tmp_path / name / "mine.png")
        os.utime(tmp_path / name, (time.time() - 2 * 86400,) * 2)
    remove_left_overs(tmp_path)
    assert len(find_images([tmp_path])) == 2


def fail(path):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("kind", ["picture", "text", "tensors"])
def test_a_full_disk_is_named_with_the_file_that_was_to_be_written(tmp_path, kind):
    target = tmp_path / "target.png"
    target.write_text("old")
    with pytest.raises(OSError, match="No space left on device") as caught:
        with whole_file(target) as path:
            path.unlink()
            path.symlink_to("/dev/full")
            if kind == "picture":
                Image.new("RGB", (400, 320)).save(path, "BMP")
            elif kind == "text":
                path.write_text("x" * 100_000)
            else:
                fail(path)
    assert caught.value.filename == str(target) and caught.value.errno == errno.ENOSPC
    assert target.read_text() == "old" and [file.name for file in tmp_path.iterdir()] == ["target.png"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a b é 中.png", "a b é 中.png"), ("\x1b[31m", "\\x1b[31m"), ("a\u202eb", "a\\u202eb"), ("\udcff", "\\udcff")],
)
def test_control_characters_are_shown_as_escapes(text, shown):
    assert printable(text) == shown


KEEPER = """
import sys, time
from adatok_hf.files import sole_user
with sole_user(sys.argv[1]):
    print("kept", flush=True)
    time.sleep(60)
"""


def test_a_folder_has_one_user_until_that_ends_in_whatever_way(tmp_path, one_sentence):
    folder = tmp_path / "deep" / "folder"
    keeper = subprocess.Popen([sys.executable, "-c", KEEPER, folder], stdout=subprocess.PIPE)
    try:
        assert keeper.stdout.readline() == b"kept\n"
        with one_sentence(str(folder), "Another run"), sole_user(folder):
            pass
        with sole_user(tmp_path / "deep" / "other"):
            pass
    finally:
        keeper.kill()
        keeper.communicate()
    for _ in range(2):
        with sole_user(folder):
            assert list(folder.iterdir()) == []
