"""`adatok decode`: a file of image codes to pictures."""

from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from ..files import printable
from .common import cast_model, load_model, prepare_folder
from .options import BatchSizeOption, DeviceOption, DtypeOption, ModelOption, parse_budget


MAX_NAME = 200  # bytes of a file name without ending and number; file systems take 255
MAX_FOLDERS = 8


def decode(
    codes_file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `adatok encode` wrote.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the PNG files go.")],
    budgets: Annotated[
        str, typer.Option(metavar="auto|N", help="Every image's own, or at most N of its codes.")
    ] = "auto",
    model: ModelOption = None,
    device: DeviceOption = None,
    batch_size: BatchSizeOption = 32,
    dtype: DtypeOption = None,
    force: Annotated[bool, typer.Option("--force", help="Decode even what another model has encoded.")] = False,
):
    """Turn a file of image codes back into pictures."""
    import torch
    from tqdm import tqdm

    from ..checkpoint import model_hash
    from ..codec.codes_file import ImageCodes
    from ..files import whole_file

    codes = ImageCodes.load(codes_file)
    prepare_folder(out)
    network, model_id, processor = load_model(model, device, with_tatok=True)
    if not force and codes.model_hash != model_hash(network):
        raise ValueError(
            f"{codes_file} was made by {codes.model!r}, whose weights are not those of {model_id!r}; name the right "
            "model with --model, or insist with --force."
        )
    network = cast_model(network, dtype)
    limit = parse_budget(budgets, network.config)
    kept = codes.budgets if limit is None else codes.budgets.clamp(max=limit)
    names = png_names(codes.file_names)
    for folder in {(out / name).parent for name in names}:
        prepare_folder(folder)
    with torch.inference_mode():
        for start in tqdm(range(0, len(codes), batch_size), desc="Decoding", unit="batch", disable=None):
            batch = slice(start, start + batch_size)
            image_codes = codes.image_codes[batch].to(network.device)
            decoded = network.decode(image_codes, budgets=kept[batch].to(network.device))
            for name, picture in zip(names[batch], processor.post_process(decoded.pixel_values)):
                with whole_file(out / name) as path:
                    picture.save(path)
    typer.echo(f"{len(codes)} images written to {out}")


def png_names(file_names: list[str]) -> list[str]:
    """
    Names of the decoded files: each source's own in its own folders, without its ending, numbered where two would
    collide. Nothing in a name leads out of the folder they go to, nor is longer than file systems take.

    Example:

    ```python
    >>> from adatok_hf.cli.decode import png_names

    >>> png_names(["a/cat.jpg", "a/cat.png", "../dog.webp", "/b/./dog.png"])
    ['a/cat.png', 'a/cat-2.png', 'dog.png', 'b/dog.png']

    ```"""
    paths = [_plain_parts(file_name) for file_name in file_names]
    # Some file systems do not tell cases apart; and a picture must not take the name of another's folder.
    taken = {"/".join(parts[:end]).lower() for parts in paths for end in range(1, len(parts))}
    names, numbers = [], {}
    for *folders, last in paths:
        stem = "/".join([*folders, last])
        number = numbers.get(stem.lower(), 1)
        name = f"{stem}.png" if number == 1 else f"{stem}-{number}.png"
        while name.lower() in taken:
            number += 1
            name = f"{stem}-{number}.png"
        numbers[stem.lower()] = number + 1
        taken.add(name.lower())
        names.append(name)
    return names


def _plain_parts(file_name: str) -> list[str]:
    """The folders of a name and its stem, as they may be used in any folder."""
    pure = PurePosixPath(printable(file_name.replace("\\", "/").replace("\0", "")).replace("\\", "_"))
    parts = [part for part in pure.parts if part.strip("./") and not part.endswith(":")][-MAX_FOLDERS - 1 :]
    *folders, last = parts or ["image"]
    folders = [_shorten(part) for part in folders]
    return [*folders, _shorten(PurePosixPath(last).stem.strip(".")) or "image"]


def _shorten(part: str) -> str:
    return part.encode("utf-8")[:MAX_NAME].decode("utf-8", "ignore")
