"""The `adatok` command: one file per command, named as the command."""

from .app import main


__all__ = ["main"]
