"""Puts the page together: its sources, the runtime from npm, an exported model and a few pictures."""

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import adatok_hf
from adatok_hf.cli.common import load_model, sample_pixel_values
from adatok_hf.export.export import export_model
from adatok_hf.extras import require
from adatok_hf.files import check_empty, whole_folder


HERE = Path(__file__).parent
RUNTIME = "onnxruntime-web@1.30.0"
RUNTIME_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")  # for processors; those for GPUs are larger
SOURCES = ("README.md", "index.html", "app.js", "model.js", "pictures.js", "style.css")
SAMPLES = (
    "03_lemon.png",
    "05_owl.png",
    "06_sketch.png",
    "07_castle.png",
    "12_cat.webp",
    "16_chart.png",
    "27_grass.webp",
)


def build(out: Path, model: str | None = None):
    """
    Builds the page.

    Args:
        out (`Path`): Its folder, which must be absent or empty.
        model (`str`, *optional*): Folder or repository of the checkpoint; the embedded one if not given.

    Raises:
        `ValueError`: if npm is missing or cannot reach its registry, or as
            [`~adatok_hf.export.export.export_model`].
        `ImportError`: if the extra `export` is not installed.
    """
    require("export", "onnx", "onnxscript", "onnxruntime")
    check_empty(out)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    network, _, processor = load_model(model, "cpu")
    with whole_folder(out) as folder:
        for name in SOURCES:
            shutil.copy(HERE / name, folder)
        fetch_runtime(folder / "runtime")
        (folder / "samples").mkdir()
        for name in (*SAMPLES, "LICENSE.md"):
            shutil.copy(Path(adatok_hf.__file__).parent / "samples" / name, folder / "samples")
        export_model(network, processor, folder / "model", pixel_values=sample_pixel_values(processor))


def fetch_runtime(folder: Path):
    """Takes the files of onnxruntime-web that the page needs out of its package, whose checksum npm verifies."""
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError("npm is missing, by which onnxruntime-web comes; install Node.js.")
    folder.mkdir()
    with tempfile.TemporaryDirectory() as temporary:
        run = subprocess.run([npm, "pack", "--silent", RUNTIME], cwd=temporary, capture_output=True, text=True)
        if run.returncode:
            reason = " ".join(run.stderr.split()) or "no reason given"
            raise ValueError(f"npm cannot fetch {RUNTIME}: {reason}.")
        (archive,) = Path(temporary).glob("*.tgz")
        with tarfile.open(archive) as package:
            for name in RUNTIME_FILES:
                with package.extractfile(f"package/dist/{name}") as source, open(folder / name, "wb") as target:
                    shutil.copyfileobj(source, target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="where to; must be absent or empty")
    parser.add_argument("--model", help="folder or Hub id of the checkpoint; the embedded one if not given")
    arguments = parser.parse_args()
    try:
        build(arguments.out, arguments.model)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
