"""The explorer says the same as the model, after one pass through the encoder."""

import pytest
import torch

from adatok_hf.checkpoint import model_hash
from adatok_hf.codec.codec import AdaTokCodec, fast_dtype
from adatok_hf.codec.codes_file import ImageCodes
from adatok_hf.codec.explorer import Explorer
from adatok_hf.metrics.rate import bits_per_pixel


@pytest.fixture
def explorer(tiny_model, processor) -> Explorer:
    """In full precision, with a policy in use that gives the samples different budgets."""
    tiny_model.config.is_policy_trained = True
    with torch.no_grad():
        tiny_model.policy.fc2.weight.normal_(std=2.0, generator=torch.Generator().manual_seed(0))
    return Explorer(AdaTokCodec(tiny_model, processor, batch_size=3), "tiny", model_hash(tiny_model))


@pytest.fixture
def encoded(explorer, sample_images):
    return explorer.encode(sample_images, [f"{index}.png" for index in range(len(sample_images))])


@pytest.mark.parametrize("cost_bias", [None, -5.0, 5.0])
def test_budgets_and_codes_are_those_of_the_model(explorer, encoded, sample_images, cost_bias):
    rows = explorer.codec.encode(sample_images, cost_bias=cost_bias)
    for item, row in zip(encoded, rows, strict=True):
        budget, policy = explorer.choose(item, cost_bias)
        assert item.codes[:budget] == row
        assert max(policy, key=policy.get) == budget and sum(policy.values()) == pytest.approx(1)


def test_looking_at_budgets_decodes_and_measures(explorer, encoded, sample_images):
    looked = explorer.look(encoded[1], [1, 8, 16])
    expected = explorer.codec.decode([encoded[1].codes[:budget] for budget in (1, 8, 16)])
    assert [seen.picture.tobytes() for seen, _ in looked] == [picture.tobytes() for picture in expected]
    assert [result.bits_per_pixel for _, result in looked] == [
        bits_per_pixel(budget, explorer.config) for budget in (1, 8, 16)
    ]


@pytest.mark.parametrize("budget", [0, 17])
def test_budgets_out_of_range_are_refused(explorer, encoded, one_sentence, budget):
    with one_sentence("1 to 16", str(budget)):
        explorer.look(encoded[0], [budget])


def test_facts_are_what_json_can_hold(explorer, encoded):
    ((_, result),) = explorer.look(encoded[0], [8])
    facts = explorer.facts(encoded[0], result, cost_bias=50.0)
    assert facts["chosen_budget"] == 4 and facts["budget"] == 8 and facts["image_codes"] == encoded[0].codes[:8]
    assert facts["policy"].keys() == {"4", "8", "16"}


def test_words(explorer, encoded):
    ((_, result),) = explorer.look(encoded[0], [8])
    assert explorer.in_words(result) == "8 of 16 tokens, 7 bytes, 0.048 bits per pixel"


def test_codes_go_to_a_file_and_back(explorer, encoded, tmp_path):
    explorer.to_file(encoded, [4, 8, 16, 5]).save(tmp_path / "codes.json")
    codes = ImageCodes.load(tmp_path / "codes.json")
    seen = explorer.from_file(codes)
    assert [item.budget for item in seen] == [4, 8, 16, 5]
    assert [item.budget for item in explorer.from_file(codes, max_budget=6)] == [4, 6, 6, 5]
    for item, picture in zip(seen, encoded, strict=True):
        ((expected, _),) = explorer.look(picture, [item.budget])
        assert item.picture.tobytes() == expected.picture.tobytes()


def test_codes_of_another_model_are_refused(explorer, encoded, one_sentence):
    codes = explorer.to_file(encoded[:1], [4])
    codes.model_hash, codes.model = "0" * 64, "somebody/else"
    with one_sentence("somebody/else", "tiny"):
        explorer.from_file(codes)


def test_names_are_used_by_errors(explorer, tmp_path, one_sentence):
    (tmp_path / "upload").write_text("no picture")
    with one_sentence("holiday.png is not an image file"):
        explorer.encode([tmp_path / "upload"], ["holiday.png"])


def test_sizes_of_files_and_pictures_are_kept(explorer, sample_images, tmp_path):
    sample_images[0].save(tmp_path / "a.png")
    (item,) = explorer.encode([tmp_path / "a.png"], ["a.png"])
    assert item.size == (40, 48) and item.file_bytes == (tmp_path / "a.png").stat().st_size
    assert explorer.encode(sample_images[:1], ["a"])[0].file_bytes is None


def test_a_tatok_is_explored_too(tatok_checkpoint, sample_images, one_sentence, tmp_path):
    explorer = Explorer.from_pretrained(tatok_checkpoint, lpips=False)
    (encoded,) = explorer.encode(sample_images[:1], ["a.png"])
    budget, policy = explorer.choose(encoded, 3.0)
    assert policy is None and explorer.least_budget <= budget <= explorer.config.num_latent_tokens
    explorer.to_file([encoded], [budget]).save(tmp_path / "codes.json")
    codes = ImageCodes.load(tmp_path / "codes.json")
    ((seen, _),) = explorer.look(encoded, [budget])
    assert explorer.from_file(codes)[0].picture.tobytes() == seen.picture.tobytes()
    with one_sentence("got 3"):
        explorer.look(encoded, [3])


def test_a_checkpoint_is_explored_in_the_fast_precision_under_its_own_fingerprint(tiny_checkpoint, tiny_model):
    explorer = Explorer.from_pretrained(tiny_checkpoint, lpips=False)
    assert explorer.codec.model.dtype == fast_dtype(explorer.codec.model.device)
    assert explorer.fingerprint == model_hash(tiny_model) and explorer.lpips is None
