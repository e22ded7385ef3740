"""Files of image codes: safetensors or Parquet, bound to the model that made them."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..files import whole_file


SUFFIXES = (".safetensors", ".parquet")
FORMAT = "adatok-image-codes"
TENSORS = ("image_codes", "budgets", "original_sizes")
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
        if not all(isinstance(name, str) for name in self.file_names):
            raise ValueError(f"Every file name must be text; got {self.file_names}.")
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
            raise ValueError(f"Every budget must lie between 1 and {limit}; got {self.budgets.tolist()}.")
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
            path (`str` or `Path`): Its name, ending in `.safetensors` or `.parquet`.

        Raises:
            `ValueError`: for another ending. `ImportError`: for Parquet without pyarrow.
        """
        check_codes_path(path)
        with whole_file(path) as temporary:
            (self._save_parquet if Path(path).suffix == ".parquet" else self._save_safetensors)(temporary)

    @classmethod
    def load(cls, path: str | Path) -> "ImageCodes":
        """
        Reads a file that [`ImageCodes.save`] wrote.

        Args:
            path (`str` or `Path`): Its name, ending in `.safetensors` or `.parquet`.

        Raises:
            `ValueError`: if the file is missing, damaged, made by something else, or holds codes out of range.
        """
        path = Path(path)
        check_codes_path(path)
        if not path.is_file():
            raise ValueError(f"No codes file at {path}; `adatok encode` makes one.")
        tensors, facts = (_load_parquet if path.suffix == ".parquet" else _load_safetensors)(path)
        try:
            return cls(**tensors, **facts)
        except ValueError as error:
            raise ValueError(f"{path} is not a valid codes file: {error}") from error

    def _facts(self) -> dict:
        return {name: value for name, value in vars(self).items() if name in FACTS}

    def _save_safetensors(self, path: Path):
        tensors = {name: vars(self)[name].to("cpu", torch.int32).contiguous() for name in TENSORS}
        save_file(tensors, path, metadata={FORMAT: json.dumps(self._facts() | {"file_names": self.file_names})})

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
        raise ValueError(f"A codes file must end in {' or '.join(SUFFIXES)}; got {str(path)!r}.")
    if suffix == ".parquet":
        import_pyarrow()


def import_pyarrow():
    """Imports the optional pyarrow and its Parquet module."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Parquet files need pyarrow: install it, or choose a .safetensors file.") from error
    return pyarrow, pyarrow.parquet


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
    except ValueError as error:
        raise ValueError(f"The metadata of {path} are damaged ({error}).") from error
    for name, kind in types.items():
        if not isinstance(facts, dict) or not isinstance(facts.get(name), kind):
            raise ValueError(f"The metadata of {path} are damaged: {name} must be given as {kind.__name__}.")
    return {name: facts[name] for name in types}


def _load_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    try:
        with safe_open(path, framework="pt") as file:
            facts = _parse_facts(path, (file.metadata() or {}).get(FORMAT), FACTS | {"file_names": list})
            tensors = {name: file.get_tensor(name) for name in TENSORS}
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated, damaged or no codes file ({error}).") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() or tensor.dtype == torch.bool:
            raise ValueError(f"{name} in {path} must be integers; got {tensor.dtype}.")
    return {name: tensor.long() for name, tensor in tensors.items()}, facts


def _load_parquet(path: Path) -> tuple[dict, dict]:
    arrow, parquet = import_pyarrow()
    try:
        table = parquet.read_table(path)
        facts = _parse_facts(
            path, (table.schema.metadata or {}).get(FORMAT.encode()), FACTS | {"num_latent_tokens": int}
        )
        table = table.select(_parquet_schema(arrow).names).cast(_parquet_schema(arrow))
    except (arrow.ArrowException, KeyError) as error:
        raise ValueError(f"{path} is truncated, damaged or no codes file ({error}).") from error
    columns = table.to_pydict()
    if any(None in values for values in columns.values()):
        raise ValueError(f"{path} has empty cells; every image needs a name, codes, a budget and a size.")
    limit = facts.pop("num_latent_tokens")
    if not 1 <= limit <= 2**16:  # allocated below: a damaged number must not claim all memory
        raise ValueError(f"The metadata of {path} are damaged: num_latent_tokens is {limit}.")
    codes = torch.full((table.num_rows, limit), facts["codebook_size"])
    for row, (prefix, budget) in enumerate(zip(columns["image_codes"], columns["budget"])):
        if len(prefix) != budget or budget > limit:
            raise ValueError(
                f"{path} gives {columns['file_name'][row]!r} {len(prefix)} codes under a budget of {budget}; they "
                f"must be equal and at most {limit}."
            )
        codes[row, :budget] = torch.tensor(prefix)
    sizes = torch.tensor(list(zip(columns["height"], columns["width"]))).reshape(-1, 2)
    facts["file_names"] = columns["file_name"]
    return {"image_codes": codes, "budgets": torch.tensor(columns["budget"]), "original_sizes": sizes}, facts


__all__ = ["ImageCodes", "check_codes_path"]
