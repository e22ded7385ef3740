"""The critics of stage 1."""

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm


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


class FeatureDiscriminator(nn.Module):
    """
    Judges images by their patches, and by the features that LPIPS has of them: so it need not learn to see before it
    can judge.

    Args:
        feature_channels (`list[int]`): Channels of each level of the frozen backbone.
        num_channels (`int`, *optional*, defaults to 3): Channels of the images.
        hidden_size (`int`, *optional*, defaults to 64): As for [`PatchDiscriminator`], and the channels of the head on
            each level.

    Source: huggingface.co/papers/2111.01007
    """

    def __init__(self, feature_channels: list[int], num_channels: int = 3, hidden_size: int = 64):
        super().__init__()
        self.patches = PatchDiscriminator(num_channels, hidden_size)
        self.heads = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(channels, hidden_size, kernel_size=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(hidden_size, hidden_size, kernel_size=3, padding=1)),
                nn.LeakyReLU(0.2),
                nn.Conv2d(hidden_size, 1, kernel_size=1),
            )
            for channels in feature_channels
        )

    def forward(self, pixel_values: torch.Tensor, *features: torch.Tensor) -> torch.Tensor:
        """
        Logits of shape `(batch, 2 * levels, height, width)` of images and of their feature maps, the finest first and
        each of shape `(batch, channels, height, width)` of its level. Half of the logits are of patches, and each
        level counts alike: what is coarser is repeated.
        """
        normalized = [nn.functional.normalize(level.float()) * level.shape[1] ** 0.5 for level in features]
        logits = [self.patches(pixel_values).expand(-1, len(features), -1, -1)]
        logits += [head(level) for head, level in zip(self.heads, normalized)]
        size = features[0].shape[-2:]
        return torch.cat([nn.functional.interpolate(each, size=size) for each in logits], dim=1)
