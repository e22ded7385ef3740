"""GRPO without sampling: the group of an image is every candidate budget, so its policy gradient is exact."""

import torch


SCALES = ("dataset", "group", "none")


def group_advantages(rewards: torch.Tensor, scale: torch.Tensor | None = None, eps: float = 1e-6) -> torch.Tensor:
    """
    Rewards against the mean of their group.

    A z-score of every group by itself would erase how much an image gains from more codes in absolute terms, and
    every image would get the same budget. So the scale is one number for the whole dataset, see [`reward_scale`].

    Args:
        rewards (`torch.FloatTensor` of shape `(..., candidates)`): One reward per candidate budget.
        scale (`torch.Tensor`, *optional*): What to divide by, broadcast against `rewards`; unset, each group's own
            standard deviation, and a group without spread gives zeros.
        eps (`float`, *optional*, defaults to 1e-6): Spread below which a group counts as flat.

    Returns:
        `torch.FloatTensor` of the shape of `rewards`, of mean 0 over the candidates.

    Example:

    ```python
    >>> import torch
    >>> from adatok_hf.allocation.grpo import group_advantages, reward_scale

    >>> rewards = torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.1, 0.2]])  # the second image gains little
    >>> group_advantages(rewards, reward_scale(rewards))
    tensor([[-1.7235,  0.0000,  1.7235],
            [-0.1723,  0.0000,  0.1723]])
    >>> group_advantages(rewards)
    tensor([[-1.2247,  0.0000,  1.2247],
            [-1.2247,  0.0000,  1.2247]])

    ```"""
    centred = rewards - rewards.mean(dim=-1, keepdim=True)
    if scale is not None:
        return centred / scale
    deviation = centred.square().mean(dim=-1, keepdim=True).sqrt()
    return torch.where(deviation > eps, centred / deviation.clamp(min=eps), 0.0)


def reward_scale(rewards: torch.Tensor) -> torch.Tensor:
    """Root mean square of the centred rewards of a dataset, `(images, candidates)` to a scalar."""
    return (rewards - rewards.mean(dim=-1, keepdim=True)).square().mean().sqrt()


def grpo_loss(
    log_probs: torch.Tensor,
    old_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    epsilon: float = 0.2,
    entropy_coef: float = 0.0,
    beta: float = 0.0,
    ref_log_probs: torch.Tensor | None = None,
    eps: float = 1e-6,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The clipped surrogate of PPO, summed over all candidates under the old policy in place of a sample from it.

    Args:
        log_probs (`torch.FloatTensor` of shape `(images, candidates)`): Of the policy; the only input with a gradient.
        old_log_probs (`torch.FloatTensor` of shape `(images, candidates)`): Of the policy the ratio is taken to.
        advantages (`torch.FloatTensor` of shape `(images, candidates)`): See [`group_advantages`].
        epsilon (`float`, *optional*, defaults to 0.2): The ratio is clipped to `[1 - epsilon, 1 + epsilon]`.
        entropy_coef (`float`, *optional*, defaults to 0.0): Weight of the entropy, in nats, which is rewarded.
        beta (`float`, *optional*, defaults to 0.0): Weight of the KL divergence to the reference policy.
        ref_log_probs (`torch.FloatTensor` of shape `(images, candidates)`, *optional*): Needed where `beta` is not 0.
        eps (`float`, *optional*, defaults to 1e-6): Spread of advantages below which an image gives no gradient.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: the scalar loss, and the share of probability that was clipped.

    Source: huggingface.co/papers/2402.03300, for groups that are complete instead of sampled.
    """
    ratio = (log_probs - old_log_probs).exp()
    clipped_ratio = ratio.clamp(1 - epsilon, 1 + epsilon)
    old_probs = old_log_probs.exp()
    surrogate = (old_probs * torch.minimum(ratio * advantages, clipped_ratio * advantages)).sum(dim=-1)
    bonus = entropy_coef * entropy(log_probs)
    if beta:
        bonus = bonus - beta * kl_divergence(log_probs, ref_log_probs)
    has_spread = advantages.square().mean(dim=-1).sqrt() > eps
    loss = -((surrogate + bonus) * has_spread).mean()
    is_clipped = clipped_ratio * advantages < ratio * advantages
    return loss, (old_probs * is_clipped).sum(dim=-1).mean().detach()


def entropy(log_probs: torch.Tensor) -> torch.Tensor:
    """Entropy in nats of `(images, candidates)` log-probabilities, shape `(images,)`."""
    return -(log_probs.exp() * log_probs).sum(dim=-1)


def kl_divergence(log_probs: torch.Tensor, ref_log_probs: torch.Tensor) -> torch.Tensor:
    """KL divergence in nats of a policy from its reference, shape `(images,)`; exact, as all candidates are known."""
    return (log_probs.exp() * (log_probs - ref_log_probs)).sum(dim=-1)


__all__ = ["entropy", "group_advantages", "grpo_loss", "kl_divergence", "reward_scale"]
