"""When the critic learns, and when the generator hears it."""

import torch


GAN = {"adversarial_weight": 0.5, "adversarial_start": 3, "discriminator_warmup": 2, "max_steps": 5}


def logged(trainer, name: str) -> list[int]:
    """Steps at which a component was logged."""
    return [entry["step"] for entry in trainer.state.log_history if name in entry]


def same(state: dict, other: dict) -> bool:
    return all(torch.equal(state[name], other[name]) for name in state)


def test_critic_learns_only_from_its_start(make_trainer, watch, snapshot):
    trainer = make_trainer(**GAN)
    start = snapshot(trainer.discriminator)
    states = watch(trainer, lambda: snapshot(trainer.discriminator))
    trainer.train()
    moved = [not same(before, after) for before, after in zip([start, *states], states)]
    assert moved == [False, True, True, True, True]
    assert logged(trainer, "discriminator") == [2, 3, 4, 5]


def test_generator_hears_the_critic_only_from_adversarial_start(make_trainer, watch, snapshot):
    trainer, alone = make_trainer(**GAN), make_trainer("alone", max_steps=5)
    states, states_alone = [], []
    for each, seen in ((trainer, states), (alone, states_alone)):
        torch.manual_seed(0)
        seen.append(watch(each, lambda each=each: snapshot(each.model)))
        each.train()
    equal = [same(state, other) for state, other in zip(states[0], states_alone[0])]
    assert equal == [True, True, True, False, False]
    assert logged(trainer, "adversarial") == [4, 5] and logged(alone, "adversarial") == []


def test_critic_gets_no_gradient_from_the_generators_loss(make_trainer, processor, pictures):
    trainer = make_trainer(adversarial_weight=1.0, reconstruction_weight=0.0, quantization_weight=0.0)
    pixel_values = processor(pictures[:4], return_tensors="pt")["pixel_values"]
    trainer.compute_loss(trainer.model, {"pixel_values": pixel_values}).backward()
    assert all(parameter.grad is None for parameter in trainer.discriminator.parameters())
    assert all(parameter.requires_grad for parameter in trainer.discriminator.parameters())
    assert trainer.model.encoder.latent_tokens.grad.abs().sum() > 0


def test_no_critic_without_weight(make_trainer):
    assert make_trainer().discriminator is None


def test_critic_takes_one_step_per_optimizer_step_under_accumulation(make_trainer, pictures):
    trainer = make_trainer(
        images=pictures[:8],
        adversarial_weight=0.1,
        max_steps=3,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
    )
    calls = []
    trainer.discriminator.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    trainer.train()
    # Each of the 3 steps sees 2 small batches: once the reconstructions, once real and reconstructed together.
    assert calls == [2, 4] * 6
    steps = {state["step"].item() for state in trainer.discriminator_optimizer.state_dict()["state"].values()}
    assert steps == {3.0} and trainer.state.global_step == 3


def test_critic_judges_better_with_training(make_trainer, pictures):
    trainer = make_trainer(
        adversarial_weight=0.1,
        adversarial_start=99,
        discriminator_warmup=99,
        discriminator_learning_rate=5e-3,
        images=pictures[:4],
        learning_rate=0.0,
        max_steps=16,
    )
    trainer.train()
    losses = [entry["discriminator"] for entry in trainer.state.log_history if "discriminator" in entry]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
