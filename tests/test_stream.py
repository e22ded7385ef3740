"""Streams of images: every image once an epoch, in an order that a place finds again."""

import io
import tarfile
from collections import Counter
from itertools import islice

import datasets
import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from adatok_hf.data import ImageFileError
from adatok_hf.stream import load_image_stream


FILES, IN_A_FILE = 4, 6


def draw(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def drawn() -> list[bytes]:
    """24 pictures as files."""
    files = []
    for seed in range(FILES * IN_A_FILE):
        draw(seed).save(buffer := io.BytesIO(), "png")
        files.append(buffer.getvalue())
    return files


@pytest.fixture
def write_tables(tmp_path, drawn):
    """Writes the pictures into so many parquet files, gives their glob; some may be replaced by other bytes."""

    def write(files: int = FILES, **damaged: bytes) -> str:
        cells = [{"bytes": damaged.get(f"image_{index}", content)} for index, content in enumerate(drawn)]
        for index in range(files):
            rows = cells[index * len(cells) // files : (index + 1) * len(cells) // files]
            table = datasets.Dataset.from_dict({"image": rows}).cast_column("image", datasets.Image())
            table.to_parquet(tmp_path / f"train-{index}.parquet", batch_size=3)
        return str(tmp_path / "train-*.parquet")

    return write


def open_stream(source: str, **options):
    return load_image_stream(source, warn=options.pop("warn", print), window=options.pop("window", 5), **options)


def take(stream, count: int) -> list[tuple[bytes, list[int]]]:
    return [(item["image"].tobytes(), item["place"].tolist()) for item in islice(stream, count)]


def pixels(drawn: list[bytes]) -> Counter:
    return Counter(draw(seed).tobytes() for seed in range(len(drawn)))


def test_every_image_comes_once_an_epoch_in_another_order(write_tables, drawn):
    items = take(open_stream(write_tables()), 2 * len(drawn))
    epochs = [[image for image, place in items if place[0] == epoch] for epoch in (0, 1)]
    assert Counter(epochs[0]) == Counter(epochs[1]) == pixels(drawn)
    assert epochs[0] != epochs[1]


def test_neighbours_are_shuffled_and_the_seed_decides_how(write_tables, drawn):
    source = write_tables(1)
    orders = {seed: [image for image, _ in take(open_stream(source, window=24, seed=seed), 24)] for seed in (0, 1)}
    in_order = list(pixels(drawn))
    assert len({tuple(order) for order in (*orders.values(), in_order)}) == 3
    assert [image for image, _ in take(open_stream(source, window=24, seed=1), 24)] == orders[1]


def test_any_place_is_found_again_with_its_squares(write_tables):
    options = {"min_crop": 0.3, "seed": 3}
    source = write_tables()
    items = take(open_stream(source, **options), 60)
    assert len({image for image, _ in items}) > 50  # squares of another epoch are others
    for index in (0, 3, 4, 10, 23, 24, 47):
        stream = open_stream(source, **options)
        stream.places = torch.tensor([items[index][1]])
        assert take(stream, 5) == items[index + 1 : index + 6]


@pytest.mark.parametrize("workers", [0, 2])
def test_readers_share_the_images_out(write_tables, drawn, workers):
    source, seen = write_tables(), Counter()
    for rank in range(2):
        stream = open_stream(source, process=(rank, 2), workers=workers)
        loader = DataLoader(stream, batch_size=3, num_workers=workers, collate_fn=list)
        items = [item for batch in islice(loader, 4) for item in batch]
        assert {item["reader"] for item in items} == set(range(max(workers, 1)))
        seen.update(item["image"].tobytes() for item in items)
    assert seen == pixels(drawn)


def test_workers_take_turns_from_where_they_were(write_tables):
    def batches(stream, count):
        loader = DataLoader(stream, batch_size=2, num_workers=2, collate_fn=list)
        return [
            [(item["image"].tobytes(), item["reader"], item["place"]) for item in b] for b in islice(loader, count)
        ]

    source = write_tables()
    whole = batches(open_stream(source, workers=2), 9)
    resumed = open_stream(source, workers=2)
    for batch in whole[:5]:
        resumed.places[batch[-1][1]] = batch[-1][2]
    resumed.next_reader = 1
    assert [[item[:2] for item in batch] for batch in batches(resumed, 4)] == [
        [item[:2] for item in batch] for batch in whole[5:]
    ]


def test_an_image_that_cannot_be_read_is_passed_over_and_said_once(write_tables, drawn):
    said = []
    source = write_tables(image_4=b"not a picture", image_9=drawn[9][:80])
    items = take(open_stream(source, warn=said.append), 2 * 22)
    assert Counter(place[0] for _, place in items) == {0: 22, 1: 22}
    assert len(said) == 2 and "Row 4 of file 0" in "".join(said) and "Row 3 of file 1" in "".join(said)


def test_a_stream_without_a_good_image_ends(write_tables):
    source = write_tables(**{f"image_{index}": b"nothing" for index in range(FILES * IN_A_FILE)})
    with pytest.raises(ImageFileError, match="None of the images"):
        take(open_stream(source), 1)


def test_row_groups_serve_where_files_are_few(write_tables, drawn):
    source = write_tables(1)
    seen = Counter()
    for rank in range(4):
        seen.update(image for image, place in take(open_stream(source, process=(rank, 4)), 6))
    assert seen == pixels(drawn)


def test_more_readers_than_row_groups_are_refused(write_tables, one_sentence):
    source = write_tables(1)
    with one_sentence(source, "8 files or row groups", "9 readers"):
        open_stream(source, process=(0, 3), workers=3)


def test_tar_files_of_an_object_store(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)  # which means every download, this memory's too
    for number in range(2):
        with tarfile.open(fileobj=(tar_file := io.BytesIO()), mode="w") as tar:
            for index, content in enumerate(drawn[12 * number : 12 * number + 12]):
                member = tarfile.TarInfo(f"{index}.png")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        fsspec.filesystem("memory").pipe(f"/stream/train-{number}.tar", tar_file.getvalue())
    items = take(open_stream("memory://stream/train-0.tar"), 12)
    assert len({image for image, _ in items}) == 12


@pytest.mark.parametrize(
    "source, split, part",
    [
        ("nowhere-*.parquet", "train", "nowhere-*.parquet"),
        ("nosuch://bucket/a.parquet", "train", "nosuch://bucket/a.parquet"),
        ("a.parquet", "train[:10]", "[:10]"),
        (".", "train", "no parquet or tar files"),
        ("nobody/nothing", "train", "nobody/nothing"),
    ],
)
def test_what_cannot_be_streamed(tmp_path, monkeypatch, one_sentence, source, split, part):
    monkeypatch.chdir(tmp_path)
    with one_sentence(part):
        open_stream(source, split=split)


@pytest.mark.parametrize("options, part", [({"window": 0}, "shuffle_window"), ({"min_crop": 0}, "min_crop")])
def test_impossible_options(write_tables, one_sentence, options, part):
    with one_sentence(part):
        open_stream(write_tables(), **options)


def test_a_file_that_goes_away_is_named(write_tables, tmp_path, one_sentence):
    source = write_tables()
    stream = open_stream(source)
    (tmp_path / "train-2.parquet").unlink()
    with one_sentence("File 2", source):
        take(stream, 24)
