"""Heads leave as PEFT adapters and come back; PEFT computes with them what the model does; bad ones change nothing."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import nn

from adatok_hf import AdaTokModel
from adatok_hf.checkpoint import load_checkpoint, model_hash
from adatok_hf.cli import main
from adatok_hf.conversion.heads import base_decoder, export_heads, import_heads


NAMES = ["budget_0004", "budget_0008", "budget_0016"]
TENSOR = "base_model.model.layers.1.mlp.fc2.lora_A.weight"
UP_TENSOR = "base_model.model.layers.0.mlp.fc1.lora_B.weight"


@pytest.fixture
def tiny_config(tiny_config):
    tiny_config.lora_alpha = 4  # twice the rank, so that a forgotten scale is seen
    return tiny_config


@pytest.fixture
def lora_config() -> LoraConfig:
    """What a user of PEFT writes for a head of `tiny_model`."""
    return LoraConfig(r=2, lora_alpha=4, target_modules=["fc1", "fc2"])


@pytest.fixture
def adapters(tmp_path, tiny_model) -> Path:
    folder = tmp_path / "adapters"
    export_heads(tiny_model, folder, "someone/a-model")
    return folder


@pytest.mark.parametrize("targets", [["qkv_proj"], ["fc1"]], ids=str)
def test_an_adapter_on_top_is_no_part_of_the_heads(tiny_model, adapters, tmp_path, targets):
    tiny_model.add_adapter(LoraConfig(target_modules=targets))
    export_heads(tiny_model, tmp_path / "again", "someone/a-model")
    for name in ("budget_0004", "budget_0016"):
        path = f"{name}/adapter_model.safetensors"
        assert (tmp_path / "again" / path).read_bytes() == (adapters / path).read_bytes()
    assert import_heads(tiny_model, adapters) == [4, 8, 16]


@pytest.fixture
def blank_model(tiny_model) -> AdaTokModel:
    """`tiny_model` with heads that do nothing."""
    model = copy.deepcopy(tiny_model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.zero_()
    return model


@pytest.fixture
def quantized(tiny_model) -> torch.Tensor:
    codes = torch.randint(tiny_model.config.codebook_size, (3, 8), generator=torch.Generator().manual_seed(0))
    return tiny_model.quantizer.lookup(codes).detach()


@pytest.fixture
def adatok(tiny_checkpoint, capsys):
    """Runs `adatok heads` on the tiny checkpoint and gives its exit code, stdout and stderr."""

    def run(*arguments, model=tiny_checkpoint):
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main(["heads", *map(str, arguments), "--model", str(model)])
        captured = capsys.readouterr()
        return exit_info.value.code, captured.out, captured.err

    return run


def is_one_sentence(stderr: str) -> bool:
    return stderr.startswith("adatok: error: ") and stderr.count("\n") == 1 and stderr.endswith("\n")


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def change_config(adapter: Path, **fields):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_tensors(adapter: Path, change):
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_every_head_is_one_adapter_folder_and_nothing_else_is_written(adapters):
    contents = ("adapter_config.json", "adapter_model.safetensors")
    assert files(adapters) == [f"{name}/{file}" for name in NAMES for file in contents]


def test_the_files_are_those_that_peft_writes(adapters, tmp_path, tiny_model, lora_config):
    get_peft_model(base_decoder(tiny_model), lora_config).save_pretrained(tmp_path / "by_peft")
    expected, written = (
        json.loads((path / "adapter_config.json").read_text()) for path in (tmp_path / "by_peft", adapters / NAMES[1])
    )
    expected["target_modules"] = sorted(expected["target_modules"])
    assert written == expected | {"base_model_name_or_path": "someone/a-model"}
    assert written["inference_mode"] is True
    expected, written = (
        {name: tensor.shape for name, tensor in load_file(path / "adapter_model.safetensors").items()}
        for path in (tmp_path / "by_peft", adapters / NAMES[1])
    )
    assert written == expected and len(written) == 8


def test_exporting_twice_gives_the_same_bytes(adapters, tmp_path, tiny_model):
    export_heads(tiny_model, tmp_path / "deep" / "again", "someone/a-model")
    for file in files(adapters):
        assert (tmp_path / "deep" / "again" / file).read_bytes() == (adapters / file).read_bytes()


def test_exporting_leaves_the_model_as_it_is(tmp_path, tiny_model):
    before, names = model_hash(tiny_model), list(tiny_model.decoder.peft_config)
    export_heads(tiny_model, tmp_path / "adapters", "someone/a-model")
    assert model_hash(tiny_model) == before
    assert list(tiny_model.decoder.peft_config) == names
    assert all(config.base_model_name_or_path is None for config in tiny_model.decoder.peft_config.values())
    assert all(parameter.requires_grad for parameter in tiny_model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_export_then_import_is_bit_exact(tmp_path, tiny_model, blank_model, dtype):
    export_heads(tiny_model.to(dtype), tmp_path / "adapters", "someone/a-model")
    blank_model.to(dtype)
    assert model_hash(blank_model) != model_hash(tiny_model)
    tensors = load_file(tmp_path / "adapters" / NAMES[0] / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    assert import_heads(blank_model, tmp_path / "adapters") == [4, 8, 16]
    assert model_hash(blank_model) == model_hash(tiny_model)


@torch.no_grad()
@pytest.mark.parametrize("head_index", range(3))
def test_peft_reads_an_adapter_and_computes_what_the_head_does(adapters, tiny_model, quantized, head_index):
    peft_model = PeftModel.from_pretrained(base_decoder(tiny_model), adapters / NAMES[head_index]).eval()
    expected = tiny_model.decoder(quantized, head_indices=head_index)
    torch.testing.assert_close(peft_model(quantized), expected)
    assert (expected - tiny_model.decoder(quantized, head_indices=(head_index + 1) % 3)).abs().max() > 0.01


@torch.no_grad()
def test_peft_switches_between_the_adapters_of_one_decoder(adapters, tiny_model, quantized):
    peft_model = PeftModel.from_pretrained(base_decoder(tiny_model), adapters / NAMES[0], adapter_name=NAMES[0])
    for name in NAMES[1:]:
        result = peft_model.load_adapter(adapters / name, adapter_name=name)
        assert (result.missing_keys, result.unexpected_keys) == ([], [])
    peft_model.eval()
    code_mask = torch.arange(8) < torch.tensor([[2], [5], [8]])
    for head_index in (1, 2, 0):
        peft_model.set_adapter(NAMES[head_index])
        expected = tiny_model.decoder(quantized, code_mask, head_indices=head_index)
        torch.testing.assert_close(peft_model(quantized, code_mask), expected)


@torch.no_grad()
def test_the_base_decoder_is_the_decoder_without_heads(tiny_model, blank_model, quantized):
    decoder = base_decoder(tiny_model)
    assert not any(isinstance(module, LoraLayer) for module in decoder.modules())
    assert {type(layer.mlp.fc1) for layer in decoder.layers} == {nn.Linear}
    torch.testing.assert_close(decoder(quantized), blank_model.decoder(quantized, head_indices=0))


def test_merging_an_adapter_into_the_base_decoder_leaves_the_model_alone(adapters, tiny_model):
    before = model_hash(tiny_model)
    decoder = base_decoder(tiny_model)
    plain = decoder.layers[0].mlp.fc1.weight.clone()
    PeftModel.from_pretrained(decoder, adapters / NAMES[0]).merge_and_unload()
    assert not torch.equal(decoder.layers[0].mlp.fc1.weight, plain)
    assert model_hash(tiny_model) == before


@pytest.mark.parametrize("adapter_name", ["default", "budget_0008"])
def test_an_adapter_trained_with_peft_becomes_a_head(tmp_path, tiny_model, lora_config, quantized, adapter_name):
    peft_model = get_peft_model(base_decoder(tiny_model), lora_config, adapter_name=adapter_name)
    optimizer = torch.optim.SGD([p for p in peft_model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):  # the first step moves B alone, since the gradient of A is zero where B is
        optimizer.zero_grad()
        peft_model(quantized).square().mean().backward()
        optimizer.step()
    # PEFT puts an adapter with a name into a folder of that name.
    folder = tmp_path / "trained" / "budget_0008" if adapter_name == "default" else tmp_path / "trained"
    peft_model.save_pretrained(folder)
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    assert import_heads(tiny_model, tmp_path / "trained") == [8]
    changed = {name for name, tensor in tiny_model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if "budget_0008" in name}
    with torch.no_grad():
        expected = peft_model.eval()(quantized)
        torch.testing.assert_close(tiny_model.decoder(quantized, head_indices=1), expected)
        torch.testing.assert_close(tiny_model.decoder(quantized, head_indices=torch.tensor([1, 1, 1])), expected)


def test_some_heads_or_a_single_one_can_be_imported(adapters, tiny_model, blank_model, monkeypatch):
    shutil.rmtree(adapters / NAMES[1])
    assert import_heads(blank_model, adapters) == [4, 16]
    layer, expected = blank_model.decoder.layers[0].mlp.fc1, tiny_model.decoder.layers[0].mlp.fc1
    assert [layer.lora_B[name].weight.any().item() for name in NAMES] == [True, False, True]
    assert torch.equal(layer.lora_B[NAMES[2]].weight, expected.lora_B[NAMES[2]].weight)
    (adapters / NAMES[2]).rename(adapters / NAMES[1])
    assert import_heads(blank_model, adapters / NAMES[1]) == [8]
    assert torch.equal(layer.lora_B[NAMES[1]].weight, expected.lora_B[NAMES[2]].weight)
    monkeypatch.chdir(adapters / NAMES[0])
    assert import_heads(blank_model, ".") == [4]


def test_imported_heads_keep_training(adapters, blank_model, quantized):
    import_heads(blank_model, adapters)
    assert all(parameter.requires_grad for parameter in blank_model.decoder.parameters())
    blank_model.decoder(quantized, head_indices=1).sum().backward()
    assert blank_model.decoder.layers[0].mlp.fc1.lora_A[NAMES[1]].weight.grad.any()


def test_settings_of_the_training_alone_do_not_matter(adapters, blank_model, tiny_model):
    fields = {
        "lora_dropout": 0.1,
        "init_lora_weights": "gaussian",
        "task_type": "FEATURE_EXTRACTION",
        "revision": "v2",
    }
    change_config(
        adapters / NAMES[1], **fields, rank_pattern=None, peft_version="0.18.0", target_modules=["fc2", "fc1"]
    )
    assert import_heads(blank_model, adapters) == [4, 8, 16]
    assert model_hash(blank_model) == model_hash(tiny_model)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "The peft_type of the adapter .*budget_0008 must be LORA; got 'IA3'"),
        ({"peft_type": None}, "The peft_type of the adapter .* must be LORA; got None"),
        ({"r": 8}, "The r of the adapter .*budget_0008 must be 2, .*; got 8, so train it with r=2, lora_alpha=4"),
        ({"lora_alpha": 16}, "The lora_alpha of the adapter .* must be 4, .*; got 16"),
        ({"target_modules": ["fc1"]}, r"The target_modules of .* must be \['fc1', 'fc2'\], .*; got \['fc1'\]"),
        ({"target_modules": "all-linear"}, "The target_modules of .*; got 'all-linear'"),
        ({"bias": "all"}, "The bias of the adapter .* must be 'none', .*; got 'all'"),
        ({"use_dora": True}, "The use_dora of the adapter .* must be False, .*; got True"),
        ({"use_rslora": True}, "The use_rslora of the adapter"),
        ({"rank_pattern": {"fc1": 4}}, "The rank_pattern of the adapter .*; got {'fc1': 4}"),
        ({"alpha_pattern": {"fc1": 4}}, "The alpha_pattern of the adapter"),
        ({"modules_to_save": ["pixel_conv"]}, "The modules_to_save of the adapter"),
        ({"layers_to_transform": [0]}, "The layers_to_transform of the adapter"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights of .*; got 'pissa', which changes the base weights"),
        ({"use_what_comes_next": True}, "has use_what_comes_next=True, .*; upgrade peft"),
    ],
)
def test_an_adapter_that_computes_something_else_is_refused(adapters, blank_model, fields, message):
    before = model_hash(blank_model)
    change_config(adapters / NAMES[1], **fields)
    with pytest.raises(ValueError, match=message):
        import_heads(blank_model, adapters)
    assert model_hash(blank_model) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(TENSOR), f"lacks {TENSOR}, the first of 1;"),
        (lambda t: t.update(extra=torch.zeros(2)), "has the superfluous extra, the first of 1;"),
        (lambda t: t.update({TENSOR: t[TENSOR].T.contiguous()}), r"of shape \(2, 64\); got torch.float32 .*\(64, 2\)"),
        (lambda t: t.update({TENSOR: t[TENSOR].int()}), "must be floats .*; got torch.int32"),
        (lambda t: t[UP_TENSOR].view(-1)[3].fill_(float("nan")), f"{UP_TENSOR} in .* has NaN"),
        (lambda t: t[UP_TENSOR].view(-1)[3].fill_(float("inf")), f"{UP_TENSOR} in .* has NaN, infinite values"),
    ],
)
def test_an_adapter_with_wrong_tensors_is_refused(adapters, blank_model, change, message):
    before = model_hash(blank_model)
    change_tensors(adapters / NAMES[2], change)
    with pytest.raises(ValueError, match=message):
        import_heads(blank_model, adapters)
    assert model_hash(blank_model) == before


def test_values_beyond_the_range_of_a_half_precision_model_are_refused(adapters, blank_model):
    change_tensors(adapters / NAMES[2], lambda tensors: tensors[TENSOR].view(-1)[0].fill_(1e6))
    assert import_heads(blank_model, adapters) == [4, 8, 16]
    with pytest.raises(ValueError, match="some beyond torch.float16"):
        import_heads(blank_model.half(), adapters)


def test_damaged_files_are_refused(adapters, blank_model):
    before = model_hash(blank_model)
    config, weights = adapters / NAMES[2] / "adapter_config.json", adapters / NAMES[2] / "adapter_model.safetensors"
    content = weights.read_bytes()
    for damaged in (content[:-10], content[:20], b"", b"version https://git-lfs.github.com/spec/v1\n"):
        weights.write_bytes(damaged)
        with pytest.raises(ValueError, match="adapter_model.safetensors is truncated, damaged or no safetensors"):
            import_heads(blank_model, adapters)
    for damaged in (config.read_bytes()[:50], b"\xff\xfe\x00"):
        config.write_bytes(damaged)
        with pytest.raises(ValueError, match="adapter_config.json holds no valid JSON"):
            import_heads(blank_model, adapters)
    config.write_text("[]")
    with pytest.raises(ValueError, match="must hold a JSON object; got list"):
        import_heads(blank_model, adapters)
    assert model_hash(blank_model) == before


def test_a_pickle_is_never_read(adapters, blank_model):
    weights = adapters / NAMES[0] / "adapter_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(
        ValueError, match="budget_0004 holds only adapter_model.bin, a pickle, .*save it as safetensors"
    ):
        import_heads(blank_model, adapters)


def test_half_an_adapter_is_refused(adapters, blank_model):
    before = model_hash(blank_model)
    for name, file in ((NAMES[0], "adapter_config.json"), (NAMES[0], "adapter_model.safetensors")):
        (adapters / name / file).rename(adapters / "kept")
        with pytest.raises(ValueError, match=f"budget_0004 lacks {file}"):
            import_heads(blank_model, adapters)
        (adapters / "kept").rename(adapters / name / file)
    for path in (adapters / NAMES[1]).iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="budget_0008 lacks adapter_config.json"):
        import_heads(blank_model, adapters)
    assert model_hash(blank_model) == before


@pytest.mark.parametrize("name", ["budget_0005", "budget_4", "default"])
def test_an_adapter_that_names_no_candidate_budget_is_refused(adapters, blank_model, name):
    before = model_hash(blank_model)
    (adapters / NAMES[0]).rename(adapters / name)
    message = f"The name '{name}' of the adapter .* tells no candidate budget .* one of {', '.join(NAMES)}"
    for folder in (adapters, adapters / name):
        with pytest.raises(ValueError, match=message):
            import_heads(blank_model, folder)
    assert model_hash(blank_model) == before


def test_a_folder_without_adapters_is_refused(tmp_path, blank_model):
    (tmp_path / "notes").mkdir()
    with pytest.raises(ValueError, match="holds no PEFT adapter; put each into a folder .*: budget_0004, budget_0008"):
        import_heads(blank_model, tmp_path)
    with pytest.raises(ValueError, match="There is no folder .*absent"):
        import_heads(blank_model, tmp_path / "absent")


def test_an_output_folder_in_use_is_refused_and_left_alone(tmp_path, tiny_model):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(ValueError, match="The output folder .*out is not empty"):
        export_heads(tiny_model, tmp_path / "out", "someone/a-model")
    with pytest.raises(ValueError, match="The output folder .*mine is a file"):
        export_heads(tiny_model, tmp_path / "out" / "mine", "someone/a-model")
    assert files(tmp_path) == ["out/mine"]


def test_the_command_exports_the_heads_of_a_checkpoint(adatok, adapters, tmp_path, tiny_checkpoint):
    code, stdout, stderr = adatok("export", "--out", tmp_path / "deep" / "out")
    assert (code, stdout) == (0, f"3 heads written to {tmp_path / 'deep' / 'out'}\n"), stderr
    assert files(tmp_path / "deep" / "out") == files(adapters)
    content = json.loads((tmp_path / "deep" / "out" / NAMES[0] / "adapter_config.json").read_text())
    assert content["base_model_name_or_path"] == str(tiny_checkpoint)


def test_the_command_makes_a_checkpoint_that_differs_in_the_imported_heads_alone(
    adatok, adapters, tmp_path, tiny_checkpoint, tiny_model, blank_model, processor
):
    report = {
        "rows": [{"budget": 4, "psnr": 17.25}],
        "training": {"steps": 7, "datasets": ["someone/pictures"], "quality measured on": "pictures"},
    }
    report["training"] |= {"LPIPS above": "backbone alex", "codebook use": "99% by these pictures"}
    (tiny_checkpoint / "metrics.json").write_text(json.dumps(report))
    (tiny_checkpoint / "README.md").write_text("---\nlicense: mit\n---\n# Card\n17.25\n")
    export_heads(blank_model, tmp_path / "blank", "someone/a-model")
    shutil.rmtree(tmp_path / "blank" / NAMES[2])
    before = {path.name: path.read_bytes() for path in tiny_checkpoint.iterdir()}
    code, stdout, stderr = adatok("import", tmp_path / "blank", "--out", tmp_path / "out")
    assert code == 0, stderr
    assert stdout == f"Heads of the budgets 4, 8 imported from {tmp_path / 'blank'}, written to {tmp_path / 'out'}\n"
    assert {path.name: path.read_bytes() for path in tiny_checkpoint.iterdir()} == before
    assert set(files(tmp_path / "out")) == before.keys() - {"metrics.json"}
    for name in before.keys() - {"model.safetensors", "metrics.json", "README.md"}:
        assert (tmp_path / "out" / name).read_bytes() == before[name], name
    state = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in tiny_model.state_dict().items():
        expected = torch.zeros_like(tensor) if NAMES[0] in name or NAMES[1] in name else tensor
        assert torch.equal(state[name], expected), name
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Not measured." in card and "17.25" not in card and "measured on" not in card
    assert "LPIPS above" not in card and "codebook use" not in card
    assert "license: mit" in card and "- steps: 7" in card and "someone/pictures" in card
    assert f"those of the budgets 4, 8 imported from {tmp_path / 'blank'}, the rest as in {tiny_checkpoint}" in card
    load_checkpoint(tmp_path / "out")


def test_the_command_takes_adapters_of_the_hub(adatok, adapters, tmp_path, tiny_checkpoint, monkeypatch):
    (adapters / "model.safetensors").write_text("large")

    def snapshot_download(repo_id, *, allow_patterns, **_):
        assert repo_id == "someone/heads"
        for file in filter_repo_objects(files(adapters), allow_patterns=allow_patterns):
            (tmp_path / "snapshot" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(adapters / file, tmp_path / "snapshot" / file)
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("adatok_hf.hub.snapshot_download", snapshot_download)
    code, stdout, stderr = adatok("import", "someone/heads", "--out", tmp_path / "out")
    assert code == 0 and "4, 8, 16 imported from someone/heads" in stdout, stderr
    assert files(tmp_path / "snapshot") == [file for file in files(adapters) if "/" in file]
    assert model_hash(load_checkpoint(tmp_path / "out")[0]) == model_hash(load_checkpoint(tiny_checkpoint)[0])
    shutil.rmtree(tmp_path / "snapshot")
    for name in NAMES:
        shutil.rmtree(adapters / name)
    code, _, stderr = adatok("import", "someone/heads", "--out", tmp_path / "none")
    assert code == 2 and is_one_sentence(stderr) and "someone/heads holds no PEFT adapter" in stderr


def test_the_command_says_in_one_sentence_what_is_wrong(adatok, adapters, tmp_path):
    change_config(adapters / NAMES[1], r=8)
    (tmp_path / "file").write_text("")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine").write_text("mine")
    before = files(tmp_path)
    for arguments, message in (
        (("import", adapters, "--out", tmp_path / "out"), "The r of the adapter"),
        (
            ("import", tmp_path / "file", "--out", tmp_path / "out"),
            "is a file; name the folder that holds the adapters",
        ),
        (("import", tmp_path / "no such", "--out", tmp_path / "out"), "There is no folder"),
        (("import", adapters, "--out", tmp_path / "used"), "used is not empty"),
        (("export", "--out", tmp_path / "used"), "used is not empty"),
        (("export", "--out", tmp_path / "file"), "file is a file"),
    ):
        code, stdout, stderr = adatok(*arguments)
        assert code == 2 and stdout == "" and is_one_sentence(stderr) and message in stderr, stderr
    assert files(tmp_path) == before
