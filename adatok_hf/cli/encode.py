"""`adatok encode`: pictures to a file of image codes."""

from pathlib import Path
from typing import Annotated

import typer

from .common import cast_model, load_model, prepare_folder, say
from .options import (
    BatchSizeOption,
    CostBiasOption,
    DeviceOption,
    DtypeOption,
    ImagesArgument,
    ModelOption,
    SplitOption,
    check_cost_bias,
    parse_budget,
)


def encode(
    images: ImagesArgument,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The codes file: .safetensors, .parquet or .json.")],
    budgets: Annotated[str, typer.Option(metavar="auto|N", help="The policy's choice, or one for all.")] = "auto",
    cost_bias: CostBiasOption = None,
    model: ModelOption = None,
    device: DeviceOption = None,
    batch_size: BatchSizeOption = 32,
    dtype: DtypeOption = None,
    split: SplitOption = None,
):
    """Turn pictures, folders, parquet files or datasets into a file of image codes."""
    import torch

    from ..checkpoint import model_hash
    from ..codec.batches import ImageBatches
    from ..codec.codes_file import ImageCodes, check_codes_path
    from ..metrics.rate import bits_per_pixel

    check_codes_path(out)
    if out.is_dir():
        raise ValueError(f"--out must name a file; {out} is a folder.")
    check_cost_bias(cost_bias, budgets)
    prepare_folder(out.parent)
    network, model_id, processor = load_model(model, device, with_tatok=True)
    forced, fingerprint = parse_budget(budgets, network.config), model_hash(network)
    network = cast_model(network, dtype, writes_codes=True)
    batches = ImageBatches(images, processor, say, batch_size, split)
    names, sizes, parts = [], [], []
    with torch.inference_mode():
        for batch_names, batch_sizes, pixel_values in batches:
            pixel_values = pixel_values.to(network.device, network.dtype)
            parts.append(network.encode(pixel_values, budgets=forced, cost_bias=cost_bias))
            names += batch_names
            sizes += batch_sizes
    codes = ImageCodes(
        image_codes=torch.cat([part.image_codes for part in parts]).cpu(),
        budgets=torch.cat([part.budgets for part in parts]).cpu(),
        original_sizes=torch.tensor(sizes),
        file_names=names,
        model=model_id,
        model_hash=fingerprint,
        image_size=network.config.image_size,
        codebook_size=network.config.codebook_size,
    )
    codes.save(out)
    rate = sum(bits_per_pixel(kept, network.config) for kept in codes.budgets.tolist()) / len(codes)
    mean = codes.budgets.float().mean().item()
    typer.echo(f"{len(codes)} images, mean budget {mean:.1f}, {rate:.4f} bits per pixel, written to {out}")
    if batches.skipped:
        raise typer.Exit(1)
