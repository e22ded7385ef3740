"""What the study varies: scaling of rewards, weighting of objectives, candidates, and what the policy sees."""

import copy
from collections.abc import Sequence

import numpy as np
import torch

from ..allocation.choice import choose_columns
from ..allocation.grpo import entropy
from ..allocation.reward_table import RewardTable
from .arms import Arm, HeldOut
from .statistics import distance_to_front, front, interval, resampled_means


DYNAMIC_RULES = ("gradient", "hypervolume", "target mean")
OTHER_STARTS = (0.25, 0.75)
MEASURES = {"file size": ("webp_bytes", 5, 17), "gradient energy": ("gradient_energy", -13, 3)}  # least and most log2
VIEWS = ("patch states", "latent states", *MEASURES)


def weighting_variants(sweep: Sequence[float], mean_budget: float) -> dict[str, dict]:
    """
    Changes to the training arguments by name: the rules of Dynamic Pareto Weighting, the gradient rule from other
    first weights of fidelity, and a sweep of fixed weights.
    """
    variants = {rule: {"weighting": rule.replace(" ", "_"), "target_mean_budget": None} for rule in DYNAMIC_RULES}
    variants["target mean"]["target_mean_budget"] = mean_budget
    for start in OTHER_STARTS:
        variants[f"gradient from {start:.2f}"] = variants["gradient"] | {"fidelity_weight": start}
    fixed = {"weighting": "fixed", "target_mean_budget": None}
    return variants | {f"fixed {weight:.2f}": fixed | {"fidelity_weight": weight} for weight in sweep}


def candidate_sets(budgets: Sequence[int], table_budgets: Sequence[int]) -> list[list[int]]:
    """Every second candidate, the candidates, and all budgets of the tables; each ends in the full budget."""
    sets = [list(budgets)[::-2][::-1], list(budgets), [b for b in table_budgets if b <= budgets[-1]]]
    return [budgets for index, budgets in enumerate(sets) if len(budgets) > 1 and budgets not in sets[:index]]


def see_only(table: RewardTable, view: str) -> RewardTable:
    """
    A table of the same images of which a policy sees less: only the pooled patch states, only the pooled latent
    states, or nothing but one measure of complexity, the size of the WebP file or the energy of the gradients.
    Features that it does not see are 0; a measure is spread over all of them by bumps along its logarithm, because the
    policy normalises what it sees.

    Args:
        table ([`RewardTable`]): It stays as it is.
        view (`str`): One of `VIEWS`.
    """
    seen = copy.copy(table)
    width = table.features.shape[1]
    if view in MEASURES:
        name, least, most = MEASURES[view]
        octaves = getattr(table, name).float().log2().clamp(least, most)
        seen.features = torch.exp(-2 * (octaves[:, None] - torch.linspace(least, most, width)).square())
    else:
        hidden = slice(width // 2, None) if view == "patch states" else slice(width // 2)
        seen.features = table.features.clone()
        seen.features[:, hidden] = 0
    return seen


def view_ablation(
    held_out: HeldOut, scores: dict[str, list[torch.Tensor]], policy: Arm, mean_budget: float, resamples: int
) -> list[dict]:
    """Rows of policies that see less, at equal mean."""
    arms = {view: held_out.at_mean(of_seeds, mean_budget) for view, of_seeds in scores.items()}
    differences = _differences(arms, policy, resamples)
    return [{"sees": view, **arm.point(), **differences[view]} for view, arm in arms.items()]


def describe_choices(scores: Sequence[torch.Tensor], budgets: Sequence[int]) -> dict:
    """
    How a policy of several seeds spreads its choices without a cost bias.

    Returns:
        `dict`: `mean_budget_of_seeds`, `std_budget` over the images, `histogram` (the share of each candidate),
        `top_share` (that of the most frequent one), and the mean `entropy` over the images, in nats, of at most
        `largest_entropy`.
    """
    columns = torch.stack([choose_columns(s, budgets, 0.0) for s in scores])  # (seeds, images)
    chosen = torch.tensor(list(budgets)).double()[columns]
    histograms = torch.stack([c.bincount(minlength=len(budgets)) / len(c) for c in columns])
    return {
        "mean_budget_of_seeds": chosen.mean(dim=1).tolist(),
        "std_budget": chosen.std(dim=1, unbiased=False).mean().item(),
        "histogram": histograms.mean(dim=0).tolist(),
        "top_share": histograms.max(dim=1).values.mean().item(),
        "entropy": torch.stack([entropy(s.log_softmax(dim=-1)).mean() for s in scores]).mean().item(),
        "largest_entropy": float(np.log(len(budgets))),
    }


def scale_ablation(
    held_out: HeldOut, scores: dict[str, list[torch.Tensor]], mean_budget: float, resamples: int
) -> list[dict]:
    """Rows of policies by scaling of the rewards, at equal mean and as trained; the first is the policy."""
    arms = {name: held_out.at_mean(of_seeds, mean_budget) for name, of_seeds in scores.items()}
    differences = _differences(arms, next(iter(arms.values())), resamples)
    return [
        {"scale_rewards": name, **arms[name].point(), **differences[name]}
        | {"as_trained": held_out.as_trained(of_seeds).point() | describe_choices(of_seeds, held_out.budgets)}
        for name, of_seeds in scores.items()
    ]


def set_ablation(
    table: RewardTable,
    scores: dict[tuple[int, ...], list[torch.Tensor]],
    policy: Arm,
    mse_weight: float,
    mean_budget: float,
    resamples: int,
) -> list[dict]:
    """Rows of policies over other candidates at equal mean, with the oracle's LPIPS among the same candidates."""
    rows = []
    for budgets, of_seeds in scores.items():
        row = {"candidates": len(budgets), "budgets": list(budgets)}
        if mean_budget < budgets[0]:
            rows.append(row | {"lpips": None})
            continue
        held_out = HeldOut(table, budgets)
        arm = held_out.at_mean(of_seeds, mean_budget)
        oracle = held_out.at_mean([held_out.fidelity(mse_weight)], mean_budget)
        difference = _differences({"": arm}, policy, resamples)[""]
        rows.append(row | arm.point() | difference | {"oracle_lpips": oracle.point()["lpips"]})
    return rows


def weighting_ablation(
    held_out: HeldOut, scores: dict[str, list[torch.Tensor]], histories: dict[str, list[list[dict]]], resamples: int
) -> list[dict]:
    """
    Rows of each weighting as it was trained, without a cost bias, so each at its own mean budget.

    Returns:
        `list[dict]`: `gain_over_uniform` is the LPIPS of one budget for all at the row's own mean less the row's;
        `distance_to_sweep` the row's LPIPS less that of the piecewise linear front of the fixed weights at the same
        mean (`None` if no fixed weight is as cheap, and for the fixed weights themselves). As the front is convex, its
        straight pieces lie a little above it; so `distance_to_nearest` gives the row's LPIPS less that of the fixed
        weight of the nearest mean, shifted by a cost bias to the row's mean. All have an interval.
        `weight_fidelity` is the weight at the end of training.
    """
    arms = {name: held_out.as_trained(of_seeds) for name, of_seeds in scores.items()}
    values = {(name, what): getattr(arm, what) for name, arm in arms.items() for what in ("budgets", "lpips")}
    table = held_out.table
    values |= {("table", column): table.lpips[:, column].numpy() for column in range(len(table.budgets))}
    samples = resampled_means(values, resamples)
    means = {key: np.array([np.mean(column, dtype=np.float64)]) for key, column in values.items()}
    fixed = [name for name in arms if name.startswith("fixed")]
    rows = []
    for name, of_seeds in scores.items():
        gain = {"gain_over_uniform": _gain(means, table, name)[0], "gain_ci": interval(_gain(samples, table, name))}
        distance = {"distance_to_sweep": None, "distance_ci": None}
        own_mean = arms[name].point()["mean_budget"]
        if name not in fixed and fixed:
            if own_mean >= min(means[other, "budgets"][0] for other in fixed):
                distance["distance_to_sweep"] = _distance(means, fixed, name)[0]
                distance["distance_ci"] = interval(_distance(samples, fixed, name))
            nearest = min(fixed, key=lambda other: abs(means[other, "budgets"][0] - own_mean))
            shifted = held_out.at_mean(scores[nearest], own_mean)
            difference = _differences({name: arms[name]}, shifted, resamples)[name]
            distance |= {"nearest": nearest, "distance_to_nearest": difference["difference"]}
            distance |= {"nearest_ci": difference["ci"]}
        ends = [history[-1]["weight_fidelity"] for history in histories[name] if history]
        weight = {"weight_fidelity": float(np.mean(ends)) if ends else None}
        rows.append({"arm": name, **arms[name].point(), **gain, **distance, **weight})
        rows[-1] |= describe_choices(of_seeds, held_out.budgets)
    return rows


def _differences(arms: dict[str, Arm], reference: Arm, resamples: int) -> dict[str, dict]:
    samples = resampled_means({name: arm.lpips - reference.lpips for name, arm in arms.items()}, resamples)
    return {
        name: {
            "difference": float((arm.lpips - reference.lpips).mean()),
            "ci": interval(samples[name]),
            "by_seed": [one - other for one, other in zip(arm.lpips_of_seeds, reference.lpips_of_seeds)],
        }
        for name, arm in arms.items()
    }


def _gain(means: dict, table: RewardTable, name: str) -> np.ndarray:
    """LPIPS of uniform at the arm's own mean less the arm's, `(resamples,)`."""
    curves = np.stack([means["table", column] for column in range(len(table.budgets))], axis=1)
    budgets = table.budgets.numpy()
    uniform = [np.interp(mean, budgets, curve) for mean, curve in zip(means[name, "budgets"], curves)]
    return np.array(uniform) - means[name, "lpips"]


def _distance(means: dict, fixed: list[str], name: str) -> np.ndarray:
    """LPIPS of the arm above the front of the fixed weights, `(resamples,)`."""
    budgets = np.stack([means[other, "budgets"] for other in fixed], axis=1)
    lpips = np.stack([means[other, "lpips"] for other in fixed], axis=1)
    points = zip(means[name, "budgets"], means[name, "lpips"], budgets, lpips)
    return np.array([distance_to_front(x, y, *front(xs, ys)) for x, y, xs, ys in points])


__all__ = [
    "VIEWS",
    "candidate_sets",
    "describe_choices",
    "scale_ablation",
    "see_only",
    "set_ablation",
    "view_ablation",
    "weighting_ablation",
    "weighting_variants",
]
