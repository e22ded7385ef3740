"""Parquet files of a few kilobytes that stand for gigabytes, in every place that reads such files."""

import json

import numpy
import pyarrow
import pytest
from pyarrow.parquet import write_table

from adatok_hf.allocation.reward_table import RewardTable
from adatok_hf.codec.codes_file import ImageCodes
from adatok_hf.codec.tokenize_dataset import FORMAT
from adatok_hf.data import load_image_dataset
from adatok_hf.generation.sequences import load_sequences
from adatok_hf.parquet import check_parquet


ROWS = 4_000
PICTURE = bytes(2**20)


def repeated(value: bytes) -> pyarrow.Array:
    return pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * ROWS, pyarrow.int32()), pyarrow.array([value]))


def in_cells(pictures: pyarrow.Array) -> pyarrow.Array:
    return pyarrow.StructArray.from_arrays(
        [pictures, pyarrow.nulls(len(pictures), pyarrow.string())], ["bytes", "path"]
    )


def zeros(count: int) -> pyarrow.Array:
    lists = pyarrow.array([0, count], pyarrow.int32())
    return pyarrow.ListArray.from_arrays(lists, pyarrow.array(numpy.zeros(count, numpy.int32)))


BOMBS = {
    "one picture many times": (lambda: in_cells(repeated(PICTURE)), {}),
    "one picture many times, not in a cell": (lambda: repeated(PICTURE), {}),
    "one huge picture": (lambda: in_cells(pyarrow.array([bytes(75 * 2**20)])), {"use_dictionary": False}),
    "pictures that begin alike": (
        lambda: pyarrow.array([PICTURE] * 75),
        {"use_dictionary": False, "column_encoding": {"image": "DELTA_BYTE_ARRAY"}},
    ),
    "a list without end": (lambda: zeros(18_000_000), {}),
    "wide nothing": (lambda: pyarrow.nulls(75, pyarrow.binary(2**20)), {}),
}


@pytest.fixture(scope="session", params=BOMBS)
def bomb(request, tmp_path_factory):
    """A small file that expands to 70 MiB or, by a dictionary, to 4 GiB; made once, for it takes time."""
    make, options = BOMBS[request.param]
    folder = tmp_path_factory.mktemp("bomb")
    table = pyarrow.table({"image": make()}).replace_schema_metadata({FORMAT: "{}"})
    write_table(table, folder / "train.parquet", compression="zstd", **options)
    assert (folder / "train.parquet").stat().st_size < 2**17
    return folder / "train.parquet"


def read_reward_table(path):
    info = {"model": "", "model_hash": "", "data": "", "num_images": ROWS, "budgets": [4], "num_latent_tokens": 16}
    info |= {"images_per_part": ROWS, "perceptual_net": "alex"}
    folder = path.parent / "table"
    folder.mkdir(exist_ok=True)
    (folder / "table.json").write_text(json.dumps(info))
    (folder / "part-00000-of-00001.parquet").write_bytes(path.read_bytes())
    return RewardTable.load(folder)


READERS = {
    "a file": lambda path: load_image_dataset(str(path)),
    "a folder": lambda path: load_image_dataset(str(path.parent)),
    "a glob": lambda path: load_image_dataset(f"{path.parent}/*.parquet"),
    "codes": ImageCodes.load,
    "a reward table": read_reward_table,
    "sequences": lambda path: load_sequences(path.parent),
}


@pytest.mark.parametrize("reader", READERS)
def test_bombs_are_refused_before_they_are_read(bomb, reader, refused):
    with refused(bomb.name if reader != "a reward table" else "part-00000", "expands to more than"):
        READERS[reader](bomb)


def test_the_command_refuses(bomb, tmp_path, tiny_checkpoint, refusal):
    out = tmp_path / "codes.safetensors"
    assert "expands to more than" in refusal(
        "encode", bomb, "--out", out, "--model", tiny_checkpoint, "--device", "cpu"
    )


@pytest.mark.parametrize("options", [{}, {"use_dictionary": False}, {"row_group_size": 7}])
def test_one_large_picture_among_small_ones_is_no_bomb(tmp_path, options):
    pictures = numpy.random.default_rng(0).bytes(2**20)
    cells = [pictures] + [pictures[row : row + 99] for row in range(2_000)]
    write_table(pyarrow.table({"image": in_cells(pyarrow.array(cells))}), tmp_path / "a.parquet", **options)
    check_parquet(tmp_path / "a.parquet")


def test_the_name_of_a_file_is_no_pattern(bomb, tmp_path, refused):
    (tmp_path / "a[1].parquet").write_bytes(bomb.read_bytes())
    with refused("a[1].parquet", "expands to more than"):
        check_parquet(tmp_path / "a[1].parquet")


@pytest.mark.parametrize(
    "info", [{"num_images": 10**15}, {"images_per_part": 0}, {"budgets": None}, {"budgets": "4"}, {"num_images": "1"}]
)
def test_odd_numbers_of_a_reward_table_are_refused(tmp_path, info, refused):
    facts = {"model": "", "model_hash": "", "data": "", "num_images": 8, "budgets": [4], "num_latent_tokens": 16}
    facts |= {"images_per_part": 4, "perceptual_net": "alex"}
    (tmp_path / "table.json").write_text(json.dumps(facts | info))
    with refused(str(tmp_path)):
        RewardTable.load(tmp_path)


SHARD = {"num_images": 1, "images_per_shard": 1, "codebook_size": 64, "model_hash": "", "candidate_budgets": [1]}


@pytest.mark.parametrize(
    "facts",
    [
        "",
        "[" * 100_000,
        "[]",
        "{}",
        json.dumps(SHARD),
        json.dumps(SHARD | {"class_names": "a"}),
        json.dumps(SHARD | {"class_names": [], "images_per_shard": 0}),
        json.dumps(SHARD | {"class_names": [], "num_images": True}),
    ],
)
def test_odd_metadata_of_shards_are_refused(tmp_path, facts, refused):
    table = pyarrow.table({"image_codes": [[1]], "budget": [1], "label": [0]})
    write_table(table.replace_schema_metadata({FORMAT: facts}), tmp_path / "a.parquet")
    with refused(str(tmp_path / "a.parquet"), "damaged"):
        load_sequences(tmp_path)
