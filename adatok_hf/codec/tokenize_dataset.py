"""A dataset of images as a dataset of image codes: parquet shards that are there whole or not at all."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset, Subset
from tqdm import tqdm

from ..checkpoint import ANY_MODEL, codes_hash, load_checkpoint, model_hash, policy_hash
from ..data import ImageFolder, load_image_dataset, random_square, spread_evenly
from ..files import first_line, is_temporary, whole_file
from ..modeling.image_processing_adatok import DAMAGE
from ..parquet import check_parquet, import_pyarrow
from .sequential_tatok import SequentialTaTok, in_sequences


FORMAT = "adatok-codes-dataset"
TATOK_FACTS = ("num_global_tokens", "global_codebook_size", "num_patches", "patch_codebook_size")
SKIPPED = "adatok-skipped-images"
FACTS = {"num_images": int, "images_per_shard": int, "codebook_size": int, "codes_hash": str}
FACTS |= {"candidate_budgets": list, "class_names": list}


@dataclass(frozen=True)
class TokenizeJob:
    """
    All that decides which codes come out, so that any process can make any shard.

    Args:
        model (`str`): Folder or Hub id of the tokenizer.
        data (`str`): Images, see [`~adatok_hf.data.load_image_dataset`]. Classes are the `label` column, or the
            subfolders of an image folder.
        split (`str`, *optional*, defaults to `"train"`): Split of the data.
        max_images (`int`, *optional*): Takes that many images, spread evenly.
        budgets (`int`, *optional*): One budget for all, in `1 .. num_latent_tokens`, with all global tokens if the
            model is a TaTok; the choice of the policy, or of the threshold, if unset.
        cost_bias (`float`, *optional*): Shifts the policy's choice, see [`AdaTokModel.encode`].
        variants (`int`, *optional*, defaults to 1): Rows of an image: the image processor's own cut first, then random
            squares, every other one mirrored.
        min_crop (`float`, *optional*, defaults to 0.8): Least side of these squares as a share of the shortest edge,
            in (0, 1].
        images_per_shard (`int`, *optional*, defaults to 4096): Images in a file.
        seed (`int`, *optional*, defaults to 0): Of the random squares. They depend on nothing else.

    Raises:
        `ValueError`: if a number is out of its range.
    """

    model: str
    data: str
    split: str = "train"
    max_images: int | None = None
    budgets: int | None = None
    cost_bias: float | None = None
    variants: int = 1
    min_crop: float = 0.8
    images_per_shard: int = 4096
    seed: int = 0

    def __post_init__(self):
        for name in ("variants", "images_per_shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}.")
        if not 0 < self.min_crop <= 1:
            raise ValueError(f"min_crop must be above 0 and at most 1; got {self.min_crop}.")


class ShardWriter:
    """
    Makes shards, each from the images it stands for to a parquet file: the unit of work of every engine. A process
    needs nothing but the job to make one.

    Args:
        job ([`TokenizeJob`]): What to do.
        out (`str` or `Path`): Folder of the shards.
        device (`str`, *optional*, defaults to `"cpu"`): Where to encode.
        batch_size (`int`, *optional*, defaults to 32): Images encoded together.
        say (`Callable`, *optional*): Takes a sentence about each image that is skipped.

    Attributes:
        facts (`dict`): What every shard says of the job: its settings, fingerprints of the model and of the images.
        num_shards (`int`): How many files the job has.

    Raises:
        `ValueError`: if the tokenizer or the data cannot be loaded.
    """

    def __init__(
        self,
        job: TokenizeJob,
        out: str | Path,
        device: str = "cpu",
        batch_size: int = 32,
        say: Callable[[str], object] = print,
    ):
        self.job, self.out, self.batch_size, self.say = job, Path(out), batch_size, say
        model, self.processor = load_checkpoint(job.model, kinds=ANY_MODEL)
        self.model = model = in_sequences(model.eval().to(device))
        is_tatok = isinstance(model, SequentialTaTok)
        self.images = images = load_image_dataset(job.data, job.split)
        self.ids, (self.labels, self.class_names) = image_ids(images), labels_of(images)
        self.rows = spread_evenly(len(images), job.max_images)
        settings = {name: value for name, value in asdict(job).items() if name != "model"}  # the hashes say more
        self.facts = settings | {
            "model_hash": model_hash(model),
            "codes_hash": codes_hash(model),
            # A TaTok's prior chooses the patches, however many.
            "policy_hash": policy_hash(model) if job.budgets is None or is_tatok else None,
            "num_images": len(self.rows),
            "images_hash": hashlib.sha256("\n".join(self.ids).encode()).hexdigest(),
            "codebook_size": model.config.codebook_size,
            "candidate_budgets": list(model.config.budgets),
            "class_names": self.class_names,
        }
        if is_tatok:
            self.facts["tatok"] = {name: getattr(model.config, name) for name in TATOK_FACTS}
        self.num_shards = -(-len(self.rows) // job.images_per_shard)

    def missing(self) -> list[int]:
        """Shards that are still to be made; `ValueError` if the folder holds those of another job, or damaged ones."""
        paths = [self.path(index) for index in range(self.num_shards)]
        there = check_shards(self.out, self.facts, paths)
        return [index for index, path in enumerate(paths) if path not in there]

    def path(self, index: int) -> Path:
        return self.out / f"codes-{index:05d}-of-{self.num_shards:05d}.parquet"

    def images_of(self, index: int) -> list[int]:
        """Rows of the data that a shard stands for."""
        start = index * self.job.images_per_shard
        return list(self.rows[start : start + self.job.images_per_shard])

    def __call__(self, index: int, progress: tqdm | None = None) -> dict[str, int]:
        """
        Writes a shard, unless it is there.

        Args:
            index (`int`): Which, in `0 .. num_shards - 1`.
            progress (`tqdm`, *optional*): Is moved on by each image.

        Returns:
            `dict[str, int]`: `rows` and `codes` in it, `skipped` images.
        """
        if not self.path(index).is_file():
            self._make(index, progress)
        return count(self.path(index))

    def _make(self, index: int, progress: tqdm | None):
        columns = {
            name: [] for name in ("image_id", "image_codes", "budget", "label", "variant", "model_hash", "image_hash")
        }
        batch, skipped = [], {}
        for row in self.images_of(index):
            try:
                batch += self._read(row)
            except DAMAGE as error:
                skipped[self.ids[row]] = " ".join(str(error).split())
                self.say(f"skipped image {self.ids[row]}: {skipped[self.ids[row]]}")
            if progress is not None:
                progress.update()
            while len(batch) >= self.batch_size:
                self._encode(batch[: self.batch_size], columns)
                batch = batch[self.batch_size :]
        if batch:
            self._encode(batch, columns)
        if not columns["image_id"]:
            raise ValueError(f"None of the {len(skipped)} images of shard {index} can be read.")
        self._write(index, columns, skipped)

    def _read(self, row: int) -> list[tuple[dict, torch.Tensor]]:
        image = self.images[row]["image"]
        if image is None:
            raise ValueError("there is no image.")
        pictures = variants_of(ImageOps.exif_transpose(image), self.job, row)
        pixel_values = self.processor(pictures, return_tensors="pt")["pixel_values"]
        facts = {"image_id": self.ids[row], "label": self.labels[row], "model_hash": self.facts["model_hash"]}
        return [(facts | {"variant": variant}, pixels) for variant, pixels in enumerate(pixel_values)]

    @torch.inference_mode()
    def _encode(self, batch: list[tuple[dict, torch.Tensor]], columns: dict[str, list]):
        pixel_values = torch.stack([pixels for _, pixels in batch])
        encoded = self.model.encode(
            pixel_values.to(self.model.device), budgets=self.job.budgets, cost_bias=self.job.cost_bias
        )
        pictures = self.processor.post_process(pixel_values)
        for (facts, _), codes, budget, picture in zip(
            batch, encoded.image_codes.tolist(), encoded.budgets.tolist(), pictures
        ):
            image_hash = hashlib.sha256(picture.tobytes()).hexdigest()[:16]
            row = facts | {"image_codes": codes[:budget], "budget": budget, "image_hash": image_hash}
            for name, value in row.items():
                columns[name].append(value)

    def _write(self, index: int, columns: dict[str, list], skipped: dict[str, str]):
        arrow, parquet = import_pyarrow()
        schema = codes_features(self.facts["codebook_size"], self.class_names).arrow_schema
        said = {FORMAT: json.dumps(self.facts), SKIPPED: json.dumps(skipped)}
        schema = schema.with_metadata({**schema.metadata, **said})
        with whole_file(self.path(index)) as temporary:
            parquet.write_table(arrow.table(columns, schema=schema), temporary)


def tokenize_dataset(
    job: TokenizeJob,
    out: str | Path,
    device: str = "cpu",
    batch_size: int = 32,
    say: Callable[[str], object] = print,
) -> dict:
    """
    Turns images into a dataset of their codes, a folder of parquet files for `datasets.load_dataset`. A shard that is
    there is not made again, so a run that was cut off goes on. Under `torchrun`, or wherever `RANK` and `WORLD_SIZE`
    are set, each process makes its share of the shards.

    Columns: `image_id`, `image_codes` cut at the budget (of a TaTok as [`SequentialTaTok`] gives them), `budget`,
    `label` with the names of the classes, `variant`, `model_hash`, and `image_hash` of the pixels that the model saw.

    Args:
        job ([`TokenizeJob`]): What to do.
        out (`str` or `Path`): Folder of the shards; made if need be.
        device (`str`, *optional*, defaults to `"cpu"`): Where to encode.
        batch_size (`int`, *optional*, defaults to 32): Images encoded together.
        say (`Callable`, *optional*): Takes a sentence about each image that is skipped.

    Returns:
        `dict`: of this process: `shards` made, `shards_there` before, `rows` and `mean_budget` of those made, and
        `skipped` images of both.

    Raises:
        `ValueError`: as [`ShardWriter`], and if no image of a shard could be read.

    Example:

    ```python
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import adatok_hf
    >>> from adatok_hf.codec.tokenize_dataset import TokenizeJob, tokenize_dataset

    >>> samples = Path(adatok_hf.__file__).parent / "samples"
    >>> job = TokenizeJob(adatok_hf.default_checkpoint(), str(samples), max_images=2, budgets=8)
    >>> with TemporaryDirectory() as folder:
    ...     tokenize_dataset(job, folder)["rows"]
    2

    ```"""
    Path(out).mkdir(parents=True, exist_ok=True)
    write = ShardWriter(job, out, device, batch_size, say)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    mine = range(rank, write.num_shards, world_size)
    missing = [index for index in write.missing() if index in mine]
    total = sum(len(write.images_of(index)) for index in missing)
    with tqdm(total=total, desc="Images", unit="image", disable=None if rank == 0 else True) as progress:
        made = [write(index, progress) for index in missing]
    return summary(made, [write.path(index) for index in mine if index not in missing])


def summary(made: list[dict[str, int]], there: list[Path]) -> dict:
    """What a run says of the shards that it made, and of those that were there."""
    rows, codes, skipped = (sum(shard[name] for shard in made) for name in ("rows", "codes", "skipped"))
    return {
        "shards": len(made),
        "shards_there": len(there),
        "rows": rows,
        "skipped": skipped + sum(len(read_skipped(path)) for path in there),
        "mean_budget": codes / rows if rows else None,
    }


def image_ids(images: Dataset) -> list[str]:
    """The path of each image below its folder, or its row in the data."""
    if isinstance(images, Subset):
        ids = image_ids(images.dataset)
        return [ids[index] for index in images.indices]
    if isinstance(images, ImageFolder):
        return [_below(images.folder, path) for path in images.paths]
    return [str(row) for row in range(len(images))]


def _below(folder: Path, path: Path) -> str:
    """A path below a folder, as text that a table can hold: what is not UTF-8 in it is replaced."""
    return os.fsencode(path.relative_to(folder).as_posix()).decode("utf-8", "replace")


def labels_of(images: Dataset) -> tuple[list[int | None], list[str]]:
    """The class of each image, `None` where it is not known, and the names of the classes."""
    if isinstance(images, Subset):
        labels, names = labels_of(images.dataset)
        return [labels[index] for index in images.indices], names
    if isinstance(images, ImageFolder):
        parents = [_below(images.folder, path.parent) for path in images.paths]
        names = sorted({parent for parent in parents if parent != "."})
        numbers = {name: number for number, name in enumerate(names)}
        return [numbers.get(parent) for parent in parents], names
    table = images.table
    if "label" not in table.column_names:
        return [None] * len(table), []
    from datasets import ClassLabel

    if not isinstance(table.features["label"], ClassLabel):
        table = table.class_encode_column("label")
    names = list(table.features["label"].names)
    return [label if label is not None and 0 <= label < len(names) else None for label in table["label"]], names


def variants_of(image: Image.Image, job: TokenizeJob, row: int) -> list[Image.Image]:
    """The image itself, then random squares of it, the odd ones mirrored; the same for the same seed and row."""
    variants = [image]
    for variant in range(1, job.variants):
        crop = random_square(image, job.min_crop, f"{job.seed} {row} {variant}")
        variants.append(ImageOps.mirror(crop) if variant % 2 else crop)
    return variants


def codes_features(codebook_size: int, class_names: list[str]):
    """The columns as `datasets` describes them."""
    from datasets import ClassLabel, Features, List, Value

    return Features(
        {
            "image_id": Value("string"),
            "image_codes": List(Value("int16" if codebook_size <= 2**15 else "int32")),
            "budget": Value("int32"),
            "label": ClassLabel(names=class_names) if class_names else Value("int64"),
            "variant": Value("int32"),
            "model_hash": Value("string"),
            "image_hash": Value("string"),
        }
    )


def read_facts(path: Path) -> dict:
    """What a shard says of the job that made it; raises `ValueError` if it is none or damaged."""
    _, parquet = import_pyarrow()
    try:
        check_parquet(path)
    except ValueError as error:
        raise ValueError(f"{first_line(error)} Delete it, and it will be made again.") from error
    metadata = parquet.read_schema(path).metadata or {}
    if FORMAT.encode() not in metadata:
        raise ValueError(f"{path} holds no {FORMAT} metadata, so `adatok tokenize-dataset` did not make it.")
    try:
        facts = json.loads(metadata[FORMAT.encode()])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The metadata of {path} are damaged: {first_line(error)}") from error
    for name, kind in FACTS.items():
        found = facts.get(name) if isinstance(facts, dict) else None
        if type(found) is not kind or kind is int and found < 1:
            raise ValueError(f"The metadata of {path} are damaged: {name} is {found!r}.")
    return facts


def read_skipped(path: Path) -> dict[str, str]:
    """Ids of the images that a shard should have and has not, and why."""
    _, parquet = import_pyarrow()
    return json.loads(parquet.read_schema(path).metadata.get(SKIPPED.encode(), "{}"))


def count(path: Path) -> dict[str, int]:
    """The `rows` and `codes` of a shard and its `skipped` images."""
    _, parquet = import_pyarrow()
    budgets = parquet.read_table(path, columns=["budget"])["budget"].to_pylist()
    return {"rows": len(budgets), "codes": sum(budgets), "skipped": len(read_skipped(path))}


def check_shards(out: Path, facts: dict, planned: list[Path]) -> set[Path]:
    """The shards in a folder; raises `ValueError` if one of its parquet files does not belong to the job."""
    there = sorted(path for path in out.glob("*.parquet") if not is_temporary(path.name))
    planned = set(planned)
    for path in there:
        found = read_facts(path)
        different = [name for name in facts if found.get(name) != facts[name]]
        if different or path not in planned:
            name = different[0] if different else "number of shards"
            raise ValueError(
                f"{out} holds shards of another job, of another {name}; name another folder, or empty this one."
            )
    return set(there)


__all__ = ["ShardWriter", "TokenizeJob", "read_facts", "read_skipped", "tokenize_dataset"]
