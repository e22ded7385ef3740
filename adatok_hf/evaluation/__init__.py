"""Measuring what the model does: quality against budget."""

from ..extras import require


require("eval", "datasets", "torchmetrics")
