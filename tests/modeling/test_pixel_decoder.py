"""The options that converted models need: pixel decoder, interleaved latents, plain codes, no batch statistics."""

import copy

import pytest
import torch
from fresh_process import FreshProcess
from huggingface_hub.errors import StrictDataclassError
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig

from adatok_hf import AdaTokConfig, AdaTokModel, default_checkpoint
from adatok_hf.checkpoint import architecture, model_hash
from adatok_hf.modeling.configuration_adatok import AdaTokPixelDecoderConfig


SIZES = {
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_latent_tokens": 16,
    "codebook_size": 64,
    "codebook_dim": 8,
    "budgets": [4, 8, 16],
    "lora_rank": 2,
    "lora_alpha": 4,
    "policy_hidden_size": 16,
}
PIXEL_DECODER = {"codebook_size": 24, "codebook_dim": 16, "hidden_sizes": [32, 32, 64], "layers_per_block": 1}
SWITCHES = {"normalize_codes": False, "latent_batch_norm": False, "interleave_latents": True}
MIXED = [4, 16, 8, 5, 1, 12]
PAD = 64
HEADS = ["budget_0004", "budget_0008", "budget_0016"]
SHIPPED_HASH = "92405aa8945b5f40e809c16bf7fa68d3f03678c9a55ce9124664f21edf9a146d"


def make_model(**options) -> AdaTokModel:
    """In evaluation mode, with heads that differ and convolutions that do not fade the image out."""
    torch.manual_seed(0)
    model = AdaTokModel(AdaTokConfig(**SIZES, **options)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.3)
            elif "pixel_decoder" in name and parameter.ndim == 4:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model


@pytest.fixture(params=["", "as converted"], ids=["plain", "converted"])
def model(request) -> AdaTokModel:
    """With a pixel decoder, and then with all other options of a converted model too."""
    return make_model(pixel_decoder_config=PIXEL_DECODER, **(SWITCHES if request.param else {}))


@pytest.fixture
def pixel_values() -> torch.Tensor:
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def codes(model, pixel_values) -> torch.Tensor:
    with torch.no_grad():
        return model.encode(pixel_values, budgets=16).image_codes


def test_the_defaults_are_those_of_the_public_models():
    config = AdaTokPixelDecoderConfig()
    assert (config.codebook_size, config.codebook_dim, config.layers_per_block) == (1024, 256, 2)
    assert config.hidden_sizes == [512, 256, 256, 128, 128]
    assert AdaTokConfig().pixel_decoder_config is None
    assert AdaTokConfig(pixel_decoder_config=config).patch_size == 16


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"hidden_sizes": [32, 33, 64]}, r"multiples of norm_num_groups=32; got \[32, 33, 64\]"),
        ({"hidden_sizes": [32, 0, 64]}, r"got \[32, 0, 64\]"),
        ({"hidden_sizes": []}, r"got \[\]"),
        ({"norm_num_groups": 24}, r"norm_num_groups=24; got \[32, 32, 64\]"),
        ({"norm_num_groups": 0}, "norm_num_groups must be at least 1; got 0"),
        ({"codebook_size": 0}, "codebook_size must be at least 1, or None; got 0"),
        ({"codebook_dim": -4}, "codebook_dim must be at least 1; got -4"),
        ({"layers_per_block": 0}, "layers_per_block must be at least 1; got 0"),
        ({"hidden_sizes": [32] * 4}, "4 hidden_sizes decodes patches of 8 pixels, or a multiple, but patch_size is 4"),
    ],
)
def test_an_impossible_pixel_decoder_is_a_value_error(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        AdaTokConfig(**SIZES, pixel_decoder_config={**PIXEL_DECODER, **change})


@pytest.mark.parametrize("value", [3, "vqgan", [32, 32, 64], AdaTokConfig()])
def test_a_pixel_decoder_of_another_type_is_refused(value):
    with pytest.raises(StrictDataclassError, match="pixel_decoder_config"):
        AdaTokConfig(**SIZES, pixel_decoder_config=value)


@pytest.mark.parametrize(
    "name, value", [("codebook_size", "24"), ("hidden_sizes", 32), ("hidden_sizes", [32.0, 32, 64])]
)
def test_a_field_of_another_type_is_refused(name, value):
    with pytest.raises(StrictDataclassError, match=name):
        AdaTokConfig(**SIZES, pixel_decoder_config={**PIXEL_DECODER, name: value})


def test_saving_and_loading_keeps_every_field(tmp_path):
    config = AdaTokConfig(**SIZES, **SWITCHES, pixel_decoder_config={**PIXEL_DECODER, "norm_eps": 1e-4})
    config.save_pretrained(tmp_path)
    for loaded in (AdaTokConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert isinstance(loaded.pixel_decoder_config, AdaTokPixelDecoderConfig)
        assert architecture(loaded) == architecture(config)
        assert architecture(loaded)["pixel_decoder_config"] == {
            **PIXEL_DECODER,
            "norm_num_groups": 32,
            "norm_eps": 1e-4,
        }


def test_a_dict_and_a_configuration_of_the_pixel_decoder_mean_the_same():
    nested = AdaTokConfig(**SIZES, pixel_decoder_config=AdaTokPixelDecoderConfig(**PIXEL_DECODER))
    assert nested.to_dict() == AdaTokConfig(**SIZES, pixel_decoder_config=PIXEL_DECODER).to_dict()


def test_a_saved_model_loads_bit_for_bit_where_the_package_is_not_installed(tmp_path, pixel_values):
    model = make_model(pixel_decoder_config=PIXEL_DECODER, **SWITCHES)
    model.save_pretrained(tmp_path / "saved")
    save_file({"pixel_values": pixel_values}, tmp_path / "inputs.safetensors")
    blocked = ["adatok_hf", "modeling", "conversion"]
    (tmp_path / "home").mkdir()
    with FreshProcess(tmp_path / "home", blocked, HF_HUB_OFFLINE="1") as hermit:
        names, facts, missing, unexpected = hermit.run(f"""
            import torch
            from safetensors.torch import load_file, save_file
            from transformers import AutoConfig, AutoModel

            folder = {str(tmp_path / "saved")!r}
            config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
            model, info = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
            with torch.no_grad():
                output = model(load_file({str(tmp_path / "inputs.safetensors")!r})["pixel_values"], budgets={MIXED})
            seen = {{"image_codes": output.image_codes, "reconstruction": output.pixel_values.contiguous()}}
            save_file({{**model.state_dict(), **seen}}, {str(tmp_path / "seen.safetensors")!r})
            classes = [type(config), type(config.pixel_decoder_config), type(model)]
            result = [
                [f"{{kind.__module__}}.{{kind.__name__}}" for kind in classes],
                config.to_dict(),
                len(info["missing_keys"]),
                len(info["unexpected_keys"]),
            ]
        """)
    assert all(name.startswith("transformers_modules.") for name in names)
    assert [name.rpartition(".")[2] for name in names] == ["AdaTokConfig", "AdaTokPixelDecoderConfig", "AdaTokModel"]
    assert (missing, unexpected) == (0, 0)
    expected = architecture(model.config)["pixel_decoder_config"]
    assert {name: facts["pixel_decoder_config"][name] for name in expected} == expected
    assert {name: facts[name] for name in SWITCHES} == SWITCHES
    seen = load_file(tmp_path / "seen.safetensors")
    assert all(torch.equal(seen[name], tensor) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        output = model(pixel_values, budgets=MIXED)
    assert torch.equal(seen["image_codes"], output.image_codes)
    torch.testing.assert_close(seen["reconstruction"], output.pixel_values)


@torch.no_grad()
def test_saving_and_loading_is_bit_exact(model, pixel_values, tmp_path):
    model.save_pretrained(tmp_path)
    loaded, info = AdaTokModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    expected = model.state_dict()
    assert expected.keys() == loaded.state_dict().keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    before, after = model(pixel_values, budgets=MIXED), loaded(pixel_values, budgets=MIXED)
    assert all(torch.equal(after[name], value) for name, value in before.items())


@torch.no_grad()
def test_code_n_reads_every_nth_entry_of_the_interleaved_states(pixel_values):
    model, plain = make_model(interleave_latents=True), make_model()
    plain.load_state_dict(model.state_dict())
    captured = []
    model.encoder.layernorm_post.register_forward_hook(lambda *args: captured.append(args[2]))
    latents, features = model.encoder(pixel_values)
    states = captured[0][:, -16:]  # (batch, latent tokens, width)
    num_codes, width = states.shape[1:]
    expected = torch.empty_like(states)
    for code in range(num_codes):
        for channel in range(width):
            entry = code + channel * num_codes
            expected[:, code, channel] = states[:, entry // width, entry % width]
    torch.testing.assert_close(latents, model.encoder.latent_projection(expected), atol=1e-6, rtol=1e-5)
    plain_latents, plain_features = plain.encoder(pixel_values)
    assert (latents - plain_latents).abs().max() > 0.1
    assert torch.equal(features, plain_features)  # the policy sees the states, whatever their layout


def test_plain_codes_are_the_nearest_entries_and_are_read_as_they_are():
    quantizer = make_model(normalize_codes=False, latent_batch_norm=False).quantizer
    generator = torch.Generator().manual_seed(3)
    scales = torch.rand(64, 1, generator=generator) * 3  # on the sphere the nearest would be others
    quantizer.codebook.weight.data.mul_(scales)
    latents = torch.randn(20, 16, 8, generator=generator)
    quantized, returned, codes, _ = quantizer(latents)
    distances = (latents.double()[:, :, None] - quantizer.codebook.weight.double()).square().sum(dim=-1)
    assert torch.equal(codes, distances.argmin(dim=-1))
    cosines = nn.functional.normalize(latents, dim=-1) @ nn.functional.normalize(quantizer.codebook.weight, dim=-1).T
    assert (codes != cosines.argmax(dim=-1)).float().mean() > 0.2
    assert torch.equal(quantizer.lookup(codes), quantizer.codebook.weight[codes])
    assert torch.equal(quantized, quantizer.codebook.weight[codes]) and torch.equal(returned, latents)


def test_the_quantization_loss_of_plain_codes_is_that_of_raw_vectors():
    quantizer = make_model(normalize_codes=False, latent_batch_norm=False, commitment_cost=0.5).quantizer
    latents = torch.randn(4, 16, 8, generator=torch.Generator().manual_seed(3)).requires_grad_()
    _, _, codes, loss = quantizer(latents)
    error = (quantizer.codebook.weight[codes] - latents).square().mean()
    torch.testing.assert_close(loss, 1.5 * error)
    loss.backward()
    assert latents.grad.abs().max() > 0 and quantizer.codebook.weight.grad.abs().max() > 0


@torch.no_grad()
def test_without_batch_norm_there_are_no_statistics_and_training_gives_the_same_codes(pixel_values):
    model, normed = make_model(latent_batch_norm=False), make_model()
    assert not any("latent_norm" in name for name in model.state_dict())
    assert any("latent_norm" in name for name in normed.state_dict())
    for subject, is_same in ((model, True), (normed, False)):
        evaluated = subject.eval().encode(pixel_values, budgets=16).image_codes
        trained = subject.train()(pixel_values, budgets=16, return_loss=True).image_codes
        assert torch.equal(evaluated, trained) == is_same


def test_fresh_weights_of_a_pixel_decoder_are_finite_and_follow_their_laws():
    torch.manual_seed(0)
    model = AdaTokModel(AdaTokConfig(**SIZES, **SWITCHES, pixel_decoder_config=PIXEL_DECODER))
    assert_initial(model.decoder.pixel_decoder)
    assert all(value.isfinite().all() for value in (*model.parameters(), *model.buffers()))
    assert not any(name.startswith(("decoder.pixel_projection", "decoder.pixel_conv")) for name in model.state_dict())


def test_a_pixel_decoder_that_a_checkpoint_lacks_gets_its_initial_values(tmp_path):
    model = make_model(pixel_decoder_config=PIXEL_DECODER)
    with torch.no_grad():
        for parameter in model.decoder.pixel_decoder.parameters():
            parameter.fill_(float("nan"))
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "pixel_decoder" not in name}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = AdaTokModel.from_pretrained(tmp_path)
    assert not any(value.is_meta for value in (*loaded.parameters(), *loaded.buffers()))
    assert_initial(loaded.decoder.pixel_decoder)


def assert_initial(pixel_decoder: nn.Module):
    for module in pixel_decoder.modules():
        if isinstance(module, nn.GroupNorm):
            assert (module.weight == 1).all() and not module.bias.any()
        elif isinstance(module, nn.Conv2d):
            assert 0.01 < module.weight.std() < 0.03 and (module.bias is None or not module.bias.any())
        elif isinstance(module, nn.Linear):
            assert 0.1 < module.weight.std() < 0.2 and not module.bias.any()
        elif isinstance(module, nn.Embedding):
            assert 0.8 < module.weight.std() < 1.2


@torch.no_grad()
def test_the_pixels_have_the_shape_of_the_image(model, pixel_values, codes):
    assert model.decode(codes).pixel_values.shape == pixel_values.shape == (6, 3, 16, 16)
    assert model(pixel_values).pixel_values.shape == pixel_values.shape


@torch.no_grad()
def test_the_pixel_decoder_depends_on_all_patches_and_keeps_their_places(model):
    states = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(2)).repeat(2, 1, 1)
    states[1, 6] = -states[1, 6]  # row 1, column 2 of the 4 x 4 grid
    pixels = model.decoder.pixel_decoder(states)
    change = (pixels[0] - pixels[1]).abs().sum(dim=0).unflatten(0, (4, 4)).unflatten(2, (4, 4)).sum(dim=(1, 3))
    assert change.argmax() == 6


@torch.no_grad()
def test_grouped_and_masked_decoding_agree(model, codes):
    grouped = model.decode(codes, MIXED, group_by_budget=True).pixel_values
    masked = model.decode(codes, MIXED, group_by_budget=False).pixel_values
    torch.testing.assert_close(grouped, masked, atol=1e-5, rtol=1e-4)
    assert (grouped[0] - grouped[1]).abs().max() > 1e-2  # images differ, so that their order is seen


@torch.no_grad()
def test_a_forced_budget_gives_the_prefix_of_the_full_encode(model, pixel_values, codes):
    assert codes.unique().numel() > 8
    for budget in range(1, 17):
        encoded = model.encode(pixel_values, budgets=budget)
        assert torch.equal(encoded.image_codes[:, :budget], codes[:, :budget])
        assert (encoded.image_codes[:, budget:] == PAD).all()


@torch.no_grad()
@pytest.mark.parametrize("group_by_budget", [True, False])
def test_codes_beyond_the_budget_never_influence_the_pixels(model, codes, group_by_budget):
    outside = torch.arange(16) >= torch.tensor(MIXED)[:, None]
    expected = model.decode(codes, MIXED, group_by_budget).pixel_values
    for tail in (PAD, 0, -7, 10**6):
        changed = codes.masked_fill(outside, tail)
        assert torch.equal(model.decode(changed, MIXED, group_by_budget).pixel_values, expected)
    inside = codes.clone()
    inside[:, 0] = (inside[:, 0] + 1) % PAD
    assert not torch.equal(model.decode(inside, MIXED, group_by_budget).pixel_values, expected)


@torch.no_grad()
@pytest.mark.parametrize("group_by_budget", [True, False])
def test_an_image_does_not_depend_on_its_neighbours_nor_their_budgets(model, pixel_values, codes, group_by_budget):
    together = model.decode(codes, MIXED, group_by_budget).pixel_values
    for index in range(6):
        alone = model.encode(pixel_values[index : index + 1], budgets=MIXED[index])
        assert torch.equal(alone.image_codes[0, : MIXED[index]], codes[index, : MIXED[index]])
        pixels = model.decode(alone.image_codes, group_by_budget=group_by_budget).pixel_values
        torch.testing.assert_close(pixels[0], together[index], atol=1e-5, rtol=1e-4)
    other = model.decode(codes, [4, 1, 16, 2, 3, 16], group_by_budget).pixel_values
    torch.testing.assert_close(other[0], together[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_stacked_heads_equal_adapter_names_of_peft(model, codes):
    mask = torch.arange(16) < torch.tensor(MIXED)[:, None]
    quantized = model.quantizer.lookup(codes)
    indices = torch.tensor([0, 2, 1, 1, 0, 2])
    stacked = model.decoder(quantized, mask, indices)
    one_at_a_time = [model.decoder(quantized, mask, head_indices=index) for index in range(3)]
    assert (one_at_a_time[0] - one_at_a_time[1]).abs().max() > 1e-2
    expected = torch.stack([one_at_a_time[head][row] for row, head in enumerate(indices.tolist())])
    torch.testing.assert_close(stacked, expected, atol=1e-5, rtol=1e-4)

    def add_adapter_names(module, args, kwargs):
        return args, {**kwargs, "adapter_names": [HEADS[index] for index in indices]}

    for layer in model.decoder.modules():
        if isinstance(layer, LoraLayer):
            layer.register_forward_pre_hook(add_adapter_names, with_kwargs=True)
    torch.testing.assert_close(stacked, model.decoder(quantized, mask, None), atol=1e-5, rtol=1e-4)


def test_heads_leave_the_pixel_decoder_alone(model):
    wrapped = {name for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    assert wrapped == {f"decoder.layers.{block}.mlp.{linear}" for block in range(2) for linear in ("fc1", "fc2")}


def test_gradients_reach_the_heads_and_all_else_through_the_pixel_decoder(model, pixel_values):
    output = model.train()(pixel_values, budgets=[4, 8, 4, 8, 3, 5], return_loss=True)
    output.loss.backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    parts = ["lora_A.budget_0004", "lora_B.budget_0008", "decoder.mask_token", "base_layer", "encoder.latent_tokens"]
    parts += [f"decoder.pixel_decoder.{name}" for name, _ in model.decoder.pixel_decoder.named_parameters()]
    for part in parts:
        assert any(value.abs().max() > 0 for name, value in gradients.items() if part in name), part
    assert all(value.isfinite().all() for value in gradients.values())
    assert not any(value.any() for name, value in gradients.items() if "budget_0016" in name)


def test_the_hash_of_the_shipped_checkpoint_is_what_it_was():
    assert model_hash(AdaTokModel.from_pretrained(default_checkpoint())) == SHIPPED_HASH


def test_a_switch_counts_in_the_hash_only_where_it_is_changed():
    model = make_model(latent_batch_norm=False, normalize_codes=False)
    facts = architecture(model.config)
    assert facts["latent_batch_norm"] is False and facts["normalize_codes"] is False
    assert not {"interleave_latents", "pixel_decoder_config"} & facts.keys()
    first = model_hash(model)
    model.config.interleave_latents = True
    assert model_hash(model) != first
    model.config.interleave_latents = False
    assert model_hash(model) == first
    model.config.normalize_codes = True
    assert model_hash(model) != first


@pytest.mark.parametrize("name, value", [("norm_eps", 1e-3), ("norm_num_groups", 16), ("layers_per_block", 2)])
def test_every_field_of_the_pixel_decoder_counts_in_the_hash(name, value):
    model = make_model(pixel_decoder_config=PIXEL_DECODER)
    changed = copy.deepcopy(model)
    setattr(changed.config.pixel_decoder_config, name, value)
    assert model_hash(changed) != model_hash(model)


def test_what_the_library_adds_to_a_configuration_does_not_count_in_the_hash(tmp_path):
    model = make_model(pixel_decoder_config=PIXEL_DECODER)
    first = model_hash(model)
    for config in (model.config, model.config.pixel_decoder_config):
        config.transformers_version = "99.0"
        config._name_or_path = "elsewhere"
        config.dtype = "float32"
        config.label_of_a_later_version = 3
    assert model_hash(model) == first
    model.save_pretrained(tmp_path)
    assert model_hash(AdaTokModel.from_pretrained(tmp_path)) == first


def test_without_a_codebook_the_states_go_straight_to_the_convolutions(pixel_values):
    options = {"codebook_size": None, "hidden_sizes": [32], "layers_per_block": 1, "places_per_patch": 2}
    model = make_model(pixel_decoder_config=options)
    pixel_decoder = model.decoder.pixel_decoder
    assert not hasattr(pixel_decoder, "codebook") and pixel_decoder.conv_in.in_channels == SIZES["hidden_size"]
    assert pixel_decoder.conv_out.out_channels == 3 * 2**2  # two places along a patch of four pixels
    with torch.no_grad():
        encoded = model.encode(pixel_values, budgets=torch.tensor(MIXED))
        grouped, masked = (
            model.decode(encoded.image_codes, group_by_budget=choice).pixel_values for choice in (True, False)
        )
        round_trip = model(pixel_values, budgets=torch.tensor(MIXED)).pixel_values
    assert grouped.shape == pixel_values.shape and grouped.std() > 0.01
    torch.testing.assert_close(grouped, masked, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(grouped, round_trip, atol=1e-5, rtol=1e-4)


def test_every_place_of_a_patch_has_pixels_of_its_own():
    options = {"codebook_size": None, "hidden_sizes": [32], "layers_per_block": 1, "places_per_patch": 2}
    pixel_decoder = make_model(pixel_decoder_config=options).decoder.pixel_decoder
    states = torch.zeros(1, 16, 32)
    with torch.no_grad():
        empty = pixel_decoder(states)
        states[0, 5] = torch.randn(32, generator=torch.Generator().manual_seed(2))  # second row, second column
        change = (pixel_decoder(states) - empty).abs().amax(dim=(0, 1))
    assert change[4:8, 4:8].min() > 0 and (change[4:8, 4:8].flatten().unique().numel() > 8)


def test_a_pixel_decoder_that_does_not_divide_the_patch_is_a_value_error():
    with pytest.raises(ValueError, match="of 3 pixels, or a multiple, but patch_size is 4"):
        AdaTokConfig(**SIZES, pixel_decoder_config={"hidden_sizes": [32], "places_per_patch": 3})
