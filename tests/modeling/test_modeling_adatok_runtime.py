"""What the model promises beyond its values: saving, precision, initialisation, gradients, attention, compilation."""

import copy

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from adatok_hf import AdaTokModel


MIXED = [4, 16, 8, 5, 1, 12]


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


def gradients(model: AdaTokModel) -> dict[str, torch.Tensor]:
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def reached(model: AdaTokModel, part: str) -> bool:
    """Whether any parameter whose name contains `part` has a gradient that is not zero."""
    return any(value.abs().max() > 0 for name, value in gradients(model).items() if part in name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@torch.no_grad()
def test_saving_and_loading_is_bit_exact(tiny_model, pixel_values, tmp_path, dtype):
    model = tiny_model.to(dtype)
    model.config.is_policy_trained = True
    model.save_pretrained(tmp_path)
    loaded, info = AdaTokModel.from_pretrained(tmp_path, dtype="auto", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    expected = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    actual = {**dict(loaded.named_parameters()), **dict(loaded.named_buffers())}
    assert "candidate_budgets" in expected and expected.keys() == actual.keys()
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype and torch.equal(actual[name], value), name
    before, after = model(pixel_values), loaded(pixel_values)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_model_on_the_meta_device_has_no_storage_and_loading_fills_all(tiny_model, tiny_config, tmp_path):
    with torch.device("meta"):
        empty = AdaTokModel(tiny_config)
    assert all(value.is_meta for value in (*empty.parameters(), *empty.buffers()))
    tiny_model.save_pretrained(tmp_path)
    with torch.device("cpu"):
        loaded = AdaTokModel.from_pretrained(tmp_path)
    assert not any(value.is_meta for value in (*loaded.parameters(), *loaded.buffers()))
    assert loaded.candidate_budgets.tolist() == tiny_config.budgets


def test_tensors_missing_from_a_checkpoint_get_their_initial_values(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    absent = ("lora", "policy", "running", "position_embedding")
    kept = {name: value for name, value in weights.items() if not any(part in name for part in absent)}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = AdaTokModel.from_pretrained(tmp_path)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in kept.items())
    for name, value in loaded.named_parameters():
        assert not ("lora_B" in name and value.any()), name
    assert 0 < loaded.policy.fc2.weight.std() < 0.03
    norm = loaded.quantizer.latent_norm
    assert (norm.running_var == 1).all() and not norm.running_mean.any()
    fresh = AdaTokModel(tiny_model.config)
    assert torch.equal(loaded.decoder.position_embedding, fresh.decoder.position_embedding)


def test_fresh_weights_follow_their_laws(tiny_config):
    torch.manual_seed(0)
    model = AdaTokModel(tiny_config)
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            assert all(not up.weight.any() for up in layer.lora_B.values())
            assert all(down.weight.any() for down in layer.lora_A.values())
    assert 0.015 < model.policy.fc2.weight.std() < 0.025
    assert 0.9 < model.quantizer.codebook.weight.std() < 1.1
    assert 0.3 < model.encoder.latent_tokens.std() < 0.5
    positions = model.encoder.position_embedding[0]
    assert not positions[0].any() and positions[1:].any(dim=1).all()


@torch.no_grad()
def test_a_bfloat16_model_stays_bfloat16_and_near_float32(tiny_model, pixel_values):
    codes = tiny_model.encode(pixel_values, budgets=16).image_codes
    expected = tiny_model.decode(codes, MIXED).pixel_values
    half = copy.deepcopy(tiny_model).to(torch.bfloat16)
    for group_by_budget in (True, False):
        pixels = half.decode(codes, MIXED, group_by_budget).pixel_values
        assert pixels.dtype == torch.bfloat16
        torch.testing.assert_close(pixels.float(), expected, atol=0.1, rtol=0.1)
    encoded = half.encode(pixel_values, MIXED)
    assert encoded.image_codes.dtype == torch.long and encoded.code_mask.sum(dim=1).tolist() == MIXED


@torch.no_grad()
def test_eager_attention_equals_sdpa(tiny_model, pixel_values):
    assert tiny_model.config._attn_implementation == "sdpa"
    by_sdpa = tiny_model(pixel_values, budgets=MIXED)
    tiny_model.set_attn_implementation("eager")
    assert tiny_model.decoder.layers[0].attention.config._attn_implementation == "eager"
    by_eager = tiny_model(pixel_values, budgets=MIXED)
    assert torch.equal(by_eager.image_codes, by_sdpa.image_codes)
    torch.testing.assert_close(by_eager.pixel_values, by_sdpa.pixel_values, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_the_straight_through_value_is_the_lookup_bit_for_bit(tiny_model, training):
    quantizer = tiny_model.quantizer.train(training)
    latents = torch.randn(6, 16, 8, generator=torch.Generator().manual_seed(2), requires_grad=True)
    quantized, unit_latents, codes, _ = quantizer(latents)
    assert torch.equal(quantized, quantizer.lookup(codes))
    weights = torch.randn(quantized.shape, generator=torch.Generator().manual_seed(3))
    through = torch.autograd.grad((quantized * weights).sum(), latents, retain_graph=True)[0]
    past = torch.autograd.grad((unit_latents * weights).sum(), latents)[0]
    assert through.any() and torch.equal(through, past)


@torch.no_grad()
def test_batch_statistics_move_only_in_training(tiny_model, pixel_values):
    norm = tiny_model.quantizer.latent_norm
    before = norm.running_mean.clone()
    tiny_model(pixel_values)
    assert torch.equal(norm.running_mean, before)
    tiny_model.train()(pixel_values)
    assert not torch.equal(norm.running_mean, before)


def test_loss_is_returned_only_when_asked_for(tiny_model, pixel_values):
    output = tiny_model(pixel_values, budgets=MIXED)
    assert output.loss is None and output.quantization_loss is None and output.latents is None
    output = tiny_model(pixel_values, budgets=MIXED, return_loss=True)
    error = torch.nn.functional.mse_loss(output.pixel_values, pixel_values)
    torch.testing.assert_close(output.loss, error + output.quantization_loss)
    torch.testing.assert_close(output.latents.norm(dim=-1), torch.ones(6, 16))


def test_gradients_reach_every_part_but_only_the_heads_in_use(tiny_model, pixel_values):
    tiny_model.train()(pixel_values, budgets=[4, 8, 4, 8, 3, 5], return_loss=True).loss.backward()
    for part in ("encoder.patch_embedding", "encoder.latent_tokens", "encoder.layers.0", "quantizer.codebook"):
        assert reached(tiny_model, part), part
    for part in ("decoder.mask_token", "decoder.layers.0.attention", "base_layer", "decoder.pixel_conv"):
        assert reached(tiny_model, part), part
    assert reached(tiny_model, "lora_B.budget_0004") and reached(tiny_model, "lora_A.budget_0008")
    assert not reached(tiny_model, "budget_0016")
    assert not reached(tiny_model, "policy")  # a choice has no gradient: the policy learns by rewards


def test_gradient_checkpointing_gives_the_same_gradients(tiny_model, pixel_values):
    passes = []
    tiny_model.decoder.layers[0].mlp.register_forward_pre_hook(lambda *args: passes.append(1))
    tiny_model.train()
    plain, checkpointed = tiny_model, copy.deepcopy(tiny_model)
    checkpointed.gradient_checkpointing_enable()
    plain(pixel_values, budgets=MIXED, return_loss=True).loss.backward()
    assert len(passes) == 1
    checkpointed(pixel_values, budgets=MIXED, return_loss=True).loss.backward()
    assert len(passes) == 3  # the backward pass ran the block again
    expected, actual = gradients(plain), gradients(checkpointed)
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, atol=1e-6, rtol=1e-4)


def ten_assignments() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(1, 17, (6,), generator=generator) for _ in range(10)]


def test_compiled_encode_equals_eager_and_never_recompiles(tiny_model, pixel_values, compiler):
    encode = compiler(tiny_model.encode)
    for budgets in ten_assignments():
        compiled, eager = encode(pixel_values, budgets), tiny_model.encode(pixel_values, budgets)
        assert torch.equal(compiled.image_codes, eager.image_codes)
        torch.testing.assert_close(compiled.budget_logits, eager.budget_logits, atol=1e-5, rtol=1e-4)


def test_compiled_encode_with_the_policy_equals_eager_and_never_recompiles(tiny_model, pixel_values, compiler):
    tiny_model.config.is_policy_trained = True
    encode = compiler(tiny_model.encode)
    for seed in range(10):
        noisy = pixel_values + 0.5 * torch.randn(pixel_values.shape, generator=torch.Generator().manual_seed(seed))
        compiled, eager = encode(noisy), tiny_model.encode(noisy)
        assert torch.equal(compiled.budgets, eager.budgets)
        assert torch.equal(compiled.image_codes, eager.image_codes)


def test_compiled_mixed_budget_decode_equals_eager_and_never_recompiles(tiny_model, pixel_values, compiler):
    codes = tiny_model.encode(pixel_values, budgets=16).image_codes
    decode = compiler(tiny_model.decode)
    for budgets in ten_assignments():
        eager = tiny_model.decode(codes, budgets, group_by_budget=False).pixel_values
        torch.testing.assert_close(decode(codes, budgets).pixel_values, eager, atol=1e-5, rtol=1e-4)
