"""The study of TaTok: what each arm keeps, what it costs, and what is compared with what."""

import json

import pytest
import torch

from adatok_hf.cli import main
from adatok_hf.codec.sequential_tatok import SequentialTaTok
from adatok_hf.metrics.budgets import measure_pixels
from adatok_hf.metrics.perceptual import load_lpips
from adatok_hf.study.tatok_study import TaTokCodes, encode_for_study, filtering_arms, run_tatok_study


KINDS = ["flat", "busy"]


@pytest.fixture
def images(pictures) -> list[dict]:
    return [{"image": picture, "group": KINDS[index % 2]} for index, picture in enumerate(pictures)]


@pytest.fixture
def lpips(weights_dir):
    return load_lpips("alex", weights_dir)


@pytest.fixture
def pixel_values(pictures, processor) -> torch.Tensor:
    return processor(pictures, return_tensors="pt")["pixel_values"]


@pytest.fixture
def codes(tiny_tatok, pixel_values) -> TaTokCodes:
    with torch.no_grad():
        return encode_for_study(tiny_tatok, pixel_values, 3)


@pytest.fixture
def result(tiny_tatok, tiny_model, processor, images, lpips) -> dict:
    return run_tatok_study(
        SequentialTaTok(tiny_tatok), processor, tiny_model, processor, images, lpips, tokens=9, block_size=3
    )


def test_arms_keep_what_they_are_named_after(tiny_tatok, codes, pixel_values):
    arms = filtering_arms(tiny_tatok, codes, 9)
    fixed = ("DTF, prior", "DTF, surprisal", "DTF, residual", "pixel variance", "random", "DTF, prior in blocks")
    assert all((arms[name].sum(dim=1) == 5).all() for name in fixed)
    assert len({tuple(arms[name].flatten().tolist()) for name in fixed}) == len(fixed)
    with torch.no_grad():
        for name, choice in (
            ("DTF, prior", {}),
            ("DTF, surprisal", {"entropy": "surprisal"}),
            ("DTF, residual", {"entropy": "residual"}),
            ("DTF, prior in blocks", {"block_size": 3}),
        ):
            expected = tiny_tatok.encode(pixel_values, num_tokens=9, **choice).kept_mask
            assert torch.equal(arms[name], expected), name
    squares = pixel_values.unfold(2, 8, 8).unfold(3, 8, 8).flatten(4)  # (batch, channels, rows, columns, pixels)
    variance = squares.var(dim=-1).mean(dim=1).flatten(1)
    least = variance.masked_fill(~arms["pixel variance"], float("inf")).amin(dim=1)
    assert (least >= variance.masked_fill(arms["pixel variance"], 0).amax(dim=1) - 1e-5).all()


@pytest.mark.parametrize("rule", ["relative", "absolute"])
@pytest.mark.parametrize("entropy", ["prior", "surprisal", "residual"])
def test_thresholds_meet_the_mean_and_leave_the_model_as_it_is(tiny_tatok, codes, rule, entropy):
    arms = filtering_arms(tiny_tatok, codes, 9)
    counts = arms[f"DTF, {entropy}, {rule} threshold"].sum(dim=1).double()
    assert abs(counts.mean().item() - 5) <= 0.5
    assert tiny_tatok.config.threshold_rule == "relative" and tiny_tatok.config.threshold is None


def test_rows_are_the_means_of_the_arms_and_bits_count_the_places(result, tiny_tatok, pixel_values, lpips):
    rows = {row["arm"]: row for row in result["rows"]}
    config = tiny_tatok.config
    with torch.no_grad():
        pixels = tiny_tatok.decode(tiny_tatok.encode(pixel_values, num_tokens=9)).pixel_values
    measured = measure_pixels(pixels, pixel_values, lpips)
    row = rows["DTF, prior"]
    assert row["lpips"] == pytest.approx(measured["lpips"].mean().item(), abs=1e-5)
    assert row["psnr"] == pytest.approx(measured["psnr"].mean().item(), abs=1e-3)
    assert row["mean_tokens"] == 9 and row["bits"] == pytest.approx(config.count_bits(9)) and row["ci"] is None
    hidden = rows["globals hidden, as many patches in their place"]
    assert hidden["mean_tokens"] == 9 and hidden["bits"] == pytest.approx(9 * 5 + config.count_place_bits(9))
    assert hidden["against"] == "DTF, prior" and hidden["ci"][0] <= hidden["lpips"] - row["lpips"] <= hidden["ci"][1]
    assert rows["globals hidden, same patches"]["mean_tokens"] == 5
    assert {"TaTok, 4 tokens", "TaTok, 20 tokens", "AdaTok, 16 codes"} < rows.keys()


def test_tatok_meets_adatok_at_no_more_bits(result, tiny_tatok, tiny_model):
    rows = {row["arm"]: row for row in result["rows"]}
    matched = [row for row in result["rows"] if (row["against"] or "").startswith("AdaTok")]
    assert [row["against"] for row in matched] == ["AdaTok, 8 codes", "AdaTok, 16 codes"]  # 4 codes are 24 bits and 2
    for row in matched:
        other = rows[row["against"]]
        assert row["bits"] <= other["bits"] < tiny_tatok.config.count_bits(int(row["mean_tokens"]) + 1)
        assert row["psnr_ci"][0] <= row["psnr"] - other["psnr"] <= row["psnr_ci"][1]
    for budget in (8, 16):
        groups = [group for group in result["groups"] if group["adatok_codes"] == budget]
        assert [(group["kind"], group["n"]) for group in groups] == [("busy", 5), ("flat", 5)]
        tatok = rows[f"TaTok, {groups[0]['tokens']} tokens"]
        mean = sum(group["lpips"] for group in groups) / 2
        assert mean == pytest.approx(tatok["lpips"] - rows[f"AdaTok, {budget} codes"]["lpips"], abs=1e-6)


def test_the_tatok_that_meets_adatok_filters_as_its_configuration_says(
    tiny_tatok, tiny_model, processor, images, pixel_values, lpips
):
    tiny_tatok.config.entropy = "surprisal"
    models = (SequentialTaTok(tiny_tatok), processor, tiny_model, processor)
    rows = run_tatok_study(*models, images, lpips, tokens=9)["rows"]
    matched = next(row for row in rows if row["against"] == "AdaTok, 8 codes")
    with torch.no_grad():
        pixels = tiny_tatok.decode(
            tiny_tatok.encode(pixel_values, num_tokens=int(matched["mean_tokens"]))
        ).pixel_values
    measured = measure_pixels(pixels, pixel_values, lpips)
    assert matched["lpips"] == pytest.approx(measured["lpips"].mean().item(), abs=1e-5)


def test_the_command_ends_in_one_json_object(
    tatok_checkpoint, tiny_checkpoint, pictures, tmp_path, weights_dir, capsys
):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, picture in enumerate(pictures[:4]):
        picture.save(folder / f"{index}.png")
    (folder / "junk.png").write_bytes(b"no picture")
    options = ("--data", folder, "--out", tmp_path / "out", "--adatok", tiny_checkpoint, "--weights-dir", weights_dir)
    with pytest.raises(SystemExit) as ended:
        main([str(part) for part in ("study", "tatok", "--model", tatok_checkpoint, "--tokens", 9, *options)])
    said = capsys.readouterr()
    assert ended.value.code == 1 and "junk.png" in said.err
    last = json.loads(said.out.splitlines()[-1])
    assert last["n"] == 4 and {"arm", "mean_tokens", "bits", "lpips", "psnr", "ci"} <= last["rows"][0].keys()
    assert json.loads((tmp_path / "out" / "tatok.json").read_text())["rows"] == last["rows"]
    assert (tmp_path / "out" / "tatok.png").is_file()


def test_bad_studies_are_refused(tiny_tatok, tiny_model, processor, images, lpips, one_sentence):
    models = (SequentialTaTok(tiny_tatok), processor, tiny_model, processor)
    for tokens in (4, 21):
        with one_sentence("above 4, the global tokens, and at most 20", str(tokens)):
            run_tatok_study(*models, images, lpips, tokens=tokens)
    with one_sentence("at least 2 images"):
        run_tatok_study(*models, images[:1], lpips, tokens=9)
    tiny_model.config.image_size = 64
    with one_sentence("one image size", "32 and 64"):
        run_tatok_study(*models, images, lpips, tokens=9)
