"""The Space as its users meet it: a running app, its clients, a browser."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import LlamaForCausalLM

from adatok_hf import default_checkpoint
from adatok_hf.checkpoint import codes_hash, load_checkpoint
from adatok_hf.modeling.pipeline_adatok import AdaTokPipeline
from adatok_hf.modeling.vocabulary_adatok import ImageVocabulary


ROOT = Path(__file__).parents[2]
APP = ROOT / "spaces" / "adatok" / "app.py"
START_SECONDS = 240
CLASSES = ["castle", "cat", "owl"]


@dataclass
class Space:
    """A running app: its address, its process and the folders that it writes to."""

    url: str
    process: subprocess.Popen
    cache: Path
    temporary: Path

    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def stop(self):
        """Ends it as Ctrl-C does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(timeout=60)


def hear_interrupts():
    """What a shell starts in the background ignores Ctrl-C, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="module")
def pipeline_folder(tmp_path_factory) -> Path:
    """A pipeline with the embedded tokenizer and a random generator of a few thousand weights."""
    tokenizer, processor = load_checkpoint(default_checkpoint())
    config = tokenizer.config
    vocabulary = ImageVocabulary(config.codebook_size, config.budgets, CLASSES, codes_hash(tokenizer))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    generator = LlamaForCausalLM(vocabulary.model_config(**sizes, initializer_range=0.3)).eval()
    generator.generation_config = vocabulary.generation_config()
    folder = tmp_path_factory.mktemp("pipeline")
    AdaTokPipeline(tokenizer, processor, generator).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def space(tmp_path_factory, pipeline_folder, weights_dir):
    """The app as `make space` starts it, with a pipeline and the network of LPIPS."""
    cache, temporary = tmp_path_factory.mktemp("cache"), tmp_path_factory.mktemp("temporary")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "ADATOK_PIPELINE": str(pipeline_folder),
        "ADATOK_WEIGHTS_DIR": str(weights_dir),
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(cache),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(temporary),
    }
    log = temporary.with_name("space.log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, APP], env=environment, stdout=output, stderr=output, preexec_fn=hear_interrupts
        )
    running = Space(f"http://127.0.0.1:{port}", process, cache, temporary)
    try:
        wait_for(running, log)
        yield running
    finally:
        running.stop()


def wait_for(space: Space, log: Path):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert space.process.poll() is None, log.read_text(encoding="utf-8")
        try:
            urllib.request.urlopen(f"{space.url}/config", timeout=10).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"The Space has not started: {log.read_text(encoding='utf-8')}")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a browser; tests that need one are skipped where there is none."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("There is no Chromium on this machine to open the page with.")
    return path


@pytest.fixture
def picture_file(tmp_path) -> Path:
    """A picture of a green half and a red half."""
    picture = Image.new("RGB", (90, 60), "seagreen")
    picture.paste("firebrick", (45, 0, 90, 60))
    picture.save(tmp_path / "two-halves.png")
    return tmp_path / "two-halves.png"
