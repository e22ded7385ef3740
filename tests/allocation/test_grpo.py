"""The loss over complete groups: its gradient, its clip, and images that teach nothing."""

import pytest
import torch

from adatok_hf.allocation.grpo import entropy, group_advantages, grpo_loss, kl_divergence, reward_scale


@pytest.fixture
def group():
    """Logits that want a gradient and advantages, five images and four candidates."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=generator, dtype=torch.float64).requires_grad_()
    rewards = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    return logits, group_advantages(rewards, reward_scale(rewards))


def test_gradient_is_the_exact_policy_gradient(group):
    logits, advantages = group
    log_probs = logits.log_softmax(-1)
    loss, clipped = grpo_loss(log_probs, log_probs.detach(), advantages)
    (gradient,) = torch.autograd.grad(loss, logits)
    probs = logits.detach().softmax(-1)
    expected = (probs * advantages).sum(-1, keepdim=True)
    torch.testing.assert_close(gradient, -probs * (advantages - expected) / len(logits))
    assert clipped == 0


def test_loss_is_what_sampling_many_actions_averages_to(group):
    logits, advantages = group
    log_probs, old = logits.detach().log_softmax(-1), (0.5 * logits.detach()).log_softmax(-1)
    loss, _ = grpo_loss(log_probs, old, advantages, epsilon=0.1)
    actions = torch.distributions.Categorical(logits=old).sample((200_000,))  # (samples, images)
    ratio = (log_probs - old).exp().expand(len(actions), -1, -1).gather(2, actions[..., None])[..., 0]
    sampled = advantages.expand(len(actions), -1, -1).gather(2, actions[..., None])[..., 0]
    estimate = -torch.minimum(ratio * sampled, ratio.clamp(0.9, 1.1) * sampled).mean()
    assert loss.item() == pytest.approx(estimate.item(), abs=0.01)


def test_beyond_the_clip_there_is_no_gradient():
    old = torch.tensor([[0.5, 0.5]]).log()
    logits = torch.tensor([[3.0, 0.0]], requires_grad=True)  # ratio near 2 for the better candidate
    loss, clipped = grpo_loss(logits.log_softmax(-1), old, torch.tensor([[1.0, -1.0]]), epsilon=0.2)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, torch.zeros(1, 2))
    assert clipped == pytest.approx(1.0)


def test_group_without_spread_gives_no_gradient_not_even_of_the_entropy():
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    advantages = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    log_probs = logits.log_softmax(-1)
    loss, _ = grpo_loss(log_probs, log_probs.detach(), advantages, entropy_coef=0.5)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[0].abs().max() == 0 and gradient[1].abs().max() > 0


def test_with_entropy_the_optimum_is_the_softmax_of_the_advantages():
    advantages = torch.tensor([[0.3, -0.1, -0.2]], dtype=torch.float64)
    logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([logits], lr=5.0)
    for _ in range(2000):
        optimizer.zero_grad()
        log_probs = logits.log_softmax(-1)
        grpo_loss(log_probs, log_probs.detach(), advantages, entropy_coef=0.1)[0].backward()
        optimizer.step()
    torch.testing.assert_close(logits.detach().softmax(-1), (advantages / 0.1).softmax(-1), atol=1e-4, rtol=0)


def test_kl_pulls_towards_the_reference(group):
    logits, advantages = group
    log_probs = logits.log_softmax(-1)
    reference = torch.zeros(5, 4, dtype=torch.float64).log_softmax(-1)
    plain, _ = grpo_loss(log_probs, log_probs.detach(), advantages)
    held, _ = grpo_loss(log_probs, log_probs.detach(), advantages, beta=0.5, ref_log_probs=reference)
    torch.testing.assert_close(held - plain, 0.5 * kl_divergence(log_probs, reference).mean())


def test_divergence_and_entropy_of_known_distributions():
    uniform = torch.full((1, 4), 0.25).log()
    certain = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).clamp(min=1e-12).log()
    assert entropy(uniform).item() == pytest.approx(torch.tensor(4.0).log().item())
    assert entropy(certain).item() == pytest.approx(0, abs=1e-6)
    assert kl_divergence(certain, uniform).item() == pytest.approx(torch.tensor(4.0).log().item())


def test_one_scale_for_all_keeps_what_an_image_gains_and_a_scale_each_erases_it():
    rewards = torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.1, 0.2]])
    together = group_advantages(rewards, reward_scale(rewards))
    apart = group_advantages(rewards)
    torch.testing.assert_close(together[0], 10 * together[1])
    torch.testing.assert_close(apart[0], apart[1])
    assert together.square().mean().item() == pytest.approx(1)


def test_flat_group_has_zero_advantages_under_its_own_scale():
    assert group_advantages(torch.full((2, 3), 0.7)).abs().max() == 0
