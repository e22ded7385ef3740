"""`adatok check-metrics`: our metrics against the standard libraries."""

from typing import Annotated

import typer

from .options import WeightsOption, parse_names


def check_metrics(
    references: Annotated[str, typer.Argument(metavar="ORIGINALS", help="Folder of images, PNG or JPEG.")],
    reconstructions: Annotated[str, typer.Argument(help="Folder of their reconstructions, under the same names.")],
    metrics: Annotated[
        str, typer.Option(metavar="NAME,...", help="Out of fid, kid, lpips, psnr and ssim.")
    ] = "fid,kid,lpips,psnr,ssim",
    weights_dir: WeightsOption = None,
    kid_subset_size: Annotated[int, typer.Option(min=2, help="Images of a subset in KID.")] = 1000,
):
    """Measure two folders by our metrics and by the standard libraries, called directly, and show the difference."""
    from ..metrics.check_metrics import compare_with_libraries, format_comparisons

    rows = compare_with_libraries(
        references,
        reconstructions,
        metrics=parse_names(metrics),
        weights_dir=weights_dir,
        kid_subset_size=kid_subset_size,
    )
    typer.echo(format_comparisons(rows))
