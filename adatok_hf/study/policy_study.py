"""Is choosing the budget per image worth something? Policy, controls and ablations on held-out images."""

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import transformers
from tqdm import tqdm

from ..allocation.choice import check_mean_budget
from ..allocation.reward_table import RewardTable
from ..files import whole_file
from ..modeling import AdaTokConfig
from ..modeling.modeling_adatok import AdaTokPolicy
from .ablations import (
    MEASURES,
    VIEWS,
    candidate_sets,
    describe_choices,
    scale_ablation,
    see_only,
    set_ablation,
    view_ablation,
    weighting_ablation,
    weighting_variants,
)
from .arms import MIRRORED, Arm, HeldOut, equal_mean_arms
from .runs import WITHOUT_EFFECT, StudyRuns, scores_of
from .statistics import interval, rank_correlation, resampled_means


MIN_IMAGES = 100
FRONT_MEANS = 9
FRONT_ARMS = ("policy", "shuffled", "uniform", "regressor", "oracle (reward)", "time-sharing hull")
SWEEP = (0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7)


def run_study(
    train_table: RewardTable,
    eval_table: RewardTable,
    config: AdaTokConfig,
    arguments,
    out: str | Path,
    *,
    policy: AdaTokPolicy | None = None,
    mirrored_table: RewardTable | None = None,
    seeds: int = 3,
    mean_budget: float | None = None,
    resamples: int = 2000,
    sweep: Sequence[float] = SWEEP,
) -> dict:
    r"""
    Trains policies and their rivals on one reward table and compares them on another, all at one mean budget.

    Each arm's cost bias is set on the held-out images, from its scores alone, so that all means are equal within 0.05
    codes; no measured quality is looked at, except by the oracles and the hull. Intervals are 95 % percentiles of a
    paired bootstrap over images; arms with several seeds are averaged over them first, image by image. Networks that
    were trained before are read from `out/runs`.

    Args:
        train_table ([`RewardTable`]): What the policies learn from.
        eval_table ([`RewardTable`]): Held-out images; those that are among the training images are dropped.
        config ([`AdaTokConfig`]): Gives the candidates and the sizes of the policy.
        arguments ([`~adatok_hf.training.policy_arguments.PolicyTrainingArguments`]): How the policy is trained. The
            ablations replace single fields.
        out (`str` or `Path`): Folder for `study.json` and `runs`; made if need be.
        policy ([`AdaTokPolicy`], *optional*): That of a checkpoint, judged beside the freshly trained ones.
        mirrored_table ([`RewardTable`], *optional*): The mirror images of those of `eval_table`. An oracle that sees
            only their rewards shows what is left of an oracle's gain where the codes of the same picture fall
            otherwise.
        seeds (`int`, *optional*, defaults to 3): How often each network is trained.
        mean_budget (`float`, *optional*): Common mean in codes; unset, the mean that `policy`, or else the first
            trained policy, chooses by itself.
        resamples (`int`, *optional*, defaults to 2000): Draws of the bootstrap.
        sweep (`Sequence[float]`, *optional*): Fixed weights of fidelity that Dynamic Pareto Weighting is held against.

    Returns:
        `dict`: what `study.json` holds. `rows` has one entry per arm with `arm`, `mean_budget`, `lpips`, `psnr`, `ci`
        (of the arm's LPIPS less the policy's, so positive means that the policy is better), the same for PSNR, and
        `lpips_of_seeds`; `ablations`, `front`, `groups`, `correlations`, `as_trained`, `share_of_oracle` and
        `histories` are described in `study.md`.

    Raises:
        `ValueError`: if the tables are of different models or metrics, hold numbers that are not finite or lack a
            candidate, if a picture has no mirror image, if fewer than 100 images are left, if `seeds` is below 1, or a
            mean cannot be reached.
    """
    eval_table, dropped = _checked(train_table, eval_table, config, seeds, mean_budget)
    out = Path(out)
    held_out = HeldOut(eval_table, config.budgets)
    mirrored = mirrored_table and HeldOut(mirror_images(mirrored_table, eval_table), config.budgets)
    sets = candidate_sets(config.budgets, sorted(set(train_table.info.budgets) & set(eval_table.info.budgets)))
    with tqdm(desc="networks", total=seeds * (8 + len(VIEWS) + len(sweep) + len(sets)), unit="net") as bar:
        runs = StudyRuns(out / "runs", train_table, bar.update)
        trained = _Trained(runs, eval_table, config, arguments, seeds)
        scores, histories = trained()
        given = {} if policy is None else {"checkpoint policy": [scores_of(policy, eval_table)]}
        if mean_budget is None:
            mean_budget = held_out.as_trained(given.get("checkpoint policy", scores[:1])).point()["mean_budget"]
        grouped = trained(scale_rewards="group")[0]
        variants = weighting_variants(sweep, mean_budget)
        weighted = {name: trained(**changes) for name, changes in variants.items()}
        by_set = {tuple(budgets): trained(budgets)[0] for budgets in sets}
        regressors = trained.regressors()
        by_view = {}
        for view in VIEWS:
            fewer = StudyRuns(out / "runs", see_only(train_table, view), bar.update)
            by_view[view] = _Trained(fewer, see_only(eval_table, view), config, arguments, seeds)()[0]

    learned = {"policy": scores} | given | {"regressor": regressors}
    arms = equal_mean_arms(held_out, learned, arguments.mse_weight, mean_budget, mirrored)
    samples = _resample(arms, resamples)
    kept = {name: of_seeds for name, (_, of_seeds) in weighted.items()}
    result = _conditions(train_table, eval_table, config, arguments) | {
        "images_seen_in_training": dropped,
        "seeds": seeds,
        "resamples": resamples,
        "mean_budget": mean_budget,
        "rows": [_row(name, arm, arms["policy"], samples) for name, arm in arms.items()],
        "share_of_oracle": _shares(arms, samples),
        "as_trained": [
            {"arm": name, **held_out.as_trained(of_seeds).point(), **describe_choices(of_seeds, config.budgets)}
            for name, of_seeds in ({"policy": scores} | given).items()
        ],
        "correlations": _correlations(eval_table, arms),
        "groups": _groups(held_out, held_out.columns_at_mean(scores, mean_budget), arms),
        "front": _front(held_out, {"policy": scores, "regressor": regressors}, arguments.mse_weight),
        "ablations": {
            "scale": scale_ablation(held_out, {"dataset": scores, "group": grouped}, mean_budget, resamples),
            "weighting": weighting_ablation(held_out, {n: s for n, (s, _) in weighted.items()}, kept, resamples),
            "candidates": set_ablation(
                eval_table, by_set, arms["policy"], arguments.mse_weight, mean_budget, resamples
            ),
            "views": view_ablation(held_out, by_view, arms["policy"], mean_budget, resamples),
        },
        "histories": {name: of_seeds[0] for name, of_seeds in kept.items() if not name.startswith("fixed")},
    }
    with whole_file(out / "study.json") as path:
        path.write_text(json.dumps(result, indent=1, allow_nan=False, default=str) + "\n", encoding="utf-8")
    return result


class _Trained:
    """Scores on the held-out images, and histories, of networks trained with a few arguments replaced."""

    def __init__(self, runs: StudyRuns, table: RewardTable, config: AdaTokConfig, arguments, seeds: int):
        self.runs, self.table, self.config, self.arguments = runs, table, config, arguments
        self.seeds = range(arguments.seed, arguments.seed + seeds)

    def __call__(self, budgets: Sequence[int] | None = None, **changes) -> tuple[list[torch.Tensor], list[list[dict]]]:
        config = deepcopy(self.config)
        config.budgets = list(budgets or config.budgets)
        pairs = [self.runs.policy(replace(self.arguments, seed=seed, **changes), config) for seed in self.seeds]
        return [scores_of(policy, self.table) for policy, _ in pairs], [history for _, history in pairs]

    def regressors(self) -> list[torch.Tensor]:
        weight = self.arguments.mse_weight
        return [scores_of(self.runs.regressor(seed, weight, self.config), self.table) for seed in self.seeds]


def _checked(
    train_table: RewardTable, eval_table: RewardTable, config: AdaTokConfig, seeds: int, mean_budget: float | None
) -> tuple[RewardTable, int]:
    """The held-out images that are no training images, and how many were."""
    if seeds < 1:
        raise ValueError(f"A study needs at least 1 seed; got {seeds}.")
    _check_alike(train_table, eval_table)
    for table in (train_table, eval_table):
        table.check()
        table.columns(config.budgets)
        if table.features.shape[1] != 2 * config.hidden_size:
            raise ValueError(
                f"The policy reads {2 * config.hidden_size} features, a reward table has {table.features.shape[1]}."
            )
    if mean_budget is not None:
        check_mean_budget(mean_budget, config.budgets)
    seen = set(train_table.image_hashes)
    rows = [row for row, image in enumerate(eval_table.image_hashes) if image not in seen]
    if len(rows) < MIN_IMAGES:
        raise ValueError(
            f"A study needs at least {MIN_IMAGES} held-out images; {len(rows)} of {len(eval_table)} are not among "
            "the training images."
        )
    return eval_table.select(rows), len(eval_table) - len(rows)


def _check_alike(first: RewardTable, second: RewardTable):
    for name in ("model_hash", "perceptual_net"):
        ours, theirs = getattr(first.info, name), getattr(second.info, name)
        if ours != theirs:
            raise ValueError(f"The reward tables must agree in their {name}; one has {ours!r}, the other {theirs!r}.")


def mirror_images(mirrored: RewardTable, table: RewardTable) -> RewardTable:
    """The rows of a table of mirror images in the order of the pictures that they are the mirror images of."""
    if not mirrored.info.mirrored:
        raise ValueError("The table of mirror images is none: make it by `adatok reward-table --mirrored`.")
    _check_alike(mirrored, table)
    places = {image: row for row, image in enumerate(mirrored.image_hashes)}
    missing = sum(image not in places for image in table.image_hashes)
    if missing:
        raise ValueError(f"The table of mirror images lacks {missing} of {len(table)} held-out images.")
    return mirrored.select([places[image] for image in table.image_hashes])


def _conditions(train_table: RewardTable, eval_table: RewardTable, config: AdaTokConfig, arguments) -> dict:
    return {
        "model": eval_table.info.model,
        "model_hash": eval_table.info.model_hash,
        "perceptual_net": eval_table.info.perceptual_net,
        "train_data": train_table.info.data,
        "n_train": len(train_table),
        "eval_data": eval_table.info.data,
        "n": len(eval_table),
        "budgets": list(config.budgets),
        "table_budgets": eval_table.info.budgets,
        "num_latent_tokens": config.num_latent_tokens,
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "adatok-hf": version("adatok-hf"),
        },
        "arguments": {
            name: value
            for name, value in asdict(arguments).items()
            if name not in WITHOUT_EFFECT and not name.endswith("token")
        },
        "uniform_curve": {
            "lpips": eval_table.lpips.double().mean(dim=0).tolist(),
            "psnr": eval_table.psnr.double().mean(dim=0).tolist(),
        },
    }


def _resample(arms: dict[str, Arm], resamples: int) -> dict[tuple[str, str], np.ndarray]:
    return resampled_means(
        {(name, what): getattr(arm, what) for name, arm in arms.items() for what in ("lpips", "psnr")}, resamples
    )


def _row(name: str, arm: Arm, policy: Arm, samples: dict) -> dict:
    return {
        "arm": name,
        **arm.point(),
        "ci": interval(samples[name, "lpips"] - samples["policy", "lpips"]),
        "psnr_ci": interval(samples[name, "psnr"] - samples["policy", "psnr"]),
        "difference": float((arm.lpips - policy.lpips).mean()),
        "psnr_difference": float((arm.psnr - policy.psnr).mean()),
        "lpips_of_seeds": arm.lpips_of_seeds,
    }


def _shares(arms: dict[str, Arm], samples: dict) -> list[dict]:
    """How much of what an oracle gains over uniform the networks gain; `None` if the oracle may gain nothing."""
    rows = []
    for oracle in ("oracle (reward)", "oracle (LPIPS)"):
        room = samples["uniform", "lpips"] - samples[oracle, "lpips"]
        for name in ("policy", "regressor", "by WebP size", MIRRORED):
            if name not in arms:
                continue
            row = {"arm": name, "oracle": oracle, "share": None, "ci": None}
            if (room > 0).all():
                lpips = [arms[arm].point()["lpips"] for arm in ("uniform", name, oracle)]
                row["share"] = (lpips[0] - lpips[1]) / (lpips[0] - lpips[2])
                row["ci"] = interval((samples["uniform", "lpips"] - samples[name, "lpips"]) / room)
            rows.append(row)
    return rows


def _correlations(table: RewardTable, arms: dict[str, Arm]) -> dict[str, float | None]:
    """Spearman's rank correlations over the images; budgets of several seeds are averaged first."""
    policy, oracle = arms["policy"].budgets, arms["oracle (reward)"].budgets
    measures = {name: getattr(table, name).numpy() for name, _, _ in MEASURES.values()}
    return {
        "policy, oracle (reward)": rank_correlation(policy, oracle),
        "regressor, oracle (reward)": rank_correlation(arms["regressor"].budgets, oracle),
        **{f"policy, {name}": rank_correlation(policy, values) for name, values in measures.items()},
        **{f"oracle (reward), {name}": rank_correlation(oracle, values) for name, values in measures.items()},
    }


def _groups(held_out: HeldOut, columns: list[torch.Tensor], arms: dict[str, Arm]) -> list[dict]:
    """The kinds of images by rising mean budget of the policy, at the common mean."""
    table, rows = held_out.table, []
    groups = np.array(table.groups)
    for group in sorted(set(table.groups)):
        inside = groups == group
        histograms = [torch.bincount(c[inside], minlength=len(held_out.budgets)) / inside.sum() for c in columns]
        rows.append(
            {
                "group": group,
                "n": int(inside.sum()),
                "mean_budget": float(arms["policy"].budgets[inside].mean()),
                "oracle_mean_budget": float(arms["oracle (reward)"].budgets[inside].mean()),
                "webp_bytes": float(table.webp_bytes.numpy()[inside].mean()),
                "lpips": float(arms["policy"].lpips[inside].mean()),
                "uniform_lpips": float(arms["uniform"].lpips[inside].mean()),
                "histogram": torch.stack(histograms).mean(dim=0).tolist(),
            }
        )
    return sorted(rows, key=lambda row: row["mean_budget"])


def _front(held_out: HeldOut, learned: dict[str, list[torch.Tensor]], mse_weight: float) -> list[dict]:
    """Points of the main arms at means spread evenly between the smallest and the largest candidate."""
    rows = []
    for mean_budget in np.linspace(held_out.budgets[0], held_out.budgets[-1], FRONT_MEANS + 2)[1:-1].tolist():
        arms = equal_mean_arms(held_out, learned, mse_weight, mean_budget)
        rows += [{"arm": name, "wanted_mean": mean_budget, **arms[name].point()} for name in FRONT_ARMS]
    return rows


__all__ = ["run_study"]
