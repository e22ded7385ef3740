"""When the critic learns, and when the generator hears it."""

import pytest
import torch
from torch import nn

from adatok_hf.training import tokenizer_trainer
from adatok_hf.training.discriminator import FeatureDiscriminator


GAN = {"adversarial_weight": 0.5, "adversarial_start": 3, "discriminator_warmup": 2, "max_steps": 5}


class SmallLpips(nn.Module):
    """Two levels of features and a distance, called as LPIPS calls its own: past the forward of its network."""

    chns, L = [4, 8], 2

    def __init__(self):
        super().__init__()
        self.net = nn.ModuleDict({"slice1": nn.Conv2d(3, 4, 3, 2), "slice2": nn.Conv2d(4, 8, 3, 2)})
        self.requires_grad_(False)

    def features(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        first = self.net["slice1"](pixel_values)
        return [first, self.net["slice2"](first)]

    def forward(self, fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        pairs = list(zip(self.features(fake), self.features(real)))
        return sum((a - b).square().mean(dim=(1, 2, 3), keepdim=True) for a, b in pairs)


@pytest.fixture
def small_lpips(monkeypatch) -> SmallLpips:
    torch.manual_seed(0)
    network = SmallLpips()
    monkeypatch.setattr(tokenizer_trainer, "load_lpips", lambda net, weights_dir: network)
    return network


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


def test_the_critics_rate_follows_the_schedule(make_trainer, watch):
    options = {"learning_rate": 1e-3, "warmup_steps": 0, "lr_scheduler_type": "linear"}
    trainer = make_trainer(**GAN, **options, discriminator_learning_rate=5e-2)
    rates = watch(trainer, lambda: trainer.discriminator_optimizer.param_groups[0]["lr"])
    trainer.train()
    assert rates == pytest.approx([5e-2, 4e-2, 3e-2, 2e-2, 1e-2])


FEATURES = {"discriminator_features": True, "perceptual_weight": 0.1}


def test_features_critic_judges_what_lpips_sees(make_trainer, small_lpips):
    trainer = make_trainer(**GAN | FEATURES, perceptual_crop=16)
    judged = []
    trainer.discriminator.register_forward_hook(lambda module, features, logits: judged.append(features))
    views = []
    small_lpips.register_forward_hook(lambda module, images, distance: views.append(images))
    trainer.train()
    fake, real = (small_lpips.features(view.detach()) for view in views[-1])
    (_, *generators), (_, *critics) = judged[-2:]
    for level in range(2):
        assert torch.allclose(generators[level], fake[level], atol=1e-5)
        assert torch.allclose(critics[level], torch.cat([real[level], fake[level]]), atol=1e-5)
        assert not critics[level].requires_grad
    assert logged(trainer, "discriminator") == [2, 3, 4, 5] and logged(trainer, "adversarial") == [4, 5]


def test_features_critic_moves_the_decoder_but_not_itself_nor_lpips(make_trainer, small_lpips, processor, pictures):
    weights = {"reconstruction_weight": 0.0, "quantization_weight": 0.0, "adversarial_weight": 1.0}
    trainer = make_trainer(**weights, discriminator_features=True, perceptual_weight=1e-9, discriminator_warmup=0)
    pixel_values = processor(pictures[:4], return_tensors="pt")["pixel_values"]
    trainer.compute_loss(trainer.model, {"pixel_values": pixel_values}).backward()
    assert trainer.model.decoder.pixel_conv.weight.grad.abs().sum() > 1e-6
    frozen = [*trainer.discriminator.parameters(), *small_lpips.parameters()]
    assert all(parameter.grad is None for parameter in frozen)


def test_features_critic_weighs_levels_alike_and_patches_as_all_of_them():
    critic = FeatureDiscriminator([4, 8], hidden_size=8)
    for head, bias in zip((critic.patches.layers, *critic.heads), (4.0, 1.0, 3.0)):
        nn.init.zeros_(head[-1].weight)
        nn.init.constant_(head[-1].bias, bias)
    logits = critic(torch.randn(2, 3, 16, 16), torch.randn(2, 4, 12, 12), torch.randn(2, 8, 3, 3))
    assert logits.shape == (2, 4, 12, 12) and logits.mean().item() == 3


@pytest.mark.parametrize(
    "wrong, words",
    [
        (FEATURES | {"perceptual_weight": 0.0}, "perceptual_weight=0.0"),
        (FEATURES | {"perceptual_start": 2}, "perceptual_start=2 where the critic begins at step 1"),
    ],
)
def test_features_critic_needs_lpips(make_trainer, wrong, words):
    with pytest.raises(ValueError, match=words):
        make_trainer(**GAN | wrong)
