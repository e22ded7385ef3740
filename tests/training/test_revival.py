"""Dead codes: which move, where to, and until when."""

import pytest
import torch


@pytest.fixture
def make_still_trainer(make_trainer, tiny_config, pictures):
    """A trainer that learns nothing, with a codebook so large that most codes are dead; records the model's outputs."""

    def make(**arguments):
        tiny_config.codebook_size = 512
        trainer = make_trainer(config=tiny_config, images=pictures[:4], learning_rate=0.0, revive_steps=2, **arguments)
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
    codes = trainer.model.quantizer
    full = []
    codes.register_forward_hook(lambda module, args, output: full.append(output[2]))
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
    assert uses == pytest.approx([0.0, expected[0], expected[0], expected[1]])


def test_zero_revive_steps_revive_nothing(make_trainer, tiny_config):
    tiny_config.codebook_size = 512
    trainer = make_trainer(config=tiny_config, learning_rate=0.0)
    before = codebook(trainer)
    trainer.train()
    assert torch.equal(codebook(trainer), before)
