"""Codes files that announce more than they hold."""

import json

import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import save_file

from adatok_hf.cli.decode import png_names
from adatok_hf.codec.codes_file import FORMAT, ImageCodes


FACTS = {"model": "m", "model_hash": "0" * 64, "image_size": 32, "codebook_size": 64}


@pytest.fixture
def write(tmp_path):
    def write(rows=2, facts=None, **columns):
        path = tmp_path / "codes.parquet"
        values = {"file_name": [f"{row}.png" for row in range(rows)], "image_codes": [[1]] * rows}
        values |= {"budget": [1] * rows, "height": [32] * rows, "width": [32] * rows} | columns
        table = pyarrow.table(values)
        metadata = {FORMAT: json.dumps(FACTS | {"num_latent_tokens": 16} | (facts or {}))}
        pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path)
        return path

    return write


def test_what_the_hostile_ones_are_made_of_loads(write):
    assert len(ImageCodes.load(write())) == 2


@pytest.mark.parametrize("limit", [65_536, 10**9, 2**31 - 2])
def test_rows_times_tokens_are_bounded_by_the_size_of_the_file(write, limit, refused):
    path = write(15_000, {"num_latent_tokens": limit})
    with refused(str(path), "announces"):
        ImageCodes.load(path)


def test_names_that_a_dictionary_repeats_are_bounded(write, refused):
    names = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 15_000), ["n" * 10**5])
    path = write(15_000, {"num_latent_tokens": 1}, file_name=names)
    with refused(str(path), "expands to more than"):
        ImageCodes.load(path)


@pytest.mark.parametrize(
    "facts",
    [
        {"num_latent_tokens": 0},
        {"num_latent_tokens": -1},
        {"num_latent_tokens": 10**30},
        {"num_latent_tokens": True},
        {"num_latent_tokens": 1.5},
        {"codebook_size": 10**30},
        {"codebook_size": 0},
        {"image_size": -3},
        {"model": None},
    ],
)
def test_odd_facts_are_refused(write, facts, refused):
    path = write(facts=facts)
    with refused(str(path)):
        ImageCodes.load(path)


@pytest.mark.parametrize(
    "columns",
    [
        {"image_codes": [None, [1]]},
        {"image_codes": [[None], [1]]},
        {"image_codes": [1, 2]},
        {"image_codes": ["a", "b"]},
        {"image_codes": [[2**40], [1]]},
        {"image_codes": [[-1], [1]]},
        {"image_codes": [[], []]},
        {"budget": [None, 1]},
        {"budget": [0, 1]},
        {"budget": [2**40, 1]},
        {"budget": ["one", "one"]},
        {"budget": [1.5, 1]},
        {"file_name": [None, "a"]},
        {"file_name": [1, 2]},
        {"file_name": [b"\xff", b"a"]},
        {"height": [None, 1]},
        {"width": [2**40, 1]},
    ],
)
def test_odd_columns_are_refused(write, columns, refused):
    path = write(**columns)
    if columns == {"file_name": [1, 2]}:  # numbers are names as good as any
        assert ImageCodes.load(path).file_names == ["1", "2"]
        return
    with refused(str(path)):
        ImageCodes.load(path)


def test_no_rows_are_no_images(write):
    path = write(0, image_codes=pyarrow.array([], pyarrow.list_(pyarrow.int32())))
    assert len(ImageCodes.load(path)) == 0


@pytest.mark.parametrize("kept", [0, 4, 100, -8, -100])
def test_cut_files_are_refused(write, kept, refused):
    path = write()
    path.write_bytes(path.read_bytes()[:kept])
    with refused(str(path)):
        ImageCodes.load(path)


@pytest.mark.parametrize(
    "facts", ["{", "[]", "[" * 100_000, json.dumps(FACTS), json.dumps(FACTS | {"file_names": [1]}), "9" * 10_000]
)
def test_odd_metadata_of_safetensors_are_refused(tmp_path, facts, refused):
    path = tmp_path / "codes.safetensors"
    codes = torch.zeros(1, 16, dtype=torch.int32)
    tensors = {"image_codes": codes, "budgets": codes[0, :1] + 1, "original_sizes": codes[:, :2].clone()}
    save_file(tensors, path, metadata={FORMAT: facts})
    with refused(str(path)):
        ImageCodes.load(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex64, torch.uint16, torch.float16])
def test_other_numbers_than_integers_are_refused(tmp_path, dtype, refused):
    path = tmp_path / "codes.safetensors"
    ones = torch.ones(1, 16, dtype=torch.int32)
    tensors = {"image_codes": ones.to(dtype), "budgets": ones[0, :1].clone(), "original_sizes": ones[:, :2].clone()}
    save_file(tensors, path, metadata={FORMAT: json.dumps(FACTS | {"file_names": ["a"]})})
    with refused(str(path)):
        ImageCodes.load(path)


def test_equal_names_are_numbered_in_linear_time():
    names = png_names([f"a-{number}.png" for number in range(2, 20_000)] + ["a.png"] * 20_000)
    assert len(set(names)) == len(names) == 39_998


@pytest.mark.parametrize(
    ("file_name", "name"),
    [
        ("n" * 300 + ".jpg", "n" * 200 + ".png"),
        ("é" * 300 + ".jpg", "é" * 100 + ".png"),
        ("d" * 300 + "/a.jpg", "d" * 200 + "/a.png"),
        ("/".join("abcdefghijklmnopqrstuvwxyz"), "r/s/t/u/v/w/x/y/z.png"),
        ("../../../etc/passwd", "etc/passwd.png"),
        ("\x1b]0;title\x07.png", "_x1b]0;title_x07.png"),
        ("a\udcff.png", "a_udcff.png"),
        ("....", "image.png"),
        ("", "image.png"),
    ],
)
def test_stored_names_fit_any_folder(file_name, name):
    assert png_names([file_name]) == [name]


def test_a_picture_and_the_folder_of_another_do_not_share_a_name():
    assert png_names(["x.png/deep.jpg", "x.jpg"]) == ["x.png/deep.png", "x-2.png"]
