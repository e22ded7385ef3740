"""
What the speed of an AdaTok model is compared with: a plain ViT of the same size, which has no quantizer, heads or
policy, and the search by which other elastic tokenizers find an image's budget.
"""

import torch
from torch import nn

from ..modeling import AdaTokConfig, AdaTokModel
from ..modeling.pixel_decoder import AdaTokPixelDecoder


class PlainEncoder(nn.Module):
    """
    A ViT of the width, depth and sequence of [`AdaTokModel`]'s encoder, made of `torch.nn.TransformerEncoder`.

    Args:
        config ([`AdaTokConfig`]): The architecture.

    Example:

    ```python
    >>> import torch
    >>> from adatok_hf import AdaTokConfig
    >>> from adatok_hf.bench.yardsticks import PlainEncoder

    >>> config = AdaTokConfig(image_size=32, hidden_size=32, num_latent_tokens=8, budgets=[8], num_hidden_layers=1)
    >>> PlainEncoder(config)(torch.zeros(2, 3, 32, 32)).shape  # (batch, num_latent_tokens, codebook_dim)
    torch.Size([2, 8, 12])

    ```"""

    def __init__(self, config: AdaTokConfig):
        super().__init__()
        width = config.hidden_size
        self.num_latent_tokens = config.num_latent_tokens
        self.patch_embedding = nn.Conv2d(config.num_channels, width, config.patch_size, stride=config.patch_size)
        self.extra_tokens = nn.Parameter(torch.randn(1, 1 + config.num_latent_tokens, width))  # class and latents
        self.position_embedding = nn.Parameter(torch.randn(1, config.num_patches, width))
        self.transformer = plain_transformer(
            width,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.intermediate_size,
            config.layer_norm_eps,
        )
        self.latent_projection = nn.Linear(width, config.codebook_dim)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Pixels `(batch, num_channels, image_size, image_size)` to latents `(batch, codes, codebook_dim)`."""
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)  # (batch, patches, width)
        extra_tokens = self.extra_tokens.expand(len(patches), -1, -1)
        hidden_states = self.transformer(torch.cat([patches + self.position_embedding, extra_tokens], dim=1))
        return self.latent_projection(hidden_states[:, -self.num_latent_tokens :])


class PlainDecoder(nn.Module):
    """
    A ViT of the width, depth and sequence of [`AdaTokModel`]'s decoder without its heads, made of
    `torch.nn.TransformerEncoder`. Where that ends in a convolutional pixel decoder, so does this.

    Args:
        config ([`AdaTokConfig`]): The architecture.

    Example:

    ```python
    >>> import torch
    >>> from adatok_hf import AdaTokConfig
    >>> from adatok_hf.bench.yardsticks import PlainDecoder

    >>> config = AdaTokConfig(image_size=32, hidden_size=32, num_latent_tokens=8, budgets=[8], num_hidden_layers=1)
    >>> PlainDecoder(config)(torch.zeros(2, 5, 12)).shape  # from 5 of the 8 codes
    torch.Size([2, 3, 32, 32])

    ```"""

    def __init__(self, config: AdaTokConfig):
        super().__init__()
        width = config.decoder_hidden_size
        self.patch_size, self.grid_size = config.patch_size, config.image_size // config.patch_size
        self.code_projection = nn.Linear(config.codebook_dim, width)
        self.image_tokens = nn.Parameter(torch.randn(1, 1 + config.num_patches, width))  # class and patches
        self.code_positions = nn.Parameter(torch.randn(1, config.num_latent_tokens, width))
        self.transformer = plain_transformer(
            width,
            config.decoder_num_hidden_layers,
            config.decoder_num_attention_heads,
            config.decoder_intermediate_size,
            config.layer_norm_eps,
        )
        self.pixel_decoder = None
        if config.pixel_decoder_config is not None:
            self.pixel_decoder = AdaTokPixelDecoder(
                config.pixel_decoder_config, width, config.num_channels, config.patch_size
            )
        else:
            self.pixel_projection = nn.Linear(width, config.num_channels * config.patch_size**2)
            self.pixel_conv = nn.Conv2d(config.num_channels, config.num_channels, kernel_size=3, padding=1)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents `(batch, codes, codebook_dim)` to pixels `(batch, num_channels, image_size, image_size)`."""
        code_tokens = self.code_projection(latents) + self.code_positions[:, : latents.shape[1]]
        image_tokens = self.image_tokens.expand(len(latents), -1, -1)
        hidden_states = self.transformer(torch.cat([image_tokens, code_tokens], dim=1))
        hidden_states = hidden_states[:, 1 : image_tokens.shape[1]]  # (batch, patches, width)
        if self.pixel_decoder is not None:
            return self.pixel_decoder(hidden_states)
        patches = self.pixel_projection(hidden_states).transpose(1, 2)
        pixels = patches.unflatten(2, (self.grid_size, self.grid_size))
        return self.pixel_conv(nn.functional.pixel_shuffle(pixels, self.patch_size))


def plain_transformer(width: int, depth: int, num_heads: int, intermediate_size: int, eps: float) -> nn.Module:
    """Pre-norm blocks as PyTorch ships them, and a final normalisation."""
    layer = nn.TransformerEncoderLayer(
        width,
        num_heads,
        intermediate_size,
        dropout=0.0,
        activation="gelu",
        layer_norm_eps=eps,
        batch_first=True,
        norm_first=True,
    )
    return nn.TransformerEncoder(layer, depth, norm=nn.LayerNorm(width, eps=eps), enable_nested_tensor=False)


def search_budgets(model: AdaTokModel, pixel_values: torch.Tensor, tolerance: float = 0.1) -> torch.LongTensor:
    """
    Finds budgets without a policy: decodes at every candidate budget and keeps the smallest that is good enough.

    Args:
        model ([`AdaTokModel`]): In evaluation mode.
        pixel_values (`torch.Tensor` of shape `(batch, num_channels, image_size, image_size)`): In [-1, 1].
        tolerance (`float`, *optional*, defaults to 0.1):
            How much larger than at the full budget the mean squared error of an image may be, as a share of it.

    Returns:
        `torch.LongTensor` of shape `(batch,)`: candidate budgets.

    Example:

    ```python
    >>> import torch
    >>> from adatok_hf import AdaTokModel, default_checkpoint
    >>> from adatok_hf.bench.yardsticks import search_budgets

    >>> model = AdaTokModel.from_pretrained(default_checkpoint()).eval()
    >>> with torch.no_grad():
    ...     search_budgets(model, torch.zeros(1, 3, 64, 64), tolerance=1e6)
    tensor([8])

    ```"""
    image_codes = model.encode(pixel_values, budgets=model.config.num_latent_tokens).image_codes
    errors = [
        (model.decode(image_codes, budget).pixel_values - pixel_values).square().mean(dim=(1, 2, 3))
        for budget in model.config.budgets
    ]
    errors = torch.stack(errors, dim=1)  # (batch, candidates)
    is_good = errors <= (1 + tolerance) * errors[:, -1:]
    return model.candidate_budgets[is_good.int().argmax(dim=1)]  # the first that is
