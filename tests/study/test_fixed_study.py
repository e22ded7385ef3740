"""The comparison of adaptive and fixed-length tokenizers, on tiny models."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from distance import Distance
from evaluate_worker import SmallInception
from safetensors.torch import load_file
from tiny_recipe import RECIPE

from adatok_hf.allocation.reward_table import read_info
from adatok_hf.checkpoint import load_checkpoint, model_hash
from adatok_hf.cli import main
from adatok_hf.study import fixed_study
from adatok_hf.study.fixed_study import (
    ADAPTIVE,
    FIXED_FULL,
    FIXED_MEAN,
    NAMES,
    NO_HEADS,
    ORACLE,
    POLICY,
    SHARED_HEAD,
    TWO_HEADS,
    UNIFORM,
    FixedStudySettings,
    arm_arguments,
    format_fixed_table,
    run_fixed_study,
)
from adatok_hf.study.heads_study import count_head_parameters
from adatok_hf.training.train_tokenizer import build_model


@pytest.fixture(autouse=True)
def light_network(monkeypatch):
    monkeypatch.setattr(fixed_study, "load_lpips", lambda *args: Distance())


@pytest.fixture(scope="module")
def settings(tmp_path_factory, write_pictures) -> FixedStudySettings:
    folder = tmp_path_factory.mktemp("inputs")
    recipe = RECIPE | {"adversarial_weight": 0.0, "max_steps": 4, "save_steps": 1}
    (folder / "tokenizer.yaml").write_text(yaml.safe_dump(recipe))
    policy = {"output_dir": "x", "max_steps": 2, "use_cpu": True, "report_to": "none"}
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy))
    return FixedStudySettings(
        recipe=str(folder / "tokenizer.yaml"),
        policy_recipe=str(folder / "policy.yaml"),
        train_data=str(write_pictures(folder / "train", 80)),
        eval_data=str(write_pictures(folder / "eval", 8)),
        fixed_budget=8,
        seeds=1,
        policy_images=80,
        eval_images=8,
        shares=(0.5,),
    )


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    """A whole study and its folder."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fixed_study, "load_lpips", lambda *args: Distance())
        return run_fixed_study(settings, folder, resamples=200), folder


def rows(result: dict, **wanted) -> dict[str, dict]:
    found = (row for row in result["rows"] if all(row[key] == value for key, value in wanted.items()))
    return {row["arm"]: row for row in found}


def test_every_arm_stands_at_the_mean_and_at_the_full_length(finished):
    result, folder = finished
    assert json.loads((folder / "fixed.json").read_text()) == result
    at_mean = {POLICY, ORACLE, UNIFORM, NO_HEADS, SHARED_HEAD, TWO_HEADS, FIXED_MEAN}
    assert set(rows(result, share=1.0, budget="mean")) == set(rows(result, share=0.5, budget="mean")) == at_mean
    at_full = {UNIFORM, NO_HEADS, SHARED_HEAD, TWO_HEADS, FIXED_FULL}
    assert set(rows(result, share=1.0, budget="full")) == at_full
    means = [row["mean_budget"] for row in rows(result, share=1.0, budget="mean").values()]
    assert means == pytest.approx([8] * len(means), abs=1.5)  # eight images allow no finer means
    assert {row["mean_budget"] for row in rows(result, budget="full").values()} == {16}


@pytest.mark.parametrize("word, other", [("fixed", FIXED_MEAN), ("adaptive", UNIFORM)])
def test_differences_are_those_of_the_means(finished, word, other):
    found = rows(finished[0], share=1.0, budget="mean")
    assert found[other][f"minus_{word}"] is None
    for name, row in found.items():
        if name != other:
            less = row[f"minus_{word}"]
            assert less["lpips"] == pytest.approx(row["lpips"] - found[other]["lpips"])
            assert less["ci"][0] <= less["lpips"] <= less["ci"][1]
            assert less["psnr"] == pytest.approx(row["psnr"] - found[other]["psnr"])


def test_groups_add_up(finished):
    result, _ = finished
    groups = [group for group in result["groups"] if group["arm"] == POLICY]
    mean = np.average([g["lpips_minus_fixed"] for g in groups], weights=[g["n"] for g in groups])
    assert mean == pytest.approx(rows(result, share=1.0, budget="mean")[POLICY]["minus_fixed"]["lpips"])


def test_it_reads_as_a_table(finished):
    text = format_fixed_table(finished[0])
    assert all(name in text for name in (POLICY, ORACLE, FIXED_FULL)) and "8 held-out images" in text


def test_arms_differ_in_what_they_are_about_alone(settings, tmp_path):
    models, trainings = {}, {}
    for arm in NAMES:
        model_arguments, _, training, _ = arm_arguments(settings, arm, 0, tmp_path)
        models[arm], trainings[arm] = build_model(model_arguments)[0], training
    assert models[ADAPTIVE].config.budgets == models[NO_HEADS].config.budgets == [4, 8, 16]
    assert models[TWO_HEADS].config.budgets == [8, 16] and models[SHARED_HEAD].config.budgets == [16]
    assert count_head_parameters(models[SHARED_HEAD]) == count_head_parameters(models[ADAPTIVE])
    assert models[FIXED_MEAN].config.num_latent_tokens == 8 and models[FIXED_FULL].config.num_latent_tokens == 16
    assert {arm for arm in NAMES if trainings[arm].training_budgets is None} == {FIXED_MEAN, FIXED_FULL}
    assert {(t.max_steps, t.seed, t.learning_rate) for t in trainings.values()} == {(4, 0, 1e-3)}


def test_heads_that_an_arm_does_not_have_stay_without_effect(finished):
    _, folder = finished
    for arm, has_heads in ((ADAPTIVE, True), (NO_HEADS, False), (FIXED_MEAN, False), (SHARED_HEAD, True)):
        weights = load_file(folder / f"{arm.replace(' ', '-')}-0" / "model.safetensors")
        ups = [value for name, value in weights.items() if "lora_B" in name]
        assert ups and any(up.any() for up in ups) == has_heads


def test_a_fixed_tokenizer_never_hides_a_code(settings, tmp_path):
    model_arguments, _, training, trainer = arm_arguments(settings, FIXED_FULL, 0, tmp_path)
    model, processor = build_model(model_arguments)
    drawn = trainer(model=model, args=training, processing_class=processor)._draw_choice(5)["budgets"]
    assert drawn.tolist() == [16] * 5


def test_a_study_that_was_cut_off_trains_nothing_twice(finished, settings, monkeypatch):
    result, folder = finished
    monkeypatch.setattr(fixed_study, "train", lambda *args: pytest.fail("trained again"))
    assert run_fixed_study(settings, folder, resamples=200) == result


def test_a_measured_arm_needs_its_folder_no_more(finished, settings, tmp_path):
    result, folder = finished
    measured = list(folder.glob("*.safetensors"))
    assert len(measured) == len(NAMES)
    for path in (folder / "settings.json", *measured):
        shutil.copy(path, tmp_path)
    assert run_fixed_study(settings, tmp_path, resamples=200) == result
    assert not any(path.is_dir() for path in tmp_path.iterdir())


def test_seeds_are_added_to_a_study(finished, settings, tmp_path):
    result, folder = finished
    shutil.copy(folder / "settings.json", tmp_path)
    for path in folder.glob("*-0.safetensors"):
        for seed in (0, 1):
            shutil.copy(path, tmp_path / path.name.replace("-0.", f"-{seed}."))
    both = run_fixed_study(replace(settings, seeds=2), tmp_path, resamples=200)
    assert [row["seeds"] for row in both["rows"]] == [2] * len(result["rows"])
    assert [row["lpips"] for row in both["rows"]] == [row["lpips"] for row in result["rows"]]


def test_a_damaged_measure_is_named(finished, settings, tmp_path, one_sentence):
    shutil.copy(finished[1] / "settings.json", tmp_path)
    (tmp_path / "adaptive-0.safetensors").write_bytes((finished[1] / "adaptive-0.safetensors").read_bytes()[:500])
    with one_sentence("adaptive-0.safetensors", "damaged", "delete it"):
        run_fixed_study(settings, tmp_path)


def test_rfid_is_of_each_arm_s_own_reconstructions_and_measured_once(finished, settings):
    result, folder = finished
    inception = SmallInception()
    measured = run_fixed_study(settings, folder, resamples=200, inception=inception, min_images=2)
    found = {name: row["rfid"] for name, row in rows(measured, share=1.0, budget="mean").items()}
    assert set(found) == {POLICY, ORACLE, UNIFORM, NO_HEADS, SHARED_HEAD, TWO_HEADS, FIXED_MEAN}
    assert len({found[arm] for arm in (UNIFORM, ORACLE, NO_HEADS, SHARED_HEAD, FIXED_MEAN)}) == 5
    assert not any("rfid" in row for row in result["rows"])
    inception.forward = lambda images: pytest.fail("measured again")
    assert run_fixed_study(settings, folder, resamples=200, inception=inception, min_images=2) == measured


def test_too_few_images_for_rfid_are_refused_before_anything_is_trained(settings, tmp_path, one_sentence):
    with one_sentence("rFID needs at least 2,048 held-out images"):
        run_fixed_study(settings, tmp_path, inception=SmallInception())
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


def test_a_recipe_of_epochs_is_refused(settings, tmp_path, one_sentence):
    with one_sentence("max_steps", "-1"):
        run_fixed_study(replace(settings, overrides=(*settings.overrides, "--max_steps", "-1")), tmp_path)


def test_heads_of_another_rank_are_an_arm_where_it_is_named(settings, tmp_path):
    arguments = arm_arguments(settings, "rank 64", 0, tmp_path)[0]
    assert (arguments.lora_rank, arguments.lora_alpha) == (64, 64) and "rank 64" not in NAMES


@pytest.mark.parametrize("arm", (*NAMES, "rank 4"))
def test_a_shipped_recipe_serves_every_arm(settings, tmp_path, arm):
    shipped = replace(settings, recipe="pilot-64", fixed_budget=16)
    models = [build_model(arm_arguments(shipped, each, 0, tmp_path)[0])[0] for each in (arm, ADAPTIVE)]
    if arm == SHARED_HEAD:
        assert count_head_parameters(models[0]) == count_head_parameters(models[1])
    assert models[0].config.num_latent_tokens == (16 if arm == FIXED_MEAN else 32)


@pytest.mark.parametrize("bf16, dtype", [("true", torch.bfloat16), ("false", torch.float32)])
def test_arms_are_measured_in_the_arithmetic_of_their_training(settings, tmp_path, bf16, dtype):
    """Whatever the arm before left behind, whose policy is trained in float32."""
    brief = replace(settings, overrides=("--bf16", bf16), shares=())
    run_fixed_study(brief, tmp_path, arms=[ADAPTIVE, FIXED_MEAN], resamples=2)
    model, _ = load_checkpoint(tmp_path / "fixed-at-the-mean-0")
    assert read_info(tmp_path / "fixed-at-the-mean-0" / "held-out").model_hash == model_hash(model.to(dtype))


def test_budgets_that_no_comparison_asks_for_are_measured_of_the_adaptive_arm_alone(finished):
    measured = {arm: read_info(finished[1] / f"{arm}-0" / "held-out").budgets for arm in ("adaptive", "no-heads")}
    assert measured == {"adaptive": [4, 8, 16], "no-heads": [8, 16]}


def test_the_weights_on_the_way_differ_from_those_at_the_end(finished):
    folder = finished[1] / "adaptive-0"
    early, _ = load_checkpoint(folder / "at-2")
    late, _ = load_checkpoint(folder)
    assert not torch.equal(early.decoder.mask_token, late.decoder.mask_token)


def test_another_study_in_the_folder_is_refused(finished, settings, one_sentence):
    with one_sentence("fixed_budget", "--out"):
        run_fixed_study(replace(settings, fixed_budget=4), finished[1])


@pytest.mark.parametrize("changes, part", [({"fixed_budget": 5}, "[4, 8, 16]"), ({"fixed_budget": 16}, "[4, 8, 16]")])
def test_a_length_that_is_no_candidate_is_refused(settings, tmp_path, one_sentence, changes, part):
    with one_sentence("fixed_budget", part):
        run_fixed_study(replace(settings, **changes), tmp_path)


@pytest.mark.parametrize("changes", [{"seeds": 0}, {"shares": (1.0,)}, {"eval_images": 1}])
def test_numbers_out_of_range_are_refused(settings, one_sentence, changes):
    with one_sentence(next(iter(changes))):
        replace(settings, **changes)


@pytest.fixture
def command(settings, tmp_path) -> list[str]:
    line = ["study", "fixed", "--recipe", settings.recipe, "--train-data", settings.train_data]
    return [*line, "--eval-data", settings.eval_data, "--fixed-budget", "8", "--out", str(tmp_path / "study")]


def test_the_command_names_an_unknown_arm_before_it_begins(command, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command, "--arms", "adaptive,halting"])
    assert ended.value.code == 2
    error = [text for text in capsys.readouterr().err.splitlines() if text.startswith("adatok: error: ")]
    assert len(error) == 1 and "'halting'" in error[0] and "adaptive" in error[0]
    assert not any((tmp_path / "study").iterdir())


def test_the_command_takes_overrides(command, tmp_path, monkeypatch):
    def fail(*args):
        raise ValueError("The networks are not at hand.")

    monkeypatch.setattr(fixed_study, "load_lpips", fail)
    with pytest.raises(SystemExit):
        main([*command, "--max-steps", "2"])
    assert json.loads((tmp_path / "study" / "settings.json").read_text())["overrides"] == ["--max-steps", "2"]
