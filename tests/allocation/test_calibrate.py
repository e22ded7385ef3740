"""Calibration: the bias that gives a wanted mean budget, and the checkpoint that carries it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import adatok_hf.modeling
from adatok_hf import TaTokModel
from adatok_hf.allocation.calibrate import save_calibrated, score_images
from adatok_hf.allocation.choice import calibrate_cost_bias, calibrate_threshold, choose_columns
from adatok_hf.checkpoint import load_checkpoint, model_hash
from adatok_hf.cli import main
from adatok_hf.files import whole_folder
from adatok_hf.model_card import model_card


BUDGETS = [4, 8, 16]


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(200, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def images() -> list[Image.Image]:
    """Forty pictures, from nearly flat ones to noise."""
    generator = np.random.default_rng(0)
    noise = generator.uniform(-1, 1, (40, 32, 32, 3)) * np.linspace(0, 120, 40)[:, None, None, None]
    pixels = noise + generator.uniform(0, 255, (40, 1, 1, 3))
    return [Image.fromarray(picture) for picture in pixels.clip(0, 255).astype(np.uint8)]


@pytest.fixture
def data(tmp_path, images) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for index, image in enumerate(images):
        image.save(folder / f"{index:02}.png")
    return folder


@pytest.fixture
def trained_model(tiny_model):
    """Its policy tells pictures apart."""
    torch.manual_seed(1)
    tiny_model.config.is_policy_trained = True
    nn.init.normal_(tiny_model.policy.fc2.weight, std=3)
    return tiny_model


@pytest.fixture
def checkpoint(tmp_path, trained_model, processor) -> Path:
    """With card and metrics, but without code, as the embedded one is."""
    folder = tmp_path / "checkpoint"
    trained_model.save_pretrained(folder)
    processor.save_pretrained(folder)
    for path in folder.glob("*.py"):
        path.unlink()
    (folder / "README.md").write_text("# The card\n")
    (folder / "metrics.json").write_text('{"rows": []}')
    return folder


@pytest.fixture
def calibrate(checkpoint, data, tmp_path, capsys):
    """Runs the command; gives its exit code, stdout and stderr."""

    def run(mean_budget=7, *arguments, data=data, out=tmp_path / "out", model=checkpoint):
        command = ["calibrate", "--mean-budget", mean_budget, "--data", data, "--out", out, "--model", model]
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main([*map(str, command), *map(str, arguments), "--device", "cpu"])
        captured = capsys.readouterr()
        return exit_info.value.code, captured.out, captured.err

    return run


def mean_at(logits: torch.Tensor, cost_bias: float) -> float:
    return torch.tensor(BUDGETS)[choose_columns(logits, BUDGETS, cost_bias)].float().mean().item()


def is_one_sentence(stderr: str) -> bool:
    return stderr.startswith("adatok: error: ") and stderr.count("\n") == 1 and stderr.endswith("\n")


@pytest.mark.parametrize("mean_budget", [4, 4.5, 7, 9.99, 15, 16])
def test_the_bias_gives_the_wanted_mean(logits, mean_budget):
    assert mean_at(logits, calibrate_cost_bias(logits, BUDGETS, mean_budget)) == pytest.approx(mean_budget, abs=0.05)


@pytest.mark.parametrize("mean_budget", [4, 7, 15, 16])
def test_no_image_stands_on_the_edge_between_two_budgets(logits, mean_budget):
    cost_bias = calibrate_cost_bias(logits, BUDGETS, mean_budget)
    assert len({mean_at(logits, cost_bias + shift) for shift in (-1e-5, 0, 1e-5)}) == 1


def test_choose_columns_is_what_encode_does(trained_model, processor, images):
    pixel_values = processor(images, return_tensors="pt")["pixel_values"]
    for cost_bias in (-3.0, 0.0, 2.0):
        with torch.no_grad():
            encoded = trained_model.encode(pixel_values, cost_bias=cost_bias)
        columns = choose_columns(encoded.budget_logits, BUDGETS, cost_bias)
        assert torch.equal(torch.tensor(BUDGETS)[columns], encoded.budgets)


@pytest.mark.parametrize("mean_budget", [3.9, 16.1, -1, float("nan"), float("inf")])
def test_a_mean_outside_the_candidates_is_a_value_error(logits, mean_budget):
    with pytest.raises(ValueError, match=f"between 4 and 16; got {mean_budget}"):
        calibrate_cost_bias(logits, BUDGETS, mean_budget)


def test_a_mean_that_equal_images_jump_over_is_a_value_error_that_names_the_nearest():
    with pytest.raises(ValueError, match="12 cannot be reached on these 5 images.* from 16 to 8;"):
        calibrate_cost_bias(torch.tensor([[0.0, 1.0, 1.0]]).repeat(5, 1), BUDGETS, 12)


@pytest.mark.parametrize("logits", [torch.zeros(0, 3), torch.tensor([[0.0, float("nan"), 0.0]])])
def test_scores_must_be_there_and_finite(logits):
    with pytest.raises(ValueError, match="finite scores for at least one"):
        calibrate_cost_bias(logits, BUDGETS, 8)


def test_scores_are_those_of_encode_whatever_the_batch(trained_model, processor, images):
    dataset = [{"image": image} for image in images]
    with torch.no_grad():
        expected = trained_model.encode(processor(images, return_tensors="pt")["pixel_values"]).budget_logits
    for batch_size in (7, 40, 100):
        assert torch.allclose(score_images(trained_model, processor, dataset, batch_size), expected, atol=1e-4)


def test_no_images_are_a_value_error(trained_model, processor):
    with pytest.raises(ValueError, match="at least one image"):
        score_images(trained_model, processor, [])


def test_the_calibrated_copy_spends_the_wanted_mean(calibrate, tmp_path, images):
    code, stdout, stderr = calibrate(7)
    assert code == 0, stderr
    model, processor = load_checkpoint(tmp_path / "out")
    with torch.no_grad():
        budgets = model.encode(processor(images, return_tensors="pt")["pixel_values"]).budgets
    mean = budgets.float().mean().item()
    assert mean == pytest.approx(7, abs=0.5) and budgets.unique().tolist() != [8]
    counts = [(budgets == budget).sum().item() for budget in BUDGETS]
    assert stdout == (
        f"40 images, cost bias {model.config.cost_bias:.4g}, mean budget {mean:.2f} (images per budget "
        f"4: {counts[0]}, 8: {counts[1]}, 16: {counts[2]}), written to {tmp_path / 'out'}\n"
    )


def test_calibrating_a_calibrated_copy_gives_the_same_bias(calibrate, tmp_path):
    calibrate(7)
    assert calibrate(7, model=tmp_path / "out", out=tmp_path / "again")[0] == 0
    first, second = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("out", "again"))
    assert first == second and first["cost_bias"] != 0


def test_the_number_of_images_can_be_limited(calibrate):
    assert calibrate(16, "--max-images", 3)[1].startswith("3 images, ")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_copy_differs_from_the_checkpoint_in_the_bias_alone(
    calibrate, checkpoint, tmp_path, trained_model, processor, dtype
):
    trained_model.to(dtype).save_pretrained(checkpoint)
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    assert calibrate(7)[0] == 0
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before
    for name in ("model.safetensors", "README.md", "metrics.json"):
        assert (tmp_path / "out" / name).read_bytes() == before[name], name
    old, new = (json.loads((path / "config.json").read_text()) for path in (checkpoint, tmp_path / "out"))
    assert new.pop("cost_bias") != old.pop("cost_bias") == 0
    assert new == old and new["dtype"] == str(dtype).removeprefix("torch.")
    copied, copied_processor = load_checkpoint(tmp_path / "out")
    assert copied_processor.to_dict() == processor.to_dict()
    assert model_hash(copied) == model_hash(load_checkpoint(checkpoint)[0])


def test_the_copy_of_a_sharded_checkpoint_is_sharded(calibrate, checkpoint, tmp_path, trained_model):
    (checkpoint / "model.safetensors").unlink()
    trained_model.save_pretrained(checkpoint, max_shard_size="100KB")
    weights = {path.name for path in checkpoint.glob("*.safetensors*")}
    assert len(weights) > 2 and calibrate(7)[0] == 0
    assert {path.name for path in (tmp_path / "out").glob("*.safetensors*")} == weights
    state = load_checkpoint(tmp_path / "out")[0].state_dict()
    assert all(torch.equal(state[name], value) for name, value in trained_model.state_dict().items())


def test_the_copy_carries_the_code_that_knows_the_bias(calibrate, checkpoint, tmp_path):
    (checkpoint / "modeling_adatok.py").write_text("# of an older version")
    assert calibrate(7)[0] == 0
    folder = Path(adatok_hf.modeling.__file__).parent
    for name in ("blocks.py", "configuration_adatok.py", "modeling_adatok.py", "image_processing_adatok.py"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    auto_map = json.loads((tmp_path / "out" / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModel"] == "modeling_adatok.AdaTokModel"


def test_a_checkpoint_of_the_hub_is_calibrated_by_its_id(calibrate, checkpoint, tmp_path, monkeypatch):
    def snapshot_download(repo_id, **_):
        assert repo_id == "someone/a-model"
        return str(checkpoint)

    monkeypatch.setattr("adatok_hf.hub.snapshot_download", snapshot_download)
    assert calibrate(7, model="someone/a-model")[0] == 0
    assert (tmp_path / "out" / "README.md").read_text() == "# The card\n"


def test_an_empty_folder_is_filled_and_parents_are_made(calibrate, tmp_path):
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "deep" / "deeper"):
        assert calibrate(7, out=out)[0] == 0
        assert (out / "model.safetensors").is_file()


def test_a_folder_with_something_in_it_is_refused_and_left_alone(calibrate, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    code, _, stderr = calibrate(7)
    assert code == 2 and is_one_sentence(stderr) and f"{tmp_path / 'out'} is not empty" in stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_file_in_the_place_of_the_folder_is_refused(calibrate, tmp_path):
    (tmp_path / "out").write_text("mine")
    code, _, stderr = calibrate(7)
    assert code == 2 and is_one_sentence(stderr) and "is a file" in stderr
    assert (tmp_path / "out").read_text() == "mine"


def test_an_untrained_policy_cannot_be_calibrated(calibrate, checkpoint, tmp_path, trained_model):
    trained_model.config.is_policy_trained = False
    trained_model.save_pretrained(checkpoint)
    code, _, stderr = calibrate(7)
    assert code == 2 and is_one_sentence(stderr) and f"{checkpoint} has not been trained" in stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mean_budget", ["3", "17", "nan"])
def test_a_mean_out_of_range_is_told_before_the_data_are_read(calibrate, tmp_path, mean_budget):
    code, _, stderr = calibrate(mean_budget, data=tmp_path / "absent")
    assert code == 2 and is_one_sentence(stderr) and "must lie between 4 and 16" in stderr


def test_an_unreachable_mean_is_one_sentence(calibrate, data, tmp_path):
    for path in sorted(data.iterdir())[1:]:
        path.unlink()
    code, _, stderr = calibrate(6)
    assert code == 2 and is_one_sentence(stderr) and "6.0 cannot be reached on these 1 images" in stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_without_images_is_one_sentence(calibrate, data, tmp_path):
    shutil.rmtree(data)
    data.mkdir()
    code, _, stderr = calibrate(7)
    assert code == 2 and is_one_sentence(stderr) and f"{data} has no image files" in stderr


def test_a_damaged_image_is_named_and_left_out(calibrate, data, tmp_path):
    whole = calibrate(7)[1]
    (data / "07b.png").write_bytes((data / "07.png").read_bytes()[:60])
    code, stdout, stderr = calibrate(7, out=tmp_path / "again")
    assert code == 1 and "07b.png" in stderr and stderr.count("skipped") == 1
    assert stdout.rpartition(", written")[0] == whole.rpartition(", written")[0]


def test_damaged_images_alone_are_one_sentence(calibrate, data, tmp_path):
    for path in data.iterdir():
        path.write_text("no picture")
    code, _, stderr = calibrate(7)
    assert code == 2 and "None of the" in stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_what_was_measured_of_the_old_choice_stays_behind(calibrate, checkpoint, tmp_path, tiny_config):
    rows = [{"budget": 4, "psnr": 17.5}, {"budget": "auto", "mean_budget": 9.5, "psnr": 18.25}]
    (checkpoint / "metrics.json").write_text(json.dumps({"rows": rows, "training": {"steps": 3}}))
    card = model_card(tiny_config, "a-model", {"rows": rows}) + "By hand: | chosen by the model |\n"
    (checkpoint / "README.md").write_text(card)
    assert calibrate(7)[0] == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics == {"rows": rows[:1], "training": {"steps": 3}}
    lines = [line for line in card.splitlines() if "18.25" not in line]
    assert "18.25" in card and (tmp_path / "out" / "README.md").read_text().splitlines() == lines


def test_a_bias_that_is_not_finite_is_never_saved(checkpoint, tmp_path, trained_model, processor):
    with pytest.raises(ValueError, match="finite"):
        save_calibrated(checkpoint, tmp_path / "out", trained_model, processor, cost_bias=float("inf"))
    assert not (tmp_path / "out").exists() and trained_model.config.cost_bias == 0


def test_a_folder_that_fails_half_way_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "out") as folder:
        (folder / "half").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rule, asked", [("relative", None), ("absolute", None), ("relative", "absolute")])
def test_a_tatok_keeps_the_wanted_mean(
    tatok_checkpoint, tiny_tatok, processor, pictures, tmp_path, capsys, rule, asked
):
    tiny_tatok.config.threshold_rule, tiny_tatok.config.threshold = rule, 0.5
    tiny_tatok.save_pretrained(tatok_checkpoint)
    (tatok_checkpoint / "README.md").write_text(model_card(tiny_tatok.config, "a-model"))
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, picture in enumerate(pictures):
        picture.save(folder / f"{index}.png")
    out = tmp_path / "calibrated"
    arguments = ["calibrate", "--mean-budget", "9.4", "--data", folder, "--model", tatok_checkpoint, "--out", out]
    arguments += [] if asked is None else ["--threshold-rule", asked, "--entropy", "surprisal"]
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 0
    model, loaded_processor = load_checkpoint(out, kinds=(TaTokModel,))
    assert model.config.entropy == ("prior" if asked is None else "surprisal")
    assert model.config.threshold_rule == (asked or rule) and model.config.threshold != 0.5
    with torch.no_grad():
        encoded = model.encode(loaded_processor(pictures, return_tensors="pt")["pixel_values"])
    assert abs(encoded.num_tokens.double().mean().item() - 9.4) <= 0.55
    assert (out / "README.md").read_text() == model_card(model.config, "a-model")  # which names the threshold
    config = model.config
    choice = f"threshold {config.threshold:.4g}, threshold rule {config.threshold_rule}, entropy {config.entropy}"
    assert f"{choice}, mean budget {encoded.num_tokens.double().mean():.2f}" in capsys.readouterr().out


def test_a_filter_that_is_none_and_a_model_that_has_none_are_named(calibrate, tatok_checkpoint, tmp_path):
    for option in ("--threshold-rule", "--entropy"):
        code, _, stderr = calibrate(9, option, "loose", model=tatok_checkpoint)
        assert code == 2 and is_one_sentence(stderr) and "'loose'" in stderr
    code, _, stderr = calibrate(9, "--threshold-rule", "absolute")
    assert code == 2 and is_one_sentence(stderr) and "leave --threshold-rule and --entropy out" in stderr
    assert not (tmp_path / "out").exists()


def test_a_mean_that_a_tatok_cannot_have_is_refused(tiny_tatok, one_sentence):
    with one_sentence("between 4 and 20", "3.5"):
        calibrate_threshold(tiny_tatok, torch.rand(3, 16), 3.5)
