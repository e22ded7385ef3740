"""What an image takes: bits per pixel, and whole bytes."""

import math


def bits_per_pixel(budget: int, config) -> float:
    """
    Rate of one image: its codes and the index of its budget, which a decoder has to be told.

    Args:
        budget (`int`): In `1 .. num_latent_tokens`.
        config ([`AdaTokConfig`]): The architecture.

    Returns:
        `float`: bits per pixel of the `image_size` x `image_size` picture. The index counts among the candidate
        budgets where the budget is one of them, else among all `num_latent_tokens`.

    Example:

    ```python
    >>> from adatok_hf import AdaTokConfig
    >>> from adatok_hf.metrics.rate import bits_per_pixel

    >>> bits_per_pixel(32, AdaTokConfig())  # (32 * 12 bits + 3 bits) / 256 ** 2
    0.0059051513671875

    ```"""
    return config.count_bits(budget) / config.image_size**2


def whole_bytes(budget: int, config) -> int:
    """Bytes of an image at a budget, the index of the budget included: whole ones, as a file has them."""
    return math.ceil(bits_per_pixel(budget, config) * config.image_size**2 / 8 - 1e-9)


__all__ = ["bits_per_pixel", "whole_bytes"]
