"""What is kept of a trained arm: its measures on the held-out images, in a small file without the weights."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..files import whole_file
from .arms import Arm


COLUMNS = ("budgets", "lpips", "psnr")


@dataclass
class MeasuredArm:
    """
    A trained arm, measured on held-out images.

    Args:
        arms (`dict[tuple[float, str], dict[str, Arm]]`):
            By share of the training and by `"mean"` or `"full"` budget: the ways to set budgets, by name.
        groups (`list[str]`): Kind of each image.
        speed (`dict`): What its training took.
        rfid (`dict[str, float]`, *optional*): Of each way at the end and at the mean budget.
    """

    arms: dict[tuple[float, str], dict[str, Arm]]
    groups: list[str]
    speed: dict
    rfid: dict[str, float] = field(default_factory=dict)

    def save(self, path: Path):
        """Writes the file, whole or not at all."""
        tensors = {
            f"{share}/{budget}/{name}/{column}": getattr(arm, column).astype(np.float32)
            for (share, budget), arms in self.arms.items()
            for name, arm in arms.items()
            for column in COLUMNS
        }
        facts = {"groups": self.groups, "speed": self.speed, "rfid": self.rfid}
        with whole_file(path) as temporary:
            save_file(tensors, temporary, metadata={"facts": json.dumps(facts)})

    @classmethod
    def load(cls, path: Path) -> "MeasuredArm":
        """Reads it back; `ValueError` if the file is damaged."""
        columns: dict[tuple[float, str], dict[str, dict[str, np.ndarray]]] = {}
        try:
            with safe_open(path, framework="numpy") as file:
                facts = json.loads(file.metadata()["facts"])
                for key in file.keys():
                    share, budget, name, column = key.split("/")
                    found = columns.setdefault((float(share), budget), {}).setdefault(name, {})
                    found[column] = file.get_tensor(key).astype(np.float64)
            arms = {
                at: {name: Arm(**found, lpips_of_seeds=[float(found["lpips"].mean())]) for name, found in ways.items()}
                for at, ways in columns.items()
            }
            return cls(arms, **facts)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({str(error).splitlines()[0]}); delete it.") from error


__all__ = ["MeasuredArm"]
