"""Pictures to codes and back: reconstruct, encode, decode and push."""

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from .common import (
    DeviceOption,
    ImagesArgument,
    ModelOption,
    WeightsOption,
    app,
    load_lpips,
    load_model,
    parse_budget,
    parse_budgets,
    prepare_folder,
    say,
    sentence,
)


CostBiasOption = Annotated[
    float | None,
    typer.Option(help="Shifts the policy: positive is cheaper, negative finer; the model's own if not given."),
]

BATCH_SIZE = 32
GRID_ROWS = 64  # beyond that a picture is too tall to look at


@app.command(name="reconstruct")
def reconstruct_command(
    images: ImagesArgument,
    budget: Annotated[
        str, typer.Option(metavar="auto|all|N,N...", help="The policy's choice, all candidates, or budgets.")
    ] = "auto",
    cost_bias: CostBiasOption = None,
    model: ModelOption = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where grid.png and results.json go.")] = Path(
        "reconstructions"
    ),
    weights_dir: WeightsOption = None,
    lpips: Annotated[bool, typer.Option("--lpips", help="Measure LPIPS even if its network must be fetched.")] = False,
    device: DeviceOption = None,
):
    """Encode and decode pictures, and show what each budget costs and keeps."""
    from ..codec.grid import draw_grid
    from ..codec.reconstruct import format_table, mean_results, measure, reconstruct
    from ..files import whole_file, write_json

    check_cost_bias(cost_bias)
    prepare_folder(out)
    network, model_id, processor = load_model(model, device)
    budgets = parse_budgets(budget, network.config)
    lpips, reason = load_lpips(weights_dir, lpips, network.device)
    batches = ImageBatches(images, processor)
    results, rows = [], []
    for names, _, pixel_values in batches:
        originals = processor.post_process(pixel_values)
        reconstructions = reconstruct(network, processor, pixel_values.to(network.device), budgets, cost_bias)
        for name, original, cells in zip(names, originals, reconstructions):
            row, measured = measure(name, original, cells, network.config, lpips)
            results += measured
            rows += [row] * (len(rows) < GRID_ROWS)
    means = mean_results(results, by_budget=budgets is not None)
    with whole_file(out / "grid.png") as path:
        draw_grid(rows).save(path)
    report = {"model": model_id, "rows": [r.to_dict() for r in results], "means": [r.to_dict() for r in means]}
    write_json(out / "results.json", report)
    typer.echo(format_table(results + means))
    if reason:
        say(f"LPIPS is left out: {reason}")
    if len(batches.files) - batches.skipped_files > GRID_ROWS:
        say(f"grid.png shows the first {GRID_ROWS} pictures.")
    batches.exit_if_skipped()


@app.command()
def encode(
    images: ImagesArgument,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The codes file: .safetensors or .parquet.")],
    budget: Annotated[str, typer.Option(metavar="auto|N", help="The policy's choice, or one for all.")] = "auto",
    cost_bias: CostBiasOption = None,
    model: ModelOption = None,
    device: DeviceOption = None,
):
    """Turn pictures into a file of image codes."""
    import torch

    from ..checkpoint import model_hash
    from ..codec.codes_file import ImageCodes, check_codes_path
    from ..codec.reconstruct import bits_per_pixel

    check_codes_path(out)
    if out.is_dir():
        raise ValueError(f"--out must name a file; {out} is a folder.")
    check_cost_bias(cost_bias)
    prepare_folder(out.parent)
    network, model_id, processor = load_model(model, device)
    forced = parse_budget(budget, network.config)
    batches = ImageBatches(images, processor)
    names, sizes, parts = [], [], []
    with torch.inference_mode():
        for batch_names, batch_sizes, pixel_values in batches:
            parts.append(network.encode(pixel_values.to(network.device), budgets=forced, cost_bias=cost_bias))
            names += batch_names
            sizes += batch_sizes
    codes = ImageCodes(
        image_codes=torch.cat([part.image_codes for part in parts]).cpu(),
        budgets=torch.cat([part.budgets for part in parts]).cpu(),
        original_sizes=torch.tensor(sizes),
        file_names=names,
        model=model_id,
        model_hash=model_hash(network),
        image_size=network.config.image_size,
        codebook_size=network.config.codebook_size,
    )
    codes.save(out)
    rate = sum(bits_per_pixel(kept, network.config) for kept in codes.budgets.tolist()) / len(codes)
    mean = codes.budgets.float().mean().item()
    typer.echo(f"{len(codes)} images, mean budget {mean:.1f}, {rate:.4f} bits per pixel, written to {out}")
    batches.exit_if_skipped()


@app.command()
def decode(
    codes_file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `adatok encode` wrote.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the PNG files go.")],
    budget: Annotated[
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
    budgets = codes.budgets
    limit = parse_budget(budget, network.config)
    if limit is not None:
        budgets = budgets.clamp(max=limit)
    names = png_names(codes.file_names)
    with torch.inference_mode():
        for start in tqdm(range(0, len(codes), BATCH_SIZE), desc="Decoding", unit="batch", disable=None):
            batch = slice(start, start + BATCH_SIZE)
            image_codes = codes.image_codes[batch].to(network.device)
            decoded = network.decode(image_codes, budgets=budgets[batch].to(network.device))
            for name, picture in zip(names[batch], processor.post_process(decoded.pixel_values)):
                with whole_file(out / name) as path:
                    picture.save(path)
    typer.echo(f"{len(codes)} images written to {out}")


@app.command()
def push(
    checkpoint: Annotated[str, typer.Argument(help="Folder with the model and its processor.")],
    repo_id: Annotated[str, typer.Argument(help="Hub repository, for example someone/adatok-small.")],
    private: Annotated[bool, typer.Option("--private", help="Make a repository that only you see.")] = False,
):
    """Send a checkpoint to the Hugging Face Hub, code and model card included."""
    from ..checkpoint import push_checkpoint

    typer.echo(push_checkpoint(checkpoint, repo_id, private=private))


class ImageBatches:
    """
    Reads pictures in batches; what cannot be read is reported and skipped.

    Args:
        paths (`list[Path]`): Pictures, or folders with pictures.
        processor ([`AdaTokImageProcessor`]): Makes the pixel values.

    Yields names, sizes as `(height, width)`, and pixel values `(batch, 3, image_size, image_size)` in [-1, 1].

    Raises:
        `ValueError`: if the only path given cannot be read, or if none of many can.
    """

    def __init__(self, paths: list[Path], processor):
        from ..data import ImageFileError, find_images

        self.processor = processor
        self.files: dict[Path, str] = {}  # and the names to report; a file given twice counts once
        self.skipped_files = self.skipped_paths = 0
        for path in paths:
            try:
                found = find_images([path])
            except ImageFileError as error:
                if len(paths) == 1:
                    raise
                self.skipped_paths += 1
                say(f"skipped {sentence(error)}")
                continue
            for file in found:
                self.files.setdefault(file, path.name if file == path else file.relative_to(path).as_posix())

    def __iter__(self) -> Iterator[tuple[list[str], list[tuple[int, int]], "torch.Tensor"]]:  # noqa: F821
        import torch
        from tqdm import tqdm

        batch = []
        for file, name in tqdm(self.files.items(), desc="Images", unit="image", disable=None):
            try:
                batch.append((name, *self._read(file)))
            except ValueError as error:
                if len(self.files) == 1 and not self.skipped_paths:
                    raise
                self.skipped_files += 1
                say(f"skipped {sentence(error)}")
            if len(batch) == BATCH_SIZE:
                names, sizes, pixel_values = zip(*batch)
                yield list(names), list(sizes), torch.cat(pixel_values)
                batch = []
        if batch:
            names, sizes, pixel_values = zip(*batch)
            yield list(names), list(sizes), torch.cat(pixel_values)
        if self.skipped_files == len(self.files):
            raise ValueError(f"None of the {len(self.files) + self.skipped_paths} pictures could be read.")

    def _read(self, file: Path) -> tuple[tuple[int, int], "torch.Tensor"]:  # noqa: F821
        from PIL import ImageOps

        from ..data import load_image

        image = load_image(file)
        try:
            pixel_values = self.processor(image, return_tensors="pt")["pixel_values"]
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        upright = ImageOps.exif_transpose(image)  # the size that a viewer shows, as the processor turns it too
        return (upright.height, upright.width), pixel_values

    def exit_if_skipped(self):
        """Ends the command with exit code 1 if anything was skipped."""
        if self.skipped_files or self.skipped_paths:
            raise typer.Exit(1)


def check_cost_bias(cost_bias: float | None):
    """Raises `ValueError` for a bias that is not finite."""
    if cost_bias is not None and not math.isfinite(cost_bias):
        raise ValueError(f"--cost-bias must be a finite number; got {cost_bias}.")


def png_names(file_names: list[str]) -> list[str]:
    """
    Names of the decoded files: each source's own without its folder and ending, numbered where two would collide.

    Example:

    ```python
    >>> from adatok_hf.cli.codec import png_names

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
