"""The `adatok` command: what it writes and what it prints."""

import dataclasses
import importlib
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from sentences import is_one_sentence

from adatok_hf.cli import main
from adatok_hf.cli.common import cast_model
from adatok_hf.cli.decode import png_names
from adatok_hf.codec.batches import ImageBatches
from adatok_hf.codec.codec import fast_dtype
from adatok_hf.codec.codes_file import ImageCodes
from adatok_hf.codec.grid import GridRow, Reconstruction, draw_grid
from adatok_hf.codec.reconstruct import measure, reconstruct
from adatok_hf.metrics.rate import bits_per_pixel


def as_arrays(folder: Path, names: list[str]) -> list[np.ndarray]:
    return [np.asarray(Image.open(folder / name)) for name in names]


def test_reconstruct_writes_grid_table_and_results(adatok, pictures, tmp_path, tiny_config):
    code, stdout, stderr = adatok("reconstruct", pictures, "--budgets", "all", "--out", tmp_path / "out")
    assert code == 0
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    names = ["a.png", "b.png", "c.png", "deep/a.png"]
    assert [(row["image"], row["budget"]) for row in report["rows"]] == [(n, b) for n in names for b in (4, 8, 16)]
    assert [row["budget"] for row in report["means"]] == [4, 8, 16]
    assert set(report["rows"][0]) == {"image", "budget", "bits_per_pixel", "psnr", "lpips"}
    assert report["rows"][0]["bits_per_pixel"] == bits_per_pixel(4, tiny_config)
    psnrs = [row["psnr"] for row in report["rows"] if row["budget"] == 8]
    assert report["means"][1]["psnr"] == pytest.approx(sum(psnrs) / 4)
    lines = stdout.splitlines()
    assert lines[0].split() == ["image", "budget", "bits/pixel", "PSNR", "(dB)", "LPIPS"]
    assert len(lines) == 1 + 12 + 3
    assert lines[-1].split()[:2] == ["mean", "16"]
    grid = Image.open(tmp_path / "out" / "grid.png")
    assert grid.mode == "RGB" and grid.getpixel((0, 0)) == (255, 255, 255)


def test_missing_lpips_is_explained_once_and_left_out_of_the_table(adatok, pictures, tmp_path):
    code, stdout, stderr = adatok("reconstruct", pictures, "--budgets", "4,8", "--out", tmp_path / "out")
    assert code == 0
    assert stderr.count("adatok: LPIPS is left out: its network is not on this machine") == 1
    assert all(line.endswith(" -") for line in stdout.splitlines()[1:])
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [row["lpips"] for row in rows] == [None] * 8


def test_a_weights_folder_without_weights_is_an_error_when_named(adatok, pictures, tmp_path):
    code, _, stderr = adatok("reconstruct", pictures, "--out", tmp_path / "out", "--weights-dir", tmp_path)
    assert code == 2 and is_one_sentence(stderr) and "No LPIPS weights" in stderr


def test_reconstruct_measures_lpips_where_a_network_is_given(sample_images, tiny_config):
    class MeanDifference(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, first, second):
            return (first - second).abs().mean((1, 2, 3), keepdim=True) * self.scale

    picture = sample_images[2]
    negative = picture.point(lambda value: 255 - value)
    cells = [Reconstruction(4, picture), Reconstruction(8, negative)]
    _, (same, inverted) = measure("c.png", picture, cells, tiny_config, MeanDifference())
    assert same.lpips == 0 and same.psnr == math.inf
    assert 0 < inverted.lpips <= 2


def test_reconstruct_encodes_once_whatever_the_number_of_budgets(tiny_model, processor, sample_images):
    passes = []
    tiny_model.encoder.register_forward_hook(lambda *_: passes.append(1))
    pixel_values = processor(sample_images, return_tensors="pt")["pixel_values"]
    rows = reconstruct(tiny_model, processor, pixel_values, [4, 5, 8, 16])
    assert len(passes) == 1
    assert [[cell.budget for cell in row] for row in rows] == [[4, 5, 8, 16]] * 4
    alone = tiny_model(pixel_values, budgets=5).pixel_values
    assert [p.tobytes() for p in processor.post_process(alone)] == [row[1].picture.tobytes() for row in rows]


def test_reconstruct_of_one_image_by_the_policy(adatok, pictures, tmp_path):
    code, stdout, _ = adatok("reconstruct", pictures / "a.png", "--out", tmp_path / "out")
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    assert code == 0 and [row["budget"] for row in report["rows"]] == [16] and report["means"] == []


@pytest.mark.parametrize("suffix", [".safetensors", ".parquet"])
@pytest.mark.parametrize("budget", ["auto", "4", "5"])
def test_encode_then_decode_equals_reconstruct(
    adatok, pictures, tmp_path, tiny_model, processor, sample_images, suffix, budget
):
    assert adatok("encode", pictures, "--out", tmp_path / f"codes{suffix}", "--budgets", budget)[0] == 0
    code, _, stderr = adatok("decode", tmp_path / f"codes{suffix}", "--out", tmp_path / "decoded")
    assert code == 0, stderr
    pixel_values = processor(sample_images, return_tensors="pt")["pixel_values"]
    rows = reconstruct(tiny_model, processor, pixel_values, None if budget == "auto" else [int(budget)])
    decoded = as_arrays(tmp_path / "decoded", ["a.png", "b.png", "c.png", "deep/a.png"])
    for row, array in zip(rows, decoded):
        assert np.array_equal(np.asarray(row[0].picture), array)


def test_decode_uses_at_most_the_budget_asked_for(adatok, pictures, tmp_path):
    for budget in ("4", "16"):
        assert adatok("encode", pictures, "--out", tmp_path / f"{budget}.safetensors", "--budgets", budget)[0] == 0
    for source, limit in (("4", "16"), ("16", "4"), ("16", "16")):
        arguments = (tmp_path / f"{source}.safetensors", "--out", tmp_path / f"{source}-{limit}", "--budgets", limit)
        assert adatok("decode", *arguments)[0] == 0
    few, cut, full = (as_arrays(tmp_path / name, ["c.png"])[0] for name in ("4-16", "16-4", "16-16"))
    assert np.array_equal(few, cut) and not np.array_equal(cut, full)


def test_the_codes_file_tells_where_the_codes_come_from(adatok, pictures, tmp_path, tiny_checkpoint):
    rotated = Image.new("RGB", (48, 40), "red")
    exif = rotated.getexif()
    exif[0x0112] = 6  # turned by a quarter
    rotated.save(tmp_path / "turned.jpg", exif=exif)
    assert adatok("encode", pictures, tmp_path / "turned.jpg", "--out", tmp_path / "codes.safetensors")[0] == 0
    codes = ImageCodes.load(tmp_path / "codes.safetensors")
    assert codes.file_names == ["a.png", "b.png", "c.png", "deep/a.png", "turned.jpg"]
    assert codes.original_sizes.tolist() == [[40, 48]] * 4 + [[48, 40]]
    assert (codes.model, codes.image_size, codes.codebook_size) == (str(tiny_checkpoint), 32, 64)


def test_images_stream_in_batches(pictures, processor):
    threes, fours = (list(ImageBatches([pictures], processor, print, batch_size=size)) for size in (3, 4))
    assert [len(names) for names, _, _ in threes] == [3, 1] and [len(names) for names, _, _ in fours] == [4]
    assert torch.equal(torch.cat([pixels for _, _, pixels in threes]), fours[0][2])


def test_a_file_given_twice_counts_once(adatok, pictures, tmp_path):
    arguments = (pictures / "b.png", pictures, pictures / "a.png")
    assert adatok("encode", *arguments, "--out", tmp_path / "codes.safetensors")[0] == 0
    names = ImageCodes.load(tmp_path / "codes.safetensors").file_names
    assert names == ["b.png", "a.png", "c.png", "deep/a.png"]


def test_a_cost_bias_replaces_that_of_the_checkpoint(adatok, pictures, tmp_path, tiny_model, processor):
    tiny_model.config.is_policy_trained = True
    tiny_model.config.cost_bias = 1000.0
    tiny_model.save_pretrained(tmp_path / "trained")
    processor.save_pretrained(tmp_path / "trained")
    for bias, budget in (([], 4), (["--cost-bias", "500"], 4), (["--cost-bias", "-1000"], 16)):
        out = tmp_path / f"codes{budget}.safetensors"
        code, _, stderr = adatok("encode", pictures, "--out", out, *bias, model=tmp_path / "trained")
        assert code == 0, stderr
        assert ImageCodes.load(out).budgets.tolist() == [budget] * 4


def test_decode_refuses_the_codes_of_another_model_unless_forced(adatok, pictures, tmp_path, tiny_model, processor):
    assert adatok("encode", pictures, "--out", tmp_path / "codes.safetensors")[0] == 0
    with torch.no_grad():
        tiny_model.quantizer.codebook.weight.neg_()
    tiny_model.save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    arguments = ("decode", tmp_path / "codes.safetensors", "--out", tmp_path / "decoded")
    code, _, stderr = adatok(*arguments, model=tmp_path / "other")
    assert code == 2 and is_one_sentence(stderr) and "--force" in stderr
    assert list((tmp_path / "decoded").iterdir()) == []
    assert adatok(*arguments, "--force", model=tmp_path / "other")[0] == 0
    assert len(list((tmp_path / "decoded").iterdir())) == 4


def test_decoded_names_stay_in_the_folder_and_never_collide():
    sources = ["a.jpg", "b/a.png", "A.webp", "a-2.png", "../../etc/x.png", "..", "c:\\d\\e.png", "/", "t.tar.gz"]
    names = ["a", "b/a", "A-2", "a-2-2", "etc/x", "image", "d/e", "image-2", "t.tar"]
    assert png_names(sources) == [f"{name}.png" for name in names]


@pytest.mark.parametrize(
    "arguments, word",
    [(["--batch-size", "7", "load"], "--batch-size"), (["--model", "tatok", "--sweep", "1"], "--sweep")],
)
def test_options_that_bench_would_not_heed_are_refused(capsys, tatok_checkpoint, arguments, word):
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        main(["bench", *[str(tatok_checkpoint) if part == "tatok" else part for part in arguments]])
    stderr = capsys.readouterr().err
    assert exit_info.value.code == 2 and word in stderr and is_one_sentence(stderr)


def test_bench_ends_in_one_json_line(adatok, tmp_path, tiny_checkpoint):
    code, stdout, stderr = adatok("bench", "--batch-size", "2", "--out", tmp_path / "bench.json")
    assert code == 0, stderr
    result = json.loads(stdout.splitlines()[-1])
    assert result["model"] == str(tiny_checkpoint) and result["batch_size"] == 2
    assert json.loads((tmp_path / "bench.json").read_text()) == result
    assert "decode mixed" in stdout.splitlines()[5]


def test_train_passes_further_arguments_through_untouched(monkeypatch):
    received = []
    monkeypatch.setattr("adatok_hf.training.train_tokenizer.train_recipe", lambda *given: received.extend(given))
    extra = ["--learning_rate", "1e-4", "--bf16", "--warmup_steps=7"]
    with pytest.raises(SystemExit) as exit_info:
        main(["train", "tokenizer", "--recipe", "tiny-64", *extra, "--data", "pictures"])
    assert exit_info.value.code == 0
    assert received == ["tiny-64", ["--train_data", "pictures", *extra]]


@pytest.mark.parametrize("stage", ["tokenizer", "policy"])
def test_help_of_a_training_lists_every_argument_with_help_and_default(stage, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "10000")
    with pytest.raises(SystemExit) as exit_info:
        main(["train", stage, "--help"])
    assert exit_info.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    arguments = importlib.import_module(f"adatok_hf.training.{stage}_arguments")
    fields = [field for kind in arguments.ARGUMENT_CLASSES for field in dataclasses.fields(kind)]
    assert len(fields) > 120
    places = {}
    for field in fields:
        flag = f"  --{field.name.replace('_', '-')} "
        (places[field.name],) = [place for place, line in enumerate(lines) if line.startswith(flag)]
        line = lines[places[field.name]]
        line += "" if line.endswith(")") else lines[places[field.name] + 1]  # help below a long name
        assert line.endswith(")") and "(default: " in line and len(line.removeprefix(flag).split()) > 4, line
    assert "(default: 5e-05)" in lines[places["learning_rate"]] and " NUMBER " in lines[places["learning_rate"]]
    assert places["init_from"] < places["weights_dir"] < places["learning_rate"]


def test_the_shell_completes_commands(monkeypatch, capsys):
    monkeypatch.setenv("_ADATOK_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "adatok tra")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit) as exit_info:
        main([])
    assert exit_info.value.code == 0 and capsys.readouterr().out.split() == ["train"]


def test_push_of_a_missing_checkpoint_is_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    with pytest.raises(SystemExit) as exit_info:
        main(["push", str(tmp_path / "absent"), "someone/a-model"])
    stderr = capsys.readouterr().err
    assert exit_info.value.code == 2 and is_one_sentence(stderr) and str(tmp_path / "absent") in stderr


def test_usage_errors_have_exit_code_2(capsys):
    for arguments in (["encode"], ["bogus"], ["encode", "a.png", "--out"], ["bench", "--batch-size", "0"]):
        with pytest.raises(SystemExit) as exit_info:
            main(arguments)
        assert exit_info.value.code == 2 and "Error" in capsys.readouterr().err


def test_the_process_itself_gives_one_line_and_the_exit_code(tmp_path):
    command = [sys.executable, "-m", "adatok_hf.cli", "encode", str(tmp_path / "no.png"), "--out", "codes.txt"]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert finished.returncode == 2 and finished.stdout == "" and is_one_sentence(finished.stderr)


def test_bits_per_pixel_count_the_budget_index(tiny_config):
    assert bits_per_pixel(8, tiny_config) == pytest.approx((8 * 6 + math.log2(3)) / 1024)
    assert bits_per_pixel(5, tiny_config) == pytest.approx((5 * 6 + 4) / 1024)


def test_the_grid_shows_every_pixel_of_original_and_reconstructions(sample_images, tiny_config):
    original, other = (image.crop((0, 0, 32, 32)) for image in sample_images[2:])
    name = "a_very_long_name_that_does_not_fit_below_a_picture.png"
    row, _ = measure(name, original, [Reconstruction(4, other)], tiny_config)
    grid = np.asarray(draw_grid([row, row]))
    cell = 160  # five times 32
    assert grid.shape == (16 + 2 * (cell + 44 + 16), 16 + 2 * (cell + 16), 3)
    assert np.array_equal(grid[16 + 2 : 16 + cell : 5, 16 + 2 : 16 + cell : 5], np.asarray(original))
    assert np.array_equal(grid[16 + 2 : 16 + cell : 5, 192 + 2 : 192 + cell : 5], np.asarray(other))
    assert (grid[:, 16 + cell + 1 : 16 + cell + 15] == 255).all()


def test_encode_takes_a_table_and_names_its_rows(adatok, tmp_path, sample_images):
    images = [{"bytes": as_png(image), "path": None} for image in sample_images]
    images[2] = {"bytes": b"no picture", "path": None}
    features = datasets.Features({"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_dict({"image": images}, features=features).to_parquet(tmp_path / "data" / "test-0.parquet")
    out = tmp_path / "codes.safetensors"
    for source, options in ((tmp_path / "data" / "test-0.parquet", []), (tmp_path / "data", ["--split", "test"])):
        code, _, stderr = adatok("encode", source, "--out", out, *options)
        assert code == 1 and "skipped Row 2 of " in stderr
        assert ImageCodes.load(out).file_names == [f"{source.stem}/{row:06d}" for row in (0, 1, 3)]


def test_encode_takes_addresses(adatok, tmp_path, sample_images):
    images = [{"bytes": as_png(image), "path": None} for image in sample_images]
    datasets.Dataset.from_dict({"image": images}).to_parquet(tmp_path / "some-0.parquet")
    out = tmp_path / "codes.safetensors"
    assert adatok("encode", f"file://{tmp_path}/some-*.parquet", "--out", out)[0] == 0
    assert ImageCodes.load(out).file_names == [f"table/{row:06d}" for row in range(4)]


def test_what_reconstruct_wrote_is_no_picture_of_its_next_run(adatok, pictures, tmp_path):
    out, results = pictures / "reconstructions", []
    for _ in range(2):
        assert adatok("reconstruct", pictures, "--budgets", "4", "--out", out)[0] == 0
        results.append((out / "results.json").read_text())
    assert results[0] == results[1]


def as_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_codes_do_not_depend_on_the_batch_size(adatok, pictures, tmp_path):
    for size in (1, 3):
        assert adatok("encode", pictures, "--out", tmp_path / f"{size}.safetensors", "--batch-size", size)[0] == 0
    one, three = (ImageCodes.load(tmp_path / f"{size}.safetensors") for size in (1, 3))
    assert torch.equal(one.image_codes, three.image_codes)
    assert adatok("decode", tmp_path / "1.safetensors", "--out", tmp_path / "out", "--batch-size", 3)[0] == 0


def test_half_precision_is_an_option_and_keeps_the_fingerprint(adatok, pictures, tmp_path):
    out = tmp_path / "codes.safetensors"
    assert adatok("encode", pictures, "--out", out, "--dtype", "bfloat16")[0] == 0
    assert adatok("decode", out, "--out", tmp_path / "out", "--dtype", "bfloat16")[0] == 0
    code, _, stderr = adatok("encode", pictures, "--out", out, "--dtype", "int8")
    assert code == 2 and is_one_sentence(stderr) and "'int8'" in stderr


def test_auto_takes_float32_for_codes_of_a_file_and_what_is_fast_for_pixels(tiny_model):
    assert cast_model(tiny_model, "auto").dtype == fast_dtype(tiny_model.device)
    assert cast_model(tiny_model.half(), "auto", writes_codes=True).dtype == torch.float32


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_names_that_are_no_text_or_command_a_terminal(adatok, tmp_path, sample_images):
    folder = os.fsencode(tmp_path / "odd")
    os.mkdir(folder)
    for name in (b"\xff.png", b"a\x1b[31m.png", "写真.png".encode()):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(as_png(sample_images[1]))
    with open(os.path.join(folder, b"b\x1b[31m.png"), "wb") as file:
        file.write(b"no picture")
    for suffix in ("safetensors", "parquet"):
        code, stdout, stderr = adatok("encode", tmp_path / "odd", "--out", tmp_path / f"codes.{suffix}")
        assert code == 1 and "\x1b" not in stdout + stderr, stderr
        assert ImageCodes.load(tmp_path / f"codes.{suffix}").file_names == ["a\x1b[31m.png", "写真.png", "\ufffd.png"]
    code, stdout, stderr = adatok("reconstruct", tmp_path / "odd", "--out", tmp_path / "out", "--budgets", "4")
    assert code == 1 and "\x1b" not in stdout + stderr and "写真.png" in stdout


def test_letters_that_the_font_lacks_differ_in_the_grid():
    picture = Image.new("RGB", (144, 144))
    rows = ([GridRow(name, picture, [(Reconstruction(4, picture), 1.0)])] for name in ("写真", "漢字", "été"))
    grids = [draw_grid(row) for row in rows]
    assert len({grid.tobytes() for grid in grids}) == 3
