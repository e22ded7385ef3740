"""Measuring what the model does: quality against budget."""
