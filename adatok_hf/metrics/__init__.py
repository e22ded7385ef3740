"""Metrics of images, codes and rates, as functions and as modules for `evaluate.load`."""

from pathlib import Path


MODULES = ("bits_per_pixel", "codebook_use", "fid", "kid", "lpips", "psnr", "ssim")


def metric_path(name: str) -> str:
    """
    Where the `evaluate` module of a metric lies, so that it loads without a network.

    Args:
        name (`str`): One of `"bits_per_pixel"`, `"codebook_use"`, `"fid"`, `"kid"`, `"lpips"`, `"psnr"`, `"ssim"`.

    Returns:
        `str`: a folder for `evaluate.load`, with the metric's card in its `README.md`.

    Raises:
        `ValueError`: if there is no such metric.

    Example:

    ```python
    >>> import evaluate
    >>> from adatok_hf.metrics import metric_path

    >>> evaluate.load(metric_path("psnr")).name
    'psnr'

    ```"""
    if name not in MODULES:
        raise ValueError(f"There is no metric {name!r}; choose one of {', '.join(MODULES)}.")
    return str(Path(__file__).parent / name)


__all__ = ["MODULES", "metric_path"]
