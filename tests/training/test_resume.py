"""A run that was cut off goes on exactly where it stood."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file


ARGUMENTS = {
    "max_steps": 5,  # ten images in batches of four: an epoch is three steps
    "save_strategy": "steps",
    "save_steps": 1,
    "adversarial_weight": 0.1,
    "adversarial_start": 2,
    "discriminator_warmup": 1,
    "revive_steps": 2,
    "revive_until": 1.0,
    "warmup_steps": 2,
}


def assert_same(one, other, where: str):
    """Compares nested states bit for bit."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, np.ndarray):
        assert (one == other).all(), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other)):
            assert_same(*pair, f"{where}.{index}")
    else:
        assert one == other, where


@pytest.mark.parametrize("step, muon", [(1, False), (3, False), (3, True)])
def test_resumed_run_equals_the_uninterrupted_one(make_trainer, tmp_path, step, muon):
    whole = make_trainer("whole", **ARGUMENTS, muon=muon)
    whole.train()
    resumed = make_trainer("resumed", **ARGUMENTS, muon=muon)
    with torch.no_grad():  # nothing of the start may survive
        for parameter in [*resumed.model.parameters(), *resumed.discriminator.parameters()]:
            parameter.normal_()
    torch.rand(100)  # the generator stands elsewhere than in the other run
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))

    ends = [tmp_path / name / "checkpoint-5" for name in ("whole", "resumed")]
    assert_same(*(load_file(end / "model.safetensors") for end in ends), "model")
    states = [torch.load(end / "reconstruction_state.pt", weights_only=True) for end in ends]
    assert states[0]["code_counts"].sum() > 0 and states[0]["codebook_use"] > 0
    assert states[0]["lecam"]["real_average"] != 0 and states[0]["discriminator_optimizer"]["state"]
    assert_same(*states, "state")
    for name in ("optimizer.pt", "scheduler.pt"):
        assert_same(*(torch.load(end / name, weights_only=True) for end in ends), name)
    assert_same(*(torch.load(end / "rng_state.pth", weights_only=False)["cpu"] for end in ends), "rng")
    losses = [
        [entry["loss"] for entry in trainer.state.log_history if "loss" in entry] for trainer in (whole, resumed)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 5


def test_frozen_latent_norm_stays_frozen_after_resuming(make_trainer, tmp_path, watch):
    arguments = {**ARGUMENTS, "freeze_latent_norm_step": 2}
    whole = make_trainer("whole", **arguments)
    means = watch(whole, lambda: whole.model.quantizer.latent_norm.running_mean.clone())
    whole.train()
    resumed = make_trainer("resumed", **arguments)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert torch.equal(resumed.model.quantizer.latent_norm.running_mean, means[1])


def test_checkpoint_of_a_leg_without_critic_can_be_resumed_with_one(make_trainer, tmp_path, snapshot):
    make_trainer("alone", **{**ARGUMENTS, "adversarial_weight": 0.0, "max_steps": 2}).train()
    trainer = make_trainer("both", **{**ARGUMENTS, "max_steps": 4})
    start = snapshot(trainer.discriminator)
    trainer.train(resume_from_checkpoint=str(tmp_path / "alone" / "checkpoint-2"))
    assert trainer.state.global_step == 4
    assert any(not torch.equal(start[name], tensor) for name, tensor in trainer.discriminator.state_dict().items())


def test_checkpoint_without_the_trainers_state_is_refused(make_trainer, tmp_path, one_sentence):
    make_trainer("whole", **{**ARGUMENTS, "max_steps": 1}).train()
    checkpoint = tmp_path / "whole" / "checkpoint-1"
    (checkpoint / "reconstruction_state.pt").unlink()
    with one_sentence("reconstruction_state.pt", str(checkpoint)):
        make_trainer("resumed", **ARGUMENTS).train(resume_from_checkpoint=str(checkpoint))
