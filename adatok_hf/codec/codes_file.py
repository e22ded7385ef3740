"""Files of image codes: safetensors, Parquet or JSON, bound to the model that made them."""

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..files import first_line, whole_file
from ..parquet import check_parquet, import_pyarrow


SUFFIXES = (".safetensors", ".parquet", ".json")
FORMAT = "adatok-image-codes"
TENSORS = ("image_codes", "budgets", "original_sizes")
MAX_GROWTH = 256  # codes that a byte of a Parquet or JSON file may stand for: beyond the budget they cost nothing
MAX_NUMBER = 2**31 - 2  # codes and the pad code are stored in 32 bits
MIN_LIMIT = 2**24
FACTS = {"model": str, "model_hash": str, "image_size": int, "codebook_size": int}


@dataclass
class ImageCodes:
    r"""
    The codes of some images and where they come from.

    Args:
        image_codes (`torch.LongTensor` of shape `(images, num_latent_tokens)`):
            Ids in `0 .. codebook_size - 1`, most important first; the pad code `codebook_size` beyond the budget.
        budgets (`torch.LongTensor` of shape `(images,)`):
            How many leading codes are kept, in `1 .. num_latent_tokens`.
        original_sizes (`torch.LongTensor` of shape `(images, 2)`):
            Height and width in pixels of the pictures before preprocessing.
        file_names (`list[str]`):
            Names of the pictures, relative to the folder they were found in.
        model (`str`):
            Folder or Hub id of the model that made the codes.
        model_hash (`str`):
            Its fingerprint, see [`~adatok_hf.checkpoint.model_hash`].
        image_size (`int`):
            Height and width in pixels of the pictures that decoding gives.
        codebook_size (`int`):
            Number of entries in the codebook.

    Raises:
        `ValueError`: if the shapes do not agree, a budget is out of range, a code inside its budget is out of range or
            the pad code.

    Example:

    ```python
    >>> import torch
    >>> from adatok_hf.codec.codes_file import ImageCodes

    >>> codes = ImageCodes(
    ...     image_codes=torch.tensor([[5, 0, 8, 8]]),
    ...     budgets=torch.tensor([2]),
    ...     original_sizes=torch.tensor([[48, 64]]),
    ...     file_names=["cat.png"],
    ...     model="someone/a-model",
    ...     model_hash="0" * 64,
    ...     image_size=32,
    ...     codebook_size=8,
    ... )
    >>> len(codes)
    1

    ```"""

    image_codes: torch.LongTensor
    budgets: torch.LongTensor
    original_sizes: torch.LongTensor
    file_names: list[str]
    model: str
    model_hash: str
    image_size: int
    codebook_size: int

    def __post_init__(self):
        for name in self.file_names:
            if not isinstance(name, str):
                raise ValueError(f"Every file name must be text; got {str(name)[:100]}.")
        images = len(self.file_names)
        if self.image_codes.ndim != 2 or (self.image_codes.shape[0], *self.budgets.shape) != (images, images):
            raise ValueError(
                f"{images} file names need as many rows of codes and budgets; got codes of shape "
                f"{tuple(self.image_codes.shape)} and budgets of shape {tuple(self.budgets.shape)}."
            )
        if self.original_sizes.shape != (images, 2):
            raise ValueError(f"original_sizes must have shape ({images}, 2); got {tuple(self.original_sizes.shape)}.")
        limit = self.image_codes.shape[1]
        if not ((self.budgets >= 1) & (self.budgets <= limit)).all():
            bad = self.budgets[(self.budgets < 1) | (self.budgets > limit)][0]
            raise ValueError(f"Every budget must lie between 1 and {limit}; got {bad}.")
        inside = torch.arange(limit) < self.budgets[:, None]
        bad = inside & ((self.image_codes < 0) | (self.image_codes >= self.codebook_size))
        for row, column in bad.nonzero()[:1].tolist():
            code = self.image_codes[row, column].item()
            name = "the pad code" if code == self.codebook_size else "the code"
            raise ValueError(
                f"{self.file_names[row]!r} has {name} {code} at place {column} inside its budget of "
                f"{self.budgets[row]}; codes there must lie between 0 and {self.codebook_size - 1}."
            )

    def __len__(self) -> int:
        return len(self.file_names)

    def save(self, path: str | Path):
        """
        Writes the file whole or not at all.

        Args:
            path (`str` or `Path`): Its name, ending in `.safetensors`, `.parquet` or `.json`.

        Raises:
            `ValueError`: for another ending. `ImportError`: for Parquet without pyarrow.
        """
        check_codes_path(path)
        write = {".parquet": self._save_parquet, ".json": self._save_json}.get(
            Path(path).suffix, self._save_safetensors
        )
        with whole_file(path) as temporary:
            write(temporary)

    def to_bytes(self, suffix: str) -> bytes:
        """
        What a file with that ending would hold.

        Args:
            suffix (`str`): `.safetensors`, `.parquet` or `.json`.

        Raises:
            As [`ImageCodes.save`].
        """
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"codes{suffix}"
            self.save(path)
            return path.read_bytes()

    @classmethod
    def load(cls, path: str | Path, max_images: int | None = None, max_codes: int | None = None) -> "ImageCodes":
        """
        Reads a file that [`ImageCodes.save`] wrote.

        Args:
            path (`str` or `Path`): Its name, ending in `.safetensors`, `.parquet` or `.json`.
            max_images, max_codes (`int`, *optional*): Refuse more pictures, or more latent tokens, before they take
                memory: for files of strangers.

        Raises:
            `ValueError`: if the file is missing, damaged, made by something else, or holds codes out of range or more
                than is allowed.
        """
        path = Path(path)
        check_codes_path(path)
        if not path.is_file():
            raise ValueError(f"No codes file at {path}; `adatok encode` makes one.")
        read = {".parquet": _load_parquet, ".json": _load_json}.get(path.suffix, _load_safetensors)
        tensors, facts = read(path, Limits(max_images, max_codes))
        try:
            return cls(**tensors, **facts)
        except ValueError as error:
            raise ValueError(f"{path} is not a valid codes file: {error}") from error

    def _facts(self) -> dict:
        return {name: value for name, value in vars(self).items() if name in FACTS}

    def _save_safetensors(self, path: Path):
        tensors = {name: vars(self)[name].to("cpu", torch.int32).contiguous() for name in TENSORS}
        save_file(tensors, path, metadata={FORMAT: json.dumps(self._facts() | {"file_names": self.file_names})})

    def _save_json(self, path: Path):
        rows = zip(self.file_names, self.image_codes.tolist(), self.budgets.tolist(), self.original_sizes.tolist())
        images = [
            {"file_name": name, "height": height, "width": width, "image_codes": codes[:budget]}
            for name, codes, budget, (height, width) in rows
        ]
        facts = {"format": FORMAT} | self._facts() | {"num_latent_tokens": self.image_codes.shape[1]}
        path.write_text(json.dumps(facts | {"images": images}, ensure_ascii=False), encoding="utf-8")

    def _save_parquet(self, path: Path):
        arrow, parquet = import_pyarrow()
        rows = zip(self.file_names, self.image_codes.tolist(), self.budgets.tolist(), self.original_sizes.tolist())
        table = arrow.Table.from_pylist(
            [
                {"file_name": name, "image_codes": codes[:budget], "budget": budget, "height": height, "width": width}
                for name, codes, budget, (height, width) in rows
            ],
            schema=_parquet_schema(arrow),
        )
        facts = self._facts() | {"num_latent_tokens": self.image_codes.shape[1]}
        parquet.write_table(table.replace_schema_metadata({FORMAT: json.dumps(facts)}), path)


def check_codes_path(path: str | Path):
    """Raises `ValueError` for a name that is no codes file's, `ImportError` for Parquet without pyarrow."""
    suffix = Path(path).suffix
    if suffix not in SUFFIXES:
        raise ValueError(f"A codes file must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}; got {str(path)!r}.")
    if suffix == ".parquet":
        import_pyarrow()


def _parquet_schema(arrow):
    return arrow.schema(
        [
            ("file_name", arrow.string()),
            ("image_codes", arrow.list_(arrow.int32())),
            ("budget", arrow.int32()),
            ("height", arrow.int32()),
            ("width", arrow.int32()),
        ]
    )


def _parse_facts(path: Path, text: str | bytes | None, types: dict[str, type]) -> dict:
    """Reads the JSON metadata and checks that the wanted values are there, of the wanted types."""
    if text is None:
        raise ValueError(f"{path} holds no {FORMAT} metadata, so `adatok encode` did not make it.")
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The metadata of {path} are damaged ({first_line(error).rstrip('.')}).") from error
    return _check_facts(path, facts, types)


def _check_facts(path: Path, facts, types: dict[str, type]) -> dict:
    for name, kind in types.items():
        if not isinstance(facts, dict) or type(facts.get(name)) is not kind:  # a bool is no number here
            raise ValueError(f"The metadata of {path} are damaged: {name} must be given as {kind.__name__}.")
        if kind is int and not 1 <= facts[name] <= MAX_NUMBER:
            raise ValueError(f"The metadata of {path} are damaged: {name} is {facts[name]}.")
    return {name: facts[name] for name in types}


@dataclass(frozen=True)
class Limits:
    """How many pictures a file may hold, and codes of each, `None` for any number."""

    images: int | None
    codes: int | None

    def check(self, path: Path, images: int, codes: int):
        """Raises `ValueError` for a file that announces more, or far more than its size can mean."""
        for name, number, most in (("pictures", images, self.images), ("codes of each picture", codes, self.codes)):
            if most is not None and number > most:
                raise ValueError(f"{path} holds {number:,} {name}; at most {most:,} are taken here.")
        limit = MAX_GROWTH * path.stat().st_size + MIN_LIMIT
        if images * codes > limit:
            raise ValueError(f"{path} announces {images * codes:,} codes; a file of its size holds at most {limit:,}.")


def _load_safetensors(path: Path, limits: Limits) -> tuple[dict[str, torch.Tensor], dict]:
    try:
        with safe_open(path, framework="pt") as file:
            facts = _parse_facts(path, (file.metadata() or {}).get(FORMAT), FACTS | {"file_names": list})
            shape = file.get_slice("image_codes").get_shape()
            limits.check(path, *(shape if len(shape) == 2 else (0, 0)))
            tensors = {name: file.get_tensor(name) for name in TENSORS}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is truncated, damaged or no codes file: {first_line(error)}") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8):
            raise ValueError(f"{name} in {path} must be integers; got {tensor.dtype}.")
    return {name: tensor.long() for name, tensor in tensors.items()}, facts


def _load_json(path: Path, limits: Limits) -> tuple[dict, dict]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        reason = first_line(error).rstrip(".")
        raise ValueError(f"{path} is truncated, damaged or no codes file: {reason}.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} holds no {FORMAT} metadata, so `adatok encode` did not make it.")
    facts = _check_facts(path, content, FACTS | {"num_latent_tokens": int, "images": list})
    images, limit = facts.pop("images"), facts.pop("num_latent_tokens")
    limits.check(path, len(images), limit)
    codes = torch.full((len(images), limit), facts["codebook_size"])
    for kept, row in zip(codes, images):
        _check_json_row(path, row, limit)
        kept[: len(row["image_codes"])] = torch.tensor(row["image_codes"])
    tensors = {
        "image_codes": codes,
        "budgets": torch.tensor([len(row["image_codes"]) for row in images], dtype=torch.long),
        "original_sizes": torch.tensor([(row["height"], row["width"]) for row in images]).long().reshape(-1, 2),
    }
    return tensors, facts | {"file_names": [row["file_name"] for row in images]}


def _check_json_row(path: Path, row, limit: int):
    """Raises `ValueError` for a row that is none, or whose numbers are none or too large to be stored."""
    codes = row.get("image_codes") if isinstance(row, dict) else None
    if not isinstance(codes, list) or not 1 <= len(codes) <= limit:
        raise ValueError(f"{path} is damaged: every image has 1 to {limit} image_codes in a list.")
    for number in (*codes, row.get("height"), row.get("width")):
        if type(number) is not int or abs(number) > MAX_NUMBER:
            raise ValueError(
                f"{path} is damaged: image_codes, height and width are whole numbers; got {number!r:.50}."
            )
    if not isinstance(row.get("file_name"), str):
        raise ValueError(f"{path} is damaged: every image has a file_name.")


def _load_parquet(path: Path, limits: Limits) -> tuple[dict, dict]:
    arrow, parquet = import_pyarrow()
    check_parquet(path)
    try:
        metadata = parquet.read_metadata(path)
        text = (metadata.metadata or {}).get(FORMAT.encode())
        facts = _parse_facts(path, text, FACTS | {"num_latent_tokens": int})
        limit = facts.pop("num_latent_tokens")
        limits.check(path, metadata.num_rows, limit)
        schema = _parquet_schema(arrow)
        table = parquet.read_table(path).select(schema.names).cast(schema).combine_chunks()
        names = table["file_name"].to_pylist()
    except (arrow.ArrowException, KeyError, OSError) as error:
        raise ValueError(f"{path} is truncated, damaged or no codes file: {first_line(error)}") from error
    prefixes = arrow.concat_arrays(table["image_codes"].chunks or [arrow.array([], schema.field("image_codes").type)])
    if any(column.null_count for column in (*table.columns, prefixes.values)):
        raise ValueError(f"{path} has empty cells; every image needs a name, codes, a budget and a size.")
    budgets, heights, widths, lengths, kept = (
        torch.from_numpy(column.to_numpy().astype("int64"))
        for column in (table["budget"], table["height"], table["width"], prefixes.value_lengths(), prefixes.flatten())
    )
    for row in ((lengths != budgets) | (budgets > limit)).nonzero()[:1].flatten().tolist():
        raise ValueError(
            f"{path} gives {names[row]!r} {lengths[row]} codes under a budget of {budgets[row]}; they must be equal "
            f"and at most {limit}."
        )
    codes = torch.full((table.num_rows, limit), facts["codebook_size"])
    codes[torch.arange(limit) < budgets[:, None]] = kept
    sizes = torch.stack([heights, widths], dim=1)
    return {"image_codes": codes, "budgets": budgets, "original_sizes": sizes}, facts | {"file_names": names}


__all__ = ["ImageCodes", "check_codes_path"]
