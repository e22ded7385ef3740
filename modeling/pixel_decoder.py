"""A convolutional pixel decoder, in place of one linear layer per patch."""

import math

import torch
from torch import nn

from .configuration_adatok import AdaTokPixelDecoderConfig


class AdaTokResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions, with a skip connection where the number of channels stays."""

    def __init__(self, config: AdaTokPixelDecoderConfig, in_channels: int, out_channels: int):
        super().__init__()
        self.has_skip = in_channels == out_channels
        self.norm1 = nn.GroupNorm(config.norm_num_groups, in_channels, eps=config.norm_eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(config.norm_num_groups, out_channels, eps=config.norm_eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = self.conv1(nn.functional.silu(self.norm1(hidden_states)))
        residual = self.conv2(nn.functional.silu(self.norm2(residual)))
        return hidden_states + residual if self.has_skip else residual


class AdaTokPixelDecoder(nn.Module):
    """Upsamples the grid of patch states, or of the mixtures of codebook entries they stand for, by convolutions."""

    def __init__(self, config: AdaTokPixelDecoderConfig, hidden_size: int, num_channels: int, patch_size: int):
        super().__init__()
        sizes, layers_per_block = config.hidden_sizes, config.layers_per_block
        self.places_per_patch = config.places_per_patch or 1
        self.pixels_per_place = patch_size // config.upsampling_factor
        self.has_codebook = config.codebook_size is not None
        if self.has_codebook:
            self.hidden_projection = nn.Linear(hidden_size, 2 * hidden_size)
            self.logit_projection = nn.Linear(2 * hidden_size, config.codebook_size)
            self.codebook = nn.Embedding(config.codebook_size, config.codebook_dim)
            hidden_size = config.codebook_dim
        self.conv_in = nn.Conv2d(hidden_size, sizes[0] * self.places_per_patch**2, kernel_size=3, padding=1)
        blocks = [AdaTokResidualBlock(config, sizes[0], sizes[0]) for _ in range(layers_per_block)]
        for level, size in enumerate(sizes):
            if level > 0:
                blocks += [nn.Upsample(scale_factor=2), nn.Conv2d(sizes[level - 1], sizes[level - 1], 3, padding=1)]
            widths = [sizes[max(level - 1, 0)]] + [size] * layers_per_block
            blocks += [AdaTokResidualBlock(config, *pair) for pair in zip(widths, widths[1:])]
        self.blocks = nn.Sequential(*blocks)
        self.norm_out = nn.GroupNorm(config.norm_num_groups, sizes[-1], eps=config.norm_eps)
        self.conv_out = nn.Conv2d(sizes[-1], num_channels * self.pixels_per_place**2, kernel_size=3, padding=1)

    def forward(self, patch_states: torch.Tensor) -> torch.Tensor:
        """Pixels of shape `(batch, num_channels, image_size, image_size)` of states `(batch, patches, width)`."""
        grid_size = math.isqrt(patch_states.shape[1])
        if self.has_codebook:
            logits = self.logit_projection(self.hidden_projection(patch_states).tanh())
            # Along the second axis the softmax rounds as in the models that this was made for; convolutions amplify
            # that.
            probabilities = logits.transpose(1, 2).softmax(dim=1).transpose(1, 2)
            patch_states = probabilities @ self.codebook.weight  # (batch, patches, codebook_dim)
        hidden_states = self.conv_in(patch_states.transpose(1, 2).unflatten(2, (grid_size, grid_size)))
        hidden_states = nn.functional.pixel_shuffle(hidden_states, self.places_per_patch)
        hidden_states = nn.functional.silu(self.norm_out(self.blocks(hidden_states)))
        pixels = nn.functional.pixel_shuffle(self.conv_out(hidden_states), self.pixels_per_place)
        return pixels.contiguous()  # the states lie channels last, and convolutions keep that
