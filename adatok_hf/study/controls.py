"""
What self-budgeting is compared with. Every arm is a distribution over the budgets of a reward table, one for each
image or one for all, so that its expected quality is known exactly for each image and all comparisons are paired.
"""

from collections.abc import Sequence

import torch

from ..allocation.choice import calibrate_cost_bias, check_mean_budget, choose_columns
from ..allocation.reward_table import RewardTable
from ..modeling import AdaTokConfig
from ..modeling.modeling_adatok import AdaTokPolicy
from ..training.train_policy import is_set_aside


MEAN_TOLERANCE = 0.05  # codes


def uniform(budgets: Sequence[int] | torch.Tensor, mean_budget: float) -> torch.Tensor:
    """
    The same budget for every image; between two budgets of the table, time-sharing of these two.

    Args:
        budgets (`Sequence[int]`, or a tensor of shape `(columns,)`): Those of the table, ascending.
        mean_budget (`float`): In codes.

    Returns:
        `torch.DoubleTensor` of shape `(columns,)`: probabilities.

    Raises:
        `ValueError`: if the mean lies outside the budgets.

    Example:

    ```python
    >>> from adatok_hf.study.controls import uniform

    >>> uniform([4, 8, 16], mean_budget=10)
    tensor([0.0000, 0.7500, 0.2500], dtype=torch.float64)

    ```"""
    budgets = _checked(budgets, mean_budget)
    if len(budgets) == 1:
        return torch.ones(1, dtype=torch.double)
    upper = int(torch.searchsorted(budgets, mean_budget).clamp(min=1, max=len(budgets) - 1))
    share = (mean_budget - budgets[upper - 1]) / (budgets[upper] - budgets[upper - 1])
    weights = torch.zeros(len(budgets), dtype=torch.double)
    weights[upper - 1], weights[upper] = 1 - share, share
    return weights


def time_sharing(budgets: Sequence[int] | torch.Tensor, loss: torch.Tensor, mean_budget: float) -> torch.Tensor:
    """
    The best that one lottery for all images can do: the lower convex hull of the mean loss of fixed budgets.

    Args:
        budgets (`Sequence[int]`, or a tensor of shape `(candidates,)`): Ascending.
        loss (`torch.FloatTensor` of shape `(candidates,)`): Mean over the images, smaller is better.
        mean_budget (`float`): In codes.

    Returns:
        `torch.DoubleTensor` of shape `(candidates,)`: probabilities.

    Raises:
        `ValueError`: if the mean lies outside the budgets.
    """
    budgets, loss = _checked(budgets, mean_budget), loss.double()
    hull: list[int] = []
    for point in range(len(budgets)):
        while len(hull) > 1 and _slope(budgets, loss, hull[-1], point) <= _slope(budgets, loss, hull[-2], hull[-1]):
            hull.pop()
        hull.append(point)
    weights = torch.zeros(len(budgets), dtype=torch.double)
    weights[hull] = uniform(budgets[hull], mean_budget)
    return weights


def choose(scores: torch.Tensor, budgets: Sequence[int] | torch.Tensor, mean_budget: float) -> torch.Tensor:
    """
    Each image's best candidate under the cost bias that gives a wanted mean. The bias is found from the scores of
    these images; how good their reconstructions are plays no part, unless the scores say it.

    Args:
        scores (`torch.FloatTensor` of shape `(images, candidates)`): Logits, predicted rewards, or true ones.
        budgets (`Sequence[int]`, or a tensor of shape `(candidates,)`): Ascending.
        mean_budget (`float`): In codes; met within 0.05, or within the jump that one image makes in a small table.

    Returns:
        `torch.LongTensor` of shape `(images,)`: positions among the candidates.

    Raises:
        `ValueError`: if the mean cannot be reached.
    """
    one_image = float(budgets[-1] - budgets[0]) / len(scores)
    bias = calibrate_cost_bias(scores, budgets, mean_budget, tolerance=max(MEAN_TOLERANCE, one_image))
    return choose_columns(scores.double(), torch.as_tensor(budgets), bias)


def by_size(columns: torch.Tensor, webp_bytes: torch.Tensor, reverse: bool = False) -> torch.Tensor:
    """
    The same choices dealt out by complexity: the largest budget to the picture with the largest file, and so on down.

    Args:
        columns (`torch.LongTensor` of shape `(images,)`): Positions among the candidates.
        webp_bytes (`torch.LongTensor` of shape `(images,)`): Sizes of the pictures' files.
        reverse (`bool`, *optional*, defaults to `False`): The largest budget to the smallest file instead.

    Returns:
        `torch.LongTensor` of shape `(images,)`: the same positions in another order.
    """
    dealt = torch.empty_like(columns)
    dealt[webp_bytes.argsort(descending=reverse, stable=True)] = columns.sort().values
    return dealt


def predict_fidelity(
    table: RewardTable, config: AdaTokConfig, mse_weight: float = 1.0, seed: int = 0, max_epochs: int = 40
) -> AdaTokPolicy:
    """
    The supervised rival: a network of the policy's size that regresses each image's fidelity at all candidates.
    Every tenth image is set aside to stop early by. It is trained by AdamW on the squared error, in batches of 128.

    Args:
        table ([`RewardTable`]): Training images.
        config ([`AdaTokConfig`]): Gives the candidates and the sizes of the network.
        mse_weight (`float`, *optional*, defaults to 1.0): See [`RewardTable.fidelity`].
        seed (`int`, *optional*, defaults to 0): Of the first weights and of the order of the images.
        max_epochs (`int`, *optional*, defaults to 40): It stops after four epochs without progress.

    Returns:
        [`AdaTokPolicy`]: in evaluation mode; its outputs are fidelities, centred per image and in units of their root
        mean square.
    """
    fidelity = table.fidelity(mse_weight)[:, table.columns(config.budgets)]
    target = fidelity - fidelity.mean(dim=1, keepdim=True)
    target = target / target.square().mean().sqrt().clamp(min=1e-8)
    is_held_out = is_set_aside(len(table))
    rows, held_out = (~is_held_out).nonzero()[:, 0], is_held_out.nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AdaTokPolicy(config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
    best_error, best_state, best_epoch = float("inf"), network.state_dict(), 0
    for epoch in range(max_epochs):
        for batch in rows[torch.randperm(len(rows), generator=generator)].split(128):
            error = (network(table.features[batch]) - target[batch]).square().mean()
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
        with torch.no_grad():
            error = (network(table.features[held_out]) - target[held_out]).square().mean().item()
        if error < best_error:
            best_error, best_epoch = error, epoch
            best_state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        if epoch - best_epoch >= 4:
            break
    network.load_state_dict(best_state)
    return network.eval()


def _checked(budgets: Sequence[int] | torch.Tensor, mean_budget: float) -> torch.Tensor:
    budgets = torch.as_tensor(budgets)
    check_mean_budget(mean_budget, budgets.tolist())
    return budgets.double()


def _slope(budgets: torch.Tensor, loss: torch.Tensor, first: int, second: int) -> float:
    return ((loss[second] - loss[first]) / (budgets[second] - budgets[first])).item()


__all__ = ["by_size", "choose", "predict_fidelity", "time_sharing", "uniform"]
