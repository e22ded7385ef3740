"""Reading image files: every file that is no good gives one sentence that names it."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adatok_hf.data import MAX_PIXELS, ImageFileError, find_images, load_image


SAMPLES = Path(__file__).parents[1] / "adatok_hf" / "samples"


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def header_of_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return start + struct.pack(">I", 1000) + b"IDAT"


def refusal(path: Path) -> str:
    with pytest.raises(ImageFileError) as refused:
        load_image(path)
    message = str(refused.value)
    assert str(path) in message and "\n" not in message and message.endswith(".")
    return message


def test_a_good_file_is_decoded_completely(photo):
    image = load_image(str(photo))
    photo.unlink()
    assert image.size == (30, 40) and np.asarray(image.convert("RGB")).std() > 50


def test_the_exif_orientation_is_left_to_the_processor(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "turned.jpg", exif=exif)
    image = load_image(tmp_path / "turned.jpg")
    assert image.size == (20, 10) and image.getexif()[0x0112] == 6


def test_a_missing_file_is_refused(tmp_path):
    assert "no image file" in refusal(tmp_path / "missing.png")


def test_a_folder_is_refused(tmp_path):
    assert "is a folder" in refusal(tmp_path)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty.png").touch()
    assert "is empty" in refusal(tmp_path / "empty.png")


def test_a_file_that_is_no_image_is_refused(tmp_path):
    (tmp_path / "notes.png").write_text("no picture at all")
    assert "not an image file" in refusal(tmp_path / "notes.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tif", "avif"])
def test_a_truncated_file_is_refused(photo, tmp_path, suffix):
    path = tmp_path / f"half.{suffix}"
    load_image(photo).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refusal(path)


def test_a_corrupt_file_is_refused(photo):
    data = bytearray(photo.read_bytes())
    data[len(data) // 2] ^= 0xFF
    photo.write_bytes(data)
    assert "damaged" in refusal(photo)


@pytest.mark.parametrize("width", [MAX_PIXELS // 10_000 + 1, 60_000])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, width):
    path = tmp_path / "bomb.png"
    path.write_bytes(header_of_png(width, 10_000))
    assert "too many pixels" in refusal(path)


def test_the_pixel_limit_itself_is_no_bomb(tmp_path, recwarn):
    path = tmp_path / "large.png"
    path.write_bytes(header_of_png(MAX_PIXELS // 10_000, 10_000))
    assert "too many pixels" not in refusal(path)  # refused only because it ends after the header
    assert not recwarn.list


def test_find_images_expands_folders_sorted_and_keeps_files(photo, tmp_path):
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    for name in ("b.JPG", "a.webp", "inner/c.png", "notes.txt"):
        (folder / name).touch()
    odd = tmp_path / "picture.dat"
    odd.touch()
    found = find_images([photo, str(folder), odd, photo])
    assert found == [photo, folder / "a.webp", folder / "b.JPG", folder / "inner" / "c.png", odd]


def test_find_images_leaves_out_a_folder_inside_but_not_around(photo, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for path in (tmp_path / "a.png", out / "grid.png"):
        path.touch()
    assert find_images([tmp_path], without=out) == [tmp_path / "a.png", photo]
    assert find_images([out], without=tmp_path) == find_images([out], without=out) == [out / "grid.png"]


def test_find_images_refuses_a_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ImageFileError, match=f"{tmp_path} has no image files"):
        find_images([tmp_path])


def test_find_images_refuses_a_missing_path(tmp_path):
    with pytest.raises(ImageFileError, match="no file or folder .*missing"):
        find_images([tmp_path / "missing"])


def test_every_sample_picture_loads_and_the_simple_ones_compress_better():
    pictures = find_images([SAMPLES])
    assert 8 <= len(pictures) and sum(path.stat().st_size for path in pictures) < 500_000
    assert {load_image(path).size for path in pictures} == {(256, 256)}
    sizes = []
    for path in pictures:
        with Image.open(path) as image:
            sizes.append(len(zlib.compress(np.asarray(image.convert("RGB")).tobytes())))
    half = len(sizes) // 2
    assert max(sizes[:2]) < min(sizes[-2:]) and sum(sizes[:half]) < sum(sizes[half:])
