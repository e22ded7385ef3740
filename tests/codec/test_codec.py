"""One object from pictures to codes and back."""

import numpy as np
import pytest
import torch

from adatok_hf import AdaTokCodec


@pytest.fixture
def codec(tiny_checkpoint):
    return AdaTokCodec.from_pretrained(tiny_checkpoint, device="cpu", batch_size=3)


def test_pictures_of_any_kind_in_batches_give_codes_and_pictures(codec, pictures, tmp_path, tiny_model, processor):
    pictures[0].save(tmp_path / "a.png")
    array = np.asarray(pictures[2])
    mixed = [tmp_path / "a.png", pictures[1], array, str(tmp_path / "a.png"), torch.from_numpy(array)]
    codes = codec.encode(mixed, budgets=[4, 5, 16, 4, 8])
    assert [len(row) for row in codes] == [4, 5, 16, 4, 8] and codes[0] == codes[3] and codes[2][:8] == codes[4]
    pixel_values = processor(pictures[:3], return_tensors="pt")["pixel_values"]
    encoded = tiny_model.encode(pixel_values, budgets=torch.tensor([4, 5, 16]))
    decoded = tiny_model.decode(encoded.image_codes, budgets=encoded.budgets).pixel_values
    assert [row.tobytes() for row in codec.decode(codes)[:3]] == [p.tobytes() for p in processor.post_process(decoded)]


@pytest.mark.parametrize("kind", [tuple, np.array, torch.tensor])
def test_budgets_of_any_kind_go_with_their_pictures(codec, pictures, kind):
    budgets = [4, 5, 16, 4, 8]
    assert [len(row) for row in codec.encode(pictures[:5], budgets=kind(budgets))] == budgets
    assert {len(row) for row in codec.encode(pictures[:5], budgets=np.int64(7))} == {7}


def test_one_picture_is_a_batch_of_one(codec, pictures):
    assert codec.encode(pictures[0], budgets=4) == codec.encode([pictures[0]], budgets=4)
    assert codec.encode([], budgets=4) == [] and codec.decode([]) == []


def test_another_precision(tiny_checkpoint, pictures):
    codec = AdaTokCodec.from_pretrained(tiny_checkpoint, device="cpu", dtype=torch.bfloat16)
    assert codec.model.dtype == torch.bfloat16
    assert codec.decode(codec.encode(pictures, budgets=8))[0].size == (32, 32)


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda codec, images: codec.encode(images, budgets=[4]), "one for each of 10 images"),
        (lambda codec, images: codec.encode(images, budgets=torch.tensor([4, 5])), "one for each of 10 images"),
        (lambda codec, images: codec.encode(["no/such.png"]), "no/such.png"),
        (lambda codec, images: codec.encode(images, budgets=99), "99"),
        (lambda codec, images: codec.decode([[]]), "got 0"),
        (lambda codec, images: codec.decode([[1] * 17]), "got 17"),
        (lambda codec, images: codec.decode([[64]]), "64"),
        (lambda codec, images: AdaTokCodec(None, None, 0), "batch_size"),
    ],
)
def test_bad_input_is_one_sentence(codec, pictures, one_sentence, call, part):
    with one_sentence(part):
        call(codec, pictures)
