"""Parquet files that anyone may have made: judged by what their footers announce before they are read."""

from collections.abc import Iterator
from itertools import accumulate, islice
from pathlib import Path

from .extras import require
from .files import first_line


MAX_GROWTH = 64  # bytes in memory that a byte of a file may stand for
MIN_LIMIT = 2**26
BATCH_BYTES = 2**26
WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 8}
DELTA = "DELTA_BYTE_ARRAY"
REPEATING = {"RLE_DICTIONARY", "PLAIN_DICTIONARY", DELTA}  # encodings that make long values of a few bytes


def import_pyarrow():
    """Imports the optional pyarrow and its Parquet module."""
    require("train", "pyarrow")
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet

    return pyarrow, pyarrow.parquet


def check_parquet(source: str | Path):
    """
    Refuses Parquet files that would take far more memory than they have bytes: a dictionary or run lengths make
    gigabytes of one picture, or of one number, that is repeated. Values are counted, a few at a time, only where the
    longest of them leaves it open whether that is so.

    Args:
        source (`str` or `Path`): A file, a glob, or what else `fsspec` opens.

    Raises:
        `ValueError`: if a file is such, is damaged, or is not there. `ImportError`: without pyarrow.

    Example:

    ```python
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import pyarrow
    >>> from pyarrow.parquet import write_table
    >>> from adatok_hf.parquet import check_parquet

    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "zeros.parquet"
    ...     write_table(pyarrow.table({"image_codes": pyarrow.array([[0] * 20_000_000])}), path)
    ...     try:
    ...         check_parquet(path)
    ...     except ValueError as error:
    ...         print(str(error).partition("; ")[2])
    it repeats its values beyond measure.

    ```"""
    import_pyarrow()
    try:
        refusal = _find_bomb(str(source))
    # A damaged file may fail anywhere in its reader, an address in that of its protocol, and in any way.
    except Exception as error:
        raise ValueError(f"{source} cannot be read as Parquet: {first_line(error)}") from error
    if refusal is not None:
        raise ValueError(refusal)


def _find_bomb(source: str) -> str | None:
    """What is wrong with the first file that expands beyond measure."""
    import fsspec

    for opener in fsspec.open_files(source, expand=not Path(source).is_file()):  # a file's name is no pattern
        with opener as file:
            size = file.seek(0, 2)
            limit = MAX_GROWTH * size + MIN_LIMIT
            sizes = (accumulate(_expanded_sizes(file, is_counted)) for is_counted in (False, True))
            if not any(all(total <= limit for total in totals) for totals in sizes):
                return (
                    f"{opener.path} has {size:,} bytes but expands to more than {limit:,}; it repeats its values "
                    "beyond measure."
                )
    return None


def _expanded_sizes(file, is_counted: bool) -> Iterator[int]:
    """Bytes of the values of a file, part by part: counted, or the most that they can be."""
    arrow, parquet = import_pyarrow()
    footer = parquet.read_metadata(file)
    for group in range(footer.num_row_groups):
        for leaf in range(footer.num_columns):
            chunk, column = footer.row_group(group).column(leaf), footer.schema.column(leaf)
            stored, values = max(chunk.total_uncompressed_size, 1), max(chunk.num_values, 0)
            yield stored + values * WIDTHS.get(chunk.physical_type, column.length)
            if chunk.physical_type != "BYTE_ARRAY" or not REPEATING & set(chunk.encodings):
                continue
            if is_counted:
                rows = max(BATCH_BYTES // stored, 1) if DELTA in chunk.encodings else 1024
                for _, lengths in _lengths(file, group, chunk, rows):
                    yield arrow.compute.sum(lengths).as_py() or 0
            elif DELTA in chunk.encodings:
                yield values * stored  # no value is longer than all that is stored
            else:
                for lengths, _ in islice(_lengths(file, group, chunk, 1), 1):
                    yield values * (arrow.compute.max(lengths).as_py() or 0)


def _lengths(file, group: int, chunk, rows: int) -> Iterator[tuple]:
    """Of some rows after the other: the lengths of all values in the dictionary, and of those in the rows."""
    arrow, parquet = import_pyarrow()
    path, is_delta = chunk.path_in_schema, DELTA in chunk.encodings
    source = parquet.ParquetFile(file, read_dictionary=None if is_delta else [path], buffer_size=2**20)
    for batch in source.iter_batches(rows, row_groups=[group], columns=[path]):
        values = batch.column(0)
        while arrow.types.is_nested(values.type):
            values = values.field(0) if arrow.types.is_struct(values.type) else values.flatten()
        lengths = arrow.compute.binary_length(values if is_delta else values.dictionary)
        yield lengths, lengths if is_delta else lengths.take(values.indices)


__all__ = ["check_parquet", "import_pyarrow"]
