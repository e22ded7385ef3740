"""What cannot be done is one sentence, and nothing is lost."""

import zlib
from pathlib import Path

import pytest
from PIL import Image
from sentences import is_one_sentence

from adatok_hf.codec.codes_file import ImageCodes


def bad_image(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.png"
    good = folder / "good.png"
    Image.effect_noise((40, 40), 80).save(good)
    content = good.read_bytes()
    good.unlink()
    if kind == "folder_without_images":
        (folder / "none").mkdir()
        return folder / "none"
    if kind == "corrupt":
        path.write_bytes(content[:60] + bytes(200) + content[260:])
    elif kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("no picture")
    elif kind == "bomb":
        size = (60000).to_bytes(4, "big") * 2
        header = b"IHDR" + size + content[24:29]
        path.write_bytes(content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:])
    elif kind == "strip":
        Image.new("RGB", (4000, 2)).save(path)
    return path


BAD_IMAGES = ["missing", "corrupt", "truncated", "empty", "text", "bomb", "strip", "folder_without_images"]


@pytest.mark.parametrize("kind", BAD_IMAGES)
@pytest.mark.parametrize("command", ["reconstruct", "encode"])
def test_a_bad_image_alone_is_one_sentence_and_exit_code_2(adatok, tmp_path, command, kind):
    path = bad_image(kind, tmp_path)
    out = tmp_path / ("codes.safetensors" if command == "encode" else "out")
    code, stdout, stderr = adatok(command, path, "--out", out)
    stderr = "".join(line for line in stderr.splitlines(keepends=True) if "LPIPS" not in line)
    assert code == 2 and is_one_sentence(stderr) and str(path) in stderr
    assert stdout == "" and not out.is_file()


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_a_bad_image_among_good_ones_is_skipped_with_exit_code_1(adatok, pictures, tmp_path, kind):
    path = bad_image(kind, tmp_path)
    code, _, stderr = adatok("encode", path, pictures, "--out", tmp_path / "codes.safetensors", "--budgets", "4")
    assert code == 1
    assert stderr.startswith("adatok: skipped ") and stderr.count("\n") == 1 and str(path) in stderr
    assert len(ImageCodes.load(tmp_path / "codes.safetensors")) == 4


def test_nothing_left_is_exit_code_2_and_leaves_the_old_file(adatok, tmp_path):
    paths = [bad_image(kind, tmp_path) for kind in ("missing", "empty", "truncated")]
    out = tmp_path / "codes.safetensors"
    out.write_text("old")
    before = sorted(tmp_path.iterdir())
    code, _, stderr = adatok("encode", *paths, "--out", out)
    assert code == 2
    assert stderr.count("adatok: skipped ") == 3
    assert stderr.endswith("adatok: error: None of the 3 pictures could be read.\n")
    assert out.read_text() == "old" and sorted(tmp_path.iterdir()) == before


def test_an_existing_output_file_is_replaced(adatok, pictures, tmp_path):
    out = tmp_path / "codes.safetensors"
    out.write_text("old")
    assert adatok("encode", pictures, "--out", out)[0] == 0
    assert len(ImageCodes.load(out)) == 4


@pytest.mark.parametrize("budget", ["0", "17", "-4", "abc", "4.0", "", "4,", "4,99", "auto,4", "²"])
def test_a_bad_budget_of_reconstruct_is_one_sentence(adatok, pictures, tmp_path, budget):
    code, _, stderr = adatok("reconstruct", pictures, "--budgets", budget, "--out", tmp_path / "out")
    assert code == 2 and is_one_sentence(stderr)
    assert not (tmp_path / "out" / "grid.png").exists()


@pytest.mark.parametrize("budget", ["0", "17", "abc", "all", "4,8"])
def test_a_bad_budget_of_encode_is_one_sentence(adatok, pictures, tmp_path, budget):
    code, _, stderr = adatok("encode", pictures, "--budgets", budget, "--out", tmp_path / "codes.safetensors")
    assert code == 2 and is_one_sentence(stderr) and repr(budget) in stderr


@pytest.mark.parametrize("budget", ["0", "17", "abc"])
def test_a_bad_budget_of_decode_is_one_sentence(adatok, pictures, tmp_path, budget):
    adatok("encode", pictures, "--out", tmp_path / "codes.safetensors")
    code, _, stderr = adatok("decode", tmp_path / "codes.safetensors", "--budgets", budget, "--out", tmp_path / "out")
    assert code == 2 and is_one_sentence(stderr) and repr(budget) in stderr


@pytest.mark.parametrize("bias", ["1", "nan"])
@pytest.mark.parametrize("command", ["reconstruct", "encode"])
def test_a_cost_bias_beside_forced_budgets_is_one_sentence(adatok, pictures, tmp_path, command, bias):
    out = tmp_path / "out.safetensors"
    code, _, stderr = adatok(command, pictures, "--budgets", "8", "--cost-bias", bias, "--out", out)
    assert code == 2 and is_one_sentence(stderr) and "--cost-bias" in stderr and not out.exists()


def test_a_bad_cost_bias_is_one_sentence(adatok, pictures, tmp_path):
    code, _, stderr = adatok("encode", pictures, "--out", tmp_path / "codes.safetensors", "--cost-bias", "nan")
    assert code == 2 and is_one_sentence(stderr)


@pytest.mark.parametrize("device", ["abacus", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_one_sentence(adatok, pictures, tmp_path, device):
    code, _, stderr = adatok("reconstruct", pictures, "--out", tmp_path / "out", device=device)
    assert code == 2 and is_one_sentence(stderr) and repr(device) in stderr


def test_an_output_folder_that_is_a_file_is_one_sentence(adatok, pictures, tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        code, _, stderr = adatok("reconstruct", pictures, "--out", out)
        assert code == 2 and is_one_sentence(stderr) and str(out) in stderr


def test_an_output_file_that_is_a_folder_is_one_sentence(adatok, pictures, tmp_path):
    (tmp_path / "codes.parquet").mkdir()
    code, _, stderr = adatok("encode", pictures, "--out", tmp_path / "codes.parquet")
    assert code == 2 and is_one_sentence(stderr) and "is a folder" in stderr


@pytest.mark.parametrize("command", ["reconstruct", "encode"])
def test_an_unwritable_folder_is_one_sentence(adatok, pictures, command):
    folder = Path("/proc/adatok")  # not even root can write here
    code, _, stderr = adatok(command, pictures, "--out", folder / ("c.parquet" if command == "encode" else ""))
    assert code == 2 and is_one_sentence(stderr) and "Cannot write to the output folder /proc/adatok" in stderr


def test_a_missing_or_broken_model_is_one_sentence(adatok, pictures, tmp_path):
    (tmp_path / "not_a_model").mkdir()
    for model in (tmp_path / "absent", tmp_path / "not_a_model"):
        code, _, stderr = adatok("encode", pictures, "--out", tmp_path / "codes.safetensors", model=model)
        assert code == 2 and is_one_sentence(stderr) and str(model) in stderr


@pytest.mark.parametrize("damage", ["truncated", "out of range", "pad code", "missing", "text"])
def test_a_bad_codes_file_is_one_sentence(adatok, pictures, tmp_path, damage):
    path = tmp_path / "codes.safetensors"
    assert adatok("encode", pictures, "--out", path, "--budgets", "4")[0] == 0
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "missing":
        path.unlink()
    elif damage == "text":
        path.write_text("no codes")
    else:
        codes = ImageCodes.load(path)
        codes.image_codes[2, 3] = codes.codebook_size + (damage == "out of range")
        codes.save(path)
    code, _, stderr = adatok("decode", path, "--out", tmp_path / "decoded")
    assert code == 2 and is_one_sentence(stderr) and str(path) in stderr
    assert not (tmp_path / "decoded").exists()
