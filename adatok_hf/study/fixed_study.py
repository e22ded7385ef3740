"""Whether an adaptive tokenizer beats one of fixed length: every arm trained from random weights, equally long."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from ..allocation.reward_table import RewardTable, build_reward_table
from ..checkpoint import load_checkpoint
from ..data import load_image_dataset, load_readable_images
from ..files import read_json, sole_user, write_json
from ..metrics.inception import MIN_IMAGES
from ..metrics.perceptual import load_lpips
from ..modeling import AdaTokConfig, AdaTokImageProcessor, AdaTokModel
from ..modeling.modeling_adatok import AdaTokPolicy
from ..tables import align_columns
from ..training.policy_arguments import ARGUMENT_CLASSES as POLICY_ARGUMENTS
from ..training.recipe import checkpoint_to_resume, parse_recipe
from ..training.tokenizer_arguments import ARGUMENT_CLASSES
from ..training.tokenizer_trainer import ReconstructionTrainer
from ..training.train_policy import train_policy
from ..training.train_tokenizer import build_model, tokenizer_identity, train
from .arms import Arm, HeldOut
from .fixed_rfid import ReconstructionDistance
from .measured_arm import MeasuredArm
from .runs import scores_of
from .statistics import interval, resampled_means


logger = logging.get_logger(__name__)

RESULT_NAME = "fixed.json"
SPEED_NAME = "speed.json"  # of an arm that is trained
MEASURED_SUFFIX = ".safetensors"
ADAPTIVE, NO_HEADS, SHARED_HEAD, TWO_HEADS, FIXED_MEAN, FIXED_FULL = NAMES = (
    "adaptive",
    "no heads",
    "shared head",
    "two heads",
    "fixed at the mean",
    "fixed at the full length",
)
RANKS = {"rank 4": 4, "rank 64": 64}  # the adaptive arm with other heads, where asked for
POLICY, UNIFORM, ORACLE = WAYS = "adaptive, policy", "adaptive, one budget for all", "adaptive, oracle"


class ArmTrainer(ReconstructionTrainer):
    """
    Trains an arm by the recipe, and exports its averaged weights on the way too.

    Attributes:
        shares (`tuple[float, ...]`): Shares of the training at which weights are exported, into `at-STEP` beside it.
    """

    shares: tuple[float, ...] = ()

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.add_callback(_ExportOnTheWay(self))


class NoHeadsTrainer(ArmTrainer):
    """The heads stay without effect."""

    def _freeze(self, model: AdaTokModel, args):
        super()._freeze(model, args)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.requires_grad_(False)


class FixedTrainer(NoHeadsTrainer):
    """Every image keeps all codes, always."""

    def _draw_choice(self, batch_size: int) -> dict[str, torch.Tensor]:
        full = self.model.config.num_latent_tokens
        return {"budgets": torch.full((batch_size,), full, device=self.args.device)}


class _ExportOnTheWay(TrainerCallback):
    def __init__(self, trainer: ArmTrainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step in steps_of(state.max_steps, self.trainer.shares) and state.is_world_process_zero:
            self.trainer.export(str(Path(args.output_dir) / f"at-{state.global_step}"), {})


def arm_folder(out: Path, arm: str, seed: int) -> Path:
    """Where an arm is trained."""
    return out / f"{arm.replace(' ', '-')}-{seed}"


def measured_file(out: Path, arm: str, seed: int) -> Path:
    """What is kept of an arm once it is measured, beside its folder."""
    folder = arm_folder(out, arm, seed)
    return folder.with_name(f"{folder.name}{MEASURED_SUFFIX}")


def steps_of(max_steps: int, shares: Sequence[float]) -> list[int]:
    """The steps that shares of a training stand for."""
    return [round(share * max_steps) for share in shares]


@dataclass(frozen=True)
class FixedStudySettings:
    """
    What must be alike for two runs to be compared; see [`run_fixed_study`].

    Args:
        recipe (`str`): Of the tokenizer: name or YAML file. All arms follow it.
        train_data, eval_data (`str`): Images, as for [`~adatok_hf.data.load_image_dataset`].
        fixed_budget (`int`): Length of the fixed tokenizer, and the mean at which all are compared.
        overrides (`tuple[str, ...]`, *optional*): Of the recipe, as on a command line.
        policy_recipe (`str`, *optional*, defaults to `"pilot-64"`): Recipe of the policy.
        seeds (`int`, *optional*, defaults to 2): Trainings of each arm; two runs may differ in it.
        policy_images (`int`, *optional*, defaults to 4096): Training images that the policy learns from.
        eval_images (`int`, *optional*, defaults to 2048): Held-out images, evenly spread.
        shares (`tuple[float, ...]`, *optional*): Shares of the training at which the arms are measured too.
    """

    recipe: str
    train_data: str
    eval_data: str
    fixed_budget: int
    overrides: tuple[str, ...] = ()
    policy_recipe: str = "pilot-64"
    seeds: int = 2
    policy_images: int = 4096
    eval_images: int = 2048
    shares: tuple[float, ...] = (0.25, 0.5)

    def __post_init__(self):
        for name, least in (("seeds", 1), ("policy_images", 80), ("eval_images", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}.")
        if not all(0 < share < 1 for share in self.shares):
            raise ValueError(f"shares must lie between 0 and 1; got {list(self.shares)}.")


def arm_arguments(settings: FixedStudySettings, arm: str, seed: int, folder: Path) -> tuple:
    """
    The arguments of [`~adatok_hf.training.train_tokenizer.train`] for an arm, and the trainer of it.

    Raises:
        `ValueError`: if the recipe does not fit, or `fixed_budget` is no candidate below the full length.
    """
    model, data, training = parse_recipe("tokenizer", settings.recipe, settings.overrides, ARGUMENT_CLASSES)
    if training.max_steps <= 0:
        raise ValueError(f"The study needs a recipe that counts in max_steps, above 0; got {training.max_steps}.")
    budgets, full = model.budgets, model.num_latent_tokens
    if not budgets or settings.fixed_budget not in budgets[:-1]:
        raise ValueError(
            f"fixed_budget must be a candidate below the full length, of {budgets}; got {settings.fixed_budget}."
        )
    changes, trainer = {}, ArmTrainer
    if arm == NO_HEADS:
        trainer = NoHeadsTrainer
    elif arm == SHARED_HEAD:
        rank, alpha = (getattr(model, name) or getattr(AdaTokConfig, name) for name in ("lora_rank", "lora_alpha"))
        changes = {"budgets": [full], "lora_rank": len(budgets) * rank, "lora_alpha": len(budgets) * alpha}
    elif arm == TWO_HEADS:
        changes = {"budgets": [settings.fixed_budget, full]}
    elif arm == FIXED_MEAN:
        changes, trainer = (
            {"budgets": [settings.fixed_budget], "num_latent_tokens": settings.fixed_budget},
            FixedTrainer,
        )
    elif arm == FIXED_FULL:
        changes, trainer = {"budgets": [full]}, FixedTrainer
    elif arm in RANKS:
        changes = {"lora_rank": RANKS[arm], "lora_alpha": RANKS[arm]}
    elif arm != ADAPTIVE:
        raise ValueError(f"An arm must be one of {', '.join((*NAMES, *RANKS))}; got {arm!r}.")
    data = replace(data, train_data=settings.train_data, eval_data=None)
    training.output_dir, training.seed, training.eval_strategy = str(folder), seed, "no"
    training.training_budgets = None if trainer is FixedTrainer else budgets
    trainer = type(trainer.__name__, (trainer,), {"shares": settings.shares})
    return replace(model, **changes), data, training, trainer


def run_fixed_study(
    settings: FixedStudySettings,
    out: str | Path,
    arms: Sequence[str] = NAMES,
    weights_dir: str | Path | None = None,
    resamples: int = 2000,
    inception: torch.nn.Module | None = None,
    min_images: int = MIN_IMAGES,
) -> dict:
    """
    Trains the arms from random weights on the same images in the same order, measures them on the same held-out images
    and compares them at one mean budget, all in the arithmetic that the recipe trains by. What was cut off goes on;
    processes that are started for different `arms` work side by side, and a last one over all arms puts their results
    together. Once `out/ARM-SEED.safetensors` holds what was measured of an arm, its folder is not needed any more.

    The arms: the tokenizer of the recipe with its heads (`"adaptive"`), the same without heads, with one head of as
    many parameters, with heads for only two budgets; and without nested masking and heads, at the mean length and at
    the full one. Named by `arms`, the adaptive one with heads of another rank: `"rank 4"` and `"rank 64"`.

    Args:
        settings ([`FixedStudySettings`]): What to do.
        out (`str` or `Path`): Folder.
        arms (`Sequence[str]`, *optional*): Those to train and compare.
        weights_dir (`str` or `Path`, *optional*): Folder with the LPIPS weights.
        resamples (`int`, *optional*, defaults to 2000): Draws of the bootstrap.
        inception (`torch.nn.Module`, *optional*): With it, rFID at the end and at the mean is measured too.
        min_images (`int`, *optional*, defaults to 2048): Refuse rFID on fewer held-out images.

    Returns:
        `dict`: what `out/fixed.json` holds: `settings`, `n` (held-out images), `trainings` with `arm`, `seed`, `steps`
        and `cpu_seconds_per_step`, and `rows`. Each has `arm`, `share` of the training, `budget` (the mean or the full
        length), `mean_budget`, `lpips`, `psnr`, means over images and seeds, and the differences on the same images to
        the fixed tokenizer of that length, `minus_fixed`, and to the adaptive one at one budget for all,
        `minus_adaptive`: `lpips` and `psnr` with 95 % bootstrap intervals over images, `ci` and `psnr_ci`, and the
        differences in LPIPS of each seed, `by_seed`; `None` for that one itself, or without it. With Inception those
        at the end and at the mean have `rfid`, the mean over the seeds.
        `groups` has the LPIPS differences at the end and at the mean by kind of image.

    Raises:
        `ValueError`: for settings that do not fit, an unknown arm, and a folder that holds another study.

    Source: the test that the referee of huggingface.co/papers/2606.07185 asked for.
    """
    out = Path(out)
    planned = [(arm, seed, arm_folder(out, arm, seed)) for seed in range(settings.seeds) for arm in arms]
    for each in planned:
        arm_arguments(settings, *each)  # what does not fit is told before anything is trained
    _claim(out, settings)
    lpips = load_lpips("alex", weights_dir)
    _, processor = build_model(arm_arguments(settings, *planned[0])[0])
    held_out = load_readable_images(settings.eval_data, "validation", settings.eval_images, processor, logger.warning)
    if inception is not None and len(held_out) < min_images:
        raise ValueError(f"rFID needs at least {min_images:,} held-out images; got {len(held_out):,} to read.")
    measured, trainings = [], []
    distance = None
    for arm, seed, folder in planned:
        # Parsed anew, which lets accelerate forget the arithmetic of the training before, that of a policy perhaps.
        model_arguments, data, training, trainer = arm_arguments(settings, arm, seed, folder)
        path = measured_file(out, arm, seed)
        training.weights_dir = training.weights_dir or (weights_dir and str(weights_dir))
        if not path.is_file():
            _train(model_arguments, data, training, trainer)
            _measure(settings, arm, folder, model_arguments, training, held_out, lpips).save(path)
        found = MeasuredArm.load(path)
        at_mean = found.arms.get((1.0, "mean"), {})
        if inception is not None and found.rfid.keys() != at_mean.keys():
            dtype = _dtype(training)
            distance = distance or ReconstructionDistance(held_out, inception, min_images, dtype)
            found.rfid = {way: distance(folder, way, one.budgets) for way, one in at_mean.items()}
            found.save(path)
        measured.append(found)
        trainings.append({"arm": arm, "seed": seed, "steps": training.max_steps, **found.speed})
    rows, groups = compare(measured, settings, resamples, with_rfid=inception is not None)
    result = {
        "settings": asdict(settings) | {"overrides": list(settings.overrides), "shares": list(settings.shares)},
        "n": len(measured[0].groups),
        "trainings": trainings,
        "rows": rows,
        "groups": groups,
    }
    write_json(out / RESULT_NAME, result)
    return result


def _claim(out: Path, settings: FixedStudySettings):
    """Refuses to mix two studies in one folder; seeds may be added to one."""
    out.mkdir(parents=True, exist_ok=True)
    path, wanted = out / "settings.json", json.loads(json.dumps(asdict(settings)))
    if not path.is_file():
        write_json(path, wanted)
    for name, found in read_json(path).items():
        if name != "seeds" and found != wanted[name]:
            raise ValueError(
                f"{out} holds another study: {name} is {found} there and {wanted[name]} here. Name another --out."
            )


def _train(model_arguments, data, training, trainer: type[ArmTrainer]):
    """Trains an arm unless it is finished, and notes how much time of the processor a step takes."""
    folder = Path(training.output_dir)
    with sole_user(folder):
        if (folder / SPEED_NAME).is_file():
            return
        resumed = checkpoint_to_resume(training, tokenizer_identity(model_arguments, data))
        done = TrainerState.load_from_json(f"{resumed}/{TRAINER_STATE_NAME}").global_step if resumed else 0
        steps = training.max_steps - done
        start = time.process_time()
        train(model_arguments, data, training, trainer)
        seconds = (time.process_time() - start) / steps if steps else None
        write_json(folder / SPEED_NAME, {"cpu_seconds_per_step": seconds})


def _dtype(training) -> torch.dtype:
    """The arithmetic that an arm was trained in, and is measured in."""
    return torch.bfloat16 if training.bf16 else torch.float32


def _measure(
    settings: FixedStudySettings,
    arm: str,
    folder: Path,
    model_arguments,
    training,
    held_out: Dataset,
    lpips: torch.nn.Module,
) -> MeasuredArm:
    """Measures a trained arm at every share of its training."""
    budgets = training.training_budgets or model_arguments.budgets
    if arm == ADAPTIVE:
        seen = load_image_dataset(settings.train_data, "train", settings.policy_images)
    else:  # only the adaptive one is measured by budgets that differ between images
        budgets = sorted({settings.fixed_budget, budgets[-1]} & set(budgets))
    found, steps = {}, dict(zip(settings.shares, steps_of(training.max_steps, settings.shares)))
    for share in (*settings.shares, 1.0):
        checkpoint = folder if share == 1 else folder / f"at-{steps[share]}"
        model, processor = load_checkpoint(checkpoint)
        table_of = partial(_table, checkpoint, model.to(_dtype(training)), processor, lpips, budgets)
        table, scores = table_of("held-out", held_out, settings.eval_data), None
        if arm == ADAPTIVE:
            rewards = table_of("training", seen, settings.train_data)
            scores = scores_of(_train_policy(rewards, model.config, settings.policy_recipe, checkpoint), table)
        at_mean, at_full = arms_of(arm, table, scores, settings.fixed_budget)
        found |= {(share, "mean"): at_mean, (share, "full"): at_full}
    return MeasuredArm(found, table.groups, read_json(folder / SPEED_NAME))


def _table(
    checkpoint: Path,
    model: AdaTokModel,
    processor: AdaTokImageProcessor,
    lpips: torch.nn.Module,
    budgets: Sequence[int],
    name: str,
    images: Dataset,
    data_name: str,
) -> RewardTable:
    """Quality of all images at all budgets, in a table beside the weights."""
    folder = checkpoint / name
    build_reward_table(model, processor, images, lpips, folder, budgets=budgets, data_name=data_name)
    return RewardTable.load(folder, model)


def _train_policy(table: RewardTable, config: AdaTokConfig, recipe: str, folder: Path) -> AdaTokPolicy:
    quiet = ["--save_strategy", "no", "--disable_tqdm", "true", "--log_level", "error", "--output_dir", str(folder)]
    _, arguments = parse_recipe("policy", recipe, quiet, POLICY_ARGUMENTS)
    return train_policy(table, config, arguments).policy


def arms_of(
    arm: str, table: RewardTable, scores: torch.Tensor | None, mean: int
) -> tuple[dict[str, Arm], dict[str, Arm]]:
    """A trained arm at the mean budget and at the full length; the adaptive one, which has scores, in three ways."""
    held_out = HeldOut(table, table.info.budgets)
    name = UNIFORM if arm == ADAPTIVE else arm
    at_mean, at_full = {}, {}
    if scores is not None:
        at_mean[POLICY] = held_out.at_mean([scores], mean)
        at_mean[ORACLE] = held_out.at_mean([held_out.fidelity(0.0)], mean)
    if arm != FIXED_FULL:
        at_mean[name] = held_out.uniform(mean)
    if arm != FIXED_MEAN:
        at_full[name] = held_out.uniform(held_out.budgets[-1])
    return at_mean, at_full


def compare(
    measured: Sequence[MeasuredArm], settings: FixedStudySettings, resamples: int = 2000, with_rfid: bool = False
) -> tuple[list[dict], list[dict]]:
    """
    Puts measured arms beside the fixed tokenizers.

    Args:
        measured (`Sequence[MeasuredArm]`): All arms of one seed after those of the other.
        settings ([`FixedStudySettings`]): Gives the shares.
        resamples (`int`, *optional*, defaults to 2000): Draws of the bootstrap.
        with_rfid (`bool`, *optional*, defaults to `False`): Whether the rows at the end and at the mean have it.

    Returns:
        `tuple[list[dict], list[dict]]`: `rows` and `groups` of [`run_fixed_study`].
    """
    rows, groups = [], []
    for share in (*settings.shares, 1.0):
        for budget, fixed in (("mean", FIXED_MEAN), ("full", FIXED_FULL)):
            arms: dict[str, list[Arm]] = {}
            for one in measured:
                for name, at in one.arms.get((share, budget), {}).items():
                    arms.setdefault(name, []).append(at)
            added = [{"share": share, "budget": budget} | row for row in _rows(arms, fixed, resamples)]
            if (share, budget) == (1.0, "mean"):
                for row in added if with_rfid else ():
                    row["rfid"] = float(np.mean([one.rfid[row["arm"]] for one in measured if row["arm"] in one.rfid]))
                if FIXED_MEAN in arms:
                    groups = _groups(arms, np.array(measured[0].groups), resamples)
            rows += added
    return rows, groups


def _rows(arms: dict[str, list[Arm]], fixed_name: str, resamples: int) -> list[dict]:
    rows = []
    for name, seeds in arms.items():
        row = {"arm": name, "seeds": len(seeds)}
        row |= {key: float(np.mean([one.point()[key] for one in seeds])) for key in ("mean_budget", "lpips", "psnr")}
        for word, other in (("fixed", fixed_name), ("adaptive", UNIFORM)):
            row[f"minus_{word}"] = None
            if other in arms and name != other:
                row[f"minus_{word}"] = _compare(seeds, arms[other], resamples)
        rows.append(row)
    return rows


def _compare(arm: list[Arm], other: list[Arm], resamples: int) -> dict:
    """Means over images and seeds of the differences, and their intervals."""
    differences = {key: _difference(arm, other, key) for key in ("lpips", "psnr")}
    sampled = resampled_means({key: values.mean(axis=0) for key, values in differences.items()}, resamples)
    return {
        "lpips": float(differences["lpips"].mean()),
        "ci": interval(sampled["lpips"]),
        "by_seed": differences["lpips"].mean(axis=1).tolist(),
        "psnr": float(differences["psnr"].mean()),
        "psnr_ci": interval(sampled["psnr"]),
    }


def _difference(arm: list[Arm], other: list[Arm], key: str) -> np.ndarray:
    """`(seeds, images)`: an arm's measure minus the other's of the same seed on the same image."""
    return np.stack([getattr(one, key) - getattr(two, key) for one, two in zip(arm, other)])


def _groups(arms: dict[str, list[Arm]], kinds: np.ndarray, resamples: int) -> list[dict]:
    fixed, groups = arms[FIXED_MEAN], []
    for name in (POLICY, UNIFORM):
        if name not in arms:
            continue
        difference = _difference(arms[name], fixed, "lpips").mean(axis=0)
        for kind in sorted(set(kinds.tolist())):
            values = difference[kinds == kind]
            ci = interval(resampled_means({"": values}, resamples)[""])
            mean_budget = float(np.mean([one.budgets[kinds == kind].mean() for one in arms[name]]))
            groups.append(
                {
                    "arm": name,
                    "group": kind,
                    "n": len(values),
                    "mean_budget": mean_budget,
                    "lpips_minus_fixed": float(values.mean()),
                    "ci": ci,
                }
            )
    return groups


def format_fixed_table(result: dict) -> str:
    """Lays out what [`run_fixed_study`] gives as plain text."""
    lines = [("arm", "share", "budget", "mean", "PSNR (dB)", "LPIPS", "LPIPS minus fixed", "PSNR minus fixed")]
    for row in result["rows"]:
        lpips = psnr = "-"
        if (less := row["minus_fixed"]) is not None:
            lpips = "{:+.4f} [{:+.4f}, {:+.4f}]".format(less["lpips"], *less["ci"])
            psnr = "{:+.2f} [{:+.2f}, {:+.2f}]".format(less["psnr"], *less["psnr_ci"])
        line = (row["arm"], f"{row['share']:g}", row["budget"], f"{row['mean_budget']:.1f}")
        lines.append((*line, f"{row['psnr']:.2f}", f"{row['lpips']:.4f}", lpips, psnr))
    return (
        f"{align_columns(lines)}\n\nMeans over {result['n']} held-out images and the seeds; differences to the fixed "
        "tokenizer of that length, paired by image and seed, 95 % bootstrap intervals over images."
    )


__all__ = [
    "ArmTrainer",
    "FixedStudySettings",
    "FixedTrainer",
    "NoHeadsTrainer",
    "arm_arguments",
    "compare",
    "format_fixed_table",
    "measured_file",
    "run_fixed_study",
]
