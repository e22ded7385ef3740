"""Original checkpoints in miniature, written to disk as their authors publish them."""

import json
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file


FIXTURES = Path(__file__).parent.parent / "conversion" / "fixtures"
# One-D-Piece has the architecture of TiTok's two-stage models, so its fixtures are other runs of the same weights.
WEIGHTS = {
    "titok_l32": "titok_l32",
    "titok_b64": "titok_b64",
    "titok_s128": "titok_s128",
    "titok_bl64_vq8k": "titok_bl64_vq8k",
    "titok_bl128_vq8k": "titok_bl128_vq8k",
    "titok_sl256_vq8k": "titok_sl256_vq8k",
    "one-d-piece_s256": "titok_s128",
    "one-d-piece_b256": "titok_b64",
    "one-d-piece_l256": "titok_l32",
}


def write_config(path: Path, config: dict):
    path.write_text(json.dumps(config) if path.suffix == ".json" else yaml.safe_dump(config), encoding="utf-8")


def write_weights(path: Path, tensors: dict):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)


@dataclass
class Original:
    """
    A variant: its configuration, weights (in half precision) and what the original code made of them. All three are
    read anew for every test, which may change them before it calls `publish`.
    """

    name: str
    config: dict
    tensors: dict[str, torch.Tensor]
    recorded: dict[str, torch.Tensor]

    @property
    def family(self) -> str:
        return "titok" if self.name.startswith("titok") else "one-d-piece"

    def publish(self, folder: Path) -> Path:
        """Writes a folder as on the Hub; One-D-Piece's has a configuration too, since its sizes are not the usual."""
        if self.family == "titok":
            write_weights(folder / "model.safetensors", self.tensors)
            write_config(folder / "config.json", self.config)
        else:
            single = OrderedDict((name, tensor.float()) for name, tensor in self.tensors.items())
            single._metadata = OrderedDict({"": {"version": 1}})  # as `Module.state_dict` leaves it
            write_weights(folder / "pytorch_model.bin", single)
            write_config(folder / "config.yaml", self.config)
        return folder


def read_original(name: str) -> Original:
    config = next((FIXTURES / name).glob("config.*"))
    return Original(
        name,
        yaml.safe_load(config.read_text(encoding="utf-8")),
        load_file(FIXTURES / WEIGHTS[name] / "model.safetensors"),
        load_file(FIXTURES / name / "recorded.safetensors"),
    )
