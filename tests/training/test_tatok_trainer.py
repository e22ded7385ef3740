"""The training of TaTok: what each image keeps, what the loss is made of, and a folder that loads."""

import json

import pytest
import torch
import yaml
from tiny_recipe import TATOK_RECIPE
from transformers import AutoModel, set_seed

from adatok_hf import TaTokModel
from adatok_hf.data import ImageCollator
from adatok_hf.training import train_tatok
from adatok_hf.training.recipe import parse_recipe
from adatok_hf.training.tatok_arguments import ARGUMENT_CLASSES, TaTokTrainingArguments
from adatok_hf.training.tatok_trainer import TaTokTrainer
from adatok_hf.training.train_tokenizer import build_model


@pytest.fixture
def make_tatok_trainer(tmp_path, tatok_config, processor, pictures):
    """Makes a trainer of a random TaTok; keywords are fields of the arguments."""

    def make(**arguments) -> TaTokTrainer:
        defaults = {"max_steps": 4, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4}
        defaults |= {"learning_rate": 1e-3, "logging_steps": 1, "save_strategy": "no", "perceptual_weight": 0.0}
        defaults |= {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "training_budgets": [4, 9, 20]}
        set_seed(0)
        return TaTokTrainer(
            model=TaTokModel(tatok_config),
            args=TaTokTrainingArguments(str(tmp_path / "run"), **{**defaults, **arguments}),
            train_dataset=[{"image": image} for image in pictures],
            eval_dataset=[{"image": image} for image in pictures[:6]],
            data_collator=ImageCollator(processor),
            processing_class=processor,
        )

    return make


def test_every_image_keeps_a_number_of_its_own_chosen_by_the_filter_or_by_chance(make_tatok_trainer):
    trainer = make_tatok_trainer(max_steps=12, hidden_globals_share=0.5)
    seen = []
    trainer.model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    trainer.train()
    by_filter = [kwargs["num_tokens"] for kwargs in seen if "num_tokens" in kwargs]
    by_chance = [4 + kwargs["kept_mask"].sum(dim=1) for kwargs in seen if "kept_mask" in kwargs]
    assert len(by_filter) + len(by_chance) == 12 and min(len(by_filter), len(by_chance)) >= 2
    for drawn in (torch.cat(by_filter), torch.cat(by_chance)):
        assert drawn.unique().numel() > 2 and drawn.min() >= 4 and drawn.max() <= 20
    hidden = torch.cat([~kwargs["global_mask"] for kwargs in seen]).float().mean()
    assert 0.3 < hidden < 0.7


def test_loss_is_the_weighted_sum_of_its_logged_components(make_tatok_trainer):
    trainer = make_tatok_trainer(max_steps=2, prior_weight=0.3, quantization_weight=2.0, reconstruction_weight=0.5)
    trainer.train()
    for entry in [entry for entry in trainer.state.log_history if "loss" in entry]:
        expected = 0.5 * entry["reconstruction"] + 2 * entry["quantization"] + 0.3 * entry["prior"]
        assert entry["loss"] == pytest.approx(expected, abs=1e-3)


def test_the_prior_and_the_pictures_get_better_on_few_images(make_tatok_trainer):
    trainer = make_tatok_trainer(max_steps=40, learning_rate=3e-3, revive_steps=0, hidden_globals_share=0.0)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    for name, share in (("reconstruction", 0.8), ("prior", 0.97)):
        values = [entry[name] for entry in entries]
        assert sum(values[-8:]) < share * sum(values[:8]), name


def test_unused_codes_of_both_codebooks_are_revived(make_tatok_trainer):
    trainer = make_tatok_trainer(max_steps=2, revive_steps=2, revive_until=1.0, learning_rate=0.0)
    before = [quantizer.codebook.weight.clone() for quantizer in trainer._quantizers(trainer.model)]
    trainer.train()
    after = [quantizer.codebook.weight for quantizer in trainer._quantizers(trainer.model)]
    for old, new in zip(before, after):
        changed = (old != new).any(dim=1)
        assert 0 < changed.sum() < len(changed)  # those in use stay


def test_evaluation_measures_the_filtered_images(make_tatok_trainer):
    trainer = make_tatok_trainer()
    metrics = trainer.evaluate()
    assert {f"eval_psnr_{budget}" for budget in (4, 9, 20)} < metrics.keys()
    model = trainer.ema.module
    errors = []
    for batch in trainer.get_eval_dataloader():
        with torch.no_grad():
            pixels = model.decode(model.encode(batch["pixel_values"], num_tokens=9)).pixel_values
        pixels = ((pixels.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
        errors.append((pixels - batch["pixel_values"]).square().mean(dim=(1, 2, 3)))
    psnr = 10 * torch.log10(4 / torch.cat(errors)).mean()
    assert metrics["eval_psnr_9"] == pytest.approx(psnr.item(), abs=1e-2)


def test_a_recipe_gives_a_folder_that_loads_and_goes_on_when_cut_off(tmp_path, write_pictures, capsys):
    values = TATOK_RECIPE | {"output_dir": str(tmp_path / "out"), "max_steps": 2}
    values |= {name: str(write_pictures(tmp_path / name, 6)) for name in ("train_data", "eval_data")}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values))
    train_tatok.train_recipe(str(recipe))
    train_tatok.train_recipe(str(recipe), ["--max_steps", "4"])
    metrics = json.loads(capsys.readouterr().out.splitlines()[-1])
    state = json.loads((tmp_path / "out" / "checkpoint-4" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "loss" in entry] == [1, 2, 3, 4]
    model, loading = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert isinstance(model, TaTokModel) and not loading["missing_keys"] and not loading["unexpected_keys"]
    facts = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [row["budget"] for row in facts["rows"]] == [4, 9]
    assert facts["rows"][1]["psnr"] == metrics["eval_psnr_9"]
    assert "# out" in (tmp_path / "out" / "README.md").read_text()
    for name in ("modeling_tatok.py", "configuration_tatok.py", "backbone.py", "blocks.py", "pixel_decoder.py"):
        assert (tmp_path / "out" / name).is_file()


@pytest.mark.parametrize(
    "arguments, parts",
    [
        ({"training_budgets": [3, 9]}, ("at least 4, the global tokens", "[3, 9]")),
        ({"training_budgets": [9, 21]}, ("between 1 and 20", "[9, 21]")),
        ({"train_only": "heads"}, ("AdaTok's heads",)),
        ({"revive_latents_steps": [5]}, ("AdaTok's heads and latent tokens",)),
        ({"full_budget_share": 0.5}, ("AdaTok's heads and latent tokens",)),
        ({"hidden_globals_share": 1.0}, ("below 1; got 1.0",)),
    ],
)
def test_bad_arguments_are_one_sentence(make_tatok_trainer, one_sentence, arguments, parts):
    with one_sentence(*parts):
        make_tatok_trainer(**arguments)


@pytest.mark.parametrize("name, patches", [("tiny-64", 64), ("base-256", 256)])
def test_shipped_recipes_make_models(name, patches):
    arguments, _, training = parse_recipe(
        "tatok", name, ["--use_cpu", "true", "--bf16", "false", "--tf32", "none"], ARGUMENT_CLASSES
    )
    with torch.device("meta"):
        model, processor = build_model(arguments, TaTokModel)
    assert model.config.num_patches == patches and processor.crop_size["height"] == model.config.image_size
    assert training.training_budgets[0] == model.config.num_global_tokens
    assert training.training_budgets[-1] == model.config.num_latent_tokens
