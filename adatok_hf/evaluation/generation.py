"""Quality of generated images: gFID, KID and how often a classifier sees the class that was asked for."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset
from tqdm import tqdm

from ..checkpoint import model_hash, policy_hash
from ..codec.tokenize_dataset import image_ids, labels_of
from ..data import ImageFileError, read_images
from ..files import read_json, whole_file, write_json
from ..metrics.images import to_uint8
from ..metrics.inception import MIN_IMAGES, FeatureStatistics, frechet_distance, kernel_distance
from ..modeling.sampling_adatok import CodeSampler
from ..tables import align_columns
from .evaluate import AUTO, hash_images, library_versions
from .reference import describe_preprocessing


KID_SEED = 2020
REAL, RECONSTRUCTIONS = "real", "reconstructions"


@dataclass(frozen=True)
class GenerationSettings:
    """
    How images are generated and judged.

    Args:
        budgets (`tuple[int | str, ...]`, *optional*): Candidate budgets for all images, and `"auto"` for those that
            the generator draws.
        guidance_scales (`tuple[float, ...]`, *optional*): See `guidance_scale` of [`CodeSampler`]. Each with each
            budget is a row of the report.
        guidance_schedule, temperature, top_k, top_p: See [`CodeSampler`].
        seed (`int`, *optional*, defaults to 0): Image i is drawn by the seed + i, at every budget.
        batch_size (`int`, *optional*, defaults to 64): Images written together.
        kid_subset_size (`int`, *optional*, defaults to 1000): Images of a subset in KID.
        images_per_part (`int`, *optional*, defaults to 512): How many images are measured between two saves.
    """

    budgets: tuple[int | str, ...] = (AUTO,)
    guidance_scales: tuple[float, ...] = (1.0,)
    guidance_schedule: str = "constant"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    batch_size: int = 64
    kid_subset_size: int = 1000
    images_per_part: int = 512

    def sampling(self) -> dict:
        """The arguments of [`CodeSampler`], but for the guidance, which differs from row to row."""
        names = ("guidance_schedule", "temperature", "top_k", "top_p")
        return {name: getattr(self, name) for name in names}


def evaluate_generation(
    pipe,
    dataset: Dataset,
    out: str | Path,
    settings: GenerationSettings,
    inception: torch.nn.Module,
    *,
    weights: dict[str, str] | None = None,
    facts: dict | None = None,
    warn: Callable[[str], object] = print,
    min_images: int = MIN_IMAGES,
) -> dict:
    """
    Generates as many images as there are real ones, of the same classes, and compares the two sets. What an earlier
    run that was cut off has left in the folder is used.

    Args:
        pipe ([`AdaTokPipeline`]): Generates.
        dataset (`Dataset`): Real images, see [`~adatok_hf.data.load_image_dataset`]. Their classes must be classes of
            the generator, by name; without classes, images of any class are generated.
        out (`str` or `Path`): Folder of `results.json`; made if need be.
        settings ([`GenerationSettings`]): How.
        inception (`torch.nn.Module`): Features of uint8 images, see [`~adatok_hf.metrics.inception.load_inception`].
        weights (`dict[str, str]`, *optional*): What describes Inception, see
            [`~adatok_hf.evaluation.reference.describe_evaluator`], so that parts by another are refused.
        facts (`dict`, *optional*): What else the report shall say.
        warn (`Callable`, *optional*): Takes a sentence about each image that cannot be read, which is skipped.
        min_images (`int`, *optional*, defaults to 2048): Refuse fewer.

    Returns:
        `dict`: under `rows`, for `reconstructions` of the real images by the tokenizer at each budget (at the policy's
        own for `"auto"`), which no generator beats by much, and for each budget with each guidance: `gfid`, `kid` with
        `kid_std`, `class_accuracy` in 0..1 (`None` without classes), `guidance_scale`, `mean_budget`, `n`.
        `real_class_accuracy` is that of the classifier on real images: a linear one on Inception features, fitted to
        every other real image and measured on the rest, as are the reconstructions.

    Raises:
        `ValueError`: as [`CodeSampler`], and for too few images, a budget that is no candidate, classes that the
            generator does not know, or a folder with another evaluation.
    """
    candidates = list(pipe.vocabulary.budgets)
    for budget in settings.budgets:
        if budget != AUTO and budget not in candidates:
            raise ValueError(f"The generator knows the budgets {candidates} and auto; got {budget}.")
    for scale in settings.guidance_scales:  # what the sampler refuses is refused before anything is measured
        CodeSampler(pipe.transformer, guidance_scale=scale, **settings.sampling())
    _check_number(len(dataset), settings, min_images)
    units = _Units(pipe, dataset, Path(out), settings, inception.to(pipe.device), warn, weights)
    real = units.load(REAL)
    _check_number(len(real["labels"]), settings, min_images)
    labels = real["labels"]
    statistics = _statistics(real["features"])
    classifier = _LinearClassifier(real["features"][::2], labels[::2]) if units.has_classes else None
    rows = []
    reconstructed = [(budget, None) for budget in settings.budgets]
    drawn = [(budget, scale) for budget in settings.budgets for scale in settings.guidance_scales]
    for budget, scale in (*reconstructed, *drawn):
        found = units.load(budget, scale)
        # The classifier was fitted to every other original: its reconstruction is no new image.
        fresh = slice(1, None, 2) if scale is None else slice(None)
        kid, kid_std = kernel_distance(
            real["features"], found["features"], subset_size=settings.kid_subset_size, seed=KID_SEED
        )
        rows.append(
            {
                "images": RECONSTRUCTIONS if scale is None else budget,
                "guidance_scale": scale,
                "mean_budget": found["budgets"].double().mean().item(),
                "gfid": frechet_distance(statistics, _statistics(found["features"]), min_images=min_images),
                "kid": kid,
                "kid_std": kid_std,
                "class_accuracy": classifier and classifier.accuracy(found["features"][fresh], labels[fresh]),
                "n": len(found["features"]),
            }
        )
    report = (facts or {}) | {
        "model_hash": units.identity["tokenizer"],
        "generator_hash": units.identity["generator"],
        "settings": json.loads(json.dumps(asdict(settings))),
        "num_images": len(labels),
        "skipped_images": len(dataset) - len(labels),
        "real_class_accuracy": classifier and classifier.accuracy(real["features"][1::2], labels[1::2]),
        "versions": library_versions(),
        "rows": rows,
    }
    write_json(Path(out) / "results.json", report)
    return report


def _check_number(found: int, settings: GenerationSettings, min_images: int):
    for measure, least in (("gFID", min_images), ("KID", settings.kid_subset_size)):
        if found < least:
            raise ValueError(f"{measure} needs at least {least:,} images; got {found:,}: name more.")


class _Units:
    """
    Features of the real images, of their reconstructions and of the images of a budget and a guidance, measured part
    by part. The real ones come first: `rows` are those that could be read.
    """

    def __init__(self, pipe, dataset, out: Path, settings: GenerationSettings, inception, warn, weights):
        self.pipe, self.dataset, self.settings, self.inception, self.warn = pipe, dataset, settings, inception, warn
        self.folder = out / "parts"
        numbers, names = labels_of(dataset)
        self.has_classes = bool(pipe.class_names)
        if self.has_classes:
            unknown = [name for name in names if name not in pipe.class_names]
            if unknown or None in numbers:
                what = f"the class {unknown[0]!r}" if unknown else "images without a class"
                raise ValueError(f"The generator knows {len(pipe.class_names)} classes, but the data has {what}.")
        numbers = [pipe.class_names.index(names[number]) if self.has_classes else -1 for number in numbers]
        self.numbers = torch.tensor(numbers)
        self.identity = self._identify(weights)
        self._claim_folder()

    def _identify(self, weights: dict[str, str] | None) -> dict:
        """What the parts are of."""
        settings = asdict(self.settings)
        for name in ("budgets", "guidance_scales", "kid_subset_size", "batch_size"):  # change no part
            del settings[name]
        return {
            "tokenizer": model_hash(self.pipe.image_tokenizer),
            "policy": policy_hash(self.pipe.image_tokenizer),
            "preprocessing": describe_preprocessing(self.pipe.image_processor),
            "generator": model_hash(self.pipe.transformer),
            "device": self.pipe.device.type,
            "inception": weights,
            "versions": library_versions(),
            "images": hashlib.sha256("\n".join(image_ids(self.dataset)).encode()).hexdigest(),
            "labels": hashlib.sha256(self.numbers.numpy().tobytes()).hexdigest(),
            **settings,
        }

    def _claim_folder(self):
        """Refuses to mix two evaluations in one folder."""
        path = self.folder / "evaluation.json"
        if path.is_file():
            found = read_json(path)
            different = [
                name for name, value in json.loads(json.dumps(self.identity)).items() if found.get(name) != value
            ]
            if different:
                raise ValueError(f"{self.folder} holds an evaluation with another {different[0]}; name another --out.")
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(path, self.identity)

    def load(self, unit: int | str, guidance_scale: float | None = None) -> dict[str, torch.Tensor]:
        """
        The columns of a unit, which is `REAL` or a budget, without guidance that of the reconstructions: `features`,
        `budgets` where there are any, and `labels` of real images.
        """
        if guidance_scale is not None:
            name = f"{unit}-guided-{guidance_scale:g}"
        elif unit == AUTO:
            name = RECONSTRUCTIONS
        else:
            name = unit if unit == REAL else f"{RECONSTRUCTIONS}-{unit}"
        parts = []
        count = len(self.dataset if unit == REAL else self.rows)
        with tqdm(total=count, desc=f"Features of {name}", unit="image", disable=None) as progress:
            size = self.settings.images_per_part
            for start in range(0, count, size):
                rows = range(start, min(start + size, count))
                path = self.folder / f"{name}-{start:06d}.safetensors"
                is_there = path.is_file()
                if not is_there:
                    columns = self._measure(unit, guidance_scale, rows)
                    with whole_file(path) as temporary:
                        save_file({name: value.contiguous() for name, value in columns.items()}, temporary)
                parts.append(load_file(path))
                if is_there and unit == REAL and parts[-1]:
                    self._check_first(parts[-1])
                progress.update(len(rows))
        parts = list(filter(None, parts))  # of some no image could be read
        if not parts:
            raise ImageFileError(f"None of the {count} images of the data could be read.")
        columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        if unit == REAL:
            self.rows, self.hashes = columns["rows"], columns["hashes"]
        return columns

    def _check_first(self, part: dict[str, torch.Tensor]):
        """Refuses parts of other pictures under the same names: the first one of each tells."""
        rows = part["rows"][:1].tolist()
        for _, _, pixel_values in read_images(self.dataset, rows, self.pipe.image_processor, self.warn):
            self._check_pixels(pixel_values, part["hashes"][:1])

    def _check_pixels(self, pixel_values: torch.Tensor, hashes: torch.Tensor):
        if not torch.equal(hash_images(to_uint8(pixel_values)), hashes):
            raise ValueError(f"{self.folder} holds an evaluation of other pictures; name another --out.")

    @torch.inference_mode()
    def _measure(self, unit: int | str, guidance_scale: float | None, rows: range) -> dict[str, torch.Tensor]:
        if unit == REAL:
            return self._measure_real(rows)
        is_drawn = guidance_scale is not None
        batches = self._generate(unit, guidance_scale, rows) if is_drawn else self._reconstruct(unit, rows)
        features, budgets = zip(*((self.inception(to_uint8(pixels)), kept) for pixels, kept in batches))
        return {"features": torch.cat(features).cpu(), "budgets": torch.cat(budgets).cpu()}

    def _measure_real(self, rows: range) -> dict[str, torch.Tensor]:
        read, features, hashes = [], [], []
        for row, _, pixel_values in read_images(self.dataset, rows, self.pipe.image_processor, self.warn):
            read.append(row)
            hashes.append(hash_images(to_uint8(pixel_values)))
            features.append(self.inception(to_uint8(pixel_values).to(self.pipe.device)).cpu())
        if not read:
            return {}
        columns = {"features": torch.cat(features), "hashes": torch.cat(hashes), "rows": torch.tensor(read)}
        return columns | {"labels": self.numbers[read]}

    def _reconstruct(self, budget: int | str, rows: range) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        kept = None if budget == AUTO else budget
        numbers = torch.arange(rows.start, rows.stop)
        for some, hashes in zip(self.rows[numbers].split(32), self.hashes[numbers].split(32)):
            images = read_images(self.dataset, some.tolist(), self.pipe.image_processor, self.warn)
            pixel_values = torch.cat([values for _, _, values in images])
            self._check_pixels(pixel_values, hashes)
            output = self.pipe.image_tokenizer(pixel_values.to(self.pipe.device), budgets=kept)
            yield output.pixel_values, output.budgets

    def _generate(
        self, budget: int | str, guidance_scale: float, rows: range
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images by the seeds of their places, so that neither parts nor batches matter."""
        labels = self.numbers[self.rows[rows.start : rows.stop]].tolist()
        self.pipe.set_progress_bar_config(disable=True)
        output = self.pipe(
            labels if self.has_classes else [None] * len(labels),
            budget=None if budget == AUTO else budget,
            generator=[torch.Generator().manual_seed(self.settings.seed + row) for row in rows],
            output_type="pt",
            guidance_scale=guidance_scale,
            batch_size=self.settings.batch_size,
            **self.settings.sampling(),
        )
        yield from zip(output.images.split(32), output.budgets.split(32))


def _statistics(features: torch.Tensor) -> FeatureStatistics:
    statistics = FeatureStatistics(feature_size=features.shape[1])
    statistics.update(features)
    return statistics


class _LinearClassifier:
    """Multinomial regression on standardised features, with weight decay, by L-BFGS."""

    def __init__(self, features: torch.Tensor, labels: torch.Tensor, weight_decay: float = 0.1):
        self.mean, self.deviation = features.mean(dim=0), features.std(dim=0).clamp(min=1e-6)
        inputs, width = self._standardise(features), features.shape[1]
        self.layer = torch.nn.Linear(width, int(labels.max()) + 1)
        torch.nn.init.zeros_(self.layer.weight)
        torch.nn.init.zeros_(self.layer.bias)
        optimizer = torch.optim.LBFGS(self.layer.parameters(), max_iter=100, line_search_fn="strong_wolfe")

        def closure():
            optimizer.zero_grad()
            penalty = weight_decay / 2 * self.layer.weight.square().sum() / len(labels) * width**0.5
            loss = torch.nn.functional.cross_entropy(self.layer(inputs), labels) + penalty
            loss.backward()
            return loss

        optimizer.step(closure)

    def _standardise(self, features: torch.Tensor) -> torch.Tensor:
        return (features - self.mean) / self.deviation

    @torch.no_grad()
    def accuracy(self, features: torch.Tensor, labels: torch.Tensor) -> float:
        """Share of the images whose class is found, in 0..1."""
        return (self.layer(self._standardise(features)).argmax(dim=1) == labels).double().mean().item()


def format_table(report: dict) -> str:
    """Lays a report out as plain text."""
    lines = [["images", "guidance", "mean budget", "gFID", "KID", "class accuracy", "n"]]
    for row in report["rows"]:
        accuracy = "-" if row["class_accuracy"] is None else f"{row['class_accuracy']:.1%}"
        guidance = "-" if row["guidance_scale"] is None else f"{row['guidance_scale']:g}"
        line = [str(row["images"]), guidance, f"{row['mean_budget']:.2f}", f"{row['gfid']:.2f}", f"{row['kid']:.5f}"]
        lines.append([*line, accuracy, str(row["n"])])
    table = align_columns(lines)
    if report["real_class_accuracy"] is not None:
        table += f"\nThe classifier finds the class of {report['real_class_accuracy']:.1%} of real images."
    return table


__all__ = ["GenerationSettings", "evaluate_generation", "format_table"]
