"""TaTok behind AdaTok's verbs: sequences, prefixes, files of codes, commands."""

import json

import pytest
import torch
from PIL import Image

from adatok_hf.checkpoint import load_checkpoint, model_hash, policy_hash
from adatok_hf.cli import main
from adatok_hf.codec.codec import AdaTokCodec
from adatok_hf.codec.reconstruct import reconstruct
from adatok_hf.codec.sequential_tatok import SequentialTaTok
from adatok_hf.metrics.images import to_images


BUDGETS = [4, 20, 9, 5, 14, 12]
PAD = 64 + 16 * 32


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def pixel_values() -> torch.Tensor:
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def model(tiny_tatok) -> SequentialTaTok:
    tiny_tatok.config.threshold, tiny_tatok.config.threshold_rule = 25.0, "absolute"
    return SequentialTaTok(tiny_tatok)


@pytest.fixture
def codes(model, pixel_values) -> torch.Tensor:
    return model.encode(pixel_values, budgets=20).image_codes


def test_a_sequence_holds_exactly_what_the_model_encodes(model, tiny_tatok, pixel_values):
    encoded = model.encode(pixel_values, budgets=BUDGETS)
    expected = tiny_tatok.encode(pixel_values, num_tokens=BUDGETS)
    global_codes, patch_codes, kept_mask = model.take_apart(encoded.image_codes)
    assert torch.equal(global_codes, expected.global_codes)
    assert torch.equal(patch_codes, expected.patch_codes)
    assert torch.equal(kept_mask, expected.kept_mask)
    assert torch.equal(encoded.code_mask, encoded.image_codes != PAD) and encoded.budgets.tolist() == BUDGETS


def test_a_budget_gives_the_prefix_of_the_full_sequence_and_filtering_is_cutting_off(model, pixel_values, codes):
    for budget in (4, 7, 20):
        encoded = model.encode(pixel_values, budgets=budget)
        assert torch.equal(encoded.image_codes[:, :budget], codes[:, :budget])
        pixels = model.decode(encoded.image_codes).pixel_values
        assert torch.equal(model.decode(codes, budgets=budget).pixel_values, pixels)
        assert torch.equal(model.decode(codes[:, :budget]).pixel_values, pixels)


def test_ids_beyond_the_budget_never_influence_the_pixels(model, codes):
    expected = model.decode(codes, budgets=BUDGETS).pixel_values
    outside = torch.arange(20) >= torch.tensor(BUDGETS)[:, None]
    for tail in (PAD, 0, -7, 10**6):
        assert torch.equal(model.decode(codes.masked_fill(outside, tail), budgets=BUDGETS).pixel_values, expected)


def test_decode_takes_what_encode_returned_and_ragged_lists(model, codes, pixel_values):
    expected = model.decode(codes, budgets=BUDGETS).pixel_values
    encoded = model.encode(pixel_values, budgets=BUDGETS)
    assert torch.equal(model.decode(encoded).pixel_values, expected)
    assert torch.equal(model.decode(encoded.to_list()).pixel_values, expected)


def test_without_a_budget_the_threshold_chooses(model, tiny_tatok, pixel_values, codes):
    encoded, expected = model.encode(pixel_values), tiny_tatok.encode(pixel_values)
    assert torch.equal(encoded.budgets, expected.num_tokens) and encoded.budgets.unique().numel() > 1
    assert torch.equal(model.chosen_budgets(model.encode(pixel_values, budgets=20)), expected.num_tokens)


@pytest.mark.parametrize(
    "change, budgets, sentence",
    [
        (lambda c: c, 3, "the global tokens included, must lie between 4 and 20; got 3"),
        (lambda c: c[:, :9], 10, "the global tokens included, must lie between 4 and 9; got 10"),
        (lambda c: c, 4.5, "one integer or 6 of them"),
        (lambda c: "codes", None, "integers.*got a str"),
        (lambda c: c[:, :3], None, r"\(batch, 4 to 20\); got torch.int64 of shape \(6, 3\)"),
        (lambda c: c.float(), None, "integers.*float32"),
        (lambda c: c.index_fill(1, torch.tensor([7]), 5), 20, "ids from 64 to 575; got 5"),
        (lambda c: c.index_fill(1, torch.tensor([7]), PAD), 20, "ids from 64 to 575; got 576"),
        (lambda c: c.index_copy(1, torch.tensor([7]), c[:, 6:7]), 20, "names place .* 2 times"),
        (lambda c: c.index_fill(1, torch.tensor([0]), 64), 20, "global code must lie between 0 and 63; got 64"),
    ],
)
def test_bad_sequences_are_a_value_error(model, codes, change, budgets, sentence):
    with pytest.raises(ValueError, match=sentence):
        model.decode(change(codes), budgets=budgets)


def test_a_cost_bias_is_a_value_error(model, pixel_values):
    with pytest.raises(ValueError, match="no policy that a cost bias could shift"):
        model.encode(pixel_values, cost_bias=1.0)


def test_the_codec_takes_pictures_to_sequences_and_back(tatok_checkpoint, sample_images):
    codec = AdaTokCodec.from_pretrained(tatok_checkpoint)
    codes = codec.encode(sample_images, budgets=[4, 9, 14, 20])
    assert [len(row) for row in codes] == [4, 9, 14, 20]
    pictures = codec.decode(codes)
    model, processor = codec.model.model, codec.processor
    pixel_values = processor(sample_images, return_tensors="pt")["pixel_values"]
    expected = processor.post_process(model.decode(model.encode(pixel_values, num_tokens=[4, 9, 14, 20])).pixel_values)
    assert all(picture.tobytes() == other.tobytes() for picture, other in zip(pictures, expected))


def test_the_fingerprint_is_that_of_what_gives_codes_their_meaning(model, tiny_tatok):
    fingerprint, choice = model_hash(model), policy_hash(model)
    assert fingerprint == model_hash(tiny_tatok)
    tiny_tatok.config.threshold = 0.7
    tiny_tatok.prior.mask_token += 1
    assert model_hash(model) == fingerprint and policy_hash(model) != choice
    tiny_tatok.patch_quantizer.codebook.weight[3] += 1
    assert model_hash(model) != fingerprint


def test_a_checkpoint_of_another_kind_is_refused(tatok_checkpoint, tiny_checkpoint, one_sentence):
    with one_sentence(str(tatok_checkpoint), "no AdaTok checkpoint", "'tatok'"):
        load_checkpoint(tatok_checkpoint)
    config = json.loads((tatok_checkpoint / "config.json").read_text())
    config["patch_codebook_size"] = 48  # the prior still has the scores of 32 codes
    (tatok_checkpoint / "config.json").write_text(json.dumps(config))
    with one_sentence("do not fit its config.json", "patch_quantizer.codebook.weight", "(32, 8)", "(48, 8)"):
        AdaTokCodec.from_pretrained(tatok_checkpoint)


def test_a_prior_that_does_not_match_the_codebook_is_refused(tatok_checkpoint, tiny_tatok, processor, one_sentence):
    tiny_tatok.prior.code_head = torch.nn.Linear(32, 40)
    tiny_tatok.save_pretrained(tatok_checkpoint)
    with one_sentence("do not fit its config.json", "prior.code_head", "40", "32"):
        AdaTokCodec.from_pretrained(tatok_checkpoint)


def run(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    assert ended.value.code == 0, output.err
    return output.out


def test_commands_encode_decode_and_reconstruct(tatok_checkpoint, sample_images, tmp_path, capsys, weights_dir):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, image in enumerate(sample_images):
        image.save(folder / f"{index}.png")
    said = run(capsys, "encode", folder, "--model", tatok_checkpoint, "--out", tmp_path / "codes.safetensors")
    assert "4 images, mean budget" in said
    run(capsys, "decode", tmp_path / "codes.safetensors", "--model", tatok_checkpoint, "--out", tmp_path / "decoded")
    codec = AdaTokCodec.from_pretrained(tatok_checkpoint)
    expected = codec.decode(codec.encode(sample_images))
    for index, picture in enumerate(expected):
        assert Image.open(tmp_path / "decoded" / f"{index}.png").tobytes() == picture.tobytes()
    run(
        capsys,
        *("reconstruct", folder, "--model", tatok_checkpoint, "--budgets", "4,12,20"),
        *("--out", tmp_path / "out", "--weights-dir", weights_dir),
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    config = codec.model.config
    assert [row["budget"] for row in results["means"]] == [4, 12, 20]
    assert Image.open(tmp_path / "out" / "grid.png").width > 7 * 144  # the original, and twice three budgets
    for row in results["rows"]:
        assert row["bits_per_pixel"] == pytest.approx(config.count_bits(row["budget"]) / 32**2)


def test_a_reconstruction_shows_which_patches_are_kept(model, processor, sample_images):
    pixel_values = processor(sample_images, return_tensors="pt")["pixel_values"]
    originals = processor.post_process(pixel_values)
    kept = model.model.encode(pixel_values, num_tokens=9).kept_mask
    for row, original, mask in zip(reconstruct(model, processor, pixel_values, [9, 20]), originals, kept):
        some, every = (to_images([item.kept_patches])[0] for item in row)
        seen = to_images([original])[0]
        assert torch.equal(every, seen)
        same = (some == seen).unfold(1, 8, 8).unfold(2, 8, 8).flatten(3).all(dim=-1).all(dim=0).flatten()
        white = (seen == 255).unfold(1, 8, 8).unfold(2, 8, 8).flatten(3).all(dim=-1).all(dim=0).flatten()
        assert torch.equal(same | white, mask | white)


def test_a_reconstruction_at_the_threshold_says_its_own_budget(model, processor, sample_images):
    pixel_values = processor(sample_images, return_tensors="pt")["pixel_values"]
    rows = reconstruct(model, processor, pixel_values)
    assert [row[0].budget for row in rows] == model.model.encode(pixel_values).num_tokens.tolist()
    assert all(row[0].policy is None for row in rows)
