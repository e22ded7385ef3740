"""What users try first: outputs and lists into decode, other types of numbers, pictures where tensors belong."""

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def pixel_values() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def encoded(tiny_model, pixel_values):
    return tiny_model.encode(pixel_values, budgets=[4, 16, 9])


def test_decode_takes_what_encode_returned(tiny_model, encoded):
    expected = tiny_model.decode(encoded.image_codes, encoded.budgets).pixel_values
    assert torch.equal(tiny_model.decode(encoded).pixel_values, expected)
    assert torch.equal(tiny_model.decode(**encoded).pixel_values, expected)


@pytest.mark.parametrize("is_policy_trained", [False, True])
@pytest.mark.parametrize("cost_bias", [None, 30.0])
def test_chosen_budgets_are_those_that_encode_chooses(tiny_model, encoded, pixel_values, is_policy_trained, cost_bias):
    tiny_model.config.is_policy_trained = is_policy_trained
    expected = tiny_model.encode(pixel_values, cost_bias=cost_bias).budgets
    assert torch.equal(tiny_model.chosen_budgets(encoded, cost_bias), expected)


def test_ragged_lists_go_out_and_come_back(tiny_model, encoded):
    lists = encoded.to_list()
    assert [len(codes) for codes in lists] == [4, 16, 9]
    assert torch.equal(tiny_model.decode(lists).pixel_values, tiny_model.decode(encoded).pixel_values)


def test_numpy_codes_decode(tiny_model, encoded):
    codes = encoded.image_codes.numpy().astype(np.uint16)
    assert torch.equal(tiny_model.decode(codes).pixel_values, tiny_model.decode(encoded).pixel_values)


@pytest.mark.parametrize("codes", ["codes", [[1, None]], [[1.5]], 7, [[1], {2}], torch.ones(1, 4) * 1j], ids=str)
def test_codes_of_another_kind_are_one_sentence(tiny_model, one_sentence, codes):
    with one_sentence("image_codes must be integers"):
        tiny_model.decode(codes)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint16, np.uint32, np.int64])
def test_budgets_of_every_integer_type(tiny_model, pixel_values, dtype):
    budgets = np.array([4, 16, 9], dtype=dtype)
    assert tiny_model.encode(pixel_values, budgets).budgets.tolist() == [4, 16, 9]
    assert tiny_model.encode(pixel_values, torch.as_tensor(budgets)).budgets.tolist() == [4, 16, 9]


@pytest.mark.parametrize("budgets", [{4, 8, 9}, [4, None, 8], torch.ones(3) * 4j], ids=str)
def test_budgets_of_another_kind_are_one_sentence(tiny_model, pixel_values, one_sentence, budgets):
    with one_sentence("budgets must be one integer"):
        tiny_model.encode(pixel_values, budgets)


@pytest.mark.parametrize(
    "picture", [Image.new("RGB", (32, 32)), np.zeros((1, 3, 32, 32)), "cat.png"], ids=["PIL", "numpy", "path"]
)
def test_a_picture_instead_of_a_tensor_names_the_processor(tiny_model, one_sentence, picture):
    with one_sentence("AdaTokImageProcessor"):
        tiny_model.encode(picture)


def test_floats_up_to_255_are_one_sentence(tiny_model, pixel_values, one_sentence):
    with one_sentence("[0, 255]", "AdaTokImageProcessor"):
        tiny_model.encode((pixel_values + 1) * 127.5)
    tiny_model.encode(pixel_values * 1.5)  # a little out of range is let through
