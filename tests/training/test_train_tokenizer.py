"""Stage 1 from a recipe to a folder that loads."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_recipe import RECIPE
from transformers import AutoImageProcessor, AutoModel

from adatok_hf.checkpoint import read_metrics
from adatok_hf.files import sole_user
from adatok_hf.training import train_tokenizer as tokenizer


@pytest.fixture
def recipe(tmp_path, write_pictures) -> str:
    """A recipe file that trains on ten pictures and evaluates on five."""
    write_pictures(tmp_path / "train", 10)
    write_pictures(tmp_path / "validation", 5)
    values = {
        **RECIPE,
        "output_dir": str(tmp_path / "out"),
        "train_data": str(tmp_path / "train"),
        "eval_data": str(tmp_path / "validation"),
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


@pytest.fixture
def run(recipe, capsys):
    """Runs the command with overrides, gives the measures that it prints as the last line."""

    def run_command(*overrides: str) -> dict[str, float]:
        tokenizer.train_recipe(recipe, overrides)
        metrics = json.loads(capsys.readouterr().out.splitlines()[-1])
        return {name: value for name, value in metrics.items() if name.startswith("eval_")}

    return run_command


def test_exported_folder_loads_and_measures_the_same(run, tmp_path):
    metrics = run()
    assert {f"eval_psnr_{budget}" for budget in (4, 8, 16)} < metrics.keys()
    out = tmp_path / "out"
    model, loading = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and not loading["mismatched_keys"]
    assert model.config.budgets == [4, 8, 16] and not model.config.is_policy_trained
    processor = AutoImageProcessor.from_pretrained(out)
    assert processor.crop_size["height"] == 32 and processor.size["shortest_edge"] == 32
    facts = json.loads((out / "metrics.json").read_text())
    assert [row["budget"] for row in facts["rows"]] == [4, 8, 16]
    assert [row["psnr"] for row in facts["rows"]] == [metrics[f"eval_psnr_{budget}"] for budget in (4, 8, 16)]
    assert facts["training"]["training images"] == 10 and facts["training"]["images seen"] == 12
    assert not list(out.glob("tmp*"))

    again = run(
        *("--do_train", "false", "--init_from", str(out), "--output_dir", str(tmp_path / "evaluation")),
        *("--train_data", ""),
    )
    assert again == pytest.approx(metrics, abs=1e-4)
    assert not (tmp_path / "evaluation" / "model.safetensors").exists()


def test_cut_off_run_is_resumed_from_its_last_checkpoint(run, tmp_path):
    out = tmp_path / "out"
    run("--max_steps", "2")
    run("--max_steps", "4")
    state = json.loads((out / "checkpoint-4" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "loss" in entry] == [1, 2, 3, 4]
    exported = (out / "model.safetensors").stat().st_mtime_ns
    run("--max_steps", "4")  # finished: trains nothing more and exports again
    assert (out / "model.safetensors").stat().st_mtime_ns != exported


def test_a_run_on_other_data_is_not_taken_up(run, tmp_path, one_sentence):
    run()
    before = (tmp_path / "out" / "README.md").read_bytes()
    with one_sentence("is of another run", "train_data=", "validation", "--output-dir"):
        run("--train_data", str(tmp_path / "validation"))
    assert (tmp_path / "out" / "README.md").read_bytes() == before


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_resumed_inside_an_epoch_sees_the_same_pictures(run, tmp_path, workers):
    options = ("--save_steps", "1", "--max_steps", "5", "--dataloader_num_workers", str(workers))
    run(*options)
    whole = (tmp_path / "out" / "model.safetensors").read_bytes()
    for step in (1, 2):  # of three in an epoch
        name = f"resumed-{step}"
        run(*options, f"--resume_from_checkpoint={tmp_path}/out/checkpoint-{step}", f"--output_dir={tmp_path / name}")
        assert (tmp_path / name / "model.safetensors").read_bytes() == whole


def test_training_from_a_checkpoint_starts_with_its_weights(run, tmp_path):
    run()
    start = load_file(tmp_path / "out" / "model.safetensors")
    further = tmp_path / "further"
    run("--init_from", str(tmp_path / "out"), "--output_dir", str(further), "--learning_rate", "0", "--revive_steps=0")
    end = load_file(further / "model.safetensors")
    assert start.keys() == end.keys()
    statistics = [name for name in start if "latent_norm" in name]
    assert len(statistics) == 3
    assert all(torch.equal(start[name], end[name]) for name in start if name not in statistics)


@pytest.mark.parametrize("options, keeps", [([], False), (["--train_only", "heads"], True)])
def test_a_policy_goes_where_the_codes_it_knows_change(run, tmp_path, options, keeps):
    run()
    path = tmp_path / "out" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"is_policy_trained": True, "cost_bias": 0.5}))
    run("--init_from", str(tmp_path / "out"), "--output_dir", str(tmp_path / "further"), *options)
    config = json.loads((tmp_path / "further" / "config.json").read_text())
    assert (config["is_policy_trained"], config["cost_bias"]) == (keeps, 0.5 if keeps else 0.0)


def test_heads_alone_are_trained_from_a_checkpoint(run, tmp_path):
    run()
    start = load_file(tmp_path / "out" / "model.safetensors")
    further = tmp_path / "further"
    run("--init_from", str(tmp_path / "out"), "--output_dir", str(further), "--train_only", "heads")
    end = load_file(further / "model.safetensors")
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    assert changed == {name for name in start if "lora_" in name}
    before, after = (read_metrics(folder)["training"] for folder in (tmp_path / "out", further))
    assert before["steps"] == after["steps"] == after["steps, heads alone"] == 3
    assert before["adversarial loss"] == after["adversarial loss, heads alone"] == "weight 0.1"


def test_a_part_of_random_weights_is_not_trained(run, one_sentence):
    with one_sentence("--train_only heads", "--init_from"):
        run("--train_only", "heads")


def test_an_unknown_part_is_refused(run, one_sentence):
    with one_sentence("heads, decoder", "'head'"):
        run("--train_only", "head")


def test_the_card_shows_the_training_budgets(run, tmp_path):
    run("--training_budgets", "3", "12", "--max_steps", "1")
    rows = json.loads((tmp_path / "out" / "metrics.json").read_text())["rows"]
    assert [row["budget"] for row in rows] == [3, 12]


def test_no_evaluation_data_drops_the_recipes_evaluations_and_gives_no_metrics(run, recipe, tmp_path):
    values = yaml.safe_load(Path(recipe).read_text()) | {"eval_strategy": "steps", "eval_steps": 1}
    del values["eval_data"]
    Path(recipe).write_text(yaml.safe_dump(values))
    assert run("--max_steps", "1") == {}
    assert AutoModel.from_pretrained(tmp_path / "out").config.num_latent_tokens == 16


def test_checkpoint_with_another_architecture_is_refused(run, tmp_path, tiny_checkpoint, one_sentence):
    with one_sentence(str(tiny_checkpoint), "hidden_size=32", "48"):
        run("--init_from", str(tiny_checkpoint), "--hidden_size", "48")


def test_impossible_architecture_is_refused(run, one_sentence):
    with one_sentence("[4, 8]"):
        run("--budgets", "4", "8")


def test_no_training_data(run, one_sentence):
    with one_sentence("--train_data"):
        run("--train_data", "")


def test_missing_training_data(run, tmp_path, one_sentence):
    with one_sentence(str(tmp_path / "nowhere.parquet")):
        run("--train_data", str(tmp_path / "nowhere.parquet"))


def test_missing_lpips_weights(run, tmp_path, one_sentence):
    with one_sentence(str(tmp_path / "train")):
        run("--perceptual_weight", "1", "--weights_dir", str(tmp_path / "train"))


def test_damaged_images_are_named_and_the_training_goes_on(run, tmp_path, caplog):
    for folder in ("train", "validation"):
        path = tmp_path / folder / "picture-01.png"
        path.write_bytes(path.read_bytes()[:60])
    metrics = run()
    facts = json.loads((tmp_path / "out" / "metrics.json").read_text())["training"]
    assert facts["training images"] == 9 and facts["quality measured on"].startswith("4 images")
    assert "eval_psnr_16" in metrics
    assert all(f"skipped {tmp_path / folder / 'picture-01.png'}" in caplog.text for folder in ("train", "validation"))


def test_evaluation_images_that_all_are_damaged_stop_before_the_training(run, tmp_path, one_sentence):
    for path in (tmp_path / "validation").iterdir():
        path.write_text("no picture")
    with one_sentence("None of the 5 images", str(tmp_path / "validation")):
        run()
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_one_image_is_enough(run, tmp_path):
    for path in sorted((tmp_path / "train").iterdir())[1:]:
        path.unlink()
    assert "eval_psnr_16" in run("--revive_latents_steps", "2")


def test_two_runs_in_one_folder_are_one_too_many(run, tmp_path, one_sentence):
    with sole_user(tmp_path / "out"), one_sentence("Another run", str(tmp_path / "out")):
        run()
    assert list((tmp_path / "out").iterdir()) == []
