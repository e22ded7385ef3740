"""Our metrics against the standard libraries, called directly, on two folders of images: `adatok check-metrics`."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import evaluate
import lpips
import numpy as np
import torch
import torch_fidelity
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from ..data import load_image
from . import metric_path
from .inception import load_inception
from .perceptual import load_lpips


METRICS = ("fid", "kid", "lpips", "psnr", "ssim")
BATCH_SIZE = 32
SUFFIXES = (".png", ".jpg", ".jpeg")  # what torch-fidelity looks for in a folder


class Comparison(NamedTuple):
    """One metric by our module and by its library."""

    metric: str
    ours: float
    library: float

    @property
    def difference(self) -> float:
        """Absolute."""
        return abs(self.ours - self.library)


def compare_with_libraries(
    references: str | Path,
    reconstructions: str | Path,
    *,
    metrics: Sequence[str] = METRICS,
    weights_dir: str | Path | None = None,
    kid_subset_size: int = 1000,
    min_images: int = 2,
) -> list[Comparison]:
    """
    Measures two folders twice: by the `evaluate` modules in batches, and by torch-fidelity, lpips and torchmetrics,
    called as their documentation says, with the same weights.

    Args:
        references, reconstructions (`str` or `Path`): Folders of PNG or JPEG files; pairs have the same file name.
        metrics (`Sequence[str]`, *optional*): Out of `"fid"`, `"kid"`, `"lpips"`, `"psnr"` and `"ssim"`; all of them.
        weights_dir (`str` or `Path`, *optional*):
            As for [`~adatok_hf.metrics.inception.load_inception`] and [`~adatok_hf.metrics.perceptual.load_lpips`].
        kid_subset_size (`int`, *optional*, defaults to 1000): Images of a subset of KID.
        min_images (`int`, *optional*, defaults to 2): Of FID; equality shows on few images as well.

    Returns:
        `list[Comparison]`: one for each metric.

    Raises:
        `ValueError`: if a metric is unknown, the folders do not hold the same file names, or as the metrics.
    """
    unknown = sorted(set(metrics) - set(METRICS))
    if unknown:
        raise ValueError(f"The metrics that libraries have are {', '.join(METRICS)}; got {unknown}.")
    paths = [_images_of(Path(folder)) for folder in (references, reconstructions)]
    names = [[path.name for path in side] for side in paths]
    if names[0] != names[1] or not names[0]:
        raise ValueError(
            f"{references} and {reconstructions} must hold the same file names, at least one; got {len(names[0])} and "
            f"{len(names[1])} images, {len(set(names[0]) & set(names[1]))} names in common."
        )
    options = {"fid": {"min_images": min_images}, "kid": {"subset_size": kid_subset_size}}
    ours = {}
    for name in metrics:
        weights = {} if name in ("psnr", "ssim") else {"weights_dir": weights_dir}
        metric = evaluate.load(metric_path(name), **weights)
        for start in range(0, len(names[0]), BATCH_SIZE):
            first, second = ([load_image(path).convert("RGB") for path in side[start:][:BATCH_SIZE]] for side in paths)
            metric.add_batch(references=first, predictions=second)
        ours[name] = metric.compute(**options.get(name, {}))[name]
    library = _by_torch_fidelity(references, reconstructions, metrics, weights_dir, kid_subset_size)
    library |= _by_pairs(list(zip(*paths)), metrics, weights_dir)
    return [Comparison(name, ours[name], library[name]) for name in metrics]


def _images_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _by_torch_fidelity(references, reconstructions, metrics, weights_dir, kid_subset_size: int) -> dict[str, float]:
    if "fid" not in metrics and "kid" not in metrics:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "inception.pth"
        torch.save(load_inception(weights_dir).extractor.state_dict(), weights)
        result = torch_fidelity.calculate_metrics(
            input1=str(reconstructions),
            input2=str(references),
            fid="fid" in metrics,
            kid="kid" in metrics,
            kid_subset_size=kid_subset_size,
            feature_extractor_weights_path=str(weights),
            cuda=False,
            save_cpu_ram=True,  # no worker processes
            cache=False,
            verbose=False,
        )
    keys = {"fid": torch_fidelity.KEY_METRIC_FID, "kid": torch_fidelity.KEY_METRIC_KID_MEAN}
    return {name: result[key] for name, key in keys.items() if name in metrics}


@torch.inference_mode()
def _by_pairs(pairs: list[tuple[Path, Path]], metrics, weights_dir) -> dict[str, float]:
    """lpips and torchmetrics, one pair at a time, on images in [-1, 1] and in [0, 1]."""
    network = load_lpips(weights_dir=weights_dir) if "lpips" in metrics else None
    values: dict[str, list[float]] = {name: [] for name in metrics if name in ("lpips", "psnr", "ssim")}
    for pair in pairs if values else []:
        images = [np.asarray(load_image(path).convert("RGB")) for path in pair]
        target, preds = (torch.tensor(image / 255).permute(2, 0, 1)[None] for image in images)
        if "lpips" in values:
            values["lpips"].append(network(*map(lpips.im2tensor, images)).item())
        if "psnr" in values:
            values["psnr"].append(peak_signal_noise_ratio(preds, target, data_range=1.0).item())
        if "ssim" in values:
            values["ssim"].append(structural_similarity_index_measure(preds, target, data_range=1.0).item())
    return {name: float(np.mean(column)) for name, column in values.items()}


def format_comparisons(rows: Sequence[Comparison]) -> str:
    """Lays out comparisons as a table of plain text."""
    lines = [f"{'metric':8}{'ours':>14}{'library':>14}{'difference':>13}"]
    lines += [f"{row.metric:8}{row.ours:14.6f}{row.library:14.6f}{row.difference:13.1e}" for row in rows]
    return "\n".join(lines)
