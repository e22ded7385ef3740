"""Foreign checkpoints to AdaTok."""
