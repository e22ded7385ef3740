"""Packages that only some commands need, and which extra of this package brings them."""

from importlib.util import find_spec


EXTRAS = {
    "accelerate": "train",
    "datasets": "train",
    "diffusers": "generate",
    "evaluate": "eval",
    "gradio": "demo",
    "lpips": "eval",
    "matplotlib": "eval",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "pyarrow": "train",
    "ray": "scale",
    "scipy": "eval",
    "torch_fidelity": "eval",
    "torchmetrics": "eval",
    "torchvision": "train",
}


def require(extra: str, *packages: str):
    """
    Raises `ImportError` that says what to install unless all of some packages are there.

    Example:

    ```python
    >>> from adatok_hf.extras import require

    >>> require("eval", "no_such_package")
    Traceback (most recent call last):
    ImportError: The package no_such_package is missing: pip install "adatok-hf[eval]".

    ```"""
    for package in packages:
        if find_spec(package) is None:
            raise ImportError(_advice(package, extra), name=package)


def missing_extra(error: ImportError) -> str | None:
    """
    What to install where an optional package is missing.

    Args:
        error (`ImportError`): What its import raised.

    Returns:
        `str` or `None`: one sentence, `None` where it is no package of an extra.
    """
    name = (error.name or "").partition(".")[0]
    if str(error).endswith(']".'):  # by `require`
        return str(error)
    return _advice(name, EXTRAS[name]) if name in EXTRAS else None


def _advice(package: str, extra: str) -> str:
    return f'The package {package} is missing: pip install "adatok-hf[{extra}]".'


__all__ = ["missing_extra", "require"]
