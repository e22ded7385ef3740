"""`adatok decode`: a file of image codes to pictures."""

from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from .common import load_model, prepare_folder
from .options import DeviceOption, ModelOption, parse_budget


def decode(
    codes_file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `adatok encode` wrote.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the PNG files go.")],
    budgets: Annotated[
        str, typer.Option(metavar="auto|N", help="Every image's own, or at most N of its codes.")
    ] = "auto",
    model: ModelOption = None,
    device: DeviceOption = None,
    force: Annotated[bool, typer.Option("--force", help="Decode even what another model has encoded.")] = False,
):
    """Turn a file of image codes back into pictures."""
    import torch
    from tqdm import tqdm

    from ..checkpoint import model_hash
    from ..codec.batches import BATCH_SIZE
    from ..codec.codes_file import ImageCodes
    from ..files import whole_file

    codes = ImageCodes.load(codes_file)
    prepare_folder(out)
    network, model_id, processor = load_model(model, device)
    if not force and codes.model_hash != model_hash(network):
        raise ValueError(
            f"{codes_file} was made by {codes.model!r}, whose weights are not those of {model_id!r}; name the right "
            "model with --model, or insist with --force."
        )
    limit = parse_budget(budgets, network.config)
    kept = codes.budgets if limit is None else codes.budgets.clamp(max=limit)
    names = png_names(codes.file_names)
    with torch.inference_mode():
        for start in tqdm(range(0, len(codes), BATCH_SIZE), desc="Decoding", unit="batch", disable=None):
            batch = slice(start, start + BATCH_SIZE)
            image_codes = codes.image_codes[batch].to(network.device)
            decoded = network.decode(image_codes, budgets=kept[batch].to(network.device))
            for name, picture in zip(names[batch], processor.post_process(decoded.pixel_values)):
                with whole_file(out / name) as path:
                    picture.save(path)
    typer.echo(f"{len(codes)} images written to {out}")


def png_names(file_names: list[str]) -> list[str]:
    """
    Names of the decoded files: each source's own without its folder and ending, numbered where two would collide.

    Example:

    ```python
    >>> from adatok_hf.cli.decode import png_names

    >>> png_names(["a/cat.jpg", "b/cat.png", "../dog.webp"])
    ['cat.png', 'cat-2.png', 'dog.png']

    ```"""
    names, taken = [], set()
    for file_name in file_names:
        stem = PurePosixPath(file_name.replace("\\", "/").replace("\0", "")).stem.strip(".") or "image"
        name, number = f"{stem}.png", 1
        while name.lower() in taken:  # some file systems do not tell cases apart
            number += 1
            name = f"{stem}-{number}.png"
        taken.add(name.lower())
        names.append(name)
    return names
