import pytest

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
        job = TokenizeJob(str(tiny_checkpoint), str(folder), **{"budgets": 8, "images_per_shard": 4, **options})
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
    from adatok_hf.checkpoint import model_hash

    assert load_sequences(codes())[1].tokenizer_hash == model_hash(tiny_model)


def test_some_rows_are_spread_evenly(codes):
    folder = codes()
    every = load_sequences(folder)[0]["input_ids"][:]
    assert load_sequences(folder, max_images=3)[0]["input_ids"][:] == [every[0], every[3], every[6]]


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
