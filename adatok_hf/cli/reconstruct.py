"""`adatok reconstruct`: what each budget costs and keeps."""

from pathlib import Path
from typing import Annotated

import typer

from .common import load_lpips, load_model, prepare_folder, say
from .options import (
    AUTO,
    CostBiasOption,
    DeviceOption,
    ImagesArgument,
    ModelOption,
    WeightsOption,
    check_cost_bias,
    parse_budgets,
)


GRID_ROWS = 64  # beyond that a picture is too tall to look at


def reconstruct(
    images: ImagesArgument,
    budgets: Annotated[
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
    from ..codec.batches import ImageBatches
    from ..codec.grid import draw_grid
    from ..codec.reconstruct import format_table, mean_results, measure
    from ..codec.reconstruct import reconstruct as round_trip
    from ..files import whole_file, write_json

    check_cost_bias(cost_bias, budgets)
    prepare_folder(out)
    network, model_id, processor = load_model(model, device, with_tatok=True)
    chosen = parse_budgets(budgets, network.config)
    if AUTO in chosen and len(chosen) > 1:
        raise ValueError(f"auto stands alone in --budgets; got {budgets!r}.")
    forced = None if chosen == [AUTO] else chosen
    lpips, reason = load_lpips(weights_dir, lpips, network.device)
    batches = ImageBatches(images, processor, say, out=out)
    results, rows = [], []
    for names, _, pixel_values in batches:
        originals = processor.post_process(pixel_values)
        reconstructions = round_trip(network, processor, pixel_values.to(network.device), forced, cost_bias)
        for name, original, cells in zip(names, originals, reconstructions):
            row, measured = measure(name, original, cells, network.config, lpips)
            results += measured
            rows += [row] * (len(rows) < GRID_ROWS)
    means = mean_results(results, by_budget=forced is not None)
    with whole_file(out / "grid.png") as path:
        draw_grid(rows).save(path)
    report = {"model": model_id, "rows": [r.to_dict() for r in results], "means": [r.to_dict() for r in means]}
    write_json(out / "results.json", report)
    typer.echo(format_table(results + means))
    if reason:
        say(f"LPIPS is left out: {reason}")
    if len(batches.pictures) - batches.skipped_files > GRID_ROWS:
        say(f"grid.png shows the first {GRID_ROWS} pictures.")
    if batches.skipped:
        raise typer.Exit(1)
