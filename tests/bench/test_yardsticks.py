import pytest
import torch

from adatok_hf import AdaTokConfig, AdaTokModel
from adatok_hf.bench.instruments import count_flops
from adatok_hf.bench.yardsticks import PlainDecoder, PlainEncoder, search_budgets


PIXEL_DECODER = {"codebook_size": 48, "codebook_dim": 24, "hidden_sizes": [64, 32, 32, 32]}


@pytest.fixture(params=[None, PIXEL_DECODER], ids=["linear", "convolutional"])
def uneven_model(request) -> AdaTokModel:
    """Encoder and decoder differ in every size."""
    config = AdaTokConfig(
        pixel_decoder_config=request.param,
        image_size=32,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        decoder_hidden_size=48,
        decoder_num_hidden_layers=3,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=80,
        num_latent_tokens=16,
        codebook_size=64,
        codebook_dim=8,
        budgets=[4, 8, 16],
        lora_rank=2,
    )
    return AdaTokModel(config).eval()


def seen_shapes(layer: torch.nn.Module, call) -> list[tuple[int, ...]]:
    shapes = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    with torch.no_grad():
        call()
    hook.remove()
    return shapes


def count_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for name, parameter in module.named_parameters() if "lora_" not in name)


def test_the_plain_encoder_has_the_same_sequences_and_depth(uneven_model):
    plain, pixel_values = PlainEncoder(uneven_model.config).eval(), torch.zeros(2, 3, 32, 32)
    ours = seen_shapes(uneven_model.encoder.layers[0], lambda: uneven_model.encoder(pixel_values))
    assert seen_shapes(plain.transformer.layers[0], lambda: plain(pixel_values)) == ours == [(2, 1 + 16 + 16, 32)]
    assert len(plain.transformer.layers) == 2


@pytest.mark.parametrize("budget", [4, 9, 16])
def test_the_plain_decoder_has_the_same_sequences_and_depth(uneven_model, budget):
    plain, latents = PlainDecoder(uneven_model.config).eval(), torch.zeros(2, budget, 8)
    ours = seen_shapes(uneven_model.decoder.layers[0], lambda: uneven_model.decoder(latents, head_indices=0))
    assert seen_shapes(plain.transformer.layers[0], lambda: plain(latents)) == ours == [(2, 1 + 16 + budget, 48)]
    assert len(plain.transformer.layers) == 3


def test_plain_networks_have_our_parameters_but_for_a_few_vectors(uneven_model):
    config = uneven_model.config
    encoder, decoder = count_parameters(uneven_model.encoder), count_parameters(uneven_model.decoder)
    # Ours have one more normalisation, of two vectors, and a position of the class token; a patch's mask token too.
    assert encoder - count_parameters(PlainEncoder(config)) == (2 + 1) * 32
    assert decoder - count_parameters(PlainDecoder(config)) == (2 + 1 + 1) * 48


def test_the_plain_encoder_has_the_flops_of_ours(uneven_model):
    plain, pixel_values = PlainEncoder(uneven_model.config).eval(), torch.zeros(2, 3, 32, 32)
    assert count_flops(lambda: plain(pixel_values)) == count_flops(lambda: uneven_model.encoder(pixel_values))


def test_the_plain_decoder_has_the_flops_of_ours_without_heads(uneven_model):
    plain, latents = PlainDecoder(uneven_model.config).eval(), torch.zeros(2, 8, 8)
    heads = 3 * 2 * 2 * 2 * 48 * 80  # merged once for the whole batch: blocks, linears, rank 2, two for each product
    ours = count_flops(lambda: uneven_model.decoder(latents, head_indices=1))
    assert count_flops(lambda: plain(latents)) == ours - heads


def test_every_code_reaches_the_pixels_of_the_plain_decoder(uneven_model):
    torch.manual_seed(0)
    latents = torch.randn(1, 4, 8, requires_grad=True)
    PlainDecoder(uneven_model.config).eval()(latents).square().sum().backward()
    assert (latents.grad.abs().sum(dim=-1) > 0).all()


def test_the_search_takes_the_smallest_budget_that_is_good_enough(tiny_model, monkeypatch):
    errors = {4: [1.0, 5.0, 5.0], 8: [2.0, 1.2, 5.0], 16: [1.0, 1.0, 1.0]}  # of three images at each budget
    pixel_values = torch.zeros(3, 3, 32, 32)

    def decode(image_codes, budget):
        pixels = torch.tensor(errors[budget]).sqrt()[:, None, None, None].expand(3, 3, 32, 32)
        return type("Decoded", (), {"pixel_values": pixels})

    monkeypatch.setattr(tiny_model, "decode", decode)
    with torch.no_grad():
        assert search_budgets(tiny_model, pixel_values, tolerance=0.3).tolist() == [4, 8, 16]
        assert search_budgets(tiny_model, pixel_values, tolerance=0.1).tolist() == [4, 16, 16]


def test_the_search_decodes_once_at_every_candidate_budget(tiny_model, monkeypatch):
    decode, asked = tiny_model.decode, []
    monkeypatch.setattr(tiny_model, "decode", lambda codes, budget: asked.append(budget) or decode(codes, budget))
    with torch.no_grad():
        budgets = search_budgets(tiny_model, torch.rand(2, 3, 32, 32))
    assert asked == [4, 8, 16] and set(budgets.tolist()) <= {4, 8, 16}
