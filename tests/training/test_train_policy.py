"""Stage 2 from a recipe to a folder that loads, chooses, and shares every bit of its tokenizer."""

import json

import pytest
import torch
import yaml
from safetensors import safe_open
from transformers import AutoImageProcessor, AutoModel

from adatok_hf.allocation.reward_table import RewardTable
from adatok_hf.data import find_images, load_image
from adatok_hf.metrics.perceptual import load_lpips
from adatok_hf.model_card import model_card
from adatok_hf.training import train_policy as policy


@pytest.fixture
def run(tmp_path, tiny_checkpoint, write_pictures, weights_dir, capsys):
    """Runs the command on 80 pictures with overrides; gives the measures that it prints as the last line."""
    write_pictures(tmp_path / "pictures", 80)
    recipe = tmp_path / "recipe.yaml"
    values = {
        "output_dir": str(tmp_path / "out"),
        "init_from": str(tiny_checkpoint),
        "train_data": str(tmp_path / "pictures"),
        "weights_dir": str(weights_dir),
        "use_cpu": True,
        "per_device_train_batch_size": 32,
        "max_steps": 4,
        "learning_rate": "1e-2",
        "logging_steps": 1,
        "save_steps": 2,
        "report_to": "none",
        "disable_tqdm": True,
    }
    recipe.write_text(yaml.safe_dump(values))

    def run_command(*overrides: str) -> dict[str, float]:
        policy.train_recipe(str(recipe), overrides)
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run_command


def test_a_run_of_other_rewards_is_not_taken_up(run, tmp_path, one_sentence):
    run()
    before = (tmp_path / "out" / "README.md").read_text()
    with one_sentence("checkpoint-4 is of another run", "mse_weight=1.0 in place of 0.0", "--output-dir"):
        run("--mse_weight", "0")
    assert (tmp_path / "out" / "README.md").read_text() == before
    run("--mse_weight", "0", "--resume_from_checkpoint", str(tmp_path / "out" / "checkpoint-2"))  # as asked for


def test_the_card_counts_steps_and_rows(run, tmp_path):
    run("--max_steps", "-1", "--num_train_epochs", "1", "--gradient_accumulation_steps", "2")
    assert "on 72 images, 2 steps of 64;" in (tmp_path / "out" / "README.md").read_text()


def tensors_of(path) -> dict[str, torch.Tensor]:
    with safe_open(path / "model.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def test_exported_folder_chooses_as_measured_and_its_tokenizer_has_every_bit(run, tmp_path, tiny_checkpoint, pictures):
    metrics = run()
    out = tmp_path / "out"
    model, loading = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert model.config.is_policy_trained and model.config.cost_bias == 0
    before, after = tensors_of(tiny_checkpoint), tensors_of(out)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        same = torch.equal(tensor, after[name]) and tensor.dtype == after[name].dtype
        assert same != name.startswith("policy."), name
    table = RewardTable.load(out / "reward-table", model)
    held_out = table.features[torch.arange(80) % 10 == 9]
    with torch.no_grad():
        budgets = table.budgets[model.eval().policy(held_out).argmax(dim=-1)].float()
    assert budgets.mean().item() == pytest.approx(metrics["mean_budget"])
    inputs = AutoImageProcessor.from_pretrained(out)(pictures, return_tensors="pt")
    with torch.no_grad():
        encoded = model.encode(**inputs)
    assert set(encoded.budgets.tolist()) <= {4, 8, 16}


def test_card_says_which_weights_and_which_mean_and_keeps_the_licence(run, tmp_path, tiny_checkpoint, tiny_config):
    rows = [{"budget": budget, "psnr": 20.0 + budget, "lpips": 0.5} for budget in (4, 8, 16)]
    report = {"rows": rows, "training": {"data": "drawings", "codebook use": "99% by the images of the old rows"}}
    (tiny_checkpoint / "metrics.json").write_text(json.dumps(report))
    (tiny_checkpoint / "README.md").write_text(model_card(tiny_config, "tiny", report, license="cc-by-nc-4.0"))
    metrics = run()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: cc-by-nc-4.0" in card and "decides how many codes each image deserves" in card
    assert f"chosen by the model, {metrics['mean_budget']:.4g} on average" in card
    assert "gradient rule, final weights 0." in card and "- data: drawings" in card
    assert "codebook use" not in card
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert report["rows"][3]["budget"] == "auto" and report["rows"][3]["lpips"] == metrics["lpips"]


def test_finished_table_needs_no_images(run, tmp_path):
    first = run()
    table = str(tmp_path / "out" / "reward-table")
    again = run("--train_data", "", "--reward_table", table, "--output_dir", str(tmp_path / "again"))
    assert again == pytest.approx(first)


def test_with_a_table_of_other_images_all_training_images_train_and_the_others_measure(run, tmp_path):
    run()
    table = RewardTable.load(tmp_path / "out" / "reward-table")
    measured = run(
        "--train_data",
        "",
        *("--reward_table", str(tmp_path / "out" / "reward-table")),
        *("--eval_reward_table", str(tmp_path / "out" / "reward-table")),
        *("--output_dir", str(tmp_path / "again"), "--eval_strategy", "steps", "--eval_steps", "2"),
    )
    card = (tmp_path / "again" / "README.md").read_text()
    assert "on 80 images, 4 steps" in card and "quality measured on: 80 images of other data" in card
    state = json.loads((tmp_path / "again" / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["epoch"] == pytest.approx(4 / 3, abs=0.01)  # batches of 32 out of 80, not out of 72
    assert table.lpips.min() <= measured["lpips"] <= table.lpips.max()


def test_card_counts_the_images_trained_on_and_has_all_rows_of_the_same_images(run, tmp_path):
    metrics = run()
    table = RewardTable.load(tmp_path / "out" / "reward-table").select(torch.arange(80) % 10 == 9)
    rows = json.loads((tmp_path / "out" / "metrics.json").read_text())["rows"]
    assert [row["budget"] for row in rows] == [4, 8, 16, "auto"]
    assert [row["lpips"] for row in rows[:3]] == pytest.approx(table.lpips.mean(dim=0).tolist())
    assert [row["psnr"] for row in rows[:3]] == pytest.approx(table.psnr.mean(dim=0).tolist())
    assert rows[3]["lpips"] == metrics["lpips"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "on 72 images, 4 steps" in card and "8 training images, every tenth, set aside" in card


def test_cut_off_run_is_resumed(run, tmp_path):
    run("--max_steps", "2")
    run("--max_steps", "6")
    state = json.loads((tmp_path / "out" / "checkpoint-6" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "loss" in entry] == [1, 2, 3, 4, 5, 6]


def test_weights_stored_in_half_precision_stay_so(run, tmp_path, tiny_checkpoint, tiny_model):
    halved = {
        name: value.half() if value.is_floating_point() else value for name, value in tiny_model.state_dict().items()
    }
    tiny_model.save_pretrained(tiny_checkpoint, state_dict=halved)
    before = tensors_of(tiny_checkpoint)
    run()
    after = tensors_of(tmp_path / "out")
    assert after["policy.fc2.weight"].dtype == before["encoder.latent_tokens"].dtype == torch.float16
    assert all(torch.equal(after[name], before[name]) for name in before if not name.startswith("policy."))


def test_no_table_and_no_images(run, one_sentence, tmp_path):
    with one_sentence("no reward table", "reward-table"):
        run("--train_data", "", "--output_dir", str(tmp_path / "elsewhere"))


def test_table_of_another_checkpoint(run, one_sentence, tmp_path, tiny_model, processor):
    run()
    with torch.no_grad():
        tiny_model.decoder.mask_token.add_(1)
    tiny_model.save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    table = str(tmp_path / "out" / "reward-table")
    with one_sentence("weights are not those of this model"):
        run("--train_data", "", "--reward_table", table, "--init_from", str(tmp_path / "other"))


def test_lpips_of_the_table_is_the_networks(run, tmp_path, tiny_checkpoint, weights_dir):
    run()
    table = RewardTable.load(tmp_path / "out" / "reward-table")
    model = AutoModel.from_pretrained(tiny_checkpoint).eval()
    processor = AutoImageProcessor.from_pretrained(tiny_checkpoint)
    image = load_image(find_images([tmp_path / "pictures"])[5])
    pixel_values = processor(image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        decoded = model(pixel_values, budgets=16).pixel_values.clamp(-1, 1)
        decoded = ((decoded + 1) * 127.5).round() / 127.5 - 1
        distance = load_lpips("alex", weights_dir)(decoded, pixel_values)
    assert table.lpips[5, 2].item() == pytest.approx(distance.item(), rel=1e-4)


def test_a_training_that_diverged_exports_nothing(run, one_sentence, tmp_path):
    with one_sentence("diverged"):
        run("--learning_rate", "1e38", "--max_grad_norm", "0")
    assert not (tmp_path / "out" / "model.safetensors").exists()
