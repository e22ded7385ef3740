"""Every number of a checkpoint on one set of images. One encoder pass per image serves all budgets."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset
from tqdm import tqdm

from ..checkpoint import model_hash, policy_hash
from ..files import hash_file, remove_left_overs, whole_file, write_json
from ..metrics.images import to_uint8
from ..metrics.inception import MIN_IMAGES
from ..metrics.pairs import PairMetrics
from ..metrics.perceptual import BACKBONE_FILES, DOWNLOADED_FILES, find_weights
from ..metrics.rate import whole_bytes
from ..modeling import AdaTokModel
from .codecs import CompressedBatch, check_codecs
from .protocol import Protocol
from .reference import describe_evaluator, describe_preprocessing


METRICS = ("rfid", "kid", "lpips", "psnr", "ssim")
AUTO = "auto"
LIBRARIES = (
    "torch",
    "torchvision",
    "transformers",
    "adatok-hf",
    "torch-fidelity",
    "lpips",
    "torchmetrics",
    "numpy",
    "pillow",
)


@dataclass
class EvaluationSettings:
    """
    What to measure.

    Args:
        budgets (`list[int | str]`): Budgets in `1 .. num_latent_tokens`, and `"auto"` for the policy's choice.
        metrics (`list[str]`): Out of `"rfid"`, `"kid"`, `"lpips"`, `"psnr"` and `"ssim"`.
        codecs (`list[str]`, *optional*): Baselines out of `"jpeg"`, `"webp"` and `"avif"`.
        batch_size (`int`, *optional*, defaults to 16): Images encoded together.
        images_per_part (`int`, *optional*, defaults to 512):
            How many images are measured between two saves. Parts are what processes share out, so with equal parts the
            numbers do not depend on how many processes there are.
        kid_subset_size (`int`, *optional*, defaults to 1000): Images of a subset in KID.
        protocol ([`~adatok_hf.evaluation.protocol.Protocol`], *optional*): Its crop is applied before the processor.

    Raises:
        `ValueError`: if a metric or a codec is unknown, or there is nothing to measure.
    """

    budgets: list[int | str]
    metrics: list[str]
    codecs: list[str] = field(default_factory=list)
    batch_size: int = 16
    images_per_part: int = 512
    kid_subset_size: int = 1000
    protocol: Protocol | None = None

    def __post_init__(self):
        for metric in self.metrics:
            if metric not in METRICS:
                raise ValueError(f"--metrics must be out of {', '.join(METRICS)}; got {metric!r}.")
        if not self.metrics or not self.budgets:
            raise ValueError("There is nothing to measure: name at least one budget and one metric.")
        check_codecs(self.codecs)

    @property
    def needs_inception(self) -> bool:
        """Whether a metric looks at Inception features."""
        return "rfid" in self.metrics or "kid" in self.metrics

    def check_images(self, num_images: int, data: str = "the data"):
        """Raises `ValueError` for too few images for these metrics, or for another number than the protocol's."""
        if num_images == 0:
            raise ValueError(f"There are no images in {data}.")
        if self.protocol is not None:
            self.protocol.check_images(num_images)
        for metric, least, way_out in (
            ("rfid", MIN_IMAGES, "add images or leave rfid out of --metrics"),
            ("kid", self.kid_subset_size, "add images, lower --kid-subset-size or leave kid out of --metrics"),
        ):
            if metric in self.metrics and num_images < least:
                raise ValueError(f"{metric} needs at least {least:,} images; got {num_images:,}: {way_out}.")


def fitting_metrics(num_images: int, kid_subset_size: int = 1000) -> list[str]:
    """All metrics that so many images are enough for."""
    least = {"rfid": MIN_IMAGES, "kid": kid_subset_size}
    return [metric for metric in METRICS if num_images >= least.get(metric, 1)]


class EvaluationRun:
    """
    The measurements of one evaluation, kept in a folder in parts of fixed size. What is there is not measured again;
    several processes started by `accelerate launch` or `torchrun` share the parts.

    Args:
        model ([`AdaTokModel`]): In evaluation mode.
        processor ([`AdaTokImageProcessor`]): The model's image processor.
        dataset (`Dataset`): Items with a PIL picture under `"image"`, of any size: each is resized and cropped.
        folder (`Path`): Where the parts go.
        settings ([`EvaluationSettings`]): What to measure.
        inception, lpips (`nn.Module`, *optional*):
            As [`~adatok_hf.metrics.inception.load_inception`] and [`~adatok_hf.metrics.perceptual.load_lpips`] give
            them.
        weights (`dict[str, dict]`, *optional*): What `hash_weights` gives, so that parts by other weights are refused.
        measure_originals (`bool`, *optional*, defaults to `True`): Whether the real images' features are needed.
        warn (`Callable`, *optional*):
            Takes a sentence about each image that cannot be read and is skipped; with a protocol it is an error.

    Raises:
        `ValueError`: if the folder holds the parts of another evaluation.
    """

    def __init__(
        self,
        model: AdaTokModel,
        processor,
        dataset: Dataset,
        folder: str | Path,
        settings: EvaluationSettings,
        *,
        inception: torch.nn.Module | None = None,
        lpips: torch.nn.Module | None = None,
        weights: dict[str, dict] | None = None,
        measure_originals: bool = True,
        warn: Callable[[str], object] = print,
    ):
        settings.check_images(len(dataset))
        self.model, self.processor, self.dataset = model, processor, dataset
        self.folder, self.settings, self.inception = Path(folder), settings, inception
        self.warn = warn
        self.pair_metrics = PairMetrics(lpips, settings.metrics)
        self.units = ["images", *(["originals"] if inception is not None and measure_originals else [])]
        self.units += [f"budget-{budget}" for budget in settings.budgets]
        self.units += [f"codec-{codec}" for codec in settings.codecs]
        self.units += [f"codec-{codec}-at-{budget}" for codec in settings.codecs for budget in settings.budgets]
        self.num_parts = -(-len(dataset) // settings.images_per_part)
        self._claim_folder(weights or {})

    def _claim_folder(self, weights: dict[str, dict]):
        settings = self.settings
        facts = {
            "model": model_hash(self.model),
            "policy": policy_hash(self.model),
            "number of images": len(self.dataset),
            "preprocessing": describe_preprocessing(self.processor, settings.protocol),
            "metrics": sorted(settings.metrics),
            "batch size": settings.batch_size,
            "images per part": settings.images_per_part,
            "dtype": str(self.model.dtype),
            "device": self.model.device.type,
            "weights": weights,
            "versions": library_versions(),
        }
        path = self.folder / "settings.json"
        with PartialState().main_process_first():
            self.folder.mkdir(parents=True, exist_ok=True)
            for folder in (self.folder, *self.folder.glob("part-*")):
                remove_left_overs(folder)
            if not path.is_file():
                write_json(path, facts)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is damaged; delete {self.folder} or name another --out.") from error
        for name, value in facts.items():
            if found.get(name) != value:
                raise ValueError(
                    f"{self.folder} holds an evaluation with another {name}: {found.get(name)!r} there, {value!r} "
                    "here; name another --out or delete it."
                )

    def measure(self):
        """Measures what is missing; returns when all processes are done."""
        state = PartialState()
        first, last = (
            self.num_parts * rank // state.num_processes for rank in (state.process_index, state.process_index + 1)
        )
        rows = [self._rows(part) for part in range(first, last)]
        with tqdm(
            total=sum(map(len, rows)),
            desc="Evaluation",
            unit="image",
            disable=None if state.is_main_process else True,
        ) as progress:
            for part in range(first, last):
                self._measure_part(part, progress)
        state.wait_for_everyone()
        if not any(self._load(part, "images") for part in range(self.num_parts)):
            raise ValueError(f"None of the {len(self.dataset)} images of the data could be read.")

    def columns(self, unit: str) -> dict[str, torch.Tensor]:
        """What was measured of all images but Inception features: the columns of a unit, code counts added up."""
        parts = list(self._parts(unit))
        return {
            name: torch.stack([part[name] for part in parts]).sum(dim=0)
            if name == "code_counts"
            else torch.cat([part[name] for part in parts])
            for name in parts[0]
            if name != "features"
        }

    def features(self, unit: str) -> Iterator[torch.Tensor]:
        """Inception features of a unit, one part after the other."""
        for part in self._parts(unit):
            yield part["features"]

    def pictures(self, rows: list[int]) -> torch.Tensor:
        """Pixel values `(images, 3, image_size, image_size)` in [-1, 1] of some of the images that were measured."""
        measured = self.columns("images")["rows"].tolist()
        return torch.cat([self._pixel_values(measured[row]) for row in rows])

    @property
    def num_images(self) -> int:
        """How many images were measured; the others could not be read."""
        return len(self.columns("images")["rows"])

    def _parts(self, unit: str) -> Iterator[dict[str, torch.Tensor]]:
        """The parts of a unit, without those of which no image could be read: they hold nothing."""
        return filter(None, (self._load(part, unit) for part in range(self.num_parts)))

    def _rows(self, part: int) -> range:
        size = self.settings.images_per_part
        return range(part * size, min((part + 1) * size, len(self.dataset)))

    def _path(self, part: int, unit: str) -> Path:
        return self.folder / f"part-{part:05d}-of-{self.num_parts:05d}" / f"{unit}.safetensors"

    def _load(self, part: int, unit: str) -> dict[str, torch.Tensor]:
        path = self._path(part, unit)
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}); delete it and start again.") from error

    @torch.inference_mode()
    def _measure_part(self, part: int, progress):
        missing = [unit for unit in self.units if not self._path(part, unit).is_file()]
        rows, size = self._rows(part), self.settings.batch_size
        parts: dict[str, dict[str, list[torch.Tensor]]] = {unit: {} for unit in missing}
        hashes, read = [], []
        for start in range(rows.start, rows.stop, size):
            batch = range(start, min(start + size, rows.stop))
            progress.update(len(batch))
            pixel_values = self._read(batch, read)
            if pixel_values is None:
                continue
            originals = to_uint8(pixel_values)
            hashes.append(hash_images(originals))
            if missing:
                for unit, columns in self._measure_batch(pixel_values, originals, missing):
                    for name, values in columns.items():
                        parts[unit].setdefault(name, []).append(values.cpu())
        found = {"hash": torch.cat(hashes), "rows": torch.tensor(read)} if read else {}
        if "images" in missing:
            parts["images"] = {name: [values] for name, values in found.items()}
        elif not _are_equal(self._load(part, "images"), found):
            raise ValueError(f"{self.folder} holds an evaluation of other images; name another --out or delete it.")
        for unit, columns in parts.items():
            tensors = {name: torch.cat(values) for name, values in columns.items()}
            if "codes" in tensors:
                codes = tensors.pop("codes")
                tensors["code_counts"] = torch.bincount(codes.flatten(), minlength=self.model.config.codebook_size + 1)
            path = self._path(part, unit)
            path.parent.mkdir(exist_ok=True)
            with whole_file(path) as temporary:
                save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)

    def _read(self, rows: range, read: list[int]) -> torch.Tensor | None:
        """Pixel values of the images of these rows that can be read, whose numbers are added to `read`."""
        pixel_values = []
        for row in rows:
            try:
                pixel_values.append(self._pixel_values(row))
            except ValueError as error:
                if self.settings.protocol is not None:
                    raise
                self.warn(f"skipped: {error}")
            else:
                read.append(row)
        return torch.cat(pixel_values) if pixel_values else None

    def _pixel_values(self, row: int) -> torch.Tensor:
        protocol = self.settings.protocol
        image = self.dataset[row]["image"]  # named by its file where there is one, if it cannot be read
        try:
            image = protocol.prepare(image) if protocol is not None else image
            return self.processor(image, return_tensors="pt")["pixel_values"]
        except ValueError as error:
            raise ValueError(f"Image {row} of the data: {error}") from error

    def _measure_batch(
        self, pixel_values: torch.Tensor, originals: torch.Tensor, units: list[str]
    ) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
        model, device = self.model, self.model.device
        config, seen = model.config, originals.to(device)
        if "originals" in units:
            yield "originals", {"features": self.inception(seen)}
        encoded = model.encode(pixel_values.to(device), budgets=config.num_latent_tokens)
        budgets = {
            budget: model.chosen_budgets(encoded).cpu() if budget == AUTO else torch.full((len(seen),), budget)
            for budget in self.settings.budgets
        }
        for budget, kept in budgets.items():
            if f"budget-{budget}" in units:
                yield f"budget-{budget}", self._measure_budget(encoded.image_codes, kept.to(device), seen)
        for codec in self.settings.codecs:
            batch = CompressedBatch(self.processor.post_process(pixel_values), codec, self._measure_pairs)
            if f"codec-{codec}" in units:
                yield f"codec-{codec}", batch.curve()
            for budget, kept in budgets.items():
                if f"codec-{codec}-at-{budget}" in units:
                    limits = [whole_bytes(row, config) for row in kept.tolist()]
                    yield f"codec-{codec}-at-{budget}", batch.within(limits)

    def _measure_budget(self, codes: torch.Tensor, kept: torch.Tensor, seen: torch.Tensor) -> dict[str, torch.Tensor]:
        reconstructions = to_uint8(self.model.decode(codes, budgets=kept).pixel_values)
        beyond = torch.arange(codes.shape[1], device=codes.device) >= kept[:, None]
        columns = {"budgets": kept, "codes": codes.masked_fill(beyond, self.model.config.codebook_size)}
        if self.inception is not None:
            columns["features"] = self.inception(reconstructions)
        return columns | self._measure_pairs(seen, reconstructions)

    def _measure_pairs(self, originals: torch.Tensor, reconstructions: torch.Tensor) -> dict[str, torch.Tensor]:
        device = self.model.device
        values = self.pair_metrics.measure(originals.to(device), reconstructions.to(device))
        return {name: column.double().cpu() for name, column in values.items()}


def hash_images(images: torch.Tensor) -> torch.Tensor:
    """SHA-256 of each uint8 image's bytes, row by row and RGB within: `(batch, 32)`, uint8."""
    rows = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return torch.tensor([list(hashlib.sha256(image.tobytes()).digest()) for image in rows], dtype=torch.uint8)


def _are_equal(these: dict[str, torch.Tensor], those: dict[str, torch.Tensor]) -> bool:
    return these.keys() == those.keys() and all(torch.equal(value, those[name]) for name, value in these.items())


def library_versions() -> dict[str, str | None]:
    """Versions of the libraries that a number may depend on, `None` for one that is not installed."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def hash_weights(settings: EvaluationSettings, weights_dir: str | Path | None = None) -> dict[str, dict[str, str]]:
    """
    What the perceptual networks of these settings are, once they have been loaded.

    Args:
        settings ([`EvaluationSettings`]): What to measure.
        weights_dir (`str` or `Path`, *optional*): Folder of the weights, as for loading them.

    Returns:
        `dict[str, dict[str, str]]`: `inception` (see [`~adatok_hf.evaluation.reference.describe_evaluator`]) and
        `lpips`, those that are needed, with the file names and SHA-256 of the weights.
    """
    weights = {}
    if settings.needs_inception:
        weights["inception"] = describe_evaluator(weights_dir)
    if "lpips" in settings.metrics:
        path = find_weights(weights_dir, BACKBONE_FILES["alex"], DOWNLOADED_FILES["alex"])
        weights["lpips"] = {"name": "lpips, net alex", "weights": path.name, "weights_sha256": hash_file(path)}
    return weights


__all__ = ["EvaluationRun", "EvaluationSettings", "fitting_metrics", "hash_weights"]
