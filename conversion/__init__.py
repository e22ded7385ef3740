"""Foreign checkpoints to AdaTok, and heads from and to PEFT adapter folders."""

from .convert import convert_checkpoint
from .heads import base_decoder, export_heads, import_heads


__all__ = ["base_decoder", "convert_checkpoint", "export_heads", "import_heads"]
