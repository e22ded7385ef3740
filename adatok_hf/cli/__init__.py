"""The `adatok` command."""

from . import codec, conversion, evaluation, heads, training  # each adds its commands
from .common import main


__all__ = ["codec", "conversion", "evaluation", "heads", "main", "training"]
