"""What the model promises beyond its values: saving, precision, initialisation, gradients, attention, compilation."""

import copy
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, Trainer, TrainingArguments, default_data_collator

import adatok_hf
from adatok_hf import AdaTokModel, default_checkpoint


MIXED = [4, 16, 8, 5, 1, 12]
SAMPLES = Path(adatok_hf.__file__).parent / "samples"


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


@pytest.mark.parametrize("way", ["loaded", "converted"])
@torch.no_grad()
def test_bfloat16_changes_few_codes_of_the_shipped_checkpoint(way):
    folder = default_checkpoint()
    pictures = [Image.open(path) for path in sorted(SAMPLES.glob("[0-9]*"))]
    pixel_values = AutoImageProcessor.from_pretrained(folder)(pictures, return_tensors="pt").pixel_values
    model = AdaTokModel.from_pretrained(folder)
    full = model.config.num_latent_tokens
    codes = model.encode(pixel_values, budgets=full).image_codes
    if way == "loaded":
        model = AdaTokModel.from_pretrained(folder, dtype=torch.bfloat16)
    else:
        model = model.to(torch.bfloat16)
    changed = model.encode(pixel_values, budgets=full).image_codes != codes
    assert 0 < changed.double().mean() <= 0.03
    assert model.dtype == model.policy.fc2.weight.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in model.quantizer.state_dict().values()} == {torch.float32, torch.long}


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
    tiny_model(pixel_values, return_loss=True)
    assert torch.equal(norm.running_mean, before)
    tiny_model.train()(pixel_values, return_loss=True)
    assert not torch.equal(norm.running_mean, before)


@torch.no_grad()
def test_encode_and_decode_use_running_statistics_in_training_mode_too(tiny_model, pixel_values):
    expected = tiny_model.encode(pixel_values, MIXED)
    pixels = tiny_model.decode(expected.image_codes).pixel_values
    statistics = {name: value.clone() for name, value in tiny_model.quantizer.latent_norm.named_buffers()}
    tiny_model.train()
    encoded = tiny_model.encode(pixel_values, MIXED)
    assert all(torch.equal(encoded[name], value) for name, value in expected.items())
    assert torch.equal(tiny_model.decode(encoded.image_codes).pixel_values, pixels)
    assert torch.equal(tiny_model(pixel_values, MIXED).image_codes, expected.image_codes)
    alone = tiny_model.encode(pixel_values[:1], budgets=4)
    assert torch.equal(alone.image_codes, expected.image_codes[:1])
    assert all(
        torch.equal(value, statistics[name]) for name, value in tiny_model.quantizer.latent_norm.named_buffers()
    )


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


@pytest.mark.parametrize("budgets", [999, 17, 0, -1, [4, 8, 16, 17, 4, 4]])
@torch.no_grad()
def test_compiled_verbs_refuse_integers_out_of_range(tiny_model, pixel_values, budgets):
    codes = tiny_model.encode(pixel_values, budgets=16).image_codes
    torch.compiler.reset()
    for verb, first in ((tiny_model.encode, pixel_values), (tiny_model.decode, codes)):
        with pytest.raises(ValueError, match="budgets must lie between 1 and 16"):
            torch.compile(verb, backend="aot_eager")(first, budgets=budgets)
    torch.compiler.reset()


@torch.no_grad()
def test_hidden_states_and_attentions_are_those_of_the_encoder(tiny_model, pixel_values):
    tokens = 1 + 16 + 16  # class token, patches, latent tokens
    by_sdpa = tiny_model(pixel_values, budgets=MIXED, output_hidden_states=True)
    assert [tuple(states.shape) for states in by_sdpa.hidden_states] == [(6, tokens, 32)] * 3
    assert by_sdpa.attentions is None
    tiny_model.set_attn_implementation("eager")
    output = tiny_model(pixel_values, budgets=MIXED, output_attentions=True)
    assert [tuple(weights.shape) for weights in output.attentions] == [(6, 2, tokens, tokens)] * 2
    torch.testing.assert_close(output.attentions[0].sum(dim=-1), torch.ones(6, 2, tokens))
    last = tiny_model.encoder.layernorm_post(by_sdpa.hidden_states[-1])[:, -16:]
    torch.testing.assert_close(
        tiny_model.encoder.latent_projection(last), tiny_model.encoder(pixel_values)[0], atol=1e-5, rtol=1e-4
    )


@torch.no_grad()
def test_keywords_reach_every_attention(tiny_model, pixel_values):
    seen = []
    for module in (*tiny_model.encoder.layers, *tiny_model.decoder.layers):
        module.attention.register_forward_pre_hook(
            lambda *args: seen.append(args[2].get("max_length_q")), with_kwargs=True
        )
    codes = tiny_model.encode(pixel_values, budgets=16, max_length_q=1).image_codes
    assert seen == [1, 1]
    for group_by_budget in (True, False):
        seen.clear()
        tiny_model.decode(codes, budgets=16, group_by_budget=group_by_budget, max_length_q=2)
        assert seen == [2, 2]
    seen.clear()
    tiny_model(pixel_values, budgets=16, max_length_q=3)
    assert seen == [3] * 4


@torch.no_grad()
def test_a_misspelt_keyword_is_a_type_error(tiny_model, pixel_values):
    codes = tiny_model.encode(pixel_values, budgets=16).image_codes
    for verb, first in ((tiny_model.encode, pixel_values), (tiny_model, pixel_values), (tiny_model.decode, codes)):
        with pytest.raises(TypeError, match="no keyword 'budget'"):
            verb(first, budget=4)


@torch.no_grad()
def test_verbs_that_record_nothing_refuse_to(tiny_model, pixel_values):
    codes = tiny_model.encode(pixel_values, budgets=16, output_attentions=False).image_codes
    for verb, first in ((tiny_model.encode, pixel_values), (tiny_model.decode, codes)):
        with pytest.raises(TypeError, match=r"model\(pixel_values, output_hidden_states=True\) does"):
            verb(first, output_hidden_states=True)


@torch.no_grad()
def test_policy_features_are_what_the_policy_scores_and_come_only_when_asked_for(tiny_model, pixel_values):
    assert tiny_model.encode(pixel_values, budgets=16).policy_features is None
    encoded = tiny_model.encode(pixel_values, budgets=16, return_policy_features=True)
    assert encoded.policy_features.shape == (6, 64)
    assert torch.equal(tiny_model.policy(encoded.policy_features), encoded.budget_logits)


def test_there_are_no_input_embeddings_to_exchange(tiny_model):
    assert tiny_model.get_input_embeddings() is None and tiny_model.get_output_embeddings() is None


def test_a_plain_trainer_trains_on_batches_that_ask_for_the_loss(tiny_model, pixel_values, tmp_path):
    before = tiny_model.encoder.latent_tokens.clone()
    arguments = TrainingArguments(
        tmp_path, max_steps=2, per_device_train_batch_size=2, gradient_accumulation_steps=2, report_to="none"
    )
    trainer = Trainer(
        tiny_model,
        arguments,
        train_dataset=[{"pixel_values": image} for image in pixel_values],
        data_collator=lambda rows: default_data_collator(rows) | {"return_loss": True},
    )
    assert not trainer.model_accepts_loss_kwargs  # or the losses of accumulated batches would be summed
    trainer.train()
    assert not torch.equal(tiny_model.encoder.latent_tokens, before)
