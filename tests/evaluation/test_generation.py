"""Quality of generated images."""

import json
import math
import shutil
from dataclasses import replace

import pytest
from evaluate_worker import NUM_FEATURES, SmallInception
from PIL import Image

from adatok_hf.checkpoint import model_hash
from adatok_hf.cli import main
from adatok_hf.data import load_image_dataset
from adatok_hf.evaluation import generation
from adatok_hf.evaluation.generation import GenerationSettings, evaluate_generation, format_table
from adatok_hf.generation.load_pipeline import load_pipeline


SETTINGS = GenerationSettings(budgets=("auto", 8), kid_subset_size=5, images_per_part=5, batch_size=3)


@pytest.fixture
def pipe(generator, tiny_checkpoint, tmp_path):
    generator.save_pretrained(tmp_path / "generator")
    return load_pipeline(tmp_path / "generator", tiny_checkpoint)


@pytest.fixture
def labelled(write_images, tmp_path):
    """Twenty images of two of the generator's classes."""
    write_images(tmp_path / "labelled" / "emoji", seed=0)
    write_images(tmp_path / "labelled" / "places" / "abbey", seed=1)
    return tmp_path / "labelled"


@pytest.fixture
def evaluate(pipe, labelled, tmp_path):
    def run(out="out", settings=SETTINGS, data=labelled, **options):
        images = load_image_dataset(str(data))
        return evaluate_generation(
            pipe, images, tmp_path / out, settings, SmallInception(), min_images=NUM_FEATURES + 1, **options
        )

    return run


def test_every_row_has_its_distances_and_budgets(evaluate, tmp_path):
    report = evaluate()
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == report
    reconstructions, at_eight, drawn, forced = report["rows"]
    assert [row["images"] for row in report["rows"]] == ["reconstructions", "reconstructions", "auto", 8]
    assert forced["mean_budget"] == at_eight["mean_budget"] == 8 and reconstructions["gfid"] != at_eight["gfid"]
    assert 4 <= drawn["mean_budget"] <= 16 and 4 <= reconstructions["mean_budget"] <= 16
    for row in report["rows"]:
        assert row["n"] == 20 and math.isfinite(row["gfid"] + row["kid"]) and 0 <= row["class_accuracy"] <= 1
    assert "auto" in format_table(report)


def test_each_guidance_is_a_row_and_measured_alone_or_together_it_is_the_same(evaluate):
    both = evaluate(settings=replace(SETTINGS, guidance_scales=(1.0, 3.0)))
    assert [(row["images"], row["guidance_scale"]) for row in both["rows"][2:]] == [
        ("auto", 1.0),
        ("auto", 3.0),
        (8, 1.0),
        (8, 3.0),
    ]
    plain, guided = both["rows"][2:4]
    assert plain["mean_budget"] == guided["mean_budget"] and plain["gfid"] != guided["gfid"]
    alone = evaluate("alone", replace(SETTINGS, budgets=("auto",), guidance_scales=(3.0,)))
    assert alone["rows"][1] == guided


def test_real_images_are_told_apart_better_than_by_chance_where_classes_differ(evaluate, labelled):
    for index, path in enumerate(sorted(labelled.rglob("*.png"))):
        if "emoji" in path.parts:
            Image.new("RGB", (40, 40), (index, 0, 0)).save(path)
    assert evaluate()["real_class_accuracy"] >= 0.8


def test_batches_and_parts_do_not_matter(evaluate):
    first = evaluate()
    second = evaluate("other", replace(SETTINGS, batch_size=7, images_per_part=20))
    for one, other in zip(first["rows"], second["rows"]):
        assert one["mean_budget"] == other["mean_budget"] and one["gfid"] == pytest.approx(other["gfid"], rel=1e-4)


def test_the_report_says_of_which_weights_it_is(evaluate, pipe):
    report = evaluate()
    assert report["model_hash"] == model_hash(pipe.image_tokenizer)
    assert report["generator_hash"] == model_hash(pipe.transformer)


def test_a_run_that_was_cut_off_goes_on_from_its_parts(evaluate, pipe, tmp_path):
    first = evaluate()
    kept = sorted((tmp_path / "out" / "parts").glob("*.safetensors"))
    kept[0].unlink()
    times = [path.stat().st_mtime_ns for path in kept[1:]]
    assert evaluate() == first
    assert [path.stat().st_mtime_ns for path in kept[1:]] == times


def test_a_folder_of_another_evaluation_is_refused(evaluate, one_sentence):
    evaluate()
    with one_sentence("--out"):
        evaluate(settings=replace(SETTINGS, seed=1))


def test_other_pictures_under_the_same_names_are_refused(evaluate, labelled, write_images, one_sentence):
    evaluate()
    shutil.rmtree(labelled / "emoji")
    write_images(labelled / "emoji", seed=2)
    with one_sentence("other pictures", "--out"):
        evaluate()


def test_another_policy_is_another_evaluation(evaluate, pipe, one_sentence):
    evaluate()
    pipe.image_tokenizer.config.cost_bias = 3.0
    with one_sentence("another policy", "--out"):
        evaluate()


def test_an_unreadable_image_is_skipped_and_named(evaluate, labelled):
    (labelled / "emoji" / "000.png").write_bytes(b"no picture")
    warnings = []
    report = evaluate(warn=warnings.append)
    assert report["skipped_images"] == 1 and {row["n"] for row in report["rows"]} == {19}
    assert len(warnings) == 1 and "000.png" in warnings[0]


def test_a_part_without_a_readable_image_is_left_out(evaluate, labelled):
    for index in range(SETTINGS.images_per_part):
        (labelled / "emoji" / f"{index:03d}.png").write_bytes(b"no picture")
    report = evaluate(warn=lambda _: None)
    assert report["skipped_images"] == 5 and {row["n"] for row in report["rows"]} == {15}
    assert evaluate(warn=lambda _: None) == report


def test_a_classifier_judges_no_reconstruction_of_what_it_was_fitted_to(evaluate, monkeypatch):
    judged = []
    monkeypatch.setattr(
        generation._LinearClassifier, "accuracy", lambda _, features, labels: judged.append(len(features)) or 0.5
    )
    evaluate()
    assert judged == [10, 10, 20, 20, 10]  # reconstructions, generated images, the rest of the real ones


def test_classes_that_the_generator_does_not_know_are_named(evaluate, labelled, one_sentence):
    (labelled / "emoji").rename(labelled / "fonts")
    with one_sentence("fonts"):
        evaluate()


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"budgets": (5,)}, "[4, 8, 16]"),
        ({}, "2,048"),
        ({"kid_subset_size": 21}, "KID needs at least 21 images; got 20"),
        ({"guidance_scales": (1.0, -2.0)}, "-2.0"),
        ({"top_p": 2.0}, "top_p"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(pipe, labelled, tmp_path, one_sentence, changes, part):
    settings = replace(SETTINGS, **changes)
    with one_sentence(part):
        images, least = load_image_dataset(str(labelled)), 2 if "kid_subset_size" in changes else 2048
        evaluate_generation(pipe, images, tmp_path / "out", settings, SmallInception(), min_images=least)


def test_the_command_names_missing_weights(pipe, tiny_checkpoint, labelled, tmp_path, capsys):
    line = [
        "evaluate-generation",
        "--generator",
        tmp_path / "generator",
        "--model",
        tiny_checkpoint,
        "--device",
        "cpu",
    ]
    line += ["--data", labelled, "--out", tmp_path / "out", "--weights-dir", tmp_path / "nowhere"]
    with pytest.raises(SystemExit) as ended:
        main([str(part) for part in line])
    assert ended.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("adatok: error: ")]
    assert len(errors) == 1 and "nowhere" in errors[0]
