"""Images that are read from their files as they come, for data that no machine holds: shuffled, and found again."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from .data import (
    ImageFileError,
    check_min_crop,
    decode_cell,
    find_tables,
    generator_of,
    load_table,
    picture_column,
    random_square,
)
from .extras import require
from .files import first_line


ROWS_AT_ONCE = 16


class ImageStream(IterableDataset):
    """
    The images of a table in random order and random squares, without end: epoch follows epoch.

    In each epoch the files are shuffled and dealt out to the readers, which are the workers of the data loaders of all
    processes. A reader takes its files one after another, `window` images at a time, and shuffles these. Order and
    squares depend on the seed, the epoch and the place in the files alone, so few numbers are a place to go on from,
    and going on costs no more than reading the window and the file it begins in up to there, undecoded. An image that
    cannot be read is passed over.

    Args:
        table (`datasets.IterableDataset`): With a column of pictures.
        column (`str`): Name of the column.
        source (`str`): What to call the table.
        warn (`Callable`): Takes a sentence about each image that cannot be read, when it is met for the first time.
        window (`int`, *optional*, defaults to 1000): How many images a reader shuffles, and holds as bytes.
        min_crop (`float`, *optional*, defaults to 1.0): Of the squares, see [`~adatok_hf.data.RandomCrops`].
        seed (`int`, *optional*, defaults to 0): Of files, windows and squares.
        process (`tuple[int, int]`, *optional*, defaults to `(0, 1)`): Which process of how many this one is.
        workers (`int`, *optional*, defaults to 0): Those of the data loader.

    Attributes:
        places (`torch.LongTensor` of shape `(readers, 4)`):
            Where each reader of this process begins: epoch, file of its epoch, row, and image of the window there.
        next_reader (`int`): Whose turn it is.

    Raises:
        `ValueError`: if `window` or `min_crop` is out of its range, or if there are fewer files than readers.
    """

    def __init__(
        self,
        table,
        column: str,
        source: str,
        warn: Callable[[str], object],
        window: int = 1000,
        min_crop: float = 1.0,
        seed: int = 0,
        process: tuple[int, int] = (0, 1),
        workers: int = 0,
    ):
        check_min_crop(min_crop)
        if window < 1:
            raise ValueError(f"shuffle_window must be at least 1; got {window}.")
        self.readers = max(workers, 1)
        self.first, self.all_readers = process[0] * self.readers, process[1] * self.readers
        if table.num_shards < self.all_readers:
            table = table.reshard()  # by row groups
        if table.num_shards < self.all_readers:
            raise ValueError(
                f"{source!r} has {table.num_shards} files or row groups for {self.all_readers} readers; take fewer "
                "processes or fewer --dataloader_num_workers, or make more files."
            )
        self.table, self.column, self.source, self.warn = table, column, source, warn
        self.window, self.min_crop, self.seed = window, min_crop, seed
        self.places, self.next_reader = torch.zeros(self.readers, 4, dtype=torch.long), 0

    def __iter__(self) -> Iterator[dict[str, Image.Image | torch.Tensor]]:
        """Gives each image with the `reader` that read it, and the `place` after it."""
        worker = get_worker_info()
        # Batches come from the workers in turn, beginning with the first.
        reader = ((worker.id if worker is not None else 0) + self.next_reader) % self.readers
        epoch, file, row, offset = self.places[reader].tolist()
        is_whole = file == row == offset == 0
        while True:
            found = False
            for image, place in self._read_epoch(self.first + reader, epoch, file, row, offset):
                found = True
                yield {"image": image, "reader": reader, "place": torch.tensor([epoch, *place])}
            if is_whole and not found:
                raise ImageFileError(f"None of the images of {self.source} can be read.")
            epoch, file, row, offset, is_whole = epoch + 1, 0, 0, 0, True

    def _read_epoch(self, reader: int, epoch: int, file: int, row: int, offset: int) -> Iterator[tuple]:
        """The images of a reader's epoch from a place on, each with the place after it."""
        order = torch.randperm(self.table.num_shards, generator=generator_of(f"{self.seed} {epoch}"))
        cells = self._read_cells(order[reader :: self.all_readers].tolist(), file, row)
        while window := list(islice(cells, self.window)):
            (file, shard, row), _ = window[0]
            order = torch.randperm(len(window), generator=generator_of(f"{self.seed} {epoch} {shard} {row}")).tolist()
            for count, index in enumerate(order[offset:], offset + 1):
                (_, shard, row_of_image), cell = window[index]
                try:
                    image = decode_cell(cell, f"Row {row_of_image} of file {shard} of {self.source}")
                except ImageFileError as error:
                    if epoch == 0:
                        self.warn(f"skipped {error}")
                    continue
                image = random_square(image, self.min_crop, f"{self.seed} {epoch} {shard} {row_of_image}")
                yield image, (file, row, count)
            offset = 0

    def _read_cells(self, shards: list[int], file: int, row: int) -> Iterator[tuple[tuple[int, int, int], dict]]:
        """The undecoded images of files from a row on, each with the place and the number of its file, and its row."""
        for number, shard in enumerate(shards[file:], file):
            rows = self.table.shard(self.table.num_shards, shard)
            try:
                for batch in (rows.skip(row) if row else rows).iter(ROWS_AT_ONCE):  # iter() heeds no workers
                    for cell in batch[self.column]:
                        yield (number, shard, row), cell or {}
                        row += 1
            # A damaged file, or an object store that goes away, may fail in any way.
            except Exception as error:
                where = f"File {shard} of {self.source} cannot be read from row {row} on"
                raise ValueError(f"{where}: {first_line(error).rstrip('.')}.") from error
            row = 0


class PlacedCollator:
    """
    Makes batches that know where their stream goes on: `"place"` holds the reader and the place after the last image.

    Args:
        collator (`Callable`): Makes the rest of a batch.
    """

    def __init__(self, collator: Callable[[list[dict]], dict[str, torch.Tensor]]):
        self.collator = collator

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        last = examples[-1]
        return self.collator(examples) | {"place": torch.tensor([last["reader"], *last["place"].tolist()])}


def load_image_stream(source: str, split: str = "train", **options) -> ImageStream:
    """
    Opens parquet files, tar files or a dataset of the Hub as [`~adatok_hf.data.load_image_dataset`] does, but to be
    read as they come: nothing is copied to a cache.

    Args:
        source (`str`): See there. A folder of single images cannot be read so.
        split (`str`, *optional*, defaults to `"train"`): See there; without a slice.
        options: As for [`ImageStream`].

    Raises:
        `ValueError`: if there is no such source, or it has no column of pictures.
    """
    require("train", "datasets")
    from datasets import Image as ImageFeature

    if "[" in split:
        raise ValueError(f"A stream has no slices: leave {split[split.index('[') :]} of --train_split {split} out.")
    kind, files = find_tables(source, split)
    if kind is None and Path(source).is_dir():
        raise ValueError(f"The folder {source} has no parquet or tar files of the split {split!r} to stream.")
    if kind is None:
        table = _open_hub_stream(source, split)
    else:
        table = load_table(kind, files, "train", streaming=True)
    column = picture_column(table, files[0]) if kind == "webdataset" else "image"
    if column not in (table.column_names or ()):
        raise ValueError(f"{source!r} needs a column named 'image'; it has {table.column_names}.")
    table = table.select_columns(column).cast_column(column, ImageFeature(decode=False))
    return ImageStream(table, column, source, **options)


def _open_hub_stream(name: str, split: str):
    from datasets import load_dataset

    try:
        return load_dataset(name, split=split, streaming=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name!r} is neither parquet files, nor tar files, nor a dataset that can be streamed: "
            f"{first_line(error)}"
        ) from error
