"""The reward table: how faithful each image is at each candidate budget, computed once for all that follows."""

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from ..checkpoint import model_hash
from ..data import read_images
from ..files import first_line, read_json, whole_file, write_json
from ..metrics.budgets import measure_budgets
from ..modeling import AdaTokImageProcessor, AdaTokModel
from ..parquet import check_parquet, import_pyarrow


INFO_NAME = "table.json"
WEBP_QUALITY = 80


@dataclass
class RewardTableInfo:
    """
    What a reward table was made of.

    Args:
        model (`str`): Folder or Hub id of the model.
        model_hash (`str`): Its fingerprint without the policy, see [`~adatok_hf.checkpoint.model_hash`].
        data (`str`): The images, as they were named.
        num_images (`int`): How many; in the file also those that could not be read.
        budgets (`list[int]`): The budgets of the columns, ascending.
        num_latent_tokens (`int`): The full budget N.
        images_per_part (`int`): Rows of a Parquet file.
        perceptual_net (`str`): Backbone of LPIPS.
        mirrored (`bool`, *optional*, defaults to `False`): Whether the mirror images were measured.
    """

    model: str
    model_hash: str
    data: str
    num_images: int
    budgets: list[int]
    num_latent_tokens: int
    images_per_part: int
    perceptual_net: str
    mirrored: bool = False


class RewardTable:
    r"""
    A finished table, in memory.

    Attributes:
        info ([`RewardTableInfo`]): Where it comes from.
        budgets (`torch.LongTensor` of shape `(budgets,)`): Those of the columns, ascending.
        features (`torch.FloatTensor` of shape `(images, 2 * hidden_size)`): What the policy sees.
        lpips, mse, psnr (`torch.FloatTensor` of shape `(images, budgets)`):
            Of the clipped and rounded reconstructions: LPIPS, mean squared error of values in [-1, 1], PSNR in dB.
        webp_bytes (`torch.LongTensor` of shape `(images,)`): Size of the picture as WebP of quality 80.
        gradient_energy (`torch.FloatTensor` of shape `(images,)`): See [`gradient_energy`].
        groups (`list[str]`): Kind of each image, `""` if unknown.
        image_hashes (`list[str]`): Fingerprint of the pixels of each image, of the mirrored ones too as they were.

    Example:

    ```python
    >>> import torch
    >>> from adatok_hf import AdaTokConfig, AdaTokImageProcessor, AdaTokModel
    >>> from adatok_hf.allocation.reward_table import RewardTable, build_reward_table
    >>> from PIL import Image
    >>> from tempfile import TemporaryDirectory

    >>> config = AdaTokConfig(image_size=32, patch_size=8, hidden_size=32, num_attention_heads=2, budgets=[64, 256])
    >>> processor = AdaTokImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    >>> images = [{"image": Image.new("RGB", (32, 32), color)} for color in ("white", "teal", "navy")]
    >>> distance = lambda first, second: (first - second).abs().mean(dim=(1, 2, 3))  # or load_lpips()
    >>> with TemporaryDirectory() as folder:
    ...     skipped = build_reward_table(AdaTokModel(config).eval(), processor, images, distance, folder)
    ...     table = RewardTable.load(folder)
    >>> table.psnr.shape, table.budgets.tolist()
    (torch.Size([3, 2]), [64, 256])

    ```"""

    def __init__(self, info: RewardTableInfo, columns: dict):
        self.info = info
        self.budgets = torch.tensor(info.budgets)
        self.features = torch.as_tensor(columns["features"])
        self.lpips = torch.as_tensor(columns["lpips"])
        self.mse = torch.as_tensor(columns["mse"])
        self.psnr = torch.as_tensor(columns["psnr"])
        self.webp_bytes = torch.as_tensor(columns["webp_bytes"])
        self.gradient_energy = torch.as_tensor(columns["gradient_energy"])
        self.groups: list[str] = list(columns["group"])
        self.image_hashes: list[str] = list(columns["image_hash"])

    @classmethod
    def load(cls, folder: str | Path, model: AdaTokModel | None = None) -> "RewardTable":
        """
        Reads a finished table.

        Args:
            folder (`str` or `Path`): Where [`build_reward_table`] wrote it.
            model ([`AdaTokModel`], *optional*): The model it must have been made by; policies may differ.

        Raises:
            `ValueError`: if there is no table, it is not finished, it is damaged, it holds NaN, or another model's.
        """
        from datasets import Dataset as ArrowDataset
        from datasets.exceptions import DatasetGenerationError

        folder = Path(folder)
        info = read_info(folder)
        if model is not None and info.model_hash != model_hash(model):
            raise ValueError(
                f"The reward table {folder} was made by {info.model!r}, whose weights are not those of this model; "
                "make a new table in another folder."
            )
        count = count_parts(info)
        paths = sorted(folder.glob(f"part-*-of-{count:05d}.parquet"))
        if len(paths) < count:
            raise ValueError(
                f"The reward table {folder} is not finished: {count - len(paths)} of {count} parts are missing. Start "
                "`adatok reward-table` again, it goes on where it stopped."
            )
        for path in paths:
            check_parquet(path)
        try:
            columns = ArrowDataset.from_parquet([str(path) for path in paths]).with_format("torch")[:]
            table = cls(info, columns)
        except (OSError, KeyError, ValueError, DatasetGenerationError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise ValueError(f"The reward table {folder} is damaged ({reason}); delete and rebuild it.") from error
        if len(table) == 0:
            raise ValueError(f"None of the {info.num_images} images of the reward table {folder} could be read.")
        info.num_images = len(table)
        table.check()
        return table

    def check(self):
        """Raises `ValueError` if a value is NaN or infinite, or the columns do not fit the description."""
        expected = (self.info.num_images, len(self.info.budgets))
        for name in ("lpips", "mse", "psnr"):
            values = getattr(self, name)
            if tuple(values.shape) != expected:
                raise ValueError(f"{name} of the reward table must have shape {expected}; got {tuple(values.shape)}.")
            bad = (~torch.isfinite(values)).nonzero()
            if len(bad):
                row, column = bad[0].tolist()
                raise ValueError(
                    f"The reward table holds {values[row, column]} as {name} of image {row} at budget "
                    f"{self.info.budgets[column]}; rewards must be finite. Rebuild the table."
                )
        if not torch.isfinite(self.features).all():
            raise ValueError("The reward table holds features that are not finite; rebuild it.")

    def __len__(self) -> int:
        return len(self.features)

    def fidelity(self, mse_weight: float = 1.0) -> torch.Tensor:
        """The fidelity reward `-(LPIPS + mse_weight * MSE)`, shape `(images, budgets)`."""
        return -(self.lpips + mse_weight * self.mse)

    def means_at(self, columns: torch.LongTensor) -> dict[str, float]:
        """`mean_budget` in codes, `lpips` and `psnr` in dB, means over the images at `(images,)` positions."""
        rows = torch.arange(len(self))
        values = {"mean_budget": self.budgets[columns].float(), "lpips": self.lpips[rows, columns]}
        values["psnr"] = self.psnr[rows, columns]
        return {name: value.mean().item() for name, value in values.items()}

    def columns(self, budgets: Sequence[int]) -> torch.LongTensor:
        """Positions of some budgets among the columns; `ValueError` where the table lacks one."""
        missing = sorted(set(budgets) - set(self.info.budgets))
        if missing:
            raise ValueError(f"The reward table has the budgets {self.info.budgets}, but not {missing}.")
        return torch.tensor([self.info.budgets.index(budget) for budget in budgets])

    def select(self, rows: Sequence[int] | torch.Tensor | None = None, budgets: Sequence[int] | None = None):
        """A smaller `RewardTable` of some rows (indices or a mask), some budgets, or both."""
        rows = torch.arange(len(self)) if rows is None else torch.as_tensor(rows)
        rows = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        columns = self.columns(budgets if budgets is not None else self.info.budgets)
        info = RewardTableInfo(
            **asdict(self.info) | {"num_images": len(rows), "budgets": self.budgets[columns].tolist()}
        )
        return RewardTable(
            info,
            {
                "features": self.features[rows],
                **{name: getattr(self, name)[rows][:, columns] for name in ("lpips", "mse", "psnr")},
                "webp_bytes": self.webp_bytes[rows],
                "gradient_energy": self.gradient_energy[rows],
                "group": [self.groups[row] for row in rows.tolist()],
                "image_hash": [self.image_hashes[row] for row in rows.tolist()],
            },
        )


def read_info(folder: Path) -> RewardTableInfo:
    """Reads the description of a table, finished or not; `ValueError` if there is none."""
    path = Path(folder) / INFO_NAME
    if not path.is_file():
        raise ValueError(
            f"There is no reward table in {folder}: it has no {INFO_NAME}. Make one: adatok reward-table."
        )
    try:
        info = RewardTableInfo(**read_json(path))
        numbers = [info.num_images, info.images_per_part, info.num_latent_tokens, *info.budgets]
    except TypeError as error:
        raise ValueError(f"{path} is damaged: {first_line(error)}") from error
    for number in numbers:
        if type(number) is not int or number < 1:
            raise ValueError(f"{path} is damaged: its numbers are whole and above 0; got {number!r}.")
    return info


def count_parts(info: RewardTableInfo) -> int:
    """How many Parquet files a finished table has."""
    return -(-info.num_images // info.images_per_part)


def part_paths(folder: Path, info: RewardTableInfo) -> list[Path]:
    """The Parquet files of a table, whether written or not."""
    count = count_parts(info)
    return [Path(folder) / f"part-{index:05d}-of-{count:05d}.parquet" for index in range(count)]


def build_reward_table(
    model: AdaTokModel,
    processor: AdaTokImageProcessor,
    dataset: Dataset,
    lpips: nn.Module,
    folder: str | Path,
    *,
    budgets: Sequence[int] | None = None,
    batch_size: int = 16,
    images_per_part: int = 512,
    mirrored: bool = False,
    model_name: str = "",
    data_name: str = "",
    perceptual_net: str = "alex",
    warn: Callable[[str], object] = print,
) -> int:
    """
    Decodes every image at every budget and stores how faithful the result is, as Parquet files for `datasets`.

    A table that was cut off goes on where it stopped, once the finished parts have proved to be of the same images:
    their pixels are read again, which takes a small part of the time of measuring them. Several processes share the
    work when started by `accelerate launch` or `torchrun`.

    Args:
        model ([`AdaTokModel`]): In evaluation mode.
        processor ([`AdaTokImageProcessor`]): The model's image processor.
        dataset (`Dataset`): Items with a PIL picture under `"image"` and perhaps its kind under `"group"`.
        lpips (`nn.Module`):
            Maps two batches in [-1, 1] to distances, see [`~adatok_hf.metrics.perceptual.load_lpips`].
        folder (`str` or `Path`): Where to; made if need be.
        budgets (`Sequence[int]`, *optional*): Any budgets; the candidates if not given.
        batch_size (`int`, *optional*, defaults to 16): Images decoded together; few, so that a CPU's cache holds them.
        images_per_part (`int`, *optional*, defaults to 512): How many images are redone at most after a cut.
        mirrored (`bool`, *optional*, defaults to `False`): Measure the mirror images instead.
        model_name, data_name, perceptual_net (`str`, *optional*): For the description.
        warn (`Callable`, *optional*): Takes a sentence about each image that cannot be read, which is left out.

    Returns:
        `int`: how many images this process has left out.

    Raises:
        `ValueError`: if the data are empty, a budget is out of range, or the folder holds the table of another model,
            of other images or of other budgets.
    """
    if len(dataset) == 0:
        raise ValueError(f"There are no images in {data_name or 'the dataset'}.")
    budgets = sorted(set(budgets or model.config.budgets))
    if budgets[0] < 1 or budgets[-1] > model.config.num_latent_tokens:
        raise ValueError(f"Every budget must lie between 1 and {model.config.num_latent_tokens}; got {budgets}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    info = RewardTableInfo(
        model=model_name,
        model_hash=model_hash(model),
        data=data_name,
        num_images=len(dataset),
        budgets=budgets,
        num_latent_tokens=model.config.num_latent_tokens,
        images_per_part=images_per_part,
        perceptual_net=perceptual_net,
        mirrored=mirrored,
    )
    state = PartialState()
    with state.main_process_first():
        if (folder / INFO_NAME).is_file():
            _check_same(read_info(folder), info, folder)
        else:
            write_json(folder / INFO_NAME, asdict(info))
    # Which part is whose must not depend on what is finished: every process would find something else.
    parts = list(enumerate(part_paths(folder, info)))[state.process_index :: state.num_processes]
    skipped = []

    def leave_out(sentence: str):
        skipped.append(sentence)
        warn(sentence)

    with tqdm(total=len(parts) * images_per_part, desc="Reward table", unit="image", disable=None) as progress:
        for index, path in parts:
            rows = range(index * images_per_part, min((index + 1) * images_per_part, len(dataset)))
            if path.is_file():
                _check_images(path, processor, dataset, rows, leave_out)
                progress.update(len(rows))
                continue
            batches = _measure_rows(model, processor, dataset, lpips, info, rows, batch_size, progress, leave_out)
            _write_part(path, batches)
    state.wait_for_everyone()
    return len(skipped)


def _check_same(found: RewardTableInfo, wanted: RewardTableInfo, folder: Path):
    reasons = {
        "model_hash": "another checkpoint",
        "data": "other data",
        "num_images": "another number of images",
        "budgets": "other budgets",
        "images_per_part": "parts of another size",
        "perceptual_net": "another LPIPS backbone",
        "mirrored": "pictures the other way round",
    }
    for name, reason in reasons.items():
        if getattr(found, name) != getattr(wanted, name):
            raise ValueError(
                f"{folder} holds a reward table of {reason}: {name} is {getattr(found, name)!r} there and "
                f"{getattr(wanted, name)!r} here. Name another folder."
            )


def _check_images(path: Path, processor, dataset, rows: range, warn: Callable[[str], object]):
    """Raises `ValueError` unless a finished part is of these images."""
    arrow, parquet = import_pyarrow()
    check_parquet(path)
    try:
        found = parquet.read_table(path, columns=["image_hash"])["image_hash"].to_pylist()
    except (OSError, KeyError, arrow.ArrowException) as error:
        raise ValueError(f"{path} is damaged: {first_line(error)} Delete it and start again.") from error
    images = read_images(dataset, rows, processor, warn)
    hashes = [(row, _image_hash(processor.post_process(pixel_values)[0])) for row, _, pixel_values in images]
    if len(found) != len(hashes):
        raise ValueError(f"{path} holds {len(found)} images in place of {len(hashes)}; delete it and start again.")
    for (row, image_hash), expected in zip(hashes, found):
        if image_hash != expected:
            raise ValueError(
                f"{path.parent} holds a reward table of other images: image {row} is not the one it was made of. Name "
                "another folder."
            )


def _image_hash(picture) -> str:
    return hashlib.sha256(picture.tobytes()).hexdigest()[:16]


@torch.inference_mode()
def _measure_rows(
    model,
    processor,
    dataset,
    lpips,
    info: RewardTableInfo,
    rows: range,
    batch_size: int,
    progress,
    warn: Callable[[str], object],
) -> Iterator[dict]:
    """Yields the columns of one batch after the other."""
    for start in range(rows.start, rows.stop, batch_size):
        batch = range(start, min(start + batch_size, rows.stop))
        progress.update(len(batch))
        images = list(read_images(dataset, batch, processor, warn))
        if not images:
            continue
        items, pixel_values = [item for _, item, _ in images], torch.cat([values for _, _, values in images])
        pictures = processor.post_process(pixel_values)
        pixel_values = (pixel_values.flip(-1) if info.mirrored else pixel_values).to(model.device)
        encoded = model.encode(pixel_values, budgets=model.config.num_latent_tokens, return_policy_features=True)
        measures = measure_budgets(model, encoded.image_codes, pixel_values, lpips, info.budgets)
        yield {
            "features": encoded.policy_features.float().cpu().tolist(),
            **{name: values.tolist() for name, values in measures.items()},
            "webp_bytes": [_webp_bytes(picture) for picture in pictures],
            "gradient_energy": gradient_energy(pixel_values).tolist(),
            "group": [item.get("group", "") for item in items],
            "image_hash": [_image_hash(picture) for picture in pictures],
        }


def gradient_energy(pixel_values: torch.Tensor) -> torch.Tensor:
    """
    Mean squared difference of pixels side by side, plus that of pixels one above the other.

    Args:
        pixel_values (`torch.FloatTensor` of shape `(batch, 3, height, width)`): In [-1, 1].

    Returns:
        `torch.FloatTensor` of shape `(batch,)`: From 0 for one colour to 8 for a chessboard of black and white pixels.

    Example:

    ```python
    >>> import torch
    >>> from adatok_hf.allocation.reward_table import gradient_energy

    >>> stripes = torch.tensor([-1.0, 1.0]).repeat(1, 3, 8, 4)
    >>> gradient_energy(stripes)
    tensor([4.])

    ```"""
    across, down = (pixel_values.diff(dim=dim).square().mean(dim=(1, 2, 3)) for dim in (-1, -2))
    return across + down


def _webp_bytes(picture) -> int:
    buffer = io.BytesIO()
    picture.save(buffer, format="webp", quality=WEBP_QUALITY)
    return buffer.tell()


def _write_part(path: Path, batches: Iterator[dict]):
    from datasets import Dataset as ArrowDataset
    from datasets import Features, List, Value

    vector = List(Value("float32"))
    features = Features(
        {name: vector for name in ("features", "lpips", "mse", "psnr")}
        | {"webp_bytes": Value("int32"), "gradient_energy": Value("float32")}
        | {"group": Value("string"), "image_hash": Value("string")}
    )
    merged: dict[str, list] = {name: [] for name in features}
    for batch in batches:
        for name, values in batch.items():
            merged[name].extend(values)
    with whole_file(path) as temporary:
        ArrowDataset.from_dict(merged, features=features).to_parquet(temporary)


__all__ = ["RewardTable", "RewardTableInfo", "build_reward_table", "gradient_energy"]
