"""Two processes train one model."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_tokenizer_command import RECIPE

from adatok_hf.training.data import ImageCollator, load_image_dataset
from adatok_hf.training.reconstruction_trainer import ReconstructionTrainer  # noqa: F401


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What each of two processes ends with after three steps, and what they print."""
    folder = tmp_path_factory.mktemp("distributed")
