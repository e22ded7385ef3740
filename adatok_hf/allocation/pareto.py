"""Dynamic Pareto Weighting: the weights of fidelity and efficiency while the policy trains."""

from dataclasses import dataclass, field

import torch


@dataclass
class Progress:
    """
    What a rule may look at after a step.

    Args:
        gradients (`torch.Tensor` of shape `(objectives, parameters)`): Policy gradient of each objective by itself.
        mean_budget (`float`): Mean of the budgets that the policy chooses, as a share of N, in 0..1.
        point (`tuple[float, float]`, *optional*):
            Mean advantages in fidelity and efficiency on the validation images, where they were just measured.
        pace (`float`, *optional*, defaults to 1.0):
            The policy's learning rate as a share of its peak, in 0..1. Weights that kept moving while the policy
            stands still would end where they do not belong.
    """

    gradients: torch.Tensor
    mean_budget: float
    point: tuple[float, float] | None = None
    pace: float = 1.0


@dataclass
class FixedWeighting:
    """
    Weights that stay, which is what a manual sweep tries one after the other.

    Args:
        weights (`torch.Tensor` of shape `(2,)`): Of fidelity and efficiency, positive, with sum 1.
    """

    weights: torch.Tensor
    multiplier: float = 1.0  # of the whole reward

    def update(self, progress: Progress):
        """Changes `weights` and `multiplier` after a step."""

    def state_dict(self) -> dict:
        return {name: value for name, value in vars(self).items()}

    def load_state_dict(self, state: dict):
        vars(self).update(state)


@dataclass
class GradientWeighting(FixedWeighting):
    r"""
    Mirror descent on the weights: `w <- softmax(log w + learning_rate * s)`, where `s_i = sum_j <g_i, g_j>` is the
    influence of objective i on all.

    Each gradient is divided by its norm at the start of training. Divided by its norm of the moment, two objectives
    would always have equal influence, `1 + cos`, and the weights would never move. As it is, the objective with more
    of its first gradient left gains weight, and the weights rest where both have the same share left, `|g_f| / n_f =
    |g_e| / n_e` for the first norms n. A policy that converges without an entropy bonus has `w_f g_f + w_e g_e = 0`
    there, so `w_f n_f = w_e n_e`: the point of the front whose marginal returns equal those at the start. With the
    bonus the two do not cancel: what is left of their weighted sum holds the gradient of the entropy, and it is 12 %
    to 75 % of one of its terms for coefficients of 0.02 to 0.5.

    Args:
        weights (`torch.Tensor` of shape `(2,)`): At the start.
        learning_rate (`float`, *optional*, defaults to 0.05):
            Step of the mirror descent. Large steps from far weights swing, and a policy that is driven to one budget
            on the way has no gradient left to come back by.
        floor (`float`, *optional*, defaults to 0.05): Least weight of an objective, below 0.5.
        decay (`float`, *optional*, defaults to 0.9): Of the moving average of the influences.

    Source: huggingface.co/papers/2509.11452
    """

    learning_rate: float = 0.05
    floor: float = 0.05
    decay: float = 0.9
    start_norms: torch.Tensor | None = None
    influence: torch.Tensor = field(default_factory=lambda: torch.zeros(2))

    def update(self, progress: Progress):
        gradients = progress.gradients.cpu()
        if self.start_norms is None:
            self.start_norms = gradients.norm(dim=1).clamp(min=1e-12)
        gradients = gradients / self.start_norms[:, None]
        influence = gradients @ gradients.sum(dim=0)
        self.influence = self.influence.lerp(influence, 1 - self.decay)
        weights = (self.weights.log() + progress.pace * self.learning_rate * self.influence).softmax(dim=0)
        self.weights = weights.clamp(self.floor, 1 - self.floor)


@dataclass
class HypervolumeWeighting(FixedWeighting):
    """
    Fixed weights, and a meta-reward `0.5 + 1.5 tanh(gain)` on the whole reward, where the gain is the hypervolume by
    which the last validation point extends the Pareto front of all so far.

    Args:
        weights (`torch.Tensor` of shape `(2,)`): Of fidelity and efficiency.
        reference (`tuple[float, float]`, *optional*): Corner from which the hypervolume counts, in advantages.

    Source: huggingface.co/papers/2509.11452
    """

    reference: tuple[float, float] = (-2.0, -2.0)
    front: list[tuple[float, float]] = field(default_factory=list)

    def update(self, progress: Progress):
        if progress.point is None:
            return
        extended = pareto_front([*self.front, progress.point])
        gain = hypervolume(extended, self.reference) - hypervolume(self.front, self.reference)
        self.multiplier = 0.5 + 1.5 * torch.tensor(max(0.0, gain)).tanh().item()
        self.front = extended


@dataclass
class TargetMeanWeighting(FixedWeighting):
    """
    Augmented Lagrangian of a wanted mean budget: efficiency gains weight while the chosen budgets are above it.

    Args:
        weights (`torch.Tensor` of shape `(2,)`): At the start.
        target (`float`): Wanted mean budget as a share of N, in 0..1.
        learning_rate (`float`, *optional*, defaults to 0.02): Step of the multiplier, which sums up the excess.
        damping (`float`, *optional*, defaults to 2.0):
            How far the excess of the moment moves the logit of the weights; without it the mean swings about the
            target, because the policy follows the weights with a delay.
        floor (`float`, *optional*, defaults to 0.05): Least weight of an objective, below 0.5.
    """

    target: float = 0.5
    learning_rate: float = 0.02
    damping: float = 2.0
    floor: float = 0.05
    lagrange_multiplier: float | None = None

    def update(self, progress: Progress):
        if self.lagrange_multiplier is None:
            self.lagrange_multiplier = (self.weights[1] / self.weights[0]).log().item()
        excess = progress.mean_budget - self.target
        self.lagrange_multiplier += progress.pace * self.learning_rate * excess
        efficiency = torch.tensor(self.lagrange_multiplier + self.damping * excess).sigmoid()
        self.weights = torch.stack([1 - efficiency, efficiency]).clamp(self.floor, 1 - self.floor)


def pareto_front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one beats in both coordinates, by falling first coordinate; larger is better."""
    front: list[tuple[float, float]] = []
    for point in sorted(set(points), reverse=True):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


def hypervolume(front: list[tuple[float, float]], reference: tuple[float, float]) -> float:
    """
    Area between a Pareto front and a reference corner below it; points below it count nothing.

    Example:

    ```python
    >>> from adatok_hf.allocation.pareto import hypervolume

    >>> hypervolume([(2.0, 1.0), (1.0, 2.0)], reference=(0.0, 0.0))
    3.0

    ```"""
    area, height = 0.0, reference[1]
    for first, second in front:
        if first > reference[0] and second > height:
            area += (first - reference[0]) * (second - height)
            height = second
    return area


__all__ = ["FixedWeighting", "GradientWeighting", "HypervolumeWeighting", "Progress", "TargetMeanWeighting"]
