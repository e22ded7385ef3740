import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from adatok_hf import AdaTokConfig, AdaTokImageProcessor, AdaTokImageProcessorPil, AdaTokModel, default_checkpoint
from adatok_hf.checkpoint import load_checkpoint, model_hash
from adatok_hf.cli import main
from adatok_hf.cli.common import sample_pixel_values
from adatok_hf.export.export import compare, export_model, measure_damage
from adatok_hf.export.exported import ExportedAdaTok, open_onnx


GRAPHS = ("encoder_model", "decoder_model")


@pytest.fixture(scope="module")
def model() -> AdaTokModel:
    """Its heads differ and its policy has opinions."""
    torch.manual_seed(0)
    config = AdaTokConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        num_latent_tokens=16,
        codebook_size=64,
        codebook_dim=8,
        budgets=[4, 8, 16],
        lora_rank=2,
        policy_hidden_size=16,
        is_policy_trained=True,
        cost_bias=0.25,
    )
    model = AdaTokModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.3)
        nn.init.normal_(model.policy.fc2.weight, std=1.0)
        nn.init.uniform_(model.quantizer.latent_norm.running_var, 0.5, 2.0)
    return model


@pytest.fixture(scope="module")
def small_processor() -> AdaTokImageProcessor:
    return AdaTokImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


@pytest.fixture(scope="module")
def folders(model, small_processor, tmp_path_factory) -> dict:
    """An export of each format; that of ONNX has graphs of 8 bits too."""
    folder = tmp_path_factory.mktemp("exports")
    for kind in ("onnx", "torch"):
        export_model(model, small_processor, folder / kind, kind, int8=kind == "onnx")
    return {kind: folder / kind for kind in ("onnx", "torch")}


@pytest.fixture(scope="module", params=["onnx", "torch"])
def exported(request, folders) -> ExportedAdaTok:
    return ExportedAdaTok.from_folder(folders[request.param])


def make_pixel_values(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(count)) * 2 - 1


@pytest.mark.parametrize("count", [1, 2, 5])
def test_codes_budgets_and_pixels_are_those_of_the_model_at_any_batch_size(model, exported, count):
    pixel_values = make_pixel_values(count)
    budgets = torch.arange(count) * 5 % 16 + 1
    with torch.no_grad():
        full, own = model.encode(pixel_values, budgets=16), model.encode(pixel_values)
        expected = model.decode(full.image_codes, budgets).pixel_values
    image_codes, budget_logits = exported.encode(pixel_values)
    assert image_codes.equal(full.image_codes)
    torch.testing.assert_close(budget_logits, full.budget_logits)
    assert exported.choose_budgets(budget_logits).equal(own.budgets)
    assert (exported.decode(image_codes, budgets) - expected).abs().max() < 1e-4


def test_the_policy_of_the_test_is_not_blind(model):
    assert len(set(model.encode(make_pixel_values(64)).budgets.tolist())) > 1


@pytest.mark.parametrize("budget", range(1, 17))
def test_every_budget_is_served_by_its_head(model, exported, budget):
    image_codes = torch.arange(16)[None] * 3 % 64
    with torch.no_grad():
        expected = model.decode(image_codes, budget).pixel_values
    assert (exported.decode(image_codes, torch.tensor([budget])) - expected).abs().max() < 1e-4


def test_what_stands_beyond_the_budget_has_no_influence(model, exported):
    image_codes = torch.arange(16).repeat(2, 1)
    image_codes[1, 6:] = model.config.pad_code_id
    pixels = exported.decode(image_codes, torch.tensor([6, 6]))
    assert pixels[0].equal(pixels[1]) and not exported.decode(image_codes[:1], torch.tensor([7]))[0].equal(pixels[0])


def test_the_cost_bias_shifts_the_choice_as_in_the_model(model, exported):
    pixel_values = make_pixel_values(32)
    _, logits = exported.encode(pixel_values)
    for cost_bias in (-3.0, 0.0, 3.0):
        assert exported.choose_budgets(logits, cost_bias).equal(
            model.encode(pixel_values, cost_bias=cost_bias).budgets
        )


def test_an_untrained_policy_keeps_everything(exported):
    untrained = ExportedAdaTok(exported.encode, exported.decode, exported.config | {"is_policy_trained": False})
    assert untrained.choose_budgets(torch.randn(3, 3)).tolist() == [16] * 3


@pytest.mark.parametrize("name", GRAPHS)
def test_the_batch_is_a_symbol_and_one_for_all_tensors_of_an_onnx_graph(folders, name):
    graph = onnx.load(folders["onnx"] / "onnx" / f"{name}.onnx").graph
    sizes = [tensor.type.tensor_type.shape.dim for tensor in (*graph.input, *graph.output)]
    assert {size[0].dim_param for size in sizes} == {"batch"}
    assert all(dim.dim_value > 0 for size in sizes for dim in size[1:])


def test_the_names_are_those_of_the_hub_and_the_configuration_travels_along(folders):
    found = {path.relative_to(folders["onnx"]).as_posix() for path in folders["onnx"].rglob("*") if path.is_file()}
    graphs = {f"onnx/{name}{suffix}.onnx" for name in GRAPHS for suffix in ("", "_int8")}
    assert found >= graphs | {"config.json", "preprocessor_config.json", "export.json"}
    assert not any(".data" in name for name in found)


def test_the_report_says_what_was_compared(model, folders):
    report = json.loads((folders["onnx"] / "export.json").read_text(encoding="utf-8"))
    assert (report["codes_equal"], report["budgets_equal"], report["images"]) == (1, 1, 4)
    assert 0 < report["pixels_difference"] < 1e-4 and report["model_hash"] == model_hash(model)
    assert report["bytes"]["onnx/encoder_model.onnx"] == (folders["onnx"] / "onnx/encoder_model.onnx").stat().st_size
    assert report["int8"].keys() >= {"codes_equal", "psnr_exact", "psnr_rounded", "psnr_rounded_decoder"}


def test_weights_of_8_bits_are_smaller_and_close(folders, model):
    sizes = {path.stem: path.stat().st_size for path in (folders["onnx"] / "onnx").iterdir()}
    assert sizes["encoder_model_int8"] < sizes["encoder_model"]
    rounded = ExportedAdaTok.from_folder(folders["onnx"], int8=True)
    image_codes = torch.arange(16).repeat(3, 1)
    expected = model.decode(image_codes, [3, 8, 16]).pixel_values
    difference = (rounded.decode(image_codes, torch.tensor([3, 8, 16])) - expected).abs()
    assert 1e-6 < difference.mean() < 0.1


def test_a_difference_is_seen(model, folders):
    exported, pixel_values = ExportedAdaTok.from_folder(folders["onnx"]), make_pixel_values(5)

    def encode(batch):
        image_codes, budget_logits = exported.encode(batch)
        image_codes[:, 0] = (image_codes[:, 0] + 1) % 64
        return image_codes, -budget_logits

    broken = ExportedAdaTok(encode, lambda *inputs: exported.decode(*inputs) + 0.5, exported.config)
    found = compare(model, broken, pixel_values)
    assert found["codes_equal"] == 15 / 16 and found["pixels_difference"] == pytest.approx(0.5, abs=1e-3)
    damage = measure_damage(exported, broken, pixel_values)
    assert damage["codes_equal"] == 15 / 16 and damage["psnr_rounded_decoder"] < damage["psnr_exact"]


def test_the_torch_format_runs_where_only_torch_is(folders):
    code = f"""
import sys, torch
program = torch.export.load({str(folders["torch"] / "torch" / "encoder_model.pt2")!r}).module()
codes, logits = program(torch.zeros(3, 3, 32, 32))
print(tuple(codes.shape), tuple(logits.shape), "adatok_hf" in sys.modules, "transformers" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "(3, 16) (3, 3) False False", run.stderr


def test_a_failure_leaves_nothing(model, small_processor, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.export, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        export_model(model, small_processor, tmp_path / "out", "torch")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_refused(model, small_processor, tmp_path, one_sentence):
    (tmp_path / "there.txt").write_text("mine", encoding="utf-8")
    with one_sentence("not empty", str(tmp_path)):
        export_model(model, small_processor, tmp_path)


def test_bad_choices_are_one_sentence(model, small_processor, tmp_path, one_sentence):
    with one_sentence("onnx or torch", "'tflite'"):
        export_model(model, small_processor, tmp_path / "out", "tflite")
    with one_sentence("8 bits"):
        export_model(model, small_processor, tmp_path / "out", "torch", int8=True)


def test_what_is_no_export_is_one_sentence(folders, tmp_path, one_sentence):
    with one_sentence("no export.json", str(tmp_path)):
        ExportedAdaTok.from_folder(tmp_path)
    (tmp_path / "export.json").write_text('{"format": "onnx"}', encoding="utf-8")
    with one_sentence("encoder_model.onnx is missing"):
        ExportedAdaTok.from_folder(tmp_path)
    (tmp_path / "export.json").write_text('{"format": "gguf"}', encoding="utf-8")
    with one_sentence("onnx or torch", "'gguf'"):
        ExportedAdaTok.from_folder(tmp_path)
    with one_sentence("_int8.pt2 is missing"):
        ExportedAdaTok.from_folder(folders["torch"], int8=True)


def test_an_onnx_file_of_an_opset_to_come_and_a_broken_one_are_one_sentence(folders, tmp_path, one_sentence):
    content = onnx.load(folders["onnx"] / "onnx" / "encoder_model.onnx")
    content.opset_import[0].version = 999
    onnx.save(content, tmp_path / "future.onnx")
    with one_sentence("cannot open", "future.onnx", "999"):
        open_onnx(tmp_path / "future.onnx", ["pixel_values"], 1)
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with one_sentence("cannot open", "broken.onnx"):
        open_onnx(tmp_path / "broken.onnx", ["pixel_values"], 1)


def test_the_command_exports_a_model_of_half_precision_in_float32(tiny_model, processor, tmp_path, capsys):
    checkpoint = tmp_path / "half"
    tiny_model.to(torch.bfloat16).save_pretrained(checkpoint)
    processor.save_pretrained(checkpoint)
    with pytest.raises(SystemExit) as exit_info:
        main(["export", "--model", str(checkpoint), "--format", "torch", "--out", str(tmp_path / "out")])
    output = capsys.readouterr()
    assert exit_info.value.code == 0, output.err
    assert "27 pictures: 100.00% of the codes" in output.out and (tmp_path / "out/torch/decoder_model.pt2").is_file()


def test_another_kind_of_model_is_refused_in_one_sentence(tatok_checkpoint, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["export", "--model", str(tatok_checkpoint), "--out", str(tmp_path / "out")])
    stderr = capsys.readouterr().err
    assert exit_info.value.code == 2 and "no AdaTok checkpoint" in stderr and len(stderr.splitlines()) == 1


def test_a_missing_package_names_the_extra(model, small_processor, tmp_path, monkeypatch):
    monkeypatch.setattr("adatok_hf.extras.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "adatok-hf\[export\]"'):
        export_model(model, small_processor, tmp_path / "out")


def test_the_example_of_the_page_runs_without_this_package(model, folders, tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "exported").symlink_to(folders["onnx"])
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    picture.save(tmp_path / "picture.png")
    run = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0 and "adatok_hf" not in example, run.stderr
    processor = AdaTokImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    with torch.no_grad():
        encoded = model.encode(**processor(picture, return_tensors="pt"))
        (expected,) = processor.post_process(model.decode(encoded).pixel_values)
    rebuilt = Image.open(tmp_path / "rebuilt.png")
    assert np.abs(np.asarray(rebuilt).astype(int) - np.asarray(expected).astype(int)).max() <= 1


@pytest.mark.slow
def test_the_embedded_checkpoint_is_the_same_in_onnx_runtime(tmp_path):
    model, processor = load_checkpoint(default_checkpoint())
    pixel_values = sample_pixel_values(processor)
    report = export_model(model, processor, tmp_path / "out", int8=True, pixel_values=pixel_values)
    assert (report["codes_equal"], report["budgets_equal"]) == (1, 1) and report["pixels_difference"] < 1e-4
    assert report["int8"]["codes_equal"] > 0.8
    assert report["int8"]["psnr_rounded"] > report["int8"]["psnr_exact"] - 0.2
