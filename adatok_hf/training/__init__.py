"""Training: data, losses, and one file per Trainer."""

from ..extras import require


require("train", "datasets")
