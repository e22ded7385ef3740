"""Image folders, parquet files and what they say when they are no good."""

import io
import tarfile
from pathlib import Path

import datasets
import fsspec
import pytest
import torch
from PIL import Image

from adatok_hf.data import (
    ImageCollator,
    ImageFileError,
    ImageFolder,
    RandomCrops,
    ReadableImages,
    load_image,
    load_image_dataset,
    read_images,
)


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def write_parquet(tmp_path, pictures):
    """Writes pictures into a parquet file."""

    def write(name: str, images=None, column="image"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        dataset = datasets.Dataset.from_dict(
            {column: images or pictures, "label": list(range(len(images or pictures)))}
        )
        dataset.cast_column(column, datasets.Image()).to_parquet(path)
        return path

    return write


def pixels(dataset, index):
    return dataset[index]["image"].convert("RGB").tobytes()


@pytest.mark.parametrize(
    ("split", "rows"),
    [("train[:3]", [0, 1, 2]), ("train[2:4]", [2, 3]), ("train[50%:]", [3, 4, 5]), ("validation", range(6))],
)
def test_slice_of_an_image_folder(tmp_path, pictures, split, rows):
    for index, picture in enumerate(pictures[:6]):
        picture.save(tmp_path / f"{index}.png")
    dataset = load_image_dataset(str(tmp_path), split)
    assert [pixels(dataset, row) for row in range(len(dataset))] == [
        pictures[row].convert("RGB").tobytes() for row in rows
    ]


@pytest.mark.parametrize("split", ["train[3]", "train[:x]", "train[:9"])
def test_slice_that_is_none(tmp_path, pictures, one_sentence, split):
    pictures[0].save(tmp_path / "a.png")
    with one_sentence(repr(split.removeprefix("train"))):
        load_image_dataset(str(tmp_path), split)


def test_image_folder_is_sorted_and_recursive(tmp_path, pictures):
    (tmp_path / "images" / "a").mkdir(parents=True)
    pictures[0].save(tmp_path / "images" / "b.png")
    pictures[1].save(tmp_path / "images" / "a" / "z.webp", lossless=True)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    dataset = load_image_dataset(str(tmp_path / "images"))
    assert [pixels(dataset, index) for index in range(len(dataset))] == [pictures[1].tobytes(), pictures[0].tobytes()]


def test_parquet_file(write_parquet, pictures):
    dataset = load_image_dataset(str(write_parquet("pictures.parquet")))
    assert [pixels(dataset, index) for index in range(len(dataset))] == [image.tobytes() for image in pictures]
    assert set(dataset[0]) == {"image", "group"}


@pytest.fixture
def write_tar(tmp_path, pictures):
    """Writes pictures and their numbers into a tar file, as webdataset has them."""

    def write(name: str, kinds=("png",)) -> Path:
        with tarfile.open(tmp_path / name, "w") as tar:
            for index, picture in enumerate(pictures):
                contents = {"cls": str(index % 3).encode()}
                for kind in kinds:
                    picture.save(buffer := io.BytesIO(), kind)
                    contents[kind] = buffer.getvalue()
                for suffix, content in contents.items():
                    member = tarfile.TarInfo(f"sample-{index}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        return tmp_path / name

    return write


@pytest.mark.parametrize("source", ["train-0.tar", "*.tar", "."])
def test_tar_files_of_webdataset(tmp_path, write_tar, pictures, source):
    write_tar("train-0.tar")
    dataset = load_image_dataset(str(tmp_path / source), "train[:7]")
    assert [pixels(dataset, index) for index in range(len(dataset))] == [image.tobytes() for image in pictures[:7]]
    assert dataset.table["label"][:] == [0, 1, 2, 0, 1, 2, 0]


def test_a_tar_file_with_two_pictures_in_a_sample(write_tar, one_sentence):
    with one_sentence("train.tar", "png", "webp"):
        load_image_dataset(str(write_tar("train.tar", ["png", "webp"])))


@pytest.mark.parametrize("name", ["train-0.tar", "train-0.parquet"])
def test_files_of_an_object_store(write_tar, write_parquet, pictures, monkeypatch, name):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)  # which means every download, this memory's too
    path = (write_tar if name.endswith(".tar") else write_parquet)(name)
    fsspec.filesystem("memory").pipe(f"/bucket/{name}", path.read_bytes())
    for source in (f"memory://bucket/{name}", f"memory://bucket/*{path.suffix}", f"file://{path}"):
        dataset = load_image_dataset(source)
        assert [pixels(dataset, index) for index in range(len(dataset))] == [image.tobytes() for image in pictures]


@pytest.mark.parametrize("source", ["memory://nothing/a.tar", "nosuch://bucket/a.parquet", "memory://bucket/pictures"])
def test_an_object_store_that_gives_nothing(source, one_sentence):
    with one_sentence(source):
        load_image_dataset(source)


def test_folder_of_parquet_files_serves_its_splits(tmp_path, write_parquet, pictures):
    write_parquet("data/train-00000-of-00002.parquet", pictures[:4])
    write_parquet("data/train-00001-of-00002.parquet", pictures[4:7])
    write_parquet("data/validation-00000-of-00001.parquet", pictures[7:])
    train = load_image_dataset(str(tmp_path / "data"), "train")
    validation = load_image_dataset(str(tmp_path / "data"), "validation")
    assert [pixels(train, index) for index in range(len(train))] == [image.tobytes() for image in pictures[:7]]
    assert [pixels(validation, 0), len(validation)] == [pictures[7].tobytes(), 3]


def test_glob_of_parquet_files(tmp_path, write_parquet, pictures):
    write_parquet("data/one.parquet", pictures[:4])
    write_parquet("data/two.parquet", pictures[4:6])
    write_parquet("data/other.parquet", pictures[6:])
    assert len(load_image_dataset(str(tmp_path / "data" / "[ot][nw]*.parquet"))) == 6


@pytest.mark.parametrize("source", ["folder", "parquet"])
def test_max_images_are_spread_evenly(source, tmp_path, write_pictures, write_parquet, pictures):
    path = write_pictures(tmp_path / "images", 10) if source == "folder" else write_parquet("pictures.parquet")
    dataset = load_image_dataset(str(path), max_images=4)
    assert [pixels(dataset, index) for index in range(len(dataset))] == [pictures[i].tobytes() for i in (0, 3, 6, 9)]


def test_slice_of_a_split(tmp_path, write_parquet, pictures):
    write_parquet("data/train-0.parquet")
    write_parquet("data/validation-0.parquet", pictures[5:7])
    dataset = load_image_dataset(str(tmp_path / "data"), split="train[2:5]")
    assert [pixels(dataset, index) for index in range(len(dataset))] == [image.tobytes() for image in pictures[2:5]]


def test_group_is_the_label_up_to_its_slash_or_the_source_or_the_subfolder(tmp_path, pictures):
    columns = {"image": pictures[:3], "label": [0, 2, 1], "source": ["a", "b", "a"]}
    labels = datasets.ClassLabel(names=["emoji", "sketch/cat", "sketch/dog"])
    features = datasets.Features({"image": datasets.Image(), "label": labels, "source": datasets.Value("string")})
    dataset = datasets.Dataset.from_dict(columns, features=features)

    def groups(source):
        return [item["group"] for item in load_image_dataset(str(source))]

    dataset.to_parquet(tmp_path / "labels.parquet")
    assert groups(tmp_path / "labels.parquet") == ["emoji", "sketch", "sketch"]
    dataset.remove_columns("label").to_parquet(tmp_path / "sources.parquet")
    assert groups(tmp_path / "sources.parquet") == ["a", "b", "a"]
    dataset.select_columns("image").to_parquet(tmp_path / "bare.parquet")
    assert groups(tmp_path / "bare.parquet") == ["", "", ""]
    (tmp_path / "folder" / "cats").mkdir(parents=True)
    pictures[0].save(tmp_path / "folder" / "cats" / "one.png")
    pictures[1].save(tmp_path / "folder" / "two.png")
    assert groups(tmp_path / "folder") == ["cats", ""]


def test_max_images_beyond_the_source_takes_all(tmp_path, write_pictures):
    assert len(load_image_dataset(str(write_pictures(tmp_path / "images", 3)), max_images=9)) == 3


def test_folder_without_images(tmp_path, one_sentence):
    (tmp_path / "empty").mkdir()
    with one_sentence(str(tmp_path / "empty")):
        load_image_dataset(str(tmp_path / "empty"))


def test_missing_image_folder(tmp_path, one_sentence):
    with one_sentence(str(tmp_path / "nowhere")):
        ImageFolder(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["nowhere", "nobody/nothing", "/no/such/folder"])
def test_source_that_is_nothing(name, one_sentence):
    with one_sentence(repr(name)):
        load_image_dataset(name)


@pytest.mark.parametrize("name", ["nowhere.parquet", "nowhere-*.parquet"])
def test_missing_parquet(name, tmp_path, one_sentence):
    with one_sentence(name):
        load_image_dataset(str(tmp_path / name))


def test_parquet_file_that_is_none(tmp_path, one_sentence):
    (tmp_path / "broken.parquet").write_bytes(b"not parquet at all")
    with one_sentence("broken.parquet"):
        load_image_dataset(str(tmp_path / "broken.parquet"))


def test_parquet_without_image_column(write_parquet, one_sentence):
    with one_sentence("'image'", "picture"):
        load_image_dataset(str(write_parquet("pictures.parquet", column="picture")))


def test_corrupt_file_is_named(tmp_path, write_pictures, one_sentence):
    folder = write_pictures(tmp_path / "images", 3)
    damaged = folder / "picture-01.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    dataset = load_image_dataset(str(folder))
    assert pixels(dataset, 0)
    with one_sentence(str(damaged)):
        dataset[1]


def test_collator_gives_pixel_values_between_minus_one_and_one(processor):
    images = [Image.new("RGB", (40, 32), "black"), Image.new("L", (32, 50), 255), Image.new("RGBA", (33, 33), "red")]
    batch = ImageCollator(processor)([{"image": image} for image in images])
    assert set(batch) == {"pixel_values"} and batch["pixel_values"].shape == (3, 3, 32, 32)
    assert batch["pixel_values"].dtype == torch.float32
    torch.testing.assert_close(batch["pixel_values"][0], torch.full((3, 32, 32), -1.0))
    torch.testing.assert_close(batch["pixel_values"][1], torch.full((3, 32, 32), 1.0))


def test_random_crops_are_squares_inside_the_image(pictures):
    crops = RandomCrops([{"image": pictures[0], "group": "soft"}], min_crop=0.5)
    sizes = set()
    for epoch in range(100):
        crops.set_epoch(epoch)
        item = crops[0]
        assert item["group"] == "soft" and item["image"].width == item["image"].height
        sizes.add(item["image"].width)
    assert min(sizes) >= 16 and max(sizes) <= 32 and len(sizes) > 10


def test_whole_crops_move_along_the_longer_edge_alone(pictures):
    wide = pictures[0]
    squares = [wide.crop((left, 0, left + 32, 32)).tobytes() for left in range(9)]
    crops = RandomCrops([{"image": wide}] * 99)
    assert len({squares.index(item["image"].tobytes()) for item in map(crops.__getitem__, range(99))}) > 5


@pytest.mark.parametrize("num_workers", [0, 2])
def test_crops_depend_on_seed_epoch_and_image_alone(pictures, num_workers):
    def epochs(seed, first):
        crops = RandomCrops([{"image": picture} for picture in pictures], 0.5, seed)
        options = {"batch_size": None, "num_workers": num_workers, "persistent_workers": num_workers > 0}
        loader, seen = torch.utils.data.DataLoader(crops, **options), []
        for epoch in range(first, 3):
            torch.rand(first + 1)
            crops.set_epoch(epoch)
            seen.append([item["image"].tobytes() for item in loader])
        return seen

    whole = epochs(0, 0)
    assert epochs(0, 1) == whole[1:]
    assert whole[0] != whole[1] and whole[0] != epochs(1, 0)[0]


@pytest.mark.parametrize("share", [0, 1.5, -1])
def test_an_impossible_crop_is_one_sentence(share, one_sentence):
    with one_sentence("min_crop", str(share)):
        RandomCrops([], share)


@pytest.fixture
def damaged_folder(tmp_path, write_pictures):
    """Five pictures, of which the second and the last are cut."""
    folder = write_pictures(tmp_path / "damaged", 5)
    for name in ("picture-01.png", "picture-04.png"):
        (folder / name).write_bytes((folder / name).read_bytes()[:60])
    return folder


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_next_readable_image_stands_in_for_a_damaged_one(damaged_folder, num_workers):
    folder, named = ImageFolder(damaged_folder), []
    images = ReadableImages(folder, named.append)
    loader = torch.utils.data.DataLoader(images, batch_size=None, num_workers=num_workers)
    seen = [item["image"].tobytes() for _ in range(2) for item in loader]
    assert seen == [folder[row]["image"].tobytes() for row in (0, 2, 2, 3, 0)] * 2
    assert images.unreadable.tolist() == [False, True, False, False, True]
    if num_workers == 0:
        assert len(named) == 2 and all(f"skipped {folder.paths[row]}" in "".join(named) for row in (1, 4))


def test_nothing_stands_in_where_no_image_can_be_read(damaged_folder, one_sentence):
    for path in damaged_folder.iterdir():
        path.write_text("no picture")
    images = ReadableImages(ImageFolder(damaged_folder), print)
    with pytest.raises(ImageFileError, match="None of the 5 images can be read"):
        images[3]


def test_images_that_the_processor_refuses_are_passed_over_too(damaged_folder, processor):
    Image.new("RGB", (4000, 2)).save(damaged_folder / "picture-02.png")
    named, folder = [], ImageFolder(damaged_folder)
    read = list(read_images(folder, range(5), processor, named.append))
    assert [row for row, _, _ in read] == [0, 3] and read[1][2].shape == (1, 3, 32, 32)
    assert len(named) == 3 and named[1].startswith("skipped image 2 of the data: ")


def test_a_dark_picture_of_sixteen_bits_stays_dark(tmp_path, processor):
    (tmp_path / "dark.pgm").write_bytes(b"P5 32 32 65535\n" + b"\x00\xff" * 32 * 32)
    assert load_image(tmp_path / "dark.pgm").mode == "I;16"
    assert processor(load_image(tmp_path / "dark.pgm"), return_tensors="pt").pixel_values.max() < -0.98
