"""From scores of the candidate budgets to a choice with a wanted mean."""

from collections.abc import Callable, Sequence

import torch

from ..modeling import TaTokModel


def choose_columns(logits: torch.Tensor, budgets: Sequence[int] | torch.Tensor, cost_bias: float) -> torch.Tensor:
    """
    The choice of [`AdaTokModel.encode`] from logits alone.

    Args:
        logits (`torch.FloatTensor` of shape `(images, candidates)`): Scores of the candidate budgets.
        budgets (`Sequence[int]`, or a tensor of shape `(candidates,)`): The candidates, ascending; the last is N.
        cost_bias (`float`): The logit of candidate b falls by `cost_bias * b / N`.

    Returns:
        `torch.LongTensor` of shape `(images,)`: positions among the candidates.
    """
    cost = torch.as_tensor(budgets, dtype=logits.dtype) / budgets[-1]
    return (logits - cost_bias * cost).argmax(dim=-1)


def calibrate_cost_bias(
    logits: torch.Tensor, budgets: Sequence[int] | torch.Tensor, mean_budget: float, tolerance: float = 0.5
) -> float:
    """
    Finds the cost bias at which the chosen budgets have a wanted mean. The mean never rises with the bias, so
    bisection finds it. Of all biases that give the same mean, it is the middle one: no image stands on the edge
    between two budgets, where rounding would decide.

    Args:
        logits (`torch.FloatTensor` of shape `(images, candidates)`): Scores of the calibration images.
        budgets (`Sequence[int]`, or a tensor of shape `(candidates,)`): The candidates, ascending; the last is N.
        mean_budget (`float`): The wanted mean, in codes.
        tolerance (`float`, *optional*, defaults to 0.5): How far the nearest mean there is may be off, in codes.

    Returns:
        `float`: for `cost_bias` of [`AdaTokModel.encode`].

    Raises:
        `ValueError`: if the mean lies outside the candidates, or no bias comes near it.

    Example:

    ```python
    >>> import torch
    >>> from adatok_hf.allocation.choice import calibrate_cost_bias, choose_columns

    >>> budgets = torch.tensor([8, 16, 32])
    >>> logits = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    >>> cost_bias = calibrate_cost_bias(logits, budgets, mean_budget=15)
    >>> round(budgets[choose_columns(logits, budgets, cost_bias)].float().mean().item(), 1)
    15.0

    ```"""
    logits, budgets = logits.double(), torch.as_tensor(budgets)
    check_mean_budget(mean_budget, budgets.tolist())
    if len(logits) == 0 or not torch.isfinite(logits).all():
        raise ValueError("The policy must give finite scores for at least one calibration image.")

    def mean_at(bias: float) -> float:
        return budgets[choose_columns(logits, budgets, bias)].double().mean().item()

    smallest, largest = -1.0, 1.0
    while mean_at(smallest) < mean_budget:
        smallest *= 2
    while mean_at(largest) > mean_budget:
        largest *= 2
    low, high = _bisect(lambda bias: mean_at(bias) > mean_budget, smallest, largest)
    best = min((low, high), key=lambda bias: abs(mean_at(bias) - mean_budget))
    reached = mean_at(best)
    if abs(reached - mean_budget) > tolerance:
        raise ValueError(
            f"A mean budget of {mean_budget} cannot be reached on these {len(logits)} images: the policy's means jump "
            f"from {mean_at(low):.4g} to {mean_at(high):.4g}; choose one of these, or more images."
        )
    first = _bisect(lambda bias: mean_at(bias) > reached, smallest, best)[1]
    last = _bisect(lambda bias: mean_at(bias) >= reached, best, largest)[0]
    return (first + last) / 2


def calibrate_threshold(
    model: TaTokModel, sorted_entropy: torch.Tensor, mean_tokens: float, threshold_rule: str | None = None
) -> float:
    """
    Finds the threshold at which a TaTok keeps a wanted mean number of tokens. The mean never falls as a relative
    threshold rises and never rises with an absolute one, so bisection finds it.

    Args:
        model ([`TaTokModel`]): The model.
        sorted_entropy (`torch.Tensor` of shape `(images, num_patches)`):
            Of the calibration images, as [`~adatok_hf.allocation.calibrate.score_patches`] gives it.
        mean_tokens (`float`): The wanted mean, the global tokens among them.
        threshold_rule (`str`, *optional*): Of the threshold; that of the configuration if not given.

    Returns:
        `float`: for `config.threshold`.

    Raises:
        `ValueError`: if the mean lies outside `num_global_tokens .. num_latent_tokens`, or an entropy is not finite.
    """
    config = model.config
    check_mean_budget(mean_tokens, [config.num_global_tokens, config.num_latent_tokens])
    if not torch.isfinite(sorted_entropy).all():
        raise ValueError("The entropies of the calibration images must be finite.")
    rule = threshold_rule or config.threshold_rule
    is_relative = rule == "relative"

    def is_below(threshold: float) -> bool:
        counts = model.count_kept(sorted_entropy, threshold, threshold_rule=rule)
        mean = config.num_global_tokens + counts.double().mean().item()
        return mean < mean_tokens if is_relative else mean > mean_tokens

    low, high = _bisect(is_below, 0.0, 1.0 if is_relative else sorted_entropy.sum(dim=1).max().item())
    return (low + high) / 2


def widest_shares(budgets: Sequence[int], mean_budget: float) -> torch.DoubleTensor:
    """
    Of all distributions over candidate budgets with a wanted mean the one of largest entropy, `(candidates,)`; a
    `ValueError` for a mean outside of them.

    Example:

    ```python
    >>> from adatok_hf.allocation.choice import widest_shares

    >>> widest_shares([4, 8, 12, 16], mean_budget=10)
    tensor([0.2500, 0.2500, 0.2500, 0.2500], dtype=torch.float64)

    ```"""
    check_mean_budget(mean_budget, budgets)
    budgets = torch.tensor(budgets).double()

    def shares(tilt: float) -> torch.DoubleTensor:
        return (tilt * budgets / budgets[-1]).softmax(dim=0)

    # Of the exponent per share of N: there the mean is the smallest and the largest budget.
    low, high = _bisect(lambda tilt: shares(tilt) @ budgets < mean_budget, -1e4, 1e4)
    return shares((low + high) / 2)


def check_mean_budget(mean_budget: float, budgets: Sequence[int]):
    """Raises `ValueError` for a mean outside the candidate budgets, which no bias can give."""
    if not budgets[0] <= mean_budget <= budgets[-1]:
        raise ValueError(f"The mean budget must lie between {budgets[0]} and {budgets[-1]}; got {mean_budget}.")


def _bisect(is_below: Callable[[float], bool], low: float, high: float) -> tuple[float, float]:
    """Narrows an interval down to where the condition, true at first, ends."""
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return low, high


__all__ = ["calibrate_cost_bias", "calibrate_threshold", "check_mean_budget", "choose_columns", "widest_shares"]
