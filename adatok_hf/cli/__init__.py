"""The `adatok` command."""

from . import codec, evaluation, training  # each adds its commands
from .common import main


__all__ = ["codec", "evaluation", "main", "training"]
