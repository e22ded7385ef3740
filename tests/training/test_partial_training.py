"""Training a part of a finished model, and at other budgets than the candidates."""

import pytest
import torch
from safetensors.torch import load_file

from adatok_hf import AdaTokModel
from adatok_hf.checkpoint import codes_hash
from adatok_hf.training.tokenizer_arguments import ReconstructionTrainingArguments


# All that would touch the encoder, the quantizer or the statistics of the batches.
RESTLESS = {
    "max_steps": 4,
    "weight_decay": 0.1,
    "adversarial_weight": 0.1,
    "revive_steps": 1,
    "revive_until": 1.0,
    "revive_latents_steps": [1, 2],
}


def learns(name: str, train_only: str) -> bool:
    return name.startswith("decoder.") and (train_only == "decoder" or "lora_" in name)


@pytest.fixture
def make_partial_trainer(make_trainer, tiny_model):
    """A trainer of `tiny_model`, whose heads have an effect, so that their down projections get a gradient too."""

    def make(train_only: str, **arguments):
        trainer = make_trainer(train_only=train_only, **{**RESTLESS, **arguments})
        trainer.model.load_state_dict(tiny_model.state_dict())
        trainer.ema.module.load_state_dict(tiny_model.state_dict())
        return trainer

    return make


@pytest.mark.parametrize("train_only", ["heads", "decoder"])
def test_only_the_named_part_learns_and_the_rest_stays_bit_identical(make_partial_trainer, snapshot, train_only):
    trainer = make_partial_trainer(train_only)
    before = snapshot(trainer.model)
    trainer.train()
    for state in (trainer.model.state_dict(), trainer.ema.module.state_dict()):
        changed = {name for name in before if not torch.equal(before[name], state[name])}
        assert changed == {name for name in before if learns(name, train_only)}


@pytest.mark.parametrize("train_only", ["heads", "decoder"])
def test_nothing_is_revived_and_the_codes_stay_the_same(make_partial_trainer, watch, pictures, processor, train_only):
    trainer = make_partial_trainer(train_only)
    pixel_values = processor(pictures, return_tensors="pt")["pixel_values"]

    def codes():
        with torch.no_grad():
            return trainer.ema.module.eval().encode(pixel_values, budgets=16).image_codes

    start, seen = codes(), watch(trainer, codes)
    trainer.train()
    assert len(seen) == 4 and all(torch.equal(start, after) for after in seen)
    assert not any("revived_latents" in entry for entry in trainer.state.log_history)


@pytest.mark.parametrize("train_only", ["heads", "decoder"])
def test_the_frozen_encoder_keeps_no_graph(make_partial_trainer, train_only):
    trainer = make_partial_trainer(train_only)
    graphs = []
    trainer.model.quantizer.register_forward_hook(lambda module, args, output: graphs.append(output[0].requires_grad))
    trainer.train()
    assert graphs[:4] == [False] * 4


@pytest.mark.parametrize("export_half_precision", [False, True])
def test_frozen_tensors_are_exported_bit_identical(make_partial_trainer, snapshot, tmp_path, export_half_precision):
    # By so many steps averages have lost the sign of a zero.
    trainer = make_partial_trainer("heads", export_half_precision=export_half_precision, max_steps=12)
    for model in (trainer.model, trainer.ema.module):
        model.encoder.layers[0].mlp.fc1.bias.data.fill_(-0.0)
    before = snapshot(trainer.model)
    trainer.train()
    trainer.export(str(tmp_path / "exported"), {"rows": [], "training": {}})
    model = AdaTokModel.from_pretrained(tmp_path / "exported")
    exported = model.state_dict()
    assert all(torch.equal(before[name], exported[name]) for name in before if not learns(name, "heads"))
    assert codes_hash(model) == codes_hash(trainer.model)
    stored = load_file(tmp_path / "exported" / "model.safetensors")
    dtypes = {tensor.dtype for name, tensor in stored.items() if learns(name, "heads")}
    assert dtypes == {torch.float16 if export_half_precision else torch.float32}


def test_heads_alone_train_with_gradient_checkpointing(make_partial_trainer, snapshot):
    trainer = make_partial_trainer("heads", gradient_checkpointing=True, adversarial_weight=0.0)
    before = snapshot(trainer.model)
    trainer.train()
    after = trainer.model.state_dict()
    assert all(torch.equal(before[name], after[name]) != learns(name, "heads") for name in before)


def test_what_needs_no_gradient_beforehand_is_not_trained_either(make_trainer, snapshot):
    trainer = make_trainer(train_only="decoder")
    for name, parameter in trainer.model.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(False)
    before = snapshot(trainer.model)
    trainer.train()
    changed = {name for name, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and not any("lora_" in name for name in changed)


def test_an_unknown_part_is_refused(tmp_path, one_sentence):
    with one_sentence("heads, decoder", "'encoder'"):
        ReconstructionTrainingArguments(str(tmp_path), train_only="encoder", use_cpu=True)


def test_even_pixels_are_refused_where_only_the_heads_learn(tmp_path, one_sentence):
    with one_sentence("even_pixels", "heads"):
        ReconstructionTrainingArguments(str(tmp_path), train_only="heads", even_pixels=True, use_cpu=True)


def test_budgets_are_drawn_from_the_training_budgets(make_trainer, pictures):
    trainer = make_trainer(images=pictures[:8], training_budgets=[3, 5], max_steps=20)
    drawn = []
    trainer.model.register_forward_hook(lambda module, args, output: drawn.extend(output.budgets.tolist()))
    trainer.train()
    assert len(drawn) == 80 and set(drawn) <= {1, 2, 3, 4, 5}
    assert sum(budget in (3, 5) for budget in drawn) > 40  # 56 are expected


def test_a_share_of_the_images_keeps_all_codes(make_trainer, pictures):
    trainer = make_trainer(images=pictures[:8], full_budget_share=1.0, max_steps=2)
    drawn = []
    trainer.model.register_forward_hook(lambda module, args, output: drawn.extend(output.budgets.tolist()))
    trainer.train()
    assert len(drawn) == 8 and set(drawn) == {trainer.model.config.num_latent_tokens}


def test_an_impossible_share_is_refused(tmp_path, one_sentence):
    with one_sentence("full_budget_share", "1.5"):
        ReconstructionTrainingArguments(str(tmp_path), full_budget_share=1.5, use_cpu=True)


def test_evaluation_runs_at_the_training_budgets(make_trainer):
    trainer = make_trainer(training_budgets=[3, 5], max_steps=1)
    trainer.train()
    metrics = trainer.evaluate()
    assert {name for name in metrics if "psnr" in name} == {"eval_psnr_3", "eval_psnr_5"}
    assert 0 < metrics["eval_codebook_use"] <= 1


@pytest.mark.parametrize("budgets", [[4, 17], [0, 4], [8, 4], [4, 4]])
def test_impossible_training_budgets_are_refused(make_trainer, one_sentence, budgets):
    with one_sentence("between 1 and 16", str(budgets)):
        make_trainer(training_budgets=budgets)
