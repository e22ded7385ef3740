"""Training: data, losses, and one file per Trainer."""
