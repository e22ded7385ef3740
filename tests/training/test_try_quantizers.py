"""The quantizers of docs/try_quantizers.py: the same codes, another training."""

import importlib
from pathlib import Path

import pytest
import torch
from torch import nn

from adatok_hf.modeling.blocks import AdaTokVectorQuantizer


SIZES = {"num_tokens": 4, "codebook_size": 16, "codebook_dim": 6}


@pytest.fixture
def tried(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "docs")
    return importlib.import_module("try_quantizers")


def make_alike(quantizer_class: type[AdaTokVectorQuantizer]) -> AdaTokVectorQuantizer:
    torch.manual_seed(0)
    return quantizer_class(**SIZES).train()


@pytest.mark.parametrize("name", ["rotation", "averages"])
def test_the_codes_and_the_weights_are_those_of_the_package(tried, name):
    latents = torch.randn(8, 4, 6, generator=torch.Generator().manual_seed(1))
    ours, other = make_alike(AdaTokVectorQuantizer), make_alike(tried.QUANTIZERS[name])
    assert other.state_dict().keys() == ours.state_dict().keys()
    for expected, found in zip(ours(latents, True)[:3], other(latents, True)[:3]):
        assert torch.equal(found, expected)


def test_rotation_turns_the_gradient_as_the_latent_is_turned_onto_its_code(tried):
    raw = torch.randn(8, 4, 6, requires_grad=True, generator=torch.Generator().manual_seed(1))
    quantized, latents, _, _ = make_alike(tried.RotationQuantizer)(raw, True)
    given = torch.randn(quantized.shape, generator=torch.Generator().manual_seed(2))
    (turned,) = torch.autograd.grad((quantized * given).sum(), latents, retain_graph=True)
    torch.testing.assert_close(turned.norm(dim=-1), given.norm(dim=-1))  # a rotation: no length changes
    (onto,) = torch.autograd.grad((quantized * quantized.detach()).sum(), latents)
    torch.testing.assert_close(onto, latents.detach())  # which takes the code back to the latent
    assert not torch.allclose(turned, given)


def test_entries_follow_the_latents_that_they_stand_for(tried):
    quantizer = make_alike(tried.AveragingQuantizer)
    before = quantizer.codebook.weight.detach().clone()
    raw = torch.randn(8, 4, 6, generator=torch.Generator().manual_seed(1))
    _, latents, codes, loss = quantizer(raw, True)
    for code in range(16):
        mine = latents[codes == code]
        expected = nn.functional.normalize(mine.mean(0), dim=0) if len(mine) else before[code]
        torch.testing.assert_close(quantizer.codebook.weight.detach()[code], expected)
    assert not loss.requires_grad  # nothing asks for a gradient but the encoder, which is not here
    after = quantizer.codebook.weight.detach().clone()
    quantizer(raw + 1, False)
    assert torch.equal(quantizer.codebook.weight.detach(), after)  # only training moves them
