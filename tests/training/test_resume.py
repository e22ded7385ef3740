"""A run that was cut off goes on exactly where it stood."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from adatok_hf.training.recipe import checkpoint_to_resume


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


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A folder with the checkpoints of two steps, for copies."""
    return tmp_path_factory.mktemp("checkpoints") / "run"


@pytest.fixture
def short_run(make_trainer, checkpoints, tmp_path):
    """A trainer whose output folder holds whole checkpoints of two steps."""
    if not checkpoints.exists():
        make_trainer("first", **{**ARGUMENTS, "max_steps": 2}).train()
        shutil.copytree(tmp_path / "first", checkpoints)
    shutil.copytree(checkpoints, tmp_path / "short")
    return make_trainer("short", **ARGUMENTS), tmp_path / "short"


@pytest.mark.parametrize("share", [0.5, 0], ids=["cut in half", "missing"])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
)
def test_a_run_goes_on_from_its_last_whole_checkpoint(short_run, caplog, name, share):
    trainer, folder = short_run
    assert checkpoint_to_resume(trainer.args) == str(folder / "checkpoint-2")
    path = folder / "checkpoint-2" / name
    content = path.read_bytes()
    path.unlink()
    if share:
        path.write_bytes(content[: int(len(content) * share)])
    assert checkpoint_to_resume(trainer.args) == str(folder / "checkpoint-1")
    trainer.args.resume_from_checkpoint = str(folder / "checkpoint-2")
    with pytest.raises(ValueError, match="checkpoint-2 cannot be resumed: .* (is missing|is damaged)"):
        checkpoint_to_resume(trainer.args)


def test_a_trainers_own_state_has_to_be_whole_too(short_run):
    trainer, folder = short_run
    path = folder / "checkpoint-2" / trainer.state_name
    path.write_bytes(path.read_bytes()[:-100])
    assert checkpoint_to_resume(trainer.args) == str(folder / "checkpoint-1")


def test_what_a_cut_rotation_has_left_goes_before_a_run_goes_on(short_run):
    """Half deleted, it is the newest by its time, so that a Trainer would keep it and delete a whole one."""
    trainer, folder = short_run
    older = folder / "checkpoint-1"
    (older / "optimizer.pt").unlink()
    assert checkpoint_to_resume(trainer.args) == str(folder / "checkpoint-2")
    assert older.is_dir()  # a run that rotates nothing removes nothing
    trainer.args.save_total_limit = 3
    assert checkpoint_to_resume(trainer.args) == str(folder / "checkpoint-2")
    assert not older.exists()


def test_what_a_cut_rotation_has_kept_goes_before_a_run_goes_on(short_run):
    """Where the last save was killed before it rotated, a finished run would keep one too many."""
    trainer, folder = short_run
    trainer.args.save_total_limit = 1
    (folder / "checkpoint-1" / "config.json").unlink()  # begun to be deleted, which makes it the newest by its time
    assert checkpoint_to_resume(trainer.args) == str(folder / "checkpoint-2")
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-2"]


@pytest.mark.parametrize("limit", [None, 0, 2])
def test_a_limit_that_is_none_or_met_removes_nothing(short_run, limit):
    trainer, folder = short_run
    trainer.args.save_total_limit = limit
    assert checkpoint_to_resume(trainer.args) == str(folder / "checkpoint-2")
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]


def test_the_best_checkpoint_is_kept(short_run):
    trainer, folder = short_run
    trainer.args.save_total_limit = 1
    path = folder / "checkpoint-2" / "trainer_state.json"
    state = json.loads(path.read_text()) | {"best_model_checkpoint": "moved/since/checkpoint-1"}
    path.write_text(json.dumps(state))
    assert checkpoint_to_resume(trainer.args) == str(folder / "checkpoint-2")
    assert (folder / "checkpoint-1").is_dir()


def test_a_run_without_a_whole_checkpoint_starts_anew(short_run):
    trainer, folder = short_run
    for checkpoint in folder.glob("checkpoint-*"):
        (checkpoint / "trainer_state.json").unlink()
    assert checkpoint_to_resume(trainer.args) is None


def test_a_whole_checkpoint_says_of_which_run_it_is(make_trainer, tmp_path, monkeypatch):
    """However early after its last file a kill comes, and whatever an earlier kill has left in its folder."""

    def killed(**kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("transformers.trainer.rotate_checkpoints", killed)
    trainer = make_trainer("run", **ARGUMENTS)
    trainer.identity = {"seed": 3}
    folder = tmp_path / "run" / "checkpoint-1"
    folder.mkdir(parents=True)
    left = folder / ".tmpboL0xz"  # as safetensors writes
    left.touch()
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert checkpoint_to_resume(trainer.args, {"seed": 3}) == str(folder)
    with pytest.raises(ValueError, match="another run"):
        checkpoint_to_resume(trainer.args, {"seed": 4})
    assert not left.exists()


def test_a_finished_run_stays_as_it_is(make_trainer, tmp_path):
    finished = make_trainer("whole", **ARGUMENTS)
    finished.train()
    again = make_trainer("whole", **ARGUMENTS)
    again.train(resume_from_checkpoint=checkpoint_to_resume(again.args))
    assert again.state.global_step == 5
    assert_same(finished.ema.module.state_dict(), again.ema.module.state_dict(), "averages")
    assert_same(finished.model.state_dict(), again.model.state_dict(), "model")
    assert finished.evaluate() == again.evaluate()
    again.export(str(tmp_path / "export"), {})
    assert (tmp_path / "export" / "model.safetensors").is_file()


def test_an_image_left_over_at_the_end_of_an_epoch_trains_alone(make_trainer, pictures):
    trainer = make_trainer(images=pictures[:9], max_steps=3)  # in batches of four
    trainer.train()
    assert trainer.state.epoch == 1 and trainer.state.global_step == 3


def test_weights_that_are_not_finite_replace_nothing(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.export(str(tmp_path / "export"), {})
    before = (tmp_path / "export" / "model.safetensors").read_bytes()
    with torch.no_grad():
        next(trainer.ema.module.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="has diverged"):
        trainer.export(str(tmp_path / "export"), {})
    assert (tmp_path / "export" / "model.safetensors").read_bytes() == before
