"""What commands do alike: load a model, make a folder, say something."""

import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from ..files import FULL, printable, remove_left_overs
from .options import AUTO


def load_model(model: str | None, device: str | None, with_tatok: bool = False):
    """
    Loads a checkpoint for inference: the model on its device, the name to report, the processor. A TaTok, where it
    will do, comes as one of AdaTok's verbs.
    """
    from transformers.utils import logging

    from .. import default_checkpoint
    from ..checkpoint import ANY_MODEL, AdaTokModel, checkpoint_name, load_checkpoint
    from ..codec.sequential_tatok import in_sequences

    device = find_device(device)
    logging.disable_progress_bar()  # loading is quick, and standard error is for what went wrong
    path = model or default_checkpoint()
    network, processor = load_checkpoint(path, kinds=ANY_MODEL if with_tatok else (AdaTokModel,))
    return in_sequences(network.eval().to(device)), model or checkpoint_name(path), processor


def load_generator(generator: str | None, model: str | None, device: str):
    """Loads a generator with its tokenizer: the pipeline on a device, and the name to report."""
    from transformers.utils import logging

    from .. import default_generator
    from ..checkpoint import checkpoint_name
    from ..generation.load_pipeline import load_pipeline

    logging.disable_progress_bar()
    source = generator or default_generator()
    return load_pipeline(source, model).to(device), generator or checkpoint_name(source)


def find_device(device: str | None) -> str:
    """The device asked for, which must be there, else a GPU if there is one."""
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # what torch raises for unknown and for absent devices
        raise ValueError(f"--device must be cpu, or a GPU that this machine has; got {device!r}.") from error
    return device


def start_processes(device: str | None) -> str | None:
    """
    Joins the processes of `accelerate launch` or `torchrun`, if that is how this one was started. Gives the device
    asked for, else this process's own GPU where there are several processes.
    """
    import torch
    from accelerate import PartialState

    on_cpu = device == "cpu" or not torch.cuda.is_available()
    # The last process may have to wait long for the first one, so no short timeout.
    state = PartialState(cpu=on_cpu, timeout=timedelta(days=2))
    return str(state.device) if device is None and state.num_processes > 1 else device


def cast_model(model, dtype: str | None, writes_codes: bool = False):
    """
    Puts a model into another floating point type; after its fingerprint was taken, which knows its type. For `auto`
    that is what computes fastest, but float32 where codes go to a file: rounding would change a few in a hundred.
    """
    if dtype is None:
        return model
    if dtype not in (AUTO, "float32", "bfloat16", "float16"):
        raise ValueError(f"--dtype must be auto, float32, bfloat16 or float16; got {dtype!r}.")
    import torch

    from ..codec.codec import fast_dtype

    if dtype == AUTO:
        return model.to(torch.float32 if writes_codes else fast_dtype(model.device))
    return model.to(getattr(torch, dtype))


def sample_pixel_values(processor) -> "torch.Tensor":  # noqa: F821
    """The pictures that come with the package, as `(pictures, 3, image_size, image_size)` in [-1, 1]."""
    from ..data import find_images, load_image

    files = find_images([Path(__file__).parent.parent / "samples"])
    return processor([load_image(file) for file in files], return_tensors="pt")["pixel_values"]


def load_lpips(weights_dir: Path | None, download: bool, device):
    """Loads the LPIPS network; where it is not at hand and nobody asked for it, `None` and the reason."""
    from ..metrics.perceptual import has_lpips, load_lpips

    if download or weights_dir is not None or has_lpips():
        return load_lpips("alex", weights_dir).to(device), None
    return None, "its network is not on this machine; name its folder by --weights-dir, or download it by --lpips."


def prepare_folder(path: Path):
    """
    Makes the folder and proves that it can be written to, before any work is done. What killed runs have left there is
    removed.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"The output folder {path} is a file; name a folder.")
    try:
        path.mkdir(parents=True, exist_ok=True)
        remove_left_overs(path)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        if error.errno in FULL:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise ValueError(f"Cannot write to the output folder {path}: {error.strerror}.") from error


def sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.strerror}: {error.filename}."
    text = str(error)
    if text.startswith("Caught ") and "in DataLoader worker" in text:  # torch puts the traceback into the message
        text = text.rstrip().rpartition("\n")[2].partition(": ")[2]
    return " ".join(text.split())


def say(text: str):
    from tqdm import tqdm

    tqdm.write(f"adatok: {printable(text)}", file=sys.stderr)
