"""Pictures that are none, in every place that opens pictures."""

import io
import struct
import zlib

import datasets
import pytest
from PIL import Image

from adatok_hf.data import ImageFileError, load_image, load_image_dataset


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n%%EOF\n"


def png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def saved(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 32), "teal").save(buffer, form)
    return buffer.getvalue()


HOSTILE = {
    "postscript": POSTSCRIPT,
    "windows metafile": b"\xd7\xcd\xc6\x9a\0\0" + bytes(100),
    "photoshop": b"8BPS\0\1" + bytes(100),
    "targa": saved("TGA"),
    "jpeg 2000": saved("JPEG2000"),
    "icon": saved("ICO"),
    "text": b"no picture at all",
    "zeros": bytes(1000),
    "huge by its header": png(50_000, 50_000),
    "beyond what PIL reads": png(2**31 - 1, 2**31 - 1),
    "no pixels": png(40, 32),
    "half a png": saved("PNG")[:60],
    "half a jpeg": saved("JPEG")[:200],
    "half a webp": saved("WEBP")[:40],
    "half a tiff": saved("TIFF")[:100],
    "tiff of odd tags": b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 500,
    "gif without frames": b"GIF89a\xff\xff\xff\xff\x00\x00\x00;",
}
OTHER_FORMATS = ("postscript", "windows metafile", "photoshop", "targa", "jpeg 2000", "icon")


@pytest.fixture(params=HOSTILE)
def hostile(request, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(HOSTILE[request.param])
    return path


def test_load_image_refuses(hostile, refused):
    with refused(str(hostile)):
        load_image(hostile)


def test_the_processor_refuses(hostile, processor, one_sentence):
    with pytest.raises(ValueError, match="cannot be read as an image file"):
        processor(str(hostile), return_tensors="pt")


def test_a_row_of_a_table_is_refused_by_its_number(hostile, tmp_path, refused):
    path = write_table(
        tmp_path, [{"bytes": saved("PNG"), "path": None}, {"bytes": hostile.read_bytes(), "path": None}]
    )
    images = load_image_dataset(str(path))
    assert images[0]["image"].size == (40, 32)
    with refused("Row 1 of", str(path)):
        images[1]


@pytest.mark.parametrize("kind", OTHER_FORMATS)
def test_other_formats_are_no_pictures_whatever_their_suffix(kind, tmp_path):
    path = tmp_path / "picture.jpg"
    path.write_bytes(HOSTILE[kind])
    with pytest.raises(ImageFileError, match="is not an image file of a known format"):
        load_image(path)


@pytest.mark.parametrize("command", ["encode", "reconstruct"])
@pytest.mark.parametrize("kind", ["postscript", "huge by its header", "half a jpeg"])
def test_commands_refuse(command, kind, tmp_path, tiny_checkpoint, refusal):
    path = tmp_path / "picture.png"
    path.write_bytes(HOSTILE[kind])
    out = tmp_path / ("codes.safetensors" if command == "encode" else "out")
    assert str(path) in refusal(command, path, "--out", out, "--model", tiny_checkpoint, "--device", "cpu")


def write_table(tmp_path, cells, **columns):
    path = tmp_path / "table.parquet"
    features = datasets.Features(
        {"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}}
        | {name: datasets.Value("int64") for name in columns}
    )
    datasets.Dataset.from_dict({"image": cells, **columns}, features=features).to_parquet(path)
    return path


def test_a_path_without_bytes_is_not_followed(tmp_path, refused):
    Image.new("RGB", (40, 32)).save(tmp_path / "secret.png")
    for target in (str(tmp_path / "secret.png"), "https://example.com/secret.png"):
        images = load_image_dataset(str(write_table(tmp_path, [{"bytes": None, "path": target}])))
        with refused("Row 0 of", "a path alone is not followed"):
            images[0]


@pytest.mark.parametrize(
    "values", [[1, 2], [1.5, 2.5], ["/etc/passwd", "b"], [[1, 2], [3, 4]], [True, False], [None, None]]
)
def test_a_column_without_pictures_is_refused(values, tmp_path, refused):
    path = tmp_path / "table.parquet"
    datasets.Dataset.from_dict({"image": values}).to_parquet(path)
    with refused(str(path)):
        load_image_dataset(str(path))


def test_labels_out_of_range_are_no_group(tmp_path):
    path = tmp_path / "table.parquet"
    cells = [{"bytes": saved("PNG"), "path": None}] * 3
    labels = datasets.Dataset.from_dict({"image": cells, "label": [0, 1, 7]})
    features = labels.features.copy()
    features["label"] = datasets.ClassLabel(names=["cat", "dog"])
    table = labels.data.table.replace_schema_metadata(features.arrow_schema.metadata)
    import pyarrow.parquet

    pyarrow.parquet.write_table(table, path)
    try:
        images = load_image_dataset(str(path))
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert [images[row]["group"] for row in range(3)] == ["cat", "dog", ""]
