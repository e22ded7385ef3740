import os

import datasets
import pytest
import torch
from PIL import Image, ImageOps

from adatok_hf.checkpoint import load_checkpoint, model_hash
from adatok_hf.codec.tokenize_dataset import ShardWriter, TokenizeJob, tokenize_dataset, variants_of


NAMES = ["emoji", "sketch/cat", "sketch/dog"]


@pytest.fixture
def data(tmp_path, pictures) -> str:
    """Ten pictures with labels, as a folder of parquet files."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    columns = {"image": pictures, "label": [index % 3 for index in range(10)]}
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "data" / "train-0.parquet")
    return str(tmp_path / "data")


@pytest.fixture
def make_job(tiny_checkpoint, data):
    def make(**options) -> TokenizeJob:
        return TokenizeJob(**{"model": str(tiny_checkpoint), "data": data, "images_per_shard": 4, **options})

    return make


def load(folder):
    return datasets.load_dataset("parquet", data_files=f"{folder}/*.parquet", split="train")


def contents(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("*")}


def test_the_rows_are_what_encoding_gives(make_job, tmp_path, pictures, tiny_checkpoint):
    made = tokenize_dataset(make_job(budgets=8), tmp_path / "out", batch_size=3)
    assert made == {"shards": 3, "shards_there": 0, "rows": 10, "skipped": 0, "mean_budget": 8}
    rows = load(tmp_path / "out")
    model, processor = load_checkpoint(tiny_checkpoint)
    with torch.no_grad():
        encoded = model.encode(**processor(pictures, return_tensors="pt"), budgets=8)
    assert rows["image_codes"][:] == encoded.image_codes[:, :8].tolist()
    assert rows["image_id"][:] == [str(index) for index in range(10)]
    assert set(rows["model_hash"]) == {model_hash(model)} and len(set(rows["image_hash"])) == 10


def test_class_names_are_kept(make_job, tmp_path):
    tokenize_dataset(make_job(), tmp_path / "out")
    rows = load(tmp_path / "out")
    assert rows.features["label"].names == NAMES
    assert rows["label"][:] == [index % 3 for index in range(10)]
    assert rows.features["image_codes"] == datasets.List(datasets.Value("int16"))


def test_codes_are_cut_at_the_budget_of_the_policy(make_job, tmp_path, tiny_model, processor):
    tiny_model.config.is_policy_trained = True
    with torch.no_grad():
        tiny_model.policy.fc2.weight.normal_(std=3.0)
    tiny_model.save_pretrained(tmp_path / "trained")
    processor.save_pretrained(tmp_path / "trained")
    tokenize_dataset(make_job(model=str(tmp_path / "trained")), tmp_path / "out")
    rows = load(tmp_path / "out")
    assert [len(codes) for codes in rows["image_codes"]] == rows["budget"][:]
    assert len(set(rows["budget"])) > 1


def test_a_second_start_writes_nothing(make_job, tmp_path):
    tokenize_dataset(make_job(), tmp_path / "out")
    before = contents(tmp_path / "out")
    made = tokenize_dataset(make_job(), tmp_path / "out")
    assert (made["shards"], made["shards_there"], made["rows"]) == (0, 3, 0)
    assert contents(tmp_path / "out") == before


def test_a_run_that_was_cut_off_leaves_whole_shards_and_goes_on(make_job, tmp_path):
    tokenize_dataset(make_job(), tmp_path / "whole")

    class Cut(RuntimeError):
        pass

    write = ShardWriter(make_job(), tmp_path / "out")
    (tmp_path / "out").mkdir()
    write(0)
    encode, calls = write.model.encode, []

    def cut(*args, **kwargs):
        if calls:
            raise Cut
        calls.append(1)
        return encode(*args, **kwargs)

    write.model.encode, write.batch_size = cut, 2
    with pytest.raises(Cut):
        write(1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["codes-00000-of-00003.parquet"]
    first = contents(tmp_path / "out")
    tokenize_dataset(make_job(), tmp_path / "out")
    assert contents(tmp_path / "out").items() >= first.items()
    assert load(tmp_path / "out")[:] == load(tmp_path / "whole")[:]


def test_processes_share_the_shards(make_job, tmp_path, monkeypatch):
    tokenize_dataset(make_job(), tmp_path / "alone")
    monkeypatch.setenv("WORLD_SIZE", "2")
    rows = []
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        rows.append(tokenize_dataset(make_job(), tmp_path / "shared")["rows"])
    assert rows == [4, 6]
    assert load(tmp_path / "shared")[:] == load(tmp_path / "alone")[:]


@pytest.mark.parametrize("other", [{"budgets": 4}, {"variants": 2}, {"images_per_shard": 5}, {"max_images": 5}])
def test_shards_of_another_job_are_refused(make_job, tmp_path, one_sentence, other):
    tokenize_dataset(make_job(), tmp_path / "out")
    with one_sentence("another job", str(tmp_path / "out")):
        tokenize_dataset(make_job(**other), tmp_path / "out")


@pytest.mark.parametrize("budgets, is_refused", [(None, True), (8, False)])
def test_another_policy_is_another_job_where_it_chooses(
    make_job, tmp_path, tiny_model, processor, one_sentence, budgets, is_refused
):
    tokenize_dataset(make_job(budgets=budgets), tmp_path / "out")
    tiny_model.config.cost_bias = 2.0
    tiny_model.save_pretrained(tmp_path / "thrifty")
    processor.save_pretrained(tmp_path / "thrifty")
    job = make_job(model=str(tmp_path / "thrifty"), budgets=budgets)
    if is_refused:
        with one_sentence("policy_hash"):
            tokenize_dataset(job, tmp_path / "out")
    else:
        assert tokenize_dataset(job, tmp_path / "out")["shards_there"] == 3


@pytest.mark.parametrize("budgets", [None, 9])
def test_another_prior_is_another_job_as_it_chooses_the_patches(
    make_job, tmp_path, tiny_tatok, tatok_checkpoint, processor, one_sentence, budgets
):
    made = tokenize_dataset(make_job(model=str(tatok_checkpoint), budgets=budgets), tmp_path / "out")
    assert made["rows"] == 10 and made["mean_budget"] >= 4
    with torch.no_grad():
        tiny_tatok.prior.code_head.weight.mul_(-1.0)
    tiny_tatok.save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    with one_sentence("policy_hash"):
        tokenize_dataset(make_job(model=str(tmp_path / "other"), budgets=budgets), tmp_path / "out")


def test_a_damaged_shard_is_named(make_job, tmp_path, one_sentence):
    tokenize_dataset(make_job(), tmp_path / "out")
    (tmp_path / "out" / "codes-00001-of-00003.parquet").write_bytes(b"PAR1")
    with one_sentence("codes-00001-of-00003.parquet", "damaged"):
        tokenize_dataset(make_job(), tmp_path / "out")


def test_variants_are_the_image_then_random_squares_half_of_them_mirrored(make_job, sample_images):
    image = sample_images[2]
    job = make_job(variants=3, min_crop=1.0)
    same, mirrored, square = variants_of(image, job, row=5)
    assert same is image and mirrored.size == square.size == (40, 40)

    def squares(picture):
        return [picture.crop((left, 0, left + 40, 40)).tobytes() for left in range(9)]

    assert square.tobytes() in squares(image)
    assert ImageOps.mirror(mirrored).tobytes() in squares(image)


def test_variants_depend_on_seed_and_row_alone(make_job, sample_images):
    def crops(seed, row):
        job = make_job(variants=3, seed=seed)
        return [(picture.size, picture.tobytes()) for picture in variants_of(sample_images[3], job, row)[1:]]

    assert crops(0, 1) == crops(0, 1)
    assert crops(0, 1) != crops(1, 1) and crops(0, 1) != crops(0, 2)


def test_variants_are_rows_of_their_own(make_job, tmp_path):
    assert tokenize_dataset(make_job(variants=2), tmp_path / "out")["rows"] == 20
    rows = load(tmp_path / "out")
    assert rows["variant"][:4] == [0, 1, 0, 1] and rows["image_id"][:4] == ["0", "0", "1", "1"]
    assert len(set(rows["image_hash"])) == 20


def test_a_picture_that_cannot_be_read_is_named_and_skipped(make_job, tmp_path, write_pictures):
    folder = write_pictures(tmp_path / "pictures", 5)
    (folder / "picture-02.png").write_bytes(b"not a picture")
    said = []
    made = tokenize_dataset(make_job(data=str(folder)), tmp_path / "out", say=said.append)
    assert (made["rows"], made["skipped"]) == (4, 1)
    assert len(said) == 1 and "picture-02.png" in said[0]


def test_pictures_that_were_skipped_before_are_counted_again(make_job, tmp_path, write_pictures):
    folder = write_pictures(tmp_path / "pictures", 5)
    (folder / "picture-02.png").write_bytes(b"not a picture")
    for shards in (2, 0):
        made = tokenize_dataset(make_job(data=str(folder)), tmp_path / "out", say=lambda text: None)
        assert (made["shards"], made["skipped"]) == (shards, 1)


def test_a_picture_with_damaged_exif_is_skipped(make_job, tmp_path, write_pictures):
    folder = write_pictures(tmp_path / "pictures", 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    damaged = exif.tobytes().replace(b"\x12\x01\x03\x00", b"\x12\x01\x03\x03")  # an orientation of many numbers
    Image.new("RGB", (40, 40)).save(folder / "picture-03.jpg", exif=damaged)
    made = tokenize_dataset(make_job(data=str(folder)), tmp_path / "out", say=lambda text: None)
    assert made["rows"] + made["skipped"] == 4


def test_a_shard_without_any_picture_is_an_error(make_job, tmp_path, write_pictures, one_sentence):
    folder = write_pictures(tmp_path / "pictures", 5)
    (folder / "picture-04.png").write_bytes(b"not a picture")
    with one_sentence("None of the 1 images of shard 1"):
        tokenize_dataset(make_job(data=str(folder)), tmp_path / "out", say=lambda text: None)


def test_subfolders_are_classes(make_job, tmp_path, pictures):
    for name, picture in zip(("cats/a.png", "dogs/b.png", "c.png"), pictures):
        (tmp_path / "zoo" / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "zoo" / name)
    tokenize_dataset(make_job(data=str(tmp_path / "zoo")), tmp_path / "out")
    rows = load(tmp_path / "out")
    assert rows.features["label"].names == ["cats", "dogs"]
    assert dict(zip(rows["image_id"], rows["label"])) == {"c.png": None, "cats/a.png": 0, "dogs/b.png": 1}


def test_a_slice_of_a_folder_keeps_names_and_classes(make_job, tmp_path, pictures):
    for index, name in enumerate(("cats/a.png", "cats/b.png", "dogs/c.png")):
        (tmp_path / "zoo" / name).parent.mkdir(parents=True, exist_ok=True)
        pictures[index].save(tmp_path / "zoo" / name)
    tokenize_dataset(make_job(data=str(tmp_path / "zoo"), split="train[1:]"), tmp_path / "out")
    rows = load(tmp_path / "out")
    assert dict(zip(rows["image_id"], rows["label"])) == {"cats/b.png": 0, "dogs/c.png": 1}


def test_labels_that_are_words_become_classes(make_job, tmp_path, pictures):
    columns = {"image": pictures[:2], "label": ["owl", "cat"]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "words.parquet")
    tokenize_dataset(make_job(data=str(tmp_path / "words.parquet")), tmp_path / "out")
    rows = load(tmp_path / "out")
    assert [rows.features["label"].int2str(label) for label in rows["label"]] == ["owl", "cat"]


def test_impossible_jobs_are_refused(make_job, one_sentence):
    for options in ({"variants": 0}, {"images_per_shard": 0}, {"min_crop": 0.0}, {"min_crop": 1.5}):
        with one_sentence(next(iter(options))):
            make_job(**options)


def test_the_picture_is_turned_upright_before_it_is_cut(make_job):
    image = Image.new("RGB", (30, 60), "red")
    image.getexif()[0x0112] = 6  # stored on its side
    assert {picture.size for picture in variants_of(ImageOps.exif_transpose(image), make_job(), 0)} == {(60, 30)}


def test_what_another_process_is_writing_is_no_shard(make_job, tmp_path):
    tokenize_dataset(make_job(), tmp_path / "out")
    (tmp_path / "out" / f".adatok-{'0' * 8}-1-{'0' * 32}.parquet").write_bytes(b"on the way")
    assert tokenize_dataset(make_job(), tmp_path / "out")["shards_there"] == 3


def test_a_name_that_is_no_utf_8_is_replaced(make_job, tmp_path, write_pictures):
    folder = write_pictures(tmp_path / "pictures", 1)
    next(folder.iterdir()).rename(os.fsdecode(os.fsencode(folder) + b"/y\xff.png"))
    tokenize_dataset(make_job(data=str(folder)), tmp_path / "out")
    assert load(tmp_path / "out")["image_id"][:] == ["y\ufffd.png"]
