"""Keeping the lattice of a sub-pixel convolution out of plain areas."""

import torch
from torch import nn


@torch.no_grad()
def even_out_pixels(convolution: nn.Conv2d, num_channels: int):
    """
    Takes from a convolution whose output `pixel_shuffle` spreads over pixels what it adds to some of them alone where
    its input is constant: the nearest weights that give constant pictures there.

    Args:
        convolution (`nn.Conv2d`): With a bias, changed in place.
        num_channels (`int`): Channels of the picture; the convolution has a multiple of them.

    Example:

    ```python
    >>> import torch
    >>> from torch import nn
    >>> from adatok_hf.training.even_pixels import even_out_pixels

    >>> convolution = nn.Conv2d(8, 12, kernel_size=3)
    >>> even_out_pixels(convolution, num_channels=3)
    >>> picture = nn.functional.pixel_shuffle(convolution(torch.ones(1, 8, 5, 5)), 2)
    >>> bool((picture.amax((2, 3)) - picture.amin((2, 3)) < 1e-5).all())
    True

    ```"""
    weight = convolution.weight.unflatten(0, (num_channels, -1))  # (channels, pixels of a place, features, 3, 3)
    response = weight.sum((-2, -1), keepdim=True)
    weight -= (response - response.mean(1, keepdim=True)) / convolution.weight[0, 0].numel()
    bias = convolution.bias.unflatten(0, (num_channels, -1))
    bias -= bias - bias.mean(1, keepdim=True)
