"""The blocks of figures in README and docs, a module for each subject; `docs/figures.py` writes them."""
