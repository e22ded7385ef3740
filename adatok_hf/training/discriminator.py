"""The critic of stage 1."""

import torch
from torch import nn


class PatchDiscriminator(nn.Module):
    """
    Judges overlapping patches of an image.

    Args:
        num_channels (`int`, *optional*, defaults to 3): Channels of the images.
        hidden_size (`int`, *optional*, defaults to 64): Channels after the first convolution, doubled by each further.
        num_layers (`int`, *optional*, defaults to 3): Convolutions that halve the resolution.

    Source: huggingface.co/papers/1611.07004
    """

    def __init__(self, num_channels: int = 3, hidden_size: int = 64, num_layers: int = 3):
        super().__init__()
        layers = [nn.Conv2d(num_channels, hidden_size, kernel_size=4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for _ in range(num_layers - 1):
            layers += [
                nn.Conv2d(hidden_size, 2 * hidden_size, kernel_size=4, stride=2, padding=1),
                nn.GroupNorm(8, 2 * hidden_size),
                nn.LeakyReLU(0.2),
            ]
            hidden_size *= 2
        self.layers = nn.Sequential(*layers, nn.Conv2d(hidden_size, 1, kernel_size=3, padding=1))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Logits of shape `(batch, 1, height / 2**num_layers, width / 2**num_layers)`; positive means real."""
        return self.layers(pixel_values)
