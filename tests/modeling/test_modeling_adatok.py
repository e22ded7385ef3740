"""What encode and decode promise: invariants 1 to 4 of the design, the policy's choice, and bad input."""

import logging

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.utils import logging as transformers_logging

from adatok_hf import AdaTokModel
from adatok_hf.modeling.blocks import multi_head_linear


MIXED = [4, 16, 8, 5, 1, 12]
PAD = 64
HEADS = ["budget_0004", "budget_0008", "budget_0016"]


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def pixel_values() -> torch.Tensor:
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def codes(tiny_model, pixel_values) -> torch.Tensor:
    return tiny_model.encode(pixel_values, budgets=16).image_codes


def lora_layers(module: nn.Module) -> list[LoraLayer]:
    return [layer for layer in module.modules() if isinstance(layer, LoraLayer)]


def test_a_forced_budget_gives_the_prefix_of_the_full_encode(tiny_model, pixel_values, codes):
    assert codes.unique().numel() > 8  # a collapsed encoder would make this test empty
    for budget in range(1, 17):
        encoded = tiny_model.encode(pixel_values, budgets=budget)
        assert torch.equal(encoded.image_codes[:, :budget], codes[:, :budget])
        assert (encoded.image_codes[:, budget:] == PAD).all()
        assert torch.equal(encoded.code_mask, encoded.image_codes != PAD)
        assert encoded.budgets.tolist() == [budget] * 6


@pytest.mark.parametrize("group_by_budget", [True, False])
def test_codes_beyond_the_budget_never_influence_the_pixels(tiny_model, codes, group_by_budget):
    budgets = torch.tensor(MIXED)
    outside = torch.arange(16) >= budgets[:, None]
    expected = tiny_model.decode(codes, budgets, group_by_budget).pixel_values
    for tail in (PAD, 0, -7, 10**6):
        changed = codes.masked_fill(outside, tail)
        assert torch.equal(tiny_model.decode(changed, budgets, group_by_budget).pixel_values, expected)


def test_codes_inside_the_budget_influence_the_pixels(tiny_model, codes):
    changed = codes.clone()
    changed[:, 3] = (changed[:, 3] + 1) % PAD
    difference = tiny_model.decode(codes, budgets=4).pixel_values - tiny_model.decode(changed, budgets=4).pixel_values
    assert (difference.abs().amax(dim=(1, 2, 3)) > 1e-4).all()


@pytest.mark.parametrize("group_by_budget", [True, False])
def test_an_image_does_not_depend_on_its_neighbours(tiny_model, pixel_values, group_by_budget):
    tiny_model.config.is_policy_trained = True
    together = tiny_model.encode(pixel_values)
    decoded = tiny_model.decode(together.image_codes, together.budgets, group_by_budget).pixel_values
    for index in range(6):
        alone = tiny_model.encode(pixel_values[index : index + 1])
        assert torch.equal(alone.image_codes[0], together.image_codes[index])
        assert alone.budgets[0] == together.budgets[index]
        pixels = tiny_model.decode(alone.image_codes, group_by_budget=group_by_budget).pixel_values
        torch.testing.assert_close(pixels[0], decoded[index], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("group_by_budget", [True, False])
def test_an_image_does_not_depend_on_the_budgets_of_its_neighbours(tiny_model, codes, group_by_budget):
    first = tiny_model.decode(codes, [8, 1, 2, 3, 4, 5], group_by_budget).pixel_values[0]
    second = tiny_model.decode(codes, [8, 16, 16, 8, 16, 16], group_by_budget).pixel_values[0]
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4)


def test_stacked_heads_equal_adapter_names_of_peft(tiny_model, codes):
    mask = torch.arange(16) < torch.tensor(MIXED)[:, None]
    quantized = tiny_model.quantizer.lookup(codes)
    indices = torch.tensor([0, 2, 1, 1, 0, 2])
    stacked = tiny_model.decoder(quantized, mask, indices)

    def add_adapter_names(module, args, kwargs):
        return args, {**kwargs, "adapter_names": [HEADS[index] for index in indices]}

    for layer in lora_layers(tiny_model.decoder):
        layer.register_forward_pre_hook(add_adapter_names, with_kwargs=True)
    by_peft = tiny_model.decoder(quantized, mask, None)
    torch.testing.assert_close(stacked, by_peft, atol=1e-5, rtol=1e-4)


def test_stacked_heads_equal_one_head_at_a_time(tiny_model, codes):
    quantized = tiny_model.quantizer.lookup(codes)
    by_head = []
    for name in HEADS:
        for layer in lora_layers(tiny_model.decoder):
            layer.set_adapter(name)
        by_head.append(tiny_model.decoder(quantized, head_indices=None))
    assert (by_head[0] - by_head[1]).abs().max() > 1e-2  # the heads differ, or equality would say nothing
    indices = torch.tensor([0, 2, 1, 1, 0, 2])
    expected = torch.stack([by_head[index][row] for row, index in enumerate(indices)])
    stacked = tiny_model.decoder(quantized, head_indices=indices)
    torch.testing.assert_close(stacked, expected, atol=1e-5, rtol=1e-4)
    for index in range(3):
        one = tiny_model.decoder(quantized, head_indices=torch.tensor(index))
        torch.testing.assert_close(one, by_head[index], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("num_tokens", [1, 200], ids=["two products", "merged"])
def test_a_head_for_all_equals_the_same_head_for_each(tiny_model, num_tokens):
    layer = tiny_model.decoder.layers[0].mlp.fc1
    hidden_states = torch.randn(2, num_tokens, layer.base_layer.in_features)
    for head in range(3):
        expected = multi_head_linear(layer, hidden_states, torch.tensor([head, head]))
        torch.testing.assert_close(multi_head_linear(layer, hidden_states, head), expected, atol=1e-5, rtol=1e-5)


def test_heads_touch_both_mlp_linears_of_every_decoder_block_and_nothing_else(tiny_model):
    wrapped = {name for name, module in tiny_model.named_modules() if isinstance(module, LoraLayer)}
    assert wrapped == {f"decoder.layers.{block}.mlp.{linear}" for block in range(2) for linear in ("fc1", "fc2")}
    assert all(list(layer.lora_A) == list(layer.lora_B) == HEADS for layer in lora_layers(tiny_model))


def test_a_fresh_head_changes_nothing(tiny_config, codes):
    model = AdaTokModel(tiny_config).eval()
    quantized = model.quantizer.lookup(codes)
    with_heads = model.decoder(quantized, head_indices=torch.tensor([0, 1, 2, 0, 1, 2]))
    for layer in lora_layers(model):
        layer.enable_adapters(False)
    torch.testing.assert_close(with_heads, model.decoder(quantized, head_indices=None), atol=1e-6, rtol=1e-5)


def test_grouped_and_masked_decoding_agree(tiny_model, codes):
    grouped = tiny_model.decode(codes, MIXED, group_by_budget=True).pixel_values
    masked = tiny_model.decode(codes, MIXED, group_by_budget=False).pixel_values
    torch.testing.assert_close(grouped, masked, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("budget, head", [(1, 0), (4, 0), (5, 1), (8, 1), (9, 2), (16, 2)])
def test_the_next_larger_head_serves_a_budget_between_candidates(tiny_model, codes, budget, head):
    expected = tiny_model.decoder(tiny_model.quantizer.lookup(codes[:, :budget]), head_indices=torch.tensor(head))
    for group_by_budget in (True, False):
        pixels = tiny_model.decode(codes, budget, group_by_budget).pixel_values
        torch.testing.assert_close(pixels, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("budgets", [8, [8] * 6, torch.tensor(8), torch.full((6,), 8), torch.full((6,), 8).int()])
def test_every_way_to_write_a_budget_means_the_same(tiny_model, pixel_values, codes, budgets):
    assert torch.equal(tiny_model.encode(pixel_values, budgets).image_codes[:, :8], codes[:, :8])
    assert tiny_model.encode(pixel_values, budgets).budgets.dtype == torch.long
    expected = tiny_model.decode(codes, torch.tensor([8] * 6)).pixel_values
    assert torch.equal(tiny_model.decode(codes, budgets).pixel_values, expected)


def test_decode_without_budgets_stops_at_the_first_pad_code(tiny_model, pixel_values, codes):
    encoded = tiny_model.encode(pixel_values, MIXED)
    expected = tiny_model.decode(codes, MIXED).pixel_values
    assert torch.equal(tiny_model.decode(encoded.image_codes).pixel_values, expected)


def test_codes_may_be_cut_off_beyond_the_largest_budget(tiny_model, codes):
    expected = tiny_model.decode(codes, [4, 1, 6, 2, 3, 4]).pixel_values
    pixels = tiny_model.decode(codes[:, :6], [4, 1, 6, 2, 3, 4]).pixel_values
    torch.testing.assert_close(pixels, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32])
def test_decode_takes_codes_of_every_integer_type(tiny_model, codes, dtype):
    expected = tiny_model.decode(codes, MIXED).pixel_values
    assert torch.equal(tiny_model.decode(codes.to(dtype), MIXED).pixel_values, expected)


def test_forward_is_encode_then_decode(tiny_model, pixel_values):
    output = tiny_model(pixel_values, budgets=MIXED)
    encoded = tiny_model.encode(pixel_values, MIXED)
    for name in ("image_codes", "budgets", "code_mask", "budget_logits"):
        assert torch.equal(output[name], encoded[name])
    expected = tiny_model.decode(encoded.image_codes, group_by_budget=False).pixel_values
    assert torch.equal(output.pixel_values, expected)
    assert output.pixel_values.shape == pixel_values.shape


def test_an_untrained_policy_gives_the_full_budget_and_one_warning(tiny_model, pixel_values):
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = transformers_logging.get_logger("adatok_hf.modeling.modeling_adatok")
    transformers_logging.warning_once.cache_clear()
    logger.addHandler(handler)
    for _ in range(2):
        assert tiny_model.encode(pixel_values).budgets.tolist() == [16] * 6
        assert tiny_model(pixel_values).budgets.tolist() == [16] * 6
    logger.removeHandler(handler)
    assert len(messages) == 1 and "not been trained" in messages[0]


def test_a_trained_policy_chooses_the_highest_score(tiny_model, pixel_values):
    tiny_model.config.is_policy_trained = True
    nn.init.normal_(tiny_model.policy.fc2.weight, std=30)
    encoded = tiny_model.encode(pixel_values)
    best = encoded.budget_logits.argmax(dim=1).tolist()
    assert encoded.budgets.tolist() == [tiny_model.config.budgets[index] for index in best]
    assert torch.equal(tiny_model.encode(pixel_values, budgets=4).budget_logits, encoded.budget_logits)


def test_cost_bias_moves_the_policy_monotonically_to_cheaper(tiny_model, pixel_values):
    tiny_model.config.is_policy_trained = True
    biases = (-10.0, -0.3, -0.1, 0.0, 0.1, 0.3, 10.0)
    by_bias = torch.stack([tiny_model.encode(pixel_values, cost_bias=bias).budgets for bias in biases])
    assert (by_bias.diff(dim=0) <= 0).all()
    assert (by_bias[0] == 16).all() and (by_bias[-1] == 4).all()


def test_the_cost_bias_of_the_configuration_holds_unless_another_is_given(tiny_model, pixel_values):
    tiny_model.config.is_policy_trained = True
    nn.init.normal_(tiny_model.policy.fc2.weight, std=30)
    as_trained = tiny_model.encode(pixel_values).budgets
    assert (as_trained > 4).any()
    tiny_model.config.cost_bias = 1e6
    for run in (tiny_model.encode, tiny_model):
        assert (run(pixel_values).budgets == 4).all()
        assert torch.equal(run(pixel_values, cost_bias=0).budgets, as_trained)
        assert (run(pixel_values, cost_bias=-1e6).budgets == 16).all()


def test_the_budget_distribution_is_the_softmax_of_what_encode_maximises(tiny_model, pixel_values):
    tiny_model.config.is_policy_trained = True
    nn.init.normal_(tiny_model.policy.fc2.weight, std=3)
    tiny_model.config.cost_bias = 1.5
    for cost_bias in (None, 0.0, -4.0):
        encoded = tiny_model.encode(pixel_values, cost_bias=cost_bias)
        probabilities = tiny_model.budget_distribution(encoded.budget_logits, cost_bias)
        cost = (1.5 if cost_bias is None else cost_bias) * torch.tensor([4, 8, 16]) / 16
        assert torch.allclose(probabilities, (encoded.budget_logits - cost).softmax(dim=1))
        assert torch.equal(tiny_model.candidate_budgets[probabilities.argmax(dim=1)], encoded.budgets)


@pytest.mark.parametrize("cost_bias", [float("nan"), float("inf"), -float("inf"), "1", [1], {}, 1j, torch.ones(2)])
def test_a_cost_bias_that_is_not_finite_is_a_value_error(tiny_model, pixel_values, cost_bias):
    tiny_model.config.is_policy_trained = True
    with pytest.raises(ValueError, match="cost_bias"):
        tiny_model.encode(pixel_values, cost_bias=cost_bias)
    with pytest.raises(ValueError, match="cost_bias"):
        tiny_model.budget_distribution(torch.zeros(1, 3), cost_bias)


@pytest.mark.parametrize("cost_bias", [1.0, float("nan")])
def test_a_cost_bias_beside_budgets_is_a_value_error(tiny_model, pixel_values, cost_bias):
    for verb in (tiny_model.encode, tiny_model):
        with pytest.raises(ValueError, match=f"cost_bias.*{cost_bias}"):
            verb(pixel_values, budgets=4, cost_bias=cost_bias)


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda pixels: pixels[..., :16], r"\(batch, 3, 32, 32\).*\(6, 3, 32, 16\)"),
        (lambda pixels: pixels[:, :1], r"\(6, 1, 32, 32\)"),
        (lambda pixels: pixels[0], r"\(3, 32, 32\)"),
        (lambda pixels: pixels.masked_fill(pixels > 0.9, float("nan")), "NaN"),
        (lambda pixels: pixels.masked_fill(pixels > 0.9, float("inf")), "infinite"),
        (lambda pixels: (pixels * 127 + 128).byte(), "uint8"),
        (lambda pixels: pixels[:0], r"pixel_values.*\(0, 3, 32, 32\)"),
    ],
)
def test_bad_pixel_values_are_a_value_error(tiny_model, pixel_values, change, sentence):
    for verb in (tiny_model.encode, tiny_model):
        with pytest.raises(ValueError, match=sentence):
            verb(change(pixel_values))


@pytest.mark.parametrize(
    "budgets, value",
    [
        (0, "0"),
        (17, "17"),
        (-1, "-1"),
        ([4, 8, 16, 17, 4, 4], "17"),
        ([4, 8], r"\(2,\)"),
        (torch.full((6, 1), 4), r"\(6, 1\)"),
        (4.0, "float"),
        (torch.full((6,), 4.0), "float"),
        (True, "bool"),
        ([True] * 6, "bool"),
        ("auto", "auto"),
        ([[4], [4, 8]], r"\[\[4\], \[4, 8\]\]"),
    ],
)
def test_bad_budgets_are_a_value_error_that_names_them(tiny_model, pixel_values, codes, budgets, value):
    for verb, first in ((tiny_model.encode, pixel_values), (tiny_model, pixel_values), (tiny_model.decode, codes)):
        with pytest.raises(ValueError, match=f"[Bb]udget.*{value}"):
            verb(first, budgets=budgets)


@pytest.mark.parametrize(
    "change, budgets, sentence",
    [
        (lambda codes: codes + PAD + 1, 16, r"between 0 and 63"),
        (lambda codes: codes - PAD, 16, r"between 0 and 63; got -"),
        (lambda codes: codes.index_fill(1, torch.tensor(2), PAD), 8, "pad code"),
        (lambda codes: codes.index_fill(1, torch.tensor(0), PAD), None, "between 1 and 16"),
        (lambda codes: codes.float(), 8, "float32"),
        (lambda codes: codes > 3, 8, "bool"),
        (lambda codes: codes[0], 8, r"\(16,\)"),
        (lambda codes: codes[:, :4], 8, "budget of 8 .*got 4"),
        (lambda codes: torch.cat([codes, codes], dim=1), 4, "32"),
        (lambda codes: codes[:0], 4, r"image_codes.*\(0, 16\)"),
    ],
)
@pytest.mark.parametrize("group_by_budget", [True, False])
def test_bad_codes_are_a_value_error(tiny_model, codes, change, budgets, sentence, group_by_budget):
    with pytest.raises(ValueError, match=sentence):
        tiny_model.decode(change(codes), budgets, group_by_budget)
