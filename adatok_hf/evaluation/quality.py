"""From measurements of single images to the rows of an evaluation: means, distances, rates, a table."""

import json
import math
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import PartialState
from torch.utils.data import Dataset

from ..checkpoint import model_hash, policy_hash
from ..files import write_json
from ..metrics.inception import MIN_IMAGES, FeatureStatistics, frechet_distance, kernel_distance, load_inception
from ..metrics.perceptual import load_lpips
from ..metrics.rate import bits_per_pixel
from ..modeling import AdaTokModel
from ..tables import align_columns
from .codecs import curve_qualities
from .evaluate import AUTO, EvaluationRun, EvaluationSettings, hash_weights, library_versions
from .quality_plots import draw_extremes, plot_quality
from .reference import (
    Provenance,
    ReferenceStatistics,
    check_reference_path,
    describe_preprocessing,
    hash_image_list,
)


PERFECT_PSNR = 100.0  # dB; an image without any error would make the mean infinite
KID_SEED = 2020
PAIRED = ("lpips", "psnr", "ssim")


def evaluate_checkpoint(
    model: AdaTokModel,
    processor,
    dataset: Dataset,
    out: str | Path,
    settings: EvaluationSettings,
    *,
    weights_dir: str | Path | None = None,
    reference: str | Path | None = None,
    save_reference: str | Path | None = None,
    facts: dict | None = None,
    say: Callable[[str], object] = print,
    warn: Callable[[str], object] = print,
) -> dict | None:
    """
    Measures a model and writes `results.json`, `quality.png` and `worst-and-best.png`. What a run that was cut off has
    left in the folder is used.

    Args:
        model ([`AdaTokModel`]): In evaluation mode.
        processor ([`AdaTokImageProcessor`]): The model's image processor.
        dataset (`Dataset`): Items with a PIL picture under `"image"`.
        out (`str` or `Path`): Folder; made if need be.
        settings ([`~adatok_hf.evaluation.evaluate.EvaluationSettings`]): What to measure.
        weights_dir (`str` or `Path`, *optional*): Folder with the weights of Inception and LPIPS.
        reference, save_reference (`str` or `Path`, *optional*): Reference statistics to compare with, or to write.
        facts (`dict`, *optional*): What else the report shall say: `model`, `data`, `split`, `command`.
        say (`Callable`, *optional*): Takes the description of the protocol.
        warn (`Callable`, *optional*): Takes a sentence about each image that cannot be read, which is skipped.

    Returns:
        `dict` or `None`: the report; `None` in all processes but the first.

    Raises:
        `ValueError`: if the settings do not fit the model, the images or the reference statistics, a network's weights
            are not there or damaged, an image cannot be used, or the folder holds another evaluation.
    """
    facts = {"model": "", "data": "", "split": "", "command": ""} | (facts or {})
    if settings.protocol is not None:
        settings.protocol.check_model(model.config.image_size)
    if AUTO in settings.budgets and not model.config.is_policy_trained:
        raise ValueError(
            "The policy of this model has not been trained, so it has no budget `auto`; name budgets: --budgets all."
        )
    settings.check_images(len(dataset), facts["data"] or "the data")
    statistics = _load_reference(settings, reference, save_reference)
    first = PartialState().is_main_process
    if settings.protocol is not None and first:
        say(settings.protocol.describe())
    inception = load_inception(weights_dir).to(model.device) if settings.needs_inception else None
    lpips = load_lpips("alex", weights_dir).to(model.device) if "lpips" in settings.metrics else None
    weights = hash_weights(settings, weights_dir)
    if statistics is not None:
        preprocessing = describe_preprocessing(processor, settings.protocol)
        statistics.check(model.config.image_size, preprocessing, weights["inception"])
    run = EvaluationRun(
        model,
        processor,
        dataset,
        Path(out) / "parts",
        settings,
        inception=inception,
        lpips=lpips,
        weights=weights,
        measure_originals=statistics is None,
        warn=warn,
    )
    run.measure()
    if not first:
        return None
    report, real = summarize(run, statistics)
    report = facts | {"weights": weights, "reference": statistics and asdict(statistics.provenance)} | report
    if save_reference is not None:
        to_reference(real, report, weights["inception"]).save(save_reference)
    write_json(Path(out) / "results.json", report)  # null stands for what was not measured
    plot_quality(report, out)
    draw_extremes(run, out)
    return report


def _load_reference(
    settings: EvaluationSettings, reference: str | Path | None, save_reference: str | Path | None
) -> ReferenceStatistics | None:
    """Reads the statistics to compare with, and refuses what cannot be done with either file."""
    if save_reference is not None:
        check_reference_path(save_reference)
        if reference is not None or not settings.needs_inception:
            raise ValueError("--save-reference needs rfid or kid among --metrics, and no --reference beside it.")
    if reference is None:
        return None
    if "rfid" not in settings.metrics or "kid" in settings.metrics:
        raise ValueError(
            "--reference serves rfid alone: KID needs the features of single images, which the file does not hold; "
            "have rfid and not kid among --metrics."
        )
    return ReferenceStatistics.load(reference)


def summarize(
    run: EvaluationRun, reference: ReferenceStatistics | None = None
) -> tuple[dict, FeatureStatistics | ReferenceStatistics | None]:
    """
    Puts a finished run's numbers together, in the order of the images whatever process measured them.

    Args:
        run ([`~adatok_hf.evaluation.evaluate.EvaluationRun`]): Measured.
        reference ([`~adatok_hf.evaluation.reference.ReferenceStatistics`], *optional*):
            Real images to compare with; without it, those of the run.

    Returns:
        `tuple`: the report, with a row for each budget under `rows` and for each codec under `codecs`, and the
        statistics of the real images, if Inception was needed.
    """
    settings, model = run.settings, run.model
    real = None
    if settings.needs_inception:
        real = reference or _statistics(run, "originals")
    scarce = scarce_metrics(run)
    for metric, least in scarce.items():
        run.warn(f"{metric} is left out: it needs {least:,} images, and {run.num_images:,} could be read.")
    rows = [_budget_row(run, budget, real, scarce) for budget in settings.budgets]
    report = {
        "model_hash": model_hash(model),
        "policy_hash": policy_hash(model),
        "image_size": model.config.image_size,
        "num_images": run.num_images,
        "skipped_images": len(run.dataset) - run.num_images,
        "image_list_hash": hash_image_list(run.columns("images")["hash"]),
        "preprocessing": describe_preprocessing(run.processor, settings.protocol),
        "protocol": settings.protocol.name if settings.protocol is not None else None,
        "metrics": settings.metrics,
        "batch_size": settings.batch_size,
        "images_per_part": settings.images_per_part,
        "seed": KID_SEED,
        "kid_subset_size": settings.kid_subset_size,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": _device_name(model.device),
        "num_threads": torch.get_num_threads(),
        "versions": library_versions(),
        "rows": rows,
        "codecs": [_codec_row(run, codec) for codec in settings.codecs],
    }
    return report, real


def _statistics(run: EvaluationRun, unit: str) -> FeatureStatistics:
    statistics = None
    for features in run.features(unit):
        if statistics is None:
            statistics = FeatureStatistics(keep_features="kid" in run.settings.metrics, feature_size=features.shape[1])
        statistics.update(features)
    return statistics


def scarce_metrics(run: EvaluationRun) -> dict[str, int]:
    """The wanted metrics that too few images could be read for, and how many they need."""
    least = {"rfid": MIN_IMAGES, "kid": run.settings.kid_subset_size}
    return {name: count for name, count in least.items() if name in run.settings.metrics and run.num_images < count}


def _budget_row(
    run: EvaluationRun,
    budget: int | str,
    real: FeatureStatistics | ReferenceStatistics | None,
    scarce: Collection[str],
) -> dict:
    settings, config = run.settings, run.model.config
    columns = run.columns(f"budget-{budget}")
    kept = columns["budgets"]
    row = {
        "budget": budget,
        "mean_budget": kept.double().mean().item(),
        "median_budget": kept.double().quantile(0.5).item(),
        "bits_per_pixel": _mean_rate(kept, config),
        "rfid": None,
        "kid": None,
        "kid_std": None,
        **{metric: _mean(columns, metric) for metric in PAIRED},
        "codebook_use": (columns["code_counts"][: config.codebook_size] > 0).double().mean().item(),
        "n": len(kept),
    }
    if settings.needs_inception:
        statistics = _statistics(run, f"budget-{budget}")
        if "rfid" in settings.metrics and "rfid" not in scarce:
            row["rfid"] = frechet_distance(real, statistics, min_images=MIN_IMAGES)
        if "kid" in settings.metrics and "kid" not in scarce:
            row["kid"], row["kid_std"] = kernel_distance(
                real.features, statistics.features, subset_size=settings.kid_subset_size, seed=KID_SEED
            )
    if budget == AUTO:
        values = sorted({*config.budgets, *kept.tolist()})
        row["histogram"] = {str(value): (kept == value).sum().item() for value in values}
    return row


def _codec_row(run: EvaluationRun, codec: str) -> dict:
    """The curve over qualities, the smallest files there are, and the points in as many bytes as the model's."""
    curve, pixels = run.columns(f"codec-{codec}"), run.model.config.image_size**2
    points = [
        {
            "quality": quality,
            "mean_bytes": curve["bytes"][:, index].double().mean().item(),
            "bits_per_pixel": 8 * curve["bytes"][:, index].double().mean().item() / pixels,
            **{metric: _mean(curve, metric, index) for metric in PAIRED},
        }
        for index, quality in enumerate(curve_qualities(codec))
    ]
    at_equal_bytes = []
    for budget in run.settings.budgets:
        columns = run.columns(f"codec-{codec}-at-{budget}")
        fits = columns["bytes"] > 0
        everywhere = bool(fits.all())  # the mean over some of the images would flatter the codec: those are simple
        at_equal_bytes.append(
            {
                "budget": budget,
                "images_that_fit": fits.sum().item(),
                "bits_per_pixel": 8 * columns["bytes"].double().mean().item() / pixels if everywhere else None,
                **{metric: _mean(columns, metric) if everywhere else None for metric in PAIRED},
            }
        )
    smallest = curve["bytes"].min(dim=1).values.double()
    return {
        "codec": codec,
        "smallest_mean_bytes": smallest.mean().item(),
        "smallest_bytes": int(smallest.min()),
        "smallest_bits_per_pixel": 8 * smallest.mean().item() / pixels,
        "curve": points,
        "at_equal_bytes": at_equal_bytes,
    }


def _mean(columns: dict[str, torch.Tensor], metric: str, index: int | None = None) -> float | None:
    if metric not in columns:
        return None
    values = columns[metric] if index is None else columns[metric][:, index]
    return (values.clamp(max=PERFECT_PSNR) if metric == "psnr" else values).mean().item()


def _mean_rate(kept: torch.Tensor, config) -> float:
    return math.fsum(bits_per_pixel(budget, config) for budget in kept.tolist()) / len(kept)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def to_reference(statistics: FeatureStatistics, report: dict, evaluator: dict[str, str]) -> ReferenceStatistics:
    """
    The statistics of a run's real images with their provenance, to be saved.

    Args:
        statistics ([`~adatok_hf.metrics.inception.FeatureStatistics`]): Of the real images.
        report (`dict`): As [`evaluate_checkpoint`] gives it.
        evaluator (`dict[str, str]`): See [`~adatok_hf.evaluation.reference.describe_evaluator`].
    """
    provenance = Provenance(
        data=report["data"],
        split=report["split"],
        num_images=statistics.n,
        image_list_hash=report["image_list_hash"],
        image_size=report["image_size"],
        preprocessing=report["preprocessing"],
        evaluator=evaluator,
    )
    return ReferenceStatistics(statistics.mean, statistics.covariance, provenance)


def format_table(report: dict) -> str:
    """Lays a report out as plain text: a line for each budget, then the codecs."""
    names = [name for name in ("rfid", "kid", "lpips", "psnr", "ssim") if name in report["metrics"]]
    digits = {"rfid": 2, "kid": 5, "lpips": 4, "psnr": 2, "ssim": 4}
    titles = {"rfid": "rFID", "kid": "KID", "lpips": "LPIPS", "psnr": "PSNR (dB)", "ssim": "SSIM"}
    lines = [["budget", "mean", "bits/pixel", *(titles[name] for name in names), "codebook", "n"]]
    for row in report["rows"]:
        values = ["-" if row[name] is None else f"{row[name]:.{digits[name]}f}" for name in names]
        line = [str(row["budget"]), f"{row['mean_budget']:.2f}", f"{row['bits_per_pixel']:.4f}", *values]
        lines.append([*line, f"{row['codebook_use']:.1%}", str(row["n"])])
    table = align_columns(lines)
    for codec in report["codecs"]:
        paired = [name for name in names if name in PAIRED]
        lines = [[codec["codec"], "bytes", "bits/pixel", *(titles[name] for name in paired)]]
        for point in codec["curve"]:
            values = [f"{point[name]:.{digits[name]}f}" for name in paired]
            line = [f"quality {point['quality']}", f"{point['mean_bytes']:.0f}", f"{point['bits_per_pixel']:.4f}"]
            lines.append([*line, *values])
        table += f"\n\n{align_columns(lines)}\n{_describe_fit(codec)}"
    return table


def _describe_fit(codec: dict) -> str:
    counts = {point["budget"]: point["images_that_fit"] for point in codec["at_equal_bytes"]}
    smallest = f"the smallest {codec['codec']} file has {codec['smallest_bytes']} bytes"
    if not any(counts.values()):
        return f"{smallest}: no image fits in the bytes of any budget."
    fitting = ", ".join(f"{count} at {budget}" for budget, count in counts.items())
    return f"{smallest}; images that fit in the bytes of a budget: {fitting}."


def last_line(report: dict) -> str:
    """The rows as one line of JSON, for other programs."""
    return json.dumps({name: report[name] for name in ("model", "num_images", "image_list_hash", "rows")})


__all__ = ["evaluate_checkpoint", "format_table", "last_line", "summarize", "to_reference"]
