"""Measuring what the model does: speed, and quality against budget."""
