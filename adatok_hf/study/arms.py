"""The arms of a study: each way to set budgets, measured on the same held-out images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import one_hot

from ..allocation.choice import choose_columns, widest_shares
from ..allocation.reward_table import RewardTable
from . import controls


MIRRORED = "oracle (reward of the mirror image)"


@dataclass
class Arm:
    """
    How one way to set budgets does on each image, averaged over its seeds.

    Args:
        budgets, lpips, psnr (`np.ndarray` of shape `(images,)`): Expected budget in codes, LPIPS, and PSNR in dB.
        lpips_of_seeds (`list[float]`): Mean LPIPS of each seed.
    """

    budgets: np.ndarray
    lpips: np.ndarray
    psnr: np.ndarray
    lpips_of_seeds: list[float]

    def point(self) -> dict[str, float]:
        """Means over the images: `mean_budget`, `lpips` and `psnr`."""
        means = {"mean_budget": self.budgets, "lpips": self.lpips, "psnr": self.psnr}
        return {name: float(values.mean()) for name, values in means.items()}


class HeldOut:
    """
    The images that everything is judged on, at some candidate budgets.

    Args:
        table ([`RewardTable`]): Held-out images.
        budgets (`Sequence[int]`): Candidates, among the table's columns.
    """

    def __init__(self, table: RewardTable, budgets: Sequence[int]):
        self.table, self.budgets = table, list(budgets)
        columns = table.columns(budgets)
        self.lpips, self.psnr = table.lpips[:, columns].double(), table.psnr[:, columns].double()

    def lottery(self, *weights: torch.Tensor, psnr_weights: torch.Tensor | None = None) -> Arm:
        """The arm of `(candidates,)` or `(images, candidates)` probabilities, one tensor for each seed."""
        budgets = torch.tensor(self.budgets).double()
        lpips = torch.stack([(w * self.lpips).sum(dim=1) for w in weights])  # (seeds, images)
        psnr = [(w * self.psnr).sum(dim=1) for w in (weights if psnr_weights is None else [psnr_weights])]
        spent = [(w @ budgets).expand(len(self.table)) for w in weights]
        return Arm(
            torch.stack(spent).mean(dim=0).numpy(),
            lpips.mean(dim=0).numpy(),
            torch.stack(psnr).mean(dim=0).numpy(),
            lpips.mean(dim=1).tolist(),
        )

    def choices(self, *columns: torch.Tensor) -> Arm:
        """The arm of `(images,)` positions among the candidates, one tensor for each seed."""
        return self.lottery(*(one_hot(c, len(self.budgets)).double() for c in columns))

    def as_trained(self, scores: Sequence[torch.Tensor]) -> Arm:
        """The arm that chooses by `(images, candidates)` logits without a cost bias."""
        return self.choices(*(choose_columns(s, self.budgets, 0.0) for s in scores))

    def at_mean(self, scores: Sequence[torch.Tensor], mean_budget: float) -> Arm:
        """The arm that chooses by `(images, candidates)` scores under the cost bias for a wanted mean."""
        return self.choices(*self.columns_at_mean(scores, mean_budget))

    def columns_at_mean(self, scores: Sequence[torch.Tensor], mean_budget: float) -> list[torch.Tensor]:
        """The `(images,)` positions of [`HeldOut.at_mean`]."""
        return [controls.choose(s, self.budgets, mean_budget) for s in scores]

    def uniform(self, mean_budget: float) -> Arm:
        """One budget for all, out of all columns of the table."""
        weights = controls.uniform(self.table.budgets, mean_budget)
        return HeldOut(self.table, self.table.info.budgets).lottery(weights)

    def time_sharing(self, mean_budget: float) -> Arm:
        """The convex hull of the fixed candidates, once in LPIPS and once in PSNR."""
        by_lpips = controls.time_sharing(self.budgets, self.lpips.mean(dim=0), mean_budget)
        by_psnr = controls.time_sharing(self.budgets, -self.psnr.mean(dim=0), mean_budget)
        return self.lottery(by_lpips, psnr_weights=by_psnr)

    def fidelity(self, mse_weight: float) -> torch.Tensor:
        """The true fidelity rewards of the candidates, `(images, candidates)`."""
        return self.table.fidelity(mse_weight)[:, self.table.columns(self.budgets)]


def equal_mean_arms(
    held_out: HeldOut,
    learned: dict[str, list[torch.Tensor]],
    mse_weight: float,
    mean_budget: float,
    mirrored: HeldOut | None = None,
) -> dict[str, Arm]:
    """
    Every arm at one mean budget.

    Args:
        held_out ([`HeldOut`]): The images.
        learned (`dict[str, list[torch.Tensor]]`): Scores of shape `(images, candidates)` of each seed of the networks;
            those of `"policy"` are also shuffled and dealt out by file size.
        mse_weight (`float`): Of the reward that the first oracle knows; the second one knows LPIPS alone.
        mean_budget (`float`): In codes.
        mirrored ([`HeldOut`], *optional*): The mirror images, for an oracle that sees only their rewards.

    Returns:
        `dict[str, Arm]`: by name, the policy first.

    Raises:
        `ValueError`: if an arm cannot reach the mean.
    """
    budgets, sizes = held_out.budgets, held_out.table.webp_bytes
    columns = held_out.columns_at_mean(learned["policy"], mean_budget)
    shares = [one_hot(c, len(budgets)).double().mean(dim=0) for c in columns]
    networks = {name: held_out.at_mean(scores, mean_budget) for name, scores in learned.items() if name != "policy"}
    if mirrored is not None:
        networks[MIRRORED] = held_out.at_mean([mirrored.fidelity(mse_weight)], mean_budget)
    return (
        {"policy": held_out.choices(*columns)}
        | networks
        | {
            "uniform": held_out.uniform(mean_budget),
            "shuffled": held_out.lottery(*shares),
            "random": held_out.lottery(widest_shares(budgets, mean_budget)),
            "by WebP size": held_out.choices(*(controls.by_size(c, sizes) for c in columns)),
            "by WebP size, reversed": held_out.choices(*(controls.by_size(c, sizes, reverse=True) for c in columns)),
            "time-sharing hull": held_out.time_sharing(mean_budget),
            "oracle (reward)": held_out.at_mean([held_out.fidelity(mse_weight)], mean_budget),
            "oracle (LPIPS)": held_out.at_mean([held_out.fidelity(0.0)], mean_budget),
        }
    )


__all__ = ["MIRRORED", "Arm", "HeldOut", "equal_mean_arms"]
