"""`adatok evaluate`: its numbers, its files, how it goes on after a cut, and how it refuses bad input."""

import json
import math
from pathlib import Path

import evaluate_worker
import numpy as np
import pytest
import torch
from PIL import Image

from adatok_hf import AdaTokImageProcessor, AdaTokModel
from adatok_hf.cli import main
from adatok_hf.data import load_image_dataset
from adatok_hf.evaluation import evaluate
from adatok_hf.evaluation.evaluate import EvaluationRun
from adatok_hf.evaluation.quality_plots import plot_quality
from adatok_hf.evaluation.reference import ReferenceStatistics
from adatok_hf.files import hash_file
from adatok_hf.metrics.images import to_images
from adatok_hf.metrics.inception import INCEPTION_FILE
from adatok_hf.metrics.pairs import psnr
from adatok_hf.metrics.rate import bits_per_pixel, whole_bytes


NUM_IMAGES = 10  # as `images` has
ROW = {"budget", "mean_budget", "median_budget", "bits_per_pixel", "rfid", "kid", "kid_std", "lpips", "psnr", "ssim"}


@pytest.fixture
def adatok(capsys, checkpoint, weights, images, tmp_path):
    """Runs `adatok evaluate`, with a small Inception unless `real`; gives exit code, stdout and stderr."""

    def run(*arguments, real=False, **options):
        defaults = {"data": images, "out": tmp_path / "out", "model": checkpoint, "weights-dir": weights}
        defaults |= {"device": "cpu", "kid-subset-size": 5, "batch-size": 3}
        options = defaults | {name.replace("_", "-"): value for name, value in options.items()}
        line = ["evaluate", *map(str, arguments)]
        line += [text for name, value in options.items() for text in (f"--{name}", str(value))]
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            (main if real else evaluate_worker.main)(line)
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


def read(tmp_path: Path, name: str = "out") -> dict:
    return json.loads((tmp_path / name / "results.json").read_text())


def error_of(result) -> str:
    code, _, stderr = result
    assert code == 2
    (line,) = [line for line in stderr.splitlines() if line.startswith("adatok: error: ")]
    return line


def test_the_report_says_what_was_measured_and_how(adatok, tmp_path, checkpoint, images, weights):
    code, stdout, _ = adatok(codecs="webp")
    assert code == 0
    report = read(tmp_path)
    assert [row["budget"] for row in report["rows"]] == [4, 8, 16, "auto"]
    for row in report["rows"]:
        assert set(row) - {"histogram"} == ROW | {"codebook_use", "n"} and row["n"] == NUM_IMAGES
        assert all(math.isfinite(row[name]) for name in ROW - {"budget"})
    histogram = report["rows"][-1]["histogram"]
    assert sum(histogram.values()) == NUM_IMAGES and len([count for count in histogram.values() if count]) > 1
    assert report["model"] == str(checkpoint) and report["data"] == str(images) and report["num_images"] == NUM_IMAGES
    assert len(report["model_hash"]) == len(report["image_list_hash"]) == 64
    assert {"torch", "torchvision", "transformers", "adatok-hf", "torch-fidelity", "lpips"} <= set(report["versions"])
    assert report["weights"]["inception"]["weights_sha256"] == hash_file(weights / INCEPTION_FILE)
    assert report["weights"]["lpips"]["weights"] == "alexnet_features_fp16.safetensors"
    assert (report["seed"], report["dtype"], report["device"]) == (2020, "float32", "cpu")
    assert report["command"].startswith("adatok evaluate ") and "--codecs webp" in report["command"]
    last = json.loads(stdout.splitlines()[-1])
    assert last["rows"] == report["rows"]
    assert stdout.splitlines()[0].split()[:3] == ["budget", "mean", "bits/pixel"]
    for name in ("quality.png", "worst-and-best.png"):
        assert Image.open(tmp_path / "out" / name).mode in ("RGB", "RGBA")


def test_rows_equal_what_the_model_gives_directly(adatok, tmp_path, checkpoint, images):
    adatok(metrics="psnr", budgets="auto,10")
    model = AdaTokModel.from_pretrained(checkpoint).eval()
    processor = AdaTokImageProcessor.from_pretrained(checkpoint)
    pictures = [Image.open(path) for path in sorted(images.iterdir())]
    pixels = processor(pictures, return_tensors="pt")["pixel_values"]
    originals = processor.post_process(pixels)
    with torch.inference_mode():
        for row, budgets in zip(read(tmp_path)["rows"], (10, None)):
            encoded = model.encode(pixels, budgets=budgets)
            decoded = processor.post_process(model.decode(encoded.image_codes, budgets=encoded.budgets).pixel_values)
            assert row["psnr"] == pytest.approx(psnr(to_images(originals), to_images(decoded)).mean().item(), abs=0.01)
            kept = encoded.budgets.tolist()
            assert row["mean_budget"] == np.mean(kept) and row["median_budget"] == np.median(kept)
            assert row["bits_per_pixel"] == pytest.approx(np.mean([bits_per_pixel(k, model.config) for k in kept]))
            used = {code for codes, k in zip(encoded.image_codes.tolist(), kept) for code in codes[:k]}
            assert row["codebook_use"] == len(used) / model.config.codebook_size


def test_one_encoder_pass_serves_all_budgets(adatok, monkeypatch):
    seen = []
    encode = AdaTokModel.encode
    monkeypatch.setattr(AdaTokModel, "encode", lambda self, x, **k: seen.append(len(x)) or encode(self, x, **k))
    adatok(metrics="psnr", budgets="auto,all,3,5")
    assert sum(seen) == NUM_IMAGES


def test_codecs_are_compared_at_equal_bytes_or_said_to_be_larger(adatok, tmp_path):
    _, stdout, _ = adatok(metrics="psnr", codecs="jpeg", budgets="auto,4")
    (codec,) = read(tmp_path)["codecs"]
    assert [(point["budget"], point["images_that_fit"]) for point in codec["at_equal_bytes"]] == [(4, 0), ("auto", 0)]
    assert all(point["psnr"] is None for point in codec["at_equal_bytes"])
    assert codec["smallest_bytes"] > 100 and f"the smallest jpeg file has {codec['smallest_bytes']} bytes" in stdout
    rates = [point["bits_per_pixel"] for point in codec["curve"]]
    assert rates == sorted(rates) and codec["curve"][-1]["psnr"] > codec["curve"][0]["psnr"]


def test_a_codec_whose_files_are_small_enough_has_points_at_equal_bytes(adatok, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "whole_bytes", lambda budget, config: {4: 90, 16: 10_000}[budget])
    adatok(metrics="psnr", codecs="webp", budgets="4,16")
    small, large = read(tmp_path)["codecs"][0]["at_equal_bytes"]
    assert large["images_that_fit"] == NUM_IMAGES and large["bits_per_pixel"] > 0
    assert small["images_that_fit"] < NUM_IMAGES and small["psnr"] is None


def test_bytes_at_equal_rate_hold_codes_and_budget_index(tiny_config):
    assert [whole_bytes(budget, tiny_config) for budget in (4, 8, 16)] == [4, 7, 13]  # 6 bits each, and log2(3)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_numbers(adatok, tmp_path, monkeypatch):
    adatok(out=tmp_path / "whole")
    encode = AdaTokModel.encode
    batches = []

    def counted(self, *arguments, **options):
        batches.append(1)
        if len(batches) == 4:  # two batches a part: in the middle of the second
            raise OSError("no space left")
        return encode(self, *arguments, **options)

    monkeypatch.setattr(AdaTokModel, "encode", counted)
    assert "no space left" in error_of(adatok())
    finished = sorted(path.parent.name for path in (tmp_path / "out").rglob("images.safetensors"))
    assert finished == ["part-00000-of-00003"] and not (tmp_path / "out" / "results.json").exists()
    assert adatok()[0] == 0
    # The first part is not measured again; the picture of the worst and the best images takes two batches more.
    assert len(batches) == 4 + 3 + 2
    assert read(tmp_path)["rows"] == read(tmp_path, "whole")["rows"]


def test_finished_budgets_are_not_measured_again(adatok, tmp_path, monkeypatch):
    adatok(metrics="psnr", budgets="4,8")
    decoded = []
    decode = AdaTokModel.decode
    monkeypatch.setattr(
        AdaTokModel, "decode", lambda self, x, budgets: decoded.append(budgets) or decode(self, x, budgets)
    )
    adatok(metrics="psnr", budgets="4,8,16")
    assert {int(budget) for budgets in decoded for budget in budgets} == {16}
    assert [row["budget"] for row in read(tmp_path)["rows"]] == [4, 8, 16]


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"metrics": "psnr,ssim"}, "another metrics"),
        ({"batch_size": 5}, "another batch size"),
        ({"max_images": 5}, "another number of images"),
    ],
)
def test_another_setting_in_the_same_folder_is_refused(adatok, change, reason):
    options = {"metrics": "psnr", "budgets": "4"}
    assert adatok(**options)[0] == 0
    assert reason in error_of(adatok(**options | change))


def test_another_policy_or_other_images_in_the_same_folder_are_refused(adatok, tmp_path, write_images, checkpoint):
    options = {"metrics": "psnr", "budgets": "4"}
    adatok(**options)
    other = write_images(tmp_path / "others", seed=1)
    assert "an evaluation of other images" in error_of(adatok(**options, data=other))
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"cost_bias": 0.5}))
    assert "another policy" in error_of(adatok(**options))


def test_a_cost_bias_moves_the_policy_and_only_the_policy(adatok, tmp_path):
    for bias, chosen in ((-1000.0, 16), (1000.0, 4)):
        out = tmp_path / f"bias{bias}"
        assert adatok(metrics="psnr", budgets="auto,8", cost_bias=bias, out=out)[0] == 0
        rows = {row["budget"]: row for row in json.loads((out / "results.json").read_text())["rows"]}
        assert rows["auto"]["mean_budget"] == chosen and rows[8]["mean_budget"] == 8
    assert "--cost-bias" in error_of(adatok(metrics="psnr", budgets="8", cost_bias=1.0))


def test_a_damaged_part_is_named(adatok, tmp_path):
    options = {"metrics": "psnr", "budgets": "4"}
    adatok(**options)
    (path,) = (tmp_path / "out" / "parts" / "part-00001-of-00003").glob("budget-4.safetensors")
    path.write_bytes(path.read_bytes()[:-4])
    assert f"{path} is damaged" in error_of(adatok(**options))


def test_stored_reference_statistics_give_the_same_rfid(adatok, tmp_path, images):
    stored = tmp_path / "reference.safetensors"
    options = {"metrics": "rfid", "budgets": "4"}
    adatok(**options, save_reference=stored)
    provenance = ReferenceStatistics.load(stored).provenance
    assert (provenance.num_images, provenance.image_size, provenance.data) == (NUM_IMAGES, 32, str(images))
    assert provenance.image_list_hash == read(tmp_path)["image_list_hash"]
    adatok(**options, reference=stored, out=tmp_path / "again")
    assert read(tmp_path, "again")["rows"] == read(tmp_path)["rows"]
    assert read(tmp_path, "again")["reference"]["image_list_hash"] == provenance.image_list_hash
    assert not list((tmp_path / "again").rglob("originals.safetensors"))


def test_reference_statistics_of_something_else_are_refused(adatok, tmp_path, weights):
    stored = tmp_path / "reference.safetensors"
    options = {"metrics": "rfid", "budgets": "4"}
    adatok(**options, save_reference=stored)
    statistics = ReferenceStatistics.load(stored)
    statistics.provenance.image_size = 64
    statistics.save(tmp_path / "larger.safetensors")
    again = {**options, "out": tmp_path / "again"}
    assert "another image size" in error_of(adatok(**again, reference=tmp_path / "larger.safetensors"))
    (weights / INCEPTION_FILE).write_bytes(b"other weights")
    assert "another evaluator" in error_of(adatok(**again, reference=stored))
    assert "KID needs the features" in error_of(adatok(**again | {"metrics": "rfid,kid"}, reference=stored))
    assert "--save-reference needs" in error_of(adatok(**again | {"metrics": "psnr"}, save_reference=stored))


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"metrics": "psnr,fid"}, "--metrics must be out of rfid, kid, lpips, psnr, ssim; got 'fid'"),
        ({"metrics": ","}, "nothing to measure"),
        ({"codecs": "gif"}, "--codecs must be out of jpeg, webp, avif; got 'gif'"),
        ({"budgets": "all,17"}, "whole numbers from 1 to 16; got '17'"),
        ({"budgets": "4,"}, "got ''"),
        ({"protocol": "coco"}, "--protocol must be imagenet-50k"),
        ({"protocol": "imagenet-50k"}, "for models of 256 px; this one has 32 px"),
        ({"metrics": "rfid"}, "rfid needs at least 2,048 images; got 10"),
        ({"metrics": "kid", "kid_subset_size": 11}, "kid needs at least 11 images; got 10"),
        ({"metrics": "kid"}, "its sha256 is"),
        ({"metrics": "lpips", "weights_dir": "/nowhere"}, "No LPIPS weights at /nowhere"),
        ({"metrics": "kid", "weights_dir": "/nowhere"}, "No Inception weights at /nowhere"),
        ({"metrics": "rfid", "reference": "absent.safetensors", "max_images": 3}, "rfid needs at least"),
        ({"data": "/nowhere"}, "/nowhere"),
    ],
)
def test_bad_input_is_one_sentence(adatok, options, sentence):
    assert sentence in error_of(adatok(real=True, **options))


def test_empty_data_are_refused(adatok, tmp_path, tiny_model, processor):
    (tmp_path / "empty").mkdir()
    assert "has no image files" in error_of(adatok(data=tmp_path / "empty"))
    settings = evaluate.EvaluationSettings([4], ["psnr"])
    with pytest.raises(ValueError, match="There are no images in the data"):
        EvaluationRun(tiny_model, processor, [], tmp_path / "parts", settings)


def test_an_image_with_nan_is_skipped_by_its_number(adatok, images, tmp_path):
    pixels = np.zeros((40, 40), dtype=np.float32)
    pixels[0, 0] = np.nan
    Image.fromarray(pixels).save(images / "005.tif")  # the seventh in order, after 005.png
    code, _, stderr = adatok(metrics="psnr", budgets="4")
    assert code == 1 and "adatok: skipped: Image 6 of the data: An image must not contain NaN" in stderr
    assert read(tmp_path)["num_images"] == NUM_IMAGES


def test_a_damaged_file_is_skipped_counted_and_changes_no_number(adatok, images, tmp_path):
    assert adatok(out=tmp_path / "clean")[0] == 0
    (images / "001-damaged.png").write_bytes((images / "001.png").read_bytes()[:60])
    code, stdout, stderr = adatok()
    assert code == 1 and str(images / "001-damaged.png") in stderr and "1 of 11 images could not be read" in stderr
    report, clean = read(tmp_path), read(tmp_path, "clean")
    assert (report["num_images"], report["skipped_images"], clean["skipped_images"]) == (NUM_IMAGES, 1, 0)
    assert report["image_list_hash"] == clean["image_list_hash"]
    assert [row["psnr"] for row in report["rows"]] == pytest.approx([row["psnr"] for row in clean["rows"]])


def test_a_part_without_a_readable_image_is_left_out(images, tmp_path, tiny_model, processor):
    sorted(images.iterdir())[4].write_bytes(b"no picture")
    settings = evaluate.EvaluationSettings([4], ["psnr"], images_per_part=1)
    for _ in range(2):
        run = EvaluationRun(tiny_model, processor, load_image_dataset(str(images)), tmp_path / "parts", settings)
        run.measure()
        assert run.num_images == len(run.columns("budget-4")["psnr"]) == NUM_IMAGES - 1


def test_nothing_to_read_is_one_sentence(adatok, images):
    for path in images.iterdir():
        path.write_bytes(b"no picture")
    assert "None of the 10 images of the data could be read." in error_of(adatok(metrics="psnr", budgets="4"))


def test_a_metric_that_was_left_out_is_not_drawn(tmp_path):
    rows = [{"budget": 4, "bits_per_pixel": 0.1, "rfid": None}]
    assert plot_quality({"metrics": ["rfid"], "rows": rows, "codecs": []}, tmp_path) is None


def test_what_too_few_readable_images_are_left_for_is_left_out(adatok, images, tmp_path):
    sorted(images.iterdir())[4].write_bytes(b"no picture")
    code, stdout, stderr = adatok(metrics="kid,psnr", budgets="4", kid_subset_size=NUM_IMAGES)
    assert code == 1 and "adatok: kid is left out: it needs 10 images, and 9 could be read." in stderr
    (row,) = read(tmp_path)["rows"]
    assert row["kid"] is None and math.isfinite(row["psnr"]) and " - " in stdout


def test_a_small_folder_leaves_out_what_needs_more_images(adatok, images, tmp_path):
    for path in sorted(images.iterdir())[3:]:
        path.unlink()
    code, stdout, stderr = adatok(budgets="4")
    assert code == 0 and "adatok: rfid and kid left out: 3 images are too few." in stderr
    assert read(tmp_path)["metrics"] == ["lpips", "psnr", "ssim"] and "rFID" not in stdout
    assert "rfid needs at least" in error_of(adatok(metrics="rfid", budgets="4", out=tmp_path / "other"))


def test_a_model_that_gives_nan_is_refused(adatok, checkpoint):
    model = AdaTokModel.from_pretrained(checkpoint)
    with torch.no_grad():  # finite, so that it loads, and too large to compute with
        model.decoder.get_parameter(next(n for n, _ in model.decoder.named_parameters() if n.endswith("bias"))).fill_(
            3e38
        )
    model.save_pretrained(checkpoint)
    assert "The model gives NaN" in error_of(adatok(metrics="psnr", budgets="4"))


def test_an_untrained_policy_has_no_auto(adatok, checkpoint):
    model = AdaTokModel.from_pretrained(checkpoint)
    model.config.is_policy_trained = False
    model.save_pretrained(checkpoint)
    assert "has not been trained, so it has no budget `auto`" in error_of(adatok(metrics="psnr", budgets="auto,4"))


def test_a_tatok_is_measured_at_its_threshold_and_at_numbers_of_tokens(
    adatok, tmp_path, tatok_checkpoint, tiny_tatok, processor, images
):
    code, _, stderr = adatok(model=tatok_checkpoint, budgets="auto,4,12", metrics="psnr,lpips", codecs="webp")
    assert code == 0, stderr
    rows = {row["budget"]: row for row in read(tmp_path)["rows"]}
    assert rows.keys() == {"auto", 4, 12}
    pictures = [Image.open(path) for path in sorted(images.iterdir())]
    pixel_values = processor(pictures, return_tensors="pt")["pixel_values"]
    originals = to_images(processor.post_process(pixel_values))
    with torch.no_grad():
        for budget, choice in (("auto", {}), (4, {"num_tokens": 4}), (12, {"num_tokens": 12})):
            encoded = tiny_tatok.encode(pixel_values, **choice)
            decoded = to_images(processor.post_process(tiny_tatok.decode(encoded).pixel_values))
            row, kept = rows[budget], encoded.num_tokens.tolist()
            assert row["psnr"] == pytest.approx(psnr(originals, decoded).mean().item(), abs=1e-3)
            assert row["mean_budget"] == pytest.approx(sum(kept) / len(kept))
            rates = [bits_per_pixel(count, tiny_tatok.config) for count in kept]
            assert row["bits_per_pixel"] == pytest.approx(sum(rates) / len(rates))
    assert sum(rows["auto"]["histogram"].values()) == NUM_IMAGES
    assert "--cost-bias shifts AdaTok's policy" in error_of(adatok(model=tatok_checkpoint, cost_bias=1.0))
