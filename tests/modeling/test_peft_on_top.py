"""A user's own PEFT adapter on top of the heads trains alone, is saved and reloaded, merges and unloads."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from adatok_hf.conversion.heads import export_heads


TARGETS = [["qkv_proj"], ["fc1"], "all-linear"]


@pytest.fixture
def lora(request) -> LoraConfig:
    return LoraConfig(r=3, lora_alpha=7, target_modules=getattr(request, "param", ["qkv_proj"]))


@torch.no_grad()
def pixels(model) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return model(torch.rand(3, 3, 32, 32, generator=generator) * 2 - 1, budgets=[4, 8, 13]).pixel_values


def moved(model):
    """The model with an adapter "default" that changes something."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".default." in name:
                parameter.normal_(std=0.1)
    return model


@pytest.mark.parametrize("lora", TARGETS, indirect=True, ids=str)
def test_only_the_users_adapter_trains(tiny_model, lora):
    expected = pixels(tiny_model)
    model = get_peft_model(tiny_model, lora)
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trainable == [name for name, _ in model.named_parameters() if ".default." in name]
    assert torch.equal(pixels(model), expected)


def test_only_an_adapter_of_add_adapter_trains(tiny_model, lora):
    tiny_model.add_adapter(lora)
    trainable = [name for name, parameter in tiny_model.named_parameters() if parameter.requires_grad]
    assert trainable and all(".default." in name for name in trainable)


@pytest.mark.parametrize("lora", TARGETS, indirect=True, ids=str)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_saved_adapter_gives_the_same_pixels(tmp_path, tiny_model, lora, training):
    blank = copy.deepcopy(tiny_model)
    model = moved(get_peft_model(tiny_model, lora))
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(copy.deepcopy(blank), tmp_path)
    assert not torch.equal(pixels(again), pixels(blank))
    assert torch.equal(pixels(again.train(training)), pixels(model.train(training)))


@pytest.mark.parametrize("lora", TARGETS, indirect=True, ids=str)
def test_load_adapter_reads_a_users_adapter_and_leaves_the_heads_alone(tmp_path, tiny_model, lora):
    blank = copy.deepcopy(tiny_model)
    model = moved(get_peft_model(tiny_model, lora))
    model.save_pretrained(tmp_path)
    blank.load_adapter(str(tmp_path))
    assert torch.equal(pixels(blank), pixels(model))


@pytest.mark.parametrize("lora", TARGETS, indirect=True, ids=str)
def test_unload_keeps_the_heads(tiny_model, lora):
    before = copy.deepcopy(tiny_model)
    model = moved(get_peft_model(tiny_model, lora)).unload()
    assert model.state_dict().keys() == before.state_dict().keys()
    assert torch.equal(pixels(model), pixels(before))


@pytest.mark.parametrize("lora", TARGETS, indirect=True, ids=str)
def test_merge_and_unload_keeps_the_heads(tiny_model, lora):
    names = tiny_model.state_dict().keys()
    model = moved(get_peft_model(tiny_model, lora))
    expected = pixels(model)
    merged = model.merge_and_unload()
    assert merged.state_dict().keys() == names
    torch.testing.assert_close(pixels(merged), expected, atol=1e-4, rtol=1e-3)


def test_an_exported_head_is_refused_with_what_to_call(tmp_path, tiny_model, one_sentence):
    export_heads(tiny_model, tmp_path / "heads", "someone/a-model")
    expected = pixels(tiny_model)
    with one_sentence("import_heads", "budget_0004"):
        tiny_model.load_adapter(str(tmp_path / "heads" / "budget_0004"))
    assert torch.equal(pixels(tiny_model), expected)


def test_an_adapter_under_the_name_of_a_head_is_a_value_error(tiny_model, one_sentence):
    with one_sentence("budget_0004", "another name"):
        get_peft_model(tiny_model, LoraConfig(target_modules=["fc1"]), adapter_name="budget_0004")
