"""The application, the options that commands share, and what they do alike."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer


app = typer.Typer(
    name="adatok",
    help="An image tokenizer that decides how many tokens an image deserves.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(help="Train a model from a recipe.", no_args_is_help=True)
app.add_typer(train_app, name="train")

ImagesArgument = Annotated[
    list[Path], typer.Argument(metavar="IMG", help="Pictures, or folders with pictures.", show_default=False)
]
ModelOption = Annotated[
    str | None,
    typer.Option(metavar="PATH_OR_REPO", help="Folder or Hub id of the model; the embedded one if not given."),
]
WeightsOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder with the LPIPS weights; else ADATOK_WEIGHTS_DIR.")
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps; the GPU, if any, if not given.")]


def main(arguments: list[str] | None = None):
    """
    Console entry point. Exit codes: 0 all well, 1 some pictures were skipped, 2 bad input.

    Args:
        arguments (`list[str]`, *optional*): The command line without the program's name; `sys.argv` if not given.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        app(arguments, prog_name="adatok", obj=arguments)
    except (ValueError, OSError, ImportError) as error:
        say(f"error: {sentence(error)}")
        sys.exit(2)


def load_model(model: str | None, device: str | None):
    """Loads a checkpoint for inference: the model on its device, the name to report, the processor."""
    import torch
    from transformers.utils import logging

    from .. import default_checkpoint
    from ..checkpoint import load_checkpoint

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # what torch raises for unknown and for absent devices
        raise ValueError(f"--device must be cpu, or a GPU that this machine has; got {device!r}.") from error
    logging.disable_progress_bar()  # loading is quick, and standard error is for what went wrong
    path = model or default_checkpoint()
    network, processor = load_checkpoint(path)
    return network.eval().to(device), model or Path(path).name, processor


def load_lpips(weights_dir: Path | None, download: bool, device):
    """Loads the LPIPS network; where it is not at hand and nobody asked for it, `None` and the reason."""
    from ..metrics.perceptual import has_lpips, load_lpips

    if download or has_lpips("alex", weights_dir):
        return load_lpips("alex", weights_dir).to(device), None
    return None, "its network is not on this machine; name its folder by --weights-dir, or download it by --lpips."


def prepare_folder(path: Path):
    """Makes the folder and proves that it can be written to, before any work is done."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"The output folder {path} is a file; name a folder.")
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise ValueError(f"Cannot write to the output folder {path}: {error.strerror}.") from error


def parse_budget(text: str, config) -> int | None:
    """Reads `auto` (as `None`) or one budget; raises `ValueError` for anything else."""
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= config.num_latent_tokens:
        raise ValueError(
            f"A budget must be a whole number between 1 and {config.num_latent_tokens}, or auto; got {text!r}."
        )
    return int(text)


def parse_budgets(text: str, config) -> list[int] | None:
    """Reads `auto` (as `None`), `all`, or budgets with commas between them; raises `ValueError` for anything else."""
    if text == "all":
        return list(config.budgets)
    if text == "auto":
        return None
    parts = [part.strip() for part in text.split(",")]
    if "auto" in parts or "all" in parts:
        raise ValueError(f"auto and all stand alone in --budget; got {text!r}.")
    return list(dict.fromkeys(parse_budget(part, config) for part in parts))


def sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split())


def say(text: str):
    from tqdm import tqdm

    tqdm.write(f"adatok: {text}", file=sys.stderr)
