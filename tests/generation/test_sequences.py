from dataclasses import replace

import pytest
import torch

from adatok_hf.checkpoint import codes_hash
from adatok_hf.codec.tokenize_dataset import TokenizeJob, tokenize_dataset
from adatok_hf.generation.sequences import load_sequences


@pytest.fixture
def codes(tmp_path, tiny_checkpoint, pictures):
    """Makes a dataset of codes from ten pictures of two classes; keywords are those of the job."""

    def make(name="codes", **options):
        folder = tmp_path / "pictures"
        for index, picture in enumerate(pictures):
            path = folder / ("cats", "dogs")[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
        defaults = {"model": str(tiny_checkpoint), "budgets": 8, "images_per_shard": 4}
        job = TokenizeJob(data=str(folder), **(defaults | options))
        tokenize_dataset(job, tmp_path / name)
        return tmp_path / name

    return make


def test_rows_become_class_budget_codes(codes):
    rows, vocabulary = load_sequences(codes())
    assert vocabulary.class_names == ("cats", "dogs") and vocabulary.budgets == (4, 8, 16)
    labels, images = zip(*(vocabulary.from_sequence(row) for row in rows["input_ids"]))
    assert labels == (0,) * 5 + (1,) * 5
    assert {len(image) for image in images} == {8} and rows["length"][:] == [10] * 10


def test_the_vocabulary_names_the_tokenizer(codes, tiny_model):
    assert load_sequences(codes())[1].tokenizer_hash == codes_hash(tiny_model)


@pytest.mark.parametrize("budgets", [4, 9, None])
def test_rows_of_a_tatok_become_what_its_encoder_gives(
    codes, pictures, tiny_tatok, tatok_checkpoint, tatok_vocabulary, processor, budgets
):
    rows, vocabulary = load_sequences(codes(model=str(tatok_checkpoint), budgets=budgets))
    assert vocabulary == replace(tatok_vocabulary, class_names=("cats", "dogs"))
    ordered = pictures[::2] + pictures[1::2]  # class by class
    with torch.no_grad():
        pixel_values = processor(ordered, return_tensors="pt")["pixel_values"]
        encoded = tiny_tatok.encode(pixel_values, num_tokens=budgets)  # without a number: half of the entropy
    found = [vocabulary.from_sequence(row) for row in rows["input_ids"]]
    labels = [0] * 5 + [1] * 5
    assert found == list(zip(labels, encoded.global_codes.tolist(), encoded.patch_codes.tolist()))
    assert rows["length"][:] == [2 + 4 + 2 * (count - 4) for count in encoded.num_tokens.tolist()]


def test_some_rows_are_spread_evenly(codes):
    folder = codes()
    every = load_sequences(folder)[0]["input_ids"][:]
    assert load_sequences(folder, max_images=3)[0]["input_ids"][:] == [every[0], every[4], every[9]]


def test_a_dataset_that_is_not_finished_is_refused(codes, one_sentence):
    folder = codes()
    (folder / "codes-00001-of-00003.parquet").unlink()
    with one_sentence("2 of 3 shards"):
        load_sequences(folder)


def test_shards_of_two_jobs_are_refused(codes, one_sentence):
    folder = codes()
    (codes("other", budgets=16) / "codes-00001-of-00003.parquet").replace(folder / "codes-00001-of-00003.parquet")
    with one_sentence("different jobs"):
        load_sequences(folder)


def test_budgets_that_are_no_candidates_are_refused(codes, one_sentence):
    with one_sentence("4, 8, 16", "got 5"):
        load_sequences(codes(budgets=5))


def test_a_folder_without_codes_is_refused(tmp_path, one_sentence):
    with one_sentence("tokenize-dataset", str(tmp_path)):
        load_sequences(tmp_path)
