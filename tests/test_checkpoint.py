"""Complete checkpoints: what is written, in which precision, and that nothing half done is ever seen."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from checkpoint_files import FILES
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from adatok_hf import AdaTokImageProcessor, AdaTokModel
from adatok_hf.checkpoint import copy_checkpoint, load_checkpoint, model_hash, push_checkpoint, save_checkpoint
from adatok_hf.model_card import read_license


METRICS = {"rows": [{"budget": 4, "psnr": 20.0}], "training": {"steps": 1}}


@pytest.fixture
def half_checkpoint(tmp_path, tiny_model, processor):
    """Its weights are stored in 16 bits and load in 32."""
    halved = {n: v.half() if v.is_floating_point() else v for n, v in tiny_model.state_dict().items()}
    save_checkpoint(tmp_path / "half", tiny_model, processor, metrics=METRICS, license="mit", state_dict=halved)
    return tmp_path / "half"


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_saved_checkpoint_is_complete_and_loads_bit_for_bit(tmp_path, tiny_model, processor):
    save_checkpoint(tmp_path / "deep" / "out", tiny_model, processor, metrics=METRICS, license="mit")
    folder = tmp_path / "deep" / "out"
    assert names(folder) == FILES
    assert json.loads((folder / "metrics.json").read_text()) == METRICS and read_license(folder) == "mit"
    assert model_hash(load_checkpoint(folder)[0]) == model_hash(tiny_model)


def test_a_copy_is_the_same_byte_for_byte(tmp_path, half_checkpoint):
    model, processor = load_checkpoint(half_checkpoint)
    copy_checkpoint(half_checkpoint, tmp_path / "copy", model, processor)
    assert names(tmp_path / "copy") == FILES
    for name in FILES:
        assert (tmp_path / "copy" / name).read_bytes() == (half_checkpoint / name).read_bytes(), name


def test_replaced_tensors_keep_the_precision_of_the_file(tmp_path, half_checkpoint):
    model, processor = load_checkpoint(half_checkpoint)
    token = torch.full_like(model.decoder.mask_token.data, 0.3)
    copy_checkpoint(
        half_checkpoint, tmp_path / "copy", model, processor, tensors={"decoder.mask_token": token}, metrics={}
    )
    assert names(tmp_path / "copy") == FILES - {"metrics.json"}
    before, after = (load_file(folder / "model.safetensors") for folder in (half_checkpoint, tmp_path / "copy"))
    assert torch.equal(after.pop("decoder.mask_token"), token.half())
    assert all(torch.equal(after[name], before[name]) for name in after)


def test_a_tensor_that_is_not_there_cannot_be_replaced(tmp_path, half_checkpoint, one_sentence):
    model, processor = load_checkpoint(half_checkpoint)
    with one_sentence("lack no.such.tensor"):
        copy_checkpoint(
            half_checkpoint, tmp_path / "copy", model, processor, tensors={"no.such.tensor": torch.ones(1)}
        )
    assert not (tmp_path / "copy").exists()


def test_a_push_sends_weights_in_the_precision_of_the_file(tmp_path, half_checkpoint, monkeypatch):
    sent = {}

    def record(folder, *args, **kwargs):
        sent.update({path.name: path.read_bytes() for path in half_checkpoint.parent.joinpath(folder).iterdir()})
        return "a URL"

    monkeypatch.setattr("adatok_hf.checkpoint.push_folder", record)
    assert push_checkpoint(half_checkpoint, "someone/half", token="hf_test") == "a URL"
    assert sent.keys() == FILES
    assert sent["model.safetensors"] == (half_checkpoint / "model.safetensors").read_bytes()


@pytest.mark.parametrize("exists", [False, True])
def test_a_failure_while_writing_leaves_what_was_there(tmp_path, tiny_model, processor, monkeypatch, exists):
    folder = tmp_path / "out"
    if exists:
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")

    def fail(*args, **kwargs):
        raise OSError("the disk is full")

    monkeypatch.setattr(AdaTokModel, "save_pretrained", fail)
    with pytest.raises(OSError, match="full"):
        save_checkpoint(folder, tiny_model, processor)
    assert names(tmp_path) == ({"out"} if exists else set()) and (not exists or names(folder) == {"notes.txt"})


def test_other_files_of_the_folder_stay(tmp_path, tiny_model, processor):
    (tmp_path / "checkpoint-100").mkdir()
    (tmp_path / "config.json").write_text("old")
    save_checkpoint(tmp_path, tiny_model, processor, metrics=METRICS)
    assert names(tmp_path) == FILES | {"checkpoint-100"} and load_checkpoint(tmp_path)


def test_a_file_is_no_folder_to_write_to(tmp_path, tiny_model, processor, one_sentence):
    (tmp_path / "file").touch()
    with one_sentence("is a file"):
        save_checkpoint(tmp_path / "file", tiny_model, processor)


def test_load_checkpoint_keeps_half_precision(tmp_path, tiny_model, processor):
    tiny_model.to(torch.bfloat16).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model, _ = load_checkpoint(tmp_path)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in tiny_model.state_dict().items())
    assert model.dtype == torch.bfloat16


def drop_tensor(folder):
    edit_weights(folder, lambda tensors: tensors.pop("decoder.mask_token"))


def cut_tensor(folder):
    edit_weights(folder, lambda tensors: tensors.update({"quantizer.codebook.weight": torch.zeros(32, 8)}))


def add_tensor(folder):
    edit_weights(folder, lambda tensors: tensors.update({"encoder.layers.2.extra": torch.zeros(1)}))


def edit_weights(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def truncate_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lose_a_shard(folder):
    AdaTokModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="50KB")
    (folder / "model.safetensors").unlink()
    min(folder.glob("model-*.safetensors")).unlink()


def set_config(name, value):
    def edit(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))

    return edit


def resize_processor(folder):
    AdaTokImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}).save_pretrained(folder)


def swap_processor(folder):
    values = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))


DAMAGES = {
    "missing tensor": (drop_tensor, "lack decoder.mask_token"),
    "wrong shape": (cut_tensor, r"quantizer.codebook.weight has shape \(32, 8\) in place of \(64, 8\)"),
    "superfluous tensor": (add_tensor, "superfluous encoder.layers.2.extra"),
    "fewer layers in the config": (set_config("num_hidden_layers", 1), "superfluous encoder.layers.1"),
    "truncated weights": (truncate_weights, "weights of .* cannot be read"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "weights of .* cannot be read"),
    "lost shard": (lose_a_shard, "weights of .* cannot be read"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), "no valid JSON"),
    "list as config": (lambda folder: (folder / "config.json").write_text("[]"), "must hold a JSON object"),
    "other model": (set_config("model_type", "vit"), "its model_type is 'vit'"),
    "wrong budgets": (set_config("budgets", [8, 4, 16]), r"config.json of .* not valid: .*\[8, 4, 16\]"),
    "wrong type": (set_config("hidden_size", "wide"), "config.json of .* not valid: .*hidden_size"),
    "no processor": (lambda folder: (folder / "preprocessor_config.json").unlink(), "has no preprocessor_config.json"),
    "broken processor": (
        lambda folder: (folder / "preprocessor_config.json").write_text("{"),
        "preprocessor_config.json of .* cannot be used",
    ),
    "other processor": (swap_processor, "must be an AdaTokImageProcessor"),
    "processor of another size": (resize_processor, r"makes images of \(64, 64\), the model takes 32"),
    "no folder": (shutil.rmtree, "There is no folder"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_load_checkpoint_refuses_in_one_sentence(tiny_checkpoint, damage):
    harm, message = DAMAGES[damage]
    harm(tiny_checkpoint)
    with pytest.raises(ValueError, match=message) as caught:
        load_checkpoint(tiny_checkpoint)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_load_checkpoint_refuses_a_file(tiny_checkpoint):
    with pytest.raises(ValueError, match="is a file"):
        load_checkpoint(tiny_checkpoint / "config.json")


def test_load_checkpoint_never_runs_the_code_of_a_checkpoint(tiny_checkpoint):
    for name in (name for name in FILES if name.endswith(".py")):
        (tiny_checkpoint / name).write_text("raise SystemExit('foreign code ran')")
    model, processor = load_checkpoint(tiny_checkpoint)
    assert type(model) is AdaTokModel and type(processor) is AdaTokImageProcessor


def test_weights_in_another_number_of_files_are_replaced(tmp_path, tiny_model, processor):
    out, source = tmp_path / "out", tmp_path / "sharded"
    save_checkpoint(out, tiny_model, processor)
    with torch.no_grad():
        tiny_model.decoder.mask_token.add_(1)
    tiny_model.save_pretrained(source, max_shard_size="20KB")
    processor.save_pretrained(source)
    copy_checkpoint(source, out, tiny_model, processor)
    assert torch.equal(load_checkpoint(out)[0].decoder.mask_token, tiny_model.decoder.mask_token)
    save_checkpoint(out, tiny_model, processor)
    assert [path.name for path in out.glob("*.safetensors*")] == ["model.safetensors"]


def test_the_folder_that_one_stands_in_is_filled(tmp_path, tiny_model, processor, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    save_checkpoint(".", tiny_model, processor)
    assert "config.json" in os.listdir(".") and "# mine" in Path("README.md").read_text()


def test_a_model_under_an_adapter_is_not_saved_as_a_checkpoint(tmp_path, tiny_model, processor, one_sentence):
    tiny_model.add_adapter(LoraConfig(r=2, target_modules=["qkv_proj"]))
    with one_sentence("adapter", "merge or delete"):
        save_checkpoint(tmp_path / "out", tiny_model, processor)
