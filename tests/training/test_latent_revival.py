"""Dead codes: which move, where to, and until when."""

import pytest
import torch

from adatok_hf.training.latent_revival import latent_influence, revive_latents


@pytest.fixture
def make_still_trainer(make_trainer, tiny_config, pictures):
    """A trainer that learns nothing, with so many codes that most are dead, and the list of the model's outputs."""

    def make(**arguments):
        tiny_config.codebook_size = 512
        defaults = {"config": tiny_config, "images": pictures[:4], "learning_rate": 0.0, "revive_steps": 2}
        trainer = make_trainer(**defaults | arguments)
        outputs = []
        trainer.model.register_forward_hook(lambda module, args, output: outputs.append(output))
        return trainer, outputs

    return make


def codebook(trainer) -> torch.Tensor:
    return trainer.model.quantizer.codebook.weight.detach().clone()


def test_dead_codes_move_onto_latents_and_used_ones_stay(make_still_trainer):
    trainer, outputs = make_still_trainer(max_steps=2, revive_until=1.0)
    before = codebook(trainer)
    trainer.train()
    after = codebook(trainer)
    used = torch.zeros(512, dtype=torch.bool)
    for output in outputs:
        used[output.image_codes[output.code_mask]] = True
    assert 0 < used.sum() < 256
    assert torch.equal((before == after).all(dim=1), used)
    latents = outputs[-1].latents.detach().flatten(0, 1)
    distances = torch.cdist(after[~used], latents).min(dim=1).values
    assert distances.max() < 0.02 * 8**0.5 * 3  # three times the expected norm of the jitter
    assert torch.cdist(before[~used], latents).min(dim=1).values.median() > 0.5


def test_a_code_that_lies_beyond_every_budget_counts_as_dead(make_still_trainer):
    trainer, outputs = make_still_trainer(max_steps=2, revive_until=1.0)
    before = codebook(trainer)
    full = []
    trainer.model.quantizer.register_forward_hook(lambda module, args, output: full.append(output[2]))
    trainer.train()
    kept = torch.cat([output.image_codes[output.code_mask] for output in outputs]).unique()
    dropped = [code for code in torch.cat(full).unique().tolist() if code not in set(kept.tolist())]
    assert dropped
    assert not (before[dropped] == codebook(trainer)[dropped]).all(dim=1).any()


def test_dead_codes_are_revived_again_and_again_until_their_time_is_over(make_still_trainer, watch):
    trainer, _ = make_still_trainer(max_steps=8, revive_until=0.5)
    books = watch(trainer, lambda: codebook(trainer))
    start = codebook(trainer)
    trainer.train()
    moved = [not torch.equal(before, after) for before, after in zip([start, *books], books)]
    # At the steps 2 and 4 of 8; the trainer's own callback runs before the one that looks.
    assert moved == [False, True, False, True, False, False, False, False]


def test_codebook_use_is_logged(make_still_trainer):
    trainer, outputs = make_still_trainer(max_steps=4, revive_until=0.0)
    trainer.train()
    uses = [entry["codebook_use"] for entry in trainer.state.log_history if "codebook_use" in entry]
    expected = [
        len(torch.cat([output.image_codes[output.code_mask] for output in pair]).unique()) / 512
        for pair in (outputs[:2], outputs[2:])
    ]
    assert uses == pytest.approx([expected[0], expected[0], expected[1]])  # unknown in the first step


def test_codebook_use_is_logged_without_revival(make_still_trainer):
    trainer, outputs = make_still_trainer(max_steps=4, revive_steps=0, logging_steps=2)
    trainer.train()
    uses = [entry["codebook_use"] for entry in trainer.state.log_history if "codebook_use" in entry]
    expected = [
        len(torch.cat([output.image_codes[output.code_mask] for output in pair]).unique()) / 512
        for pair in (outputs[:2], outputs[2:])
    ]
    assert uses == pytest.approx(expected)


def test_zero_revive_steps_revive_nothing(make_trainer, tiny_config):
    tiny_config.codebook_size = 512
    trainer = make_trainer(config=tiny_config, learning_rate=0.0)
    before = codebook(trainer)
    trainer.train()
    assert torch.equal(codebook(trainer), before)


def test_latent_tokens_without_influence_restart_as_copies_of_those_with_most(tiny_model):
    tiny_model.train()
    norm = tiny_model.quantizer.latent_norm
    with torch.no_grad():
        means = norm.running_mean.view(16, -1)
        means[12:] = 1e4  # drowns what these tokens see of the image: their codes are always the same
        tokens = tiny_model.encoder.latent_tokens.clone()
    pixel_values = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    tiny_model.eval()
    codes = tiny_model.encode(pixel_values, budgets=16).image_codes
    before = latent_influence(tiny_model, codes)
    assert (before[12:] == 0).all() and (before[:12] > 0).any()
    tiny_model.train()

    assert revive_latents(tiny_model, pixel_values, threshold=1e-6, noise=0.1) >= 4

    assert tiny_model.training
    assert torch.equal(tiny_model.encoder.latent_tokens[0, before.argmax()], tokens[0, before.argmax()])
    assert (norm.running_mean.view(16, -1)[12:].abs() < 1e3).all()
    source = tokens[0, before.argmax()]
    distances = (tiny_model.encoder.latent_tokens[0, 12:] - source).std(dim=-1)
    assert (distances.min() < 0.3 * source.std()) and (distances > 0).all()
    after = latent_influence(tiny_model.eval(), tiny_model.encode(pixel_values, budgets=16).image_codes)
    assert (after[12:] > 0).any()


def test_the_trainer_restarts_latent_tokens_after_the_steps_it_is_told(make_trainer, pictures):
    trainer = make_trainer(images=pictures[:4], max_steps=3, revive_latents_steps=[2])
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "revived_latents" in entry] == [2]
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [1, 2, 3]
