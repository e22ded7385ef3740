"""A user's own PEFT adapter on top of the heads trains alone, is saved and reloaded, merges and unloads."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from adatok_hf import AdaTokModel
from adatok_hf.conversion.heads import export_heads, import_heads


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


@pytest.mark.parametrize("lora", TARGETS, indirect=True, ids=str)
@pytest.mark.parametrize("wrap", [True, False], ids=["get_peft_model", "add_adapter"])
def test_a_saved_adapter_holds_no_heads_and_replaces_none(tmp_path, tiny_model, lora, wrap):
    other = copy.deepcopy(tiny_model)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if ".budget_" in name:
                parameter.fill_(0.5)
    if wrap:
        moved(get_peft_model(tiny_model, lora)).save_pretrained(tmp_path)
    else:
        tiny_model.add_adapter(lora)
        moved(tiny_model).save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert saved and not any(".budget_" in name for name in saved)
    heads = {name: tensor for name, tensor in other.state_dict().items() if ".budget_" in name}
    model = PeftModel.from_pretrained(other, tmp_path).unload()
    assert heads and all(torch.equal(model.state_dict()[name], tensor) for name, tensor in heads.items())


def test_a_model_with_an_adapter_takes_its_state_back(tiny_model, lora):
    model = moved(get_peft_model(tiny_model, lora))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = pixels(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".budget_" not in name:
                parameter.zero_()
    model.load_state_dict(state)
    assert torch.equal(pixels(model), expected)


def trainable_names(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("budgets", [[4, 8, 16] * 4, [16, 8, 4] * 4], ids=["rising", "falling"])
@torch.no_grad()
def test_adapters_named_for_each_image_serve_it_whatever_its_budget(tiny_model, budgets):
    lora = LoraConfig(target_modules=["fc1", "qkv_proj"])
    model = get_peft_model(tiny_model, lora, adapter_name="one")
    model.add_adapter("two", lora)
    for name, parameter in model.named_parameters():
        if ".one." in name or ".two." in name:
            parameter.normal_(std=0.1)
    images = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    names = ["one", "two", "__base__"] * 2 + ["two"] * 6
    mixed = model.eval()(images, budgets=budgets, adapter_names=names).pixel_values
    for name in ("one", "two"):
        model.set_adapter(name)
        rows = torch.tensor([each == name for each in names])
        torch.testing.assert_close(mixed[rows], model(images, budgets=budgets).pixel_values[rows])


@pytest.mark.parametrize("targets", [["fc1", "qkv_proj"], ["fc2"]], ids=str)
def test_no_head_trains_in_place_of_an_adapter_that_was_deleted(tiny_model, targets):
    lora = LoraConfig(target_modules=targets)
    model = get_peft_model(tiny_model, lora, adapter_name="one")
    model.add_adapter("two", lora)
    expected = {name.replace(".one.", ".two.") for name in trainable_names(model)}
    model.delete_adapter("one")
    assert trainable_names(model) == expected and model.active_adapters == ["two"]
    model.delete_adapter("two")
    assert not trainable_names(model)


def test_loading_an_adapter_reports_nothing_amiss(tmp_path, tiny_model, lora):
    blank = copy.deepcopy(tiny_model)
    get_peft_model(tiny_model, lora).save_pretrained(tmp_path)
    assert not blank.load_adapter(str(tmp_path)).missing_keys


@pytest.mark.parametrize("bias, ending", [("all", ".bias"), ("lora_only", ".base_layer.bias")])
def test_biases_train_where_the_adapter_says_so(tiny_model, bias, ending):
    model = get_peft_model(tiny_model, LoraConfig(target_modules=["qkv_proj"], bias=bias))
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapter = {name for name, _ in model.named_parameters() if ".default." in name}
    assert trainable == adapter | {name for name, _ in model.named_parameters() if name.endswith(ending)} > adapter


@pytest.mark.parametrize(
    "load", [PeftModel.from_pretrained, AdaTokModel.load_adapter], ids=["PeftModel", "load_adapter"]
)
def test_an_exported_head_is_refused_with_what_to_call(tmp_path, tiny_model, lora, one_sentence, load):
    export_heads(tiny_model, tmp_path / "heads", "someone/a-model")
    names, expected = list(tiny_model.state_dict()), pixels(tiny_model)
    with one_sentence("import_heads(model, folder)"):
        load(tiny_model, str(tmp_path / "heads" / "budget_0004"))
    assert list(tiny_model.state_dict()) == names and torch.equal(pixels(tiny_model), expected)
    assert import_heads(tiny_model, tmp_path / "heads" / "budget_0004") == [4]
    tiny_model.add_adapter(lora)
    assert tiny_model.active_adapters() == ["default"]


def test_an_adapter_under_the_name_of_a_head_is_a_value_error(tiny_model, one_sentence):
    with one_sentence("budget_0004", "another name"):
        get_peft_model(tiny_model, LoraConfig(target_modules=["fc1"]), adapter_name="budget_0004")


def test_training_an_adapter_leaves_the_statistics_of_the_latents(tiny_model, tiny_tatok, lora):
    for model, choice in ((tiny_model, {"budgets": 16}), (tiny_tatok, {"num_tokens": 12})):
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        on_top = get_peft_model(model, copy.deepcopy(lora)).train()
        on_top(pixel_values=torch.rand(3, 3, 32, 32) * 2 - 1, return_loss=True, **choice).loss.backward()
        assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
