"""What TaTok promises: global codes always, any set of patches, filtering to the letter, and bad input."""

import copy
import logging

import pytest
import torch
from torch import nn
from transformers.utils import logging as transformers_logging

from adatok_hf import TaTokModel


TOKENS = [4, 20, 9, 5, 14, 12]
PAD = 32


@pytest.fixture
def pixel_values() -> torch.Tensor:
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def compiler():
    """Compiles without a backend's code generation and makes any recompilation an error."""
    torch.compiler.reset()
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        yield lambda function: torch.compile(function, backend="aot_eager", fullgraph=True)
    torch.compiler.reset()


@pytest.fixture
def encoded(tiny_tatok, pixel_values):
    with torch.no_grad():
        return tiny_tatok.encode(pixel_values, num_tokens=TOKENS)


@torch.no_grad()
def test_the_number_of_tokens_counts_globals_and_kept_patches(encoded):
    assert encoded.num_tokens.tolist() == TOKENS
    assert (4 + encoded.kept_mask.sum(dim=1)).tolist() == TOKENS
    assert torch.equal(encoded.patch_codes == PAD, ~encoded.kept_mask)
    assert encoded.global_codes.shape == (6, 4) and (encoded.global_codes < 64).all()
    assert encoded.patch_codes.unique().numel() > 8  # a collapsed encoder would make these tests empty


@torch.no_grad()
def test_kept_codes_are_the_same_whatever_else_is_kept(tiny_tatok, pixel_values, encoded):
    full = tiny_tatok.encode(pixel_values, num_tokens=20)
    assert torch.equal(full.global_codes, encoded.global_codes)
    assert torch.equal(full.patch_codes[encoded.kept_mask], encoded.patch_codes[encoded.kept_mask])
    assert torch.equal(full.patch_entropy, encoded.patch_entropy)


@torch.no_grad()
def test_codes_at_dropped_places_never_influence_the_pixels(tiny_tatok, encoded):
    expected = tiny_tatok.decode(encoded).pixel_values
    for filler in (0, 5, -7, 10**6):
        changed = encoded.patch_codes.masked_fill(~encoded.kept_mask, filler)
        pixels = tiny_tatok.decode(encoded.global_codes, changed, encoded.kept_mask).pixel_values
        assert torch.equal(pixels, expected)


@torch.no_grad()
def test_every_kept_code_and_its_place_influence_the_pixels(tiny_tatok, encoded):
    expected = tiny_tatok.decode(encoded).pixel_values
    places = encoded.kept_mask.float().argmax(dim=1, keepdim=True)
    codes = encoded.patch_codes.scatter(1, places, (encoded.patch_codes.gather(1, places) + 1) % PAD)
    changed = tiny_tatok.decode(encoded.global_codes, codes, encoded.kept_mask).pixel_values
    assert ((changed - expected).abs().amax(dim=(1, 2, 3))[1:] > 1e-4).all()
    moved = tiny_tatok.decode(
        encoded.global_codes, encoded.patch_codes.roll(1, dims=1), encoded.kept_mask.roll(1, dims=1)
    ).pixel_values
    assert ((moved - expected).abs().amax(dim=(1, 2, 3))[2:] > 1e-4).all()
    codes = encoded.global_codes.clone()
    codes[:, 2] = (codes[:, 2] + 1) % 64
    changed = tiny_tatok.decode(codes, encoded.patch_codes).pixel_values
    assert ((changed - expected).abs().amax(dim=(1, 2, 3)) > 1e-4).all()


@pytest.mark.parametrize(
    "choice",
    [
        {"threshold": 0.4},
        {"threshold": 30.0, "threshold_rule": "absolute"},
        {"threshold": 0.4, "entropy": "residual"},
        {"threshold": 0.4, "entropy": "surprisal"},
        {"threshold": 0.4, "block_size": 3},
    ],
)
@torch.no_grad()
def test_an_image_does_not_depend_on_its_neighbours(tiny_tatok, pixel_values, choice):
    together = tiny_tatok.encode(pixel_values, **choice)
    decoded = tiny_tatok.decode(together).pixel_values
    assert 4 < together.num_tokens.min() and together.num_tokens.max() < 20
    for index in range(6):
        alone = tiny_tatok.encode(pixel_values[index : index + 1], **choice)
        for name in ("global_codes", "patch_codes", "kept_mask", "num_tokens"):
            assert torch.equal(alone[name][0], together[name][index])
        pixels = tiny_tatok.decode(alone).pixel_values
        torch.testing.assert_close(pixels[0], decoded[index], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_an_image_does_not_depend_on_what_its_neighbours_keep(tiny_tatok, pixel_values, encoded):
    other = tiny_tatok.encode(pixel_values, num_tokens=[4, 4, 4, 4, 4, 12])
    expected = tiny_tatok.decode(encoded).pixel_values[5]
    torch.testing.assert_close(tiny_tatok.decode(other).pixel_values[5], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_largest_entropies_are_kept_and_the_order_begins_with_them(encoded):
    for row in range(6):
        kept = encoded.kept_mask[row]
        entropy, order = encoded.patch_entropy[row], encoded.patch_order[row]
        count = int(kept.sum())
        assert sorted(order.tolist()) == list(range(16))
        assert set(order[:count].tolist()) == set(kept.nonzero().flatten().tolist())
        assert (entropy[order].diff() <= 0).all()
    assert encoded.patch_entropy.min() >= 0 and encoded.patch_entropy.max() <= 5  # 32 codes
    assert encoded.patch_entropy.std() > 0.01


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9, 1.0])
@torch.no_grad()
def test_relative_rule_keeps_the_smallest_set_with_the_share_of_the_entropy(tiny_tatok, pixel_values, share):
    encoded = tiny_tatok.encode(pixel_values, threshold=share)
    for entropy, count in zip(encoded.patch_entropy.double(), (encoded.num_tokens - 4).tolist()):
        falling = entropy.sort(descending=True).values
        total = falling.sum()
        assert falling[:count].sum() >= share * total - 1e-4
        assert count == 0 or falling[: count - 1].sum() < share * total + 1e-4
    assert encoded.kept_mask.any() == (share > 0) and encoded.kept_mask.all() == (share == 1)


@pytest.mark.parametrize("bits", [0.0, 7.0, 30.0, 1000.0])
@torch.no_grad()
def test_absolute_rule_drops_as_many_as_hold_at_most_so_many_bits(tiny_tatok, pixel_values, bits):
    encoded = tiny_tatok.encode(pixel_values, threshold=bits, threshold_rule="absolute")
    for entropy, count in zip(encoded.patch_entropy.double(), (encoded.num_tokens - 4).tolist()):
        rising = entropy.sort().values
        assert rising[: 16 - count].sum() <= bits + 1e-4
        assert count == 0 or rising[: 17 - count].sum() > bits - 1e-4
    assert encoded.kept_mask.all() == (bits == 0) and encoded.kept_mask.any() == (bits < 1000)


@torch.no_grad()
def test_blocks_condition_on_the_codes_that_are_kept_already(tiny_tatok, pixel_values):
    blocks = tiny_tatok.encode(pixel_values, num_tokens=12, block_size=3)
    one_pass = tiny_tatok.encode(pixel_values, num_tokens=12)
    full = tiny_tatok.encode(pixel_values, num_tokens=20)
    assert torch.equal(blocks.patch_order[:, :3], one_pass.patch_order[:, :3])
    assert not torch.equal(blocks.kept_mask, one_pass.kept_mask)
    globals_, patches = tiny_tatok.global_quantizer.lookup(full.global_codes), full.patch_codes
    visible = torch.zeros(6, 16, dtype=torch.bool).scatter(1, blocks.patch_order[:, :3], True)
    expected = tiny_tatok.patch_entropy(globals_, tiny_tatok.patch_quantizer.lookup(patches), visible)
    second = blocks.patch_order[:, 3:6]
    torch.testing.assert_close(blocks.patch_entropy.gather(1, second), expected.gather(1, second))
    whole = tiny_tatok.encode(pixel_values, num_tokens=12, block_size=16)
    assert torch.equal(whole.patch_order, one_pass.patch_order)


@torch.no_grad()
def test_surprisal_is_what_the_prior_gives_the_very_code(tiny_tatok, pixel_values):
    full = tiny_tatok.encode(pixel_values, num_tokens=20, entropy="surprisal")
    vectors = (
        tiny_tatok.global_quantizer.lookup(full.global_codes),
        tiny_tatok.patch_quantizer.lookup(full.patch_codes),
    )
    logits = tiny_tatok.prior(*vectors, torch.zeros(6, 16, dtype=torch.bool))
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), full.patch_codes.flatten(), reduction="none")
    torch.testing.assert_close(full.patch_entropy, expected.view(6, 16) / torch.tensor(2.0).log())
    blocks = tiny_tatok.encode(pixel_values, num_tokens=20, entropy="surprisal", block_size=3)
    first = blocks.patch_order[:, :3]
    assert torch.equal(first, full.patch_order[:, :3])
    assert torch.equal(blocks.patch_entropy.gather(1, first), full.patch_entropy.gather(1, first))
    assert not torch.equal(blocks.patch_entropy, full.patch_entropy)


@torch.no_grad()
def test_the_prior_never_sees_a_hidden_code(tiny_tatok, encoded):
    globals_ = tiny_tatok.global_quantizer.lookup(encoded.global_codes)
    visible = encoded.kept_mask
    vectors = torch.randn(6, 16, 8, generator=torch.Generator().manual_seed(2))
    expected = tiny_tatok.patch_entropy(globals_, vectors, visible)
    other = torch.where(visible[..., None], vectors, vectors.flip(0))
    assert torch.equal(tiny_tatok.patch_entropy(globals_, other, visible), expected)
    changed = tiny_tatok.patch_entropy(globals_, vectors + 1.0, visible)
    assert not torch.equal(changed[1:], expected[1:])


@torch.no_grad()
def test_residuals_are_the_error_of_each_patch_when_only_globals_are_decoded(tiny_tatok, pixel_values):
    encoded = tiny_tatok.encode(pixel_values, num_tokens=4, entropy="residual")
    error = (tiny_tatok.decode(encoded).pixel_values - pixel_values).square().mean(dim=1)
    for place in range(16):
        rows, columns = (slice(8 * i, 8 * i + 8) for i in divmod(place, 4))
        torch.testing.assert_close(encoded.patch_entropy[:, place], error[:, rows, columns].mean(dim=(1, 2)))


@torch.no_grad()
def test_a_mask_decides_exactly_what_is_kept(tiny_tatok, pixel_values):
    mask = torch.rand(6, 16, generator=torch.Generator().manual_seed(3)) < 0.4
    encoded = tiny_tatok.encode(pixel_values, kept_mask=mask)
    assert torch.equal(encoded.kept_mask, mask)
    for order, kept in zip(encoded.patch_order, mask):
        assert kept[order].tolist() == sorted(kept.tolist(), reverse=True)


@torch.no_grad()
def test_the_threshold_of_the_configuration_is_the_default(tiny_tatok, pixel_values):
    tiny_tatok.config.threshold = 0.5
    assert torch.equal(tiny_tatok.encode(pixel_values).kept_mask, tiny_tatok.encode(pixel_values, 0.5).kept_mask)
    tiny_tatok.config.threshold, tiny_tatok.config.threshold_rule = 30.0, "absolute"
    expected = tiny_tatok.encode(pixel_values, 30.0, threshold_rule="absolute").kept_mask
    assert torch.equal(tiny_tatok.encode(pixel_values).kept_mask, expected)
    assert torch.equal(tiny_tatok(pixel_values).kept_mask, expected)


@torch.no_grad()
def test_without_any_threshold_all_is_kept_and_a_warning_says_so(tiny_tatok, pixel_values, caplog):
    transformers_logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        assert tiny_tatok.encode(pixel_values).kept_mask.all()
    transformers_logging.disable_propagation()
    assert "no threshold" in caplog.text


@torch.no_grad()
def test_decode_takes_what_encode_returned(tiny_tatok, encoded):
    expected = tiny_tatok.decode(encoded.global_codes, encoded.patch_codes, encoded.kept_mask).pixel_values
    assert torch.equal(tiny_tatok.decode(encoded).pixel_values, expected)
    assert torch.equal(tiny_tatok.decode(**encoded).pixel_values, expected)
    assert torch.equal(tiny_tatok.decode(encoded.global_codes, encoded.patch_codes).pixel_values, expected)
    lists = encoded.global_codes.tolist(), encoded.patch_codes.tolist()
    assert torch.equal(tiny_tatok.decode(*lists).pixel_values, expected)


@torch.no_grad()
def test_forward_is_the_round_trip(tiny_tatok, pixel_values, encoded):
    output = tiny_tatok(pixel_values, num_tokens=TOKENS)
    assert torch.equal(output.patch_codes, encoded.patch_codes) and output.num_tokens.tolist() == TOKENS
    torch.testing.assert_close(output.pixel_values, tiny_tatok.decode(encoded).pixel_values, atol=1e-6, rtol=1e-5)
    assert output.loss is None and output.prior_loss is None


@torch.no_grad()
def test_hidden_globals_never_influence_the_pixels(tiny_tatok, encoded):
    mask = torch.tensor([True, False] * 3)
    other = (encoded.global_codes + 1) % 64
    first = tiny_tatok.decode(encoded.global_codes, encoded.patch_codes, global_mask=mask).pixel_values
    second = tiny_tatok.decode(other, encoded.patch_codes, global_mask=mask).pixel_values
    changed = (first - second).abs().amax(dim=(1, 2, 3))
    assert (changed[::2] > 1e-4).all() and not changed[1::2].any()
    torch.testing.assert_close(first[::2], tiny_tatok.decode(encoded).pixel_values[::2], atol=1e-5, rtol=1e-4)


def test_losses_are_returned_only_when_asked_for_and_add_up(tiny_tatok, pixel_values):
    output = tiny_tatok(pixel_values, num_tokens=TOKENS, return_loss=True)
    error = nn.functional.mse_loss(output.pixel_values, pixel_values)
    torch.testing.assert_close(output.loss, error + output.quantization_loss + output.prior_loss)
    assert output.global_latents.shape == (6, 4, 8) and output.patch_latents.shape == (6, 16, 8)


def test_the_prior_is_trained_on_hidden_places_and_trains_nothing_else(tiny_tatok, pixel_values):
    mask = torch.ones(6, 16, dtype=torch.bool)
    mask[:, 5] = False
    output = tiny_tatok(pixel_values, kept_mask=mask, return_loss=True)
    full = tiny_tatok.encode(pixel_values, num_tokens=20)
    vectors = (
        tiny_tatok.global_quantizer.lookup(full.global_codes),
        tiny_tatok.patch_quantizer.lookup(full.patch_codes),
    )
    visible = mask & torch.tensor([False, True] * 3)[:, None]
    logits = tiny_tatok.prior(*vectors, visible)
    expected = nn.functional.cross_entropy(logits[~visible], full.patch_codes[~visible])
    torch.testing.assert_close(output.prior_loss, expected)
    output.prior_loss.backward()
    trained = {name.split(".")[0] for name, value in tiny_tatok.named_parameters() if value.grad is not None}
    assert trained == {"prior"}


def test_gradients_reach_every_part(tiny_tatok, pixel_values):
    tiny_tatok.train()(pixel_values, num_tokens=TOKENS, return_loss=True).loss.backward()
    silent = [name for name, value in tiny_tatok.named_parameters() if value.grad is None or not value.grad.any()]
    assert silent == []


def test_gradients_of_the_pixels_pass_only_the_kept_places(tiny_tatok, pixel_values):
    mask = torch.zeros(6, 16, dtype=torch.bool)
    mask[:, 3] = True
    seen = {}
    tiny_tatok.encoder.patch_projection.register_forward_hook(lambda module, args, out: seen.update(out=out))
    output = tiny_tatok(pixel_values, kept_mask=mask)
    (gradient,) = torch.autograd.grad(output.pixel_values.square().sum(), seen["out"])
    assert gradient[:, 3].any() and not gradient[:, :3].any() and not gradient[:, 4:].any()


@torch.no_grad()
def test_encode_and_decode_use_running_statistics_in_training_mode_too(tiny_tatok, pixel_values, encoded):
    before = {name: value.clone() for name, value in tiny_tatok.named_buffers()}
    tiny_tatok.train()
    again = tiny_tatok.encode(pixel_values, num_tokens=TOKENS)
    assert all(torch.equal(again[name], value) for name, value in encoded.items())
    tiny_tatok(pixel_values, num_tokens=TOKENS)
    assert all(torch.equal(value, before[name]) for name, value in tiny_tatok.named_buffers())
    tiny_tatok(pixel_values, num_tokens=TOKENS, return_loss=True)
    for name in ("global_quantizer", "patch_quantizer"):
        key = f"{name}.latent_norm.running_mean"
        assert not torch.equal(tiny_tatok.state_dict()[key], before[key])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_saving_and_loading_is_bit_exact(tiny_tatok, pixel_values, tmp_path, dtype):
    model = tiny_tatok.to(dtype)
    model.save_pretrained(tmp_path)
    loaded, info = TaTokModel.from_pretrained(tmp_path, dtype="auto", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    for name, value in model.state_dict().items():
        actual = loaded.state_dict()[name]
        assert actual.dtype == value.dtype and torch.equal(actual, value), name
    before, after = model(pixel_values, num_tokens=TOKENS), loaded(pixel_values, num_tokens=TOKENS)
    assert all(torch.equal(after[name], value) for name, value in before.items())


@torch.no_grad()
def test_a_bfloat16_model_keeps_its_quantizers_in_float32(tiny_tatok, pixel_values, encoded):
    half = copy.deepcopy(tiny_tatok).to(torch.bfloat16)
    pixels = half.decode(encoded.global_codes, encoded.patch_codes).pixel_values
    assert pixels.dtype == torch.bfloat16
    torch.testing.assert_close(pixels.float(), tiny_tatok.decode(encoded).pixel_values, atol=0.1, rtol=0.1)
    for quantizer in (half.global_quantizer, half.patch_quantizer):
        assert {tensor.dtype for tensor in quantizer.state_dict().values()} == {torch.float32, torch.long}
    assert half.encode(pixel_values, num_tokens=TOKENS).num_tokens.tolist() == TOKENS


@torch.no_grad()
def test_eager_attention_equals_sdpa(tiny_tatok, pixel_values, encoded):
    expected = tiny_tatok.decode(encoded).pixel_values
    tiny_tatok.set_attn_implementation("eager")
    again = tiny_tatok.encode(pixel_values, num_tokens=TOKENS)
    assert torch.equal(again.patch_codes, encoded.patch_codes)
    torch.testing.assert_close(tiny_tatok.decode(encoded).pixel_values, expected, atol=1e-5, rtol=1e-4)


def test_compiled_verbs_equal_eager_and_never_recompile(tiny_tatok, pixel_values, compiler):
    encode, decode = compiler(tiny_tatok.encode), compiler(tiny_tatok.decode)
    generator = torch.Generator().manual_seed(4)
    for _ in range(5):
        tokens = torch.randint(4, 21, (6,), generator=generator)
        compiled, eager = encode(pixel_values, num_tokens=tokens), tiny_tatok.encode(pixel_values, num_tokens=tokens)
        assert torch.equal(compiled.patch_codes, eager.patch_codes)
        pixels = decode(eager.global_codes, eager.patch_codes, eager.kept_mask).pixel_values
        torch.testing.assert_close(pixels, tiny_tatok.decode(eager).pixel_values, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("num_tokens", [3, 21, [4, 4, 4, 4, 4, 0]])
@torch.no_grad()
def test_a_compiled_encode_refuses_integers_out_of_range(tiny_tatok, pixel_values, num_tokens):
    torch.compiler.reset()
    with pytest.raises(ValueError, match="must lie between 4 and 20"):
        torch.compile(tiny_tatok.encode, backend="aot_eager")(pixel_values, num_tokens=num_tokens)
    torch.compiler.reset()


@torch.no_grad()
def test_hidden_states_are_those_of_the_encoder(tiny_tatok, pixel_values):
    output = tiny_tatok(pixel_values, num_tokens=TOKENS, output_hidden_states=True)
    assert [tuple(states.shape) for states in output.hidden_states] == [(6, 1 + 16 + 4, 32)] * 3


@torch.no_grad()
def test_a_threshold_serves_the_entropy_it_was_calibrated_for(tiny_tatok, pixel_values, one_sentence):
    tiny_tatok.config.threshold = 0.5
    with one_sentence("entropy='residual' needs a threshold of its own"):
        tiny_tatok.encode(pixel_values, entropy="residual")
    assert tiny_tatok.encode(pixel_values, entropy="prior").num_tokens.max() < 20
    assert tiny_tatok.encode(pixel_values, num_tokens=8, entropy="residual").num_tokens.tolist() == [8] * 6


@pytest.mark.parametrize(
    "choice, sentence",
    [
        ({"threshold": 1.1}, "from 0 to 1; got 1.1"),
        ({"threshold": -0.5}, "from 0 to 1; got -0.5"),
        ({"threshold": float("nan")}, "got nan"),
        ({"threshold": -1.0, "threshold_rule": "absolute"}, "from 0; got -1.0"),
        ({"threshold": 0.5, "threshold_rule": "both"}, "relative or absolute; got 'both'"),
        ({"num_tokens": 8, "threshold_rule": "both"}, "relative or absolute; got 'both'"),
        ({"threshold_rule": "absolute"}, "needs a threshold of its own"),
        ({"num_tokens": 8, "threshold_rule": "absolute"}, "is for a threshold; num_tokens decides"),
        ({"num_tokens": 3}, r"the global ones included, must lie between 4 and 20; got \[?3"),
        ({"num_tokens": 21}, r"between 4.* and 20; got \[?21"),
        ({"num_tokens": [4, 4, 4, 4, 4, 0]}, r"got \[4, 4, 4, 4, 4, 0\]"),
        ({"num_tokens": [5, 6]}, "one integer or 6 of them"),
        ({"num_tokens": 5.5}, "one integer or 6 of them"),
        ({"num_tokens": "many"}, "one integer, or one per image; got 'many'"),
        ({"kept_mask": torch.ones(6, 15, dtype=torch.bool)}, r"boolean tensor of shape \(6, 16\).*\(6, 15\)"),
        ({"kept_mask": torch.ones(5, 16, dtype=torch.bool)}, r"boolean tensor of shape \(6, 16\).*\(5, 16\)"),
        ({"kept_mask": torch.ones(6, 16)}, r"boolean tensor of shape \(6, 16\).*float32"),
        ({"kept_mask": [True] * 16}, r"boolean tensor of shape \(6, 16\).*a list"),
        ({"threshold": 0.5, "num_tokens": 8}, "threshold and num_tokens each decide"),
        ({"entropy": "noise"}, "prior, surprisal, residual; got 'noise'"),
        ({"block_size": 0}, "at least 1; got block_size=0"),
        ({"block_size": 4, "entropy": "residual"}, "entropy='residual'"),
    ],
)
@torch.no_grad()
def test_bad_choices_are_a_value_error(tiny_tatok, pixel_values, choice, sentence):
    with pytest.raises(ValueError, match=sentence):
        tiny_tatok.encode(pixel_values, **choice)


@torch.no_grad()
def test_bad_pixels_are_a_value_error(tiny_tatok, pixel_values):
    for bad, sentence in (
        (pixel_values[..., :30], r"shape \(batch, 3, 32, 32\)"),
        (pixel_values * 127, r"lie in \[-1, 1\]"),
        (pixel_values / 0, "NaN or infinite"),
        (pixel_values[:0], "got torch.float32 of shape"),
    ):
        with pytest.raises(ValueError, match=sentence):
            tiny_tatok.encode(bad)


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda e: {"global_codes": e.global_codes[:, :3]}, r"global_codes must be integers of shape \(batch, 4\)"),
        (lambda e: {"global_codes": e.global_codes + 64}, "global code must lie between 0 and 63"),
        (lambda e: {"global_codes": -1 - e.global_codes}, "global code must lie between 0 and 63; got -"),
        (lambda e: {"patch_codes": e.patch_codes.float()}, r"patch_codes must be integers of shape \(batch, 16\)"),
        (lambda e: {"patch_codes": None}, "patch_codes must be integers"),
        (lambda e: {"patch_codes": e.patch_codes[:5]}, "as many images"),
        (lambda e: {"kept_mask": e.kept_mask | True}, "kept patch code must lie between 0 and 31; got 32"),
        (lambda e: {"kept_mask": e.kept_mask[:, :9]}, r"kept_mask must be a boolean tensor of shape \(6, 16\)"),
        (lambda e: {"global_mask": torch.ones(5, dtype=torch.bool)}, "global_mask must hold one boolean per image"),
    ],
)
@torch.no_grad()
def test_bad_codes_are_a_value_error(tiny_tatok, encoded, change, sentence):
    given = {"global_codes": encoded.global_codes, "patch_codes": encoded.patch_codes, "kept_mask": encoded.kept_mask}
    with pytest.raises(ValueError, match=sentence):
        tiny_tatok.decode(**{**given, **change(encoded)})


@pytest.mark.parametrize("global_mask", [torch.ones(6), torch.ones(5, dtype=torch.bool), [True] * 6], ids=str)
@torch.no_grad()
def test_a_bad_mask_of_globals_is_a_value_error_in_both_verbs(tiny_tatok, pixel_values, encoded, global_mask):
    for verb, first in ((tiny_tatok, pixel_values), (tiny_tatok.decode, encoded)):
        with pytest.raises(ValueError, match="global_mask must"):
            verb(first, global_mask=global_mask)


@torch.no_grad()
def test_a_misspelt_keyword_is_a_type_error(tiny_tatok, pixel_values, encoded):
    for verb, first in ((tiny_tatok.encode, pixel_values), (tiny_tatok, pixel_values), (tiny_tatok.decode, encoded)):
        with pytest.raises(TypeError, match="no keyword 'budgets'; threshold, num_tokens and kept_mask are its own"):
            verb(first, budgets=4)
