"""JPEG, WebP and AVIF as baselines: sizes that are kept, and honesty where they cannot be."""

import pytest
import torch
from PIL import Image

from adatok_hf.evaluation import codecs
from adatok_hf.evaluation.codecs import CODECS, CompressedBatch, compress, curve_qualities, decompress


def mean_error(first: torch.Tensor, second: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"error": (first.double() - second.double()).abs().mean(dim=(1, 2, 3))}


@pytest.fixture(params=list(CODECS))
def batch(request, sample_images) -> CompressedBatch:
    return CompressedBatch(sample_images, request.param, mean_error)


def test_a_file_decompresses_to_the_size_it_was_made_of(batch, sample_images):
    assert decompress(batch.file(2, 80)).shape == (3, 40, 48)
    assert decompress(batch.file(2, 80)).dtype == torch.uint8


def test_the_file_within_a_limit_is_the_largest_quality_that_fits(batch):
    for index in range(4):
        sizes = {quality: len(batch.file(index, quality)) for quality in CODECS[batch.codec]}
        limits = {size + more for size in sizes.values() for more in (-1, 0, 3)}
        for limit in limits - {min(sizes.values()) - 1}:
            best = max(quality for quality, size in sizes.items() if size <= limit)
            assert batch.file_within(index, limit) == batch.file(index, best)


def test_nothing_is_given_where_the_smallest_file_is_too_large(batch):
    smallest = min(len(batch.file(3, quality)) for quality in CODECS[batch.codec])
    assert batch.file_within(3, smallest - 1) is None
    assert 0 < len(batch.file_within(3, smallest)) <= smallest


def test_what_fits_is_measured_and_what_does_not_is_nan(batch):
    limits = [10, 10**6, 10, 10**6]
    columns = batch.within(limits)
    best = CODECS[batch.codec][-1]
    assert columns["bytes"].tolist() == [0, len(batch.file(1, best)), 0, len(batch.file(3, best))]
    assert columns["error"].isnan().tolist() == [True, False, True, False]
    expected = mean_error(batch.originals[3:], decompress(batch.file(3, best))[None])["error"]
    assert columns["error"][3] == expected


def test_where_no_image_fits_the_columns_are_the_same(batch):
    columns = batch.within([1] * 4)
    assert columns["bytes"].tolist() == [0] * 4 and columns["error"].isnan().all()


def test_the_curve_begins_with_the_smallest_files_and_gets_better(batch):
    curve = batch.curve()
    qualities = curve_qualities(batch.codec)
    assert qualities[0] == CODECS[batch.codec][0] and qualities == sorted(set(qualities))
    assert curve["bytes"].shape == curve["error"].shape == (4, len(qualities))
    assert (curve["bytes"][:, -1] > curve["bytes"][:, 0])[1:].all()
    assert (curve["error"][1:, -1] < curve["error"][1:, 0]).all()


def test_each_file_is_made_once(sample_images, monkeypatch):
    made = []
    monkeypatch.setattr(codecs, "compress", lambda *key: made.append(key) or compress(*key))
    batch = CompressedBatch(sample_images, "webp", mean_error)
    batch.curve()
    batch.within([100] * 4)
    batch.within([400] * 4)
    assert len(made) == len({(id(picture), *rest) for picture, *rest in made})


def test_unknown_and_missing_codecs_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="--codecs must be out of jpeg, webp, avif; got 'gif'"):
        codecs.check_codecs(["jpeg", "gif"])
    monkeypatch.setattr(codecs.features, "check", lambda name: name != "avif")
    codecs.check_codecs(["jpeg", "webp"])
    with pytest.raises(ValueError, match="without avif"):
        codecs.check_codecs(["avif"])


def test_pictures_of_other_modes_are_taken_as_rgb():
    assert decompress(compress(Image.new("L", (16, 16), 9), "jpeg", 90)).shape == (3, 16, 16)
