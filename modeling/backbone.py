"""What image tokenizers of this family share: two vision transformers, the base of the models, checks of the input."""

import math
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.output_capturing import OutputRecorder

from .blocks import AdaTokAttention, AdaTokLayer, init_linear, sincos_positions
from .pixel_decoder import AdaTokPixelDecoder


MAX_PIXEL_VALUE = 10  # noise and other normalisations stay below it, a picture in [0, 255] does not


class AdaTokVisionEncoder(nn.Module):
    """A ViT whose sequence is the class token, the patches and the latent tokens."""

    def __init__(self, config: PreTrainedConfig, num_latent_tokens: int):
        super().__init__()
        width = config.hidden_size
        self.patch_embedding = nn.Conv2d(
            config.num_channels, width, kernel_size=config.patch_size, stride=config.patch_size
        )
        self.class_embedding = nn.Parameter(torch.empty(1, 1, width))
        self.position_embedding = nn.Parameter(torch.empty(1, config.num_patches + 1, width))
        self.latent_tokens = nn.Parameter(torch.empty(1, num_latent_tokens, width))
        self.layernorm_pre = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(
            AdaTokLayer(config, width, config.num_attention_heads, config.intermediate_size)
            for _ in range(config.num_hidden_layers)
        )
        self.layernorm_post = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def init_weights(self):
        """Large positions and latent tokens: the usual small ones are not told apart for thousands of steps."""
        grid_size = math.isqrt(self.position_embedding.shape[1] - 1)
        init.copy_(self.position_embedding, sincos_positions(self.position_embedding.shape[2], grid_size)[None])
        init.zeros_(self.class_embedding)
        init.normal_(self.latent_tokens, std=0.4)
        fan_in = self.patch_embedding.weight[0].numel()
        init.normal_(self.patch_embedding.weight, std=fan_in**-0.5)

    def states(
        self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """States of class token and patches, `(batch, 1 + patches, width)`, and of the latent tokens."""
        batch_size = pixel_values.shape[0]
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)  # (batch, patches, width)
        image_tokens = torch.cat([self.class_embedding.expand(batch_size, -1, -1), patches], dim=1)
        image_tokens = image_tokens + self.position_embedding
        hidden_states = torch.cat([image_tokens, self.latent_tokens.expand(batch_size, -1, -1)], dim=1)
        hidden_states = self.layernorm_pre(hidden_states)  # (batch, 1 + patches + num_latent_tokens, width)
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        hidden_states = self.layernorm_post(hidden_states)
        return hidden_states.split([image_tokens.shape[1], self.latent_tokens.shape[1]], dim=1)


class AdaTokDecoder(nn.Module):
    """A ViT that turns one token per patch, a mask token where nothing is known of it, into pixels, codes in view."""

    def __init__(self, config: PreTrainedConfig, num_latent_tokens: int):
        super().__init__()
        width = config.decoder_hidden_size
        self.config = config
        self.grid_size = config.image_size // config.patch_size
        self.code_projection = nn.Linear(config.codebook_dim, width)
        self.class_embedding = nn.Parameter(torch.empty(1, 1, width))
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.position_embedding = nn.Parameter(torch.empty(1, config.num_patches + 1, width))
        self.latent_position_embedding = nn.Parameter(torch.empty(1, num_latent_tokens, width))
        self.layernorm_pre = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(
            AdaTokLayer(config, width, config.decoder_num_attention_heads, config.decoder_intermediate_size)
            for _ in range(config.decoder_num_hidden_layers)
        )
        self.layernorm_post = nn.LayerNorm(width, eps=config.layer_norm_eps)
        if config.pixel_decoder_config is not None:
            self.pixel_decoder = AdaTokPixelDecoder(
                config.pixel_decoder_config, width, config.num_channels, config.patch_size
            )
        else:
            self.pixel_projection = nn.Linear(width, config.num_channels * config.patch_size**2)
            self.pixel_conv = nn.Conv2d(config.num_channels, config.num_channels, kernel_size=3, padding=1)

    def init_weights(self):
        """Large positions and codes, without which the decoder stays blind to the codes for thousands of steps."""
        positions = sincos_positions(self.position_embedding.shape[2], self.grid_size)
        init.copy_(self.position_embedding, positions[None])
        init.zeros_(self.class_embedding)
        init.normal_(self.mask_token, std=0.02)
        init.normal_(self.latent_position_embedding, std=0.4)
        init.normal_(self.code_projection.weight, std=0.3)
        if self.config.pixel_decoder_config is None:
            init.dirac_(self.pixel_conv.weight)

    def forward(
        self,
        quantized: torch.Tensor,
        code_mask: torch.BoolTensor | None = None,
        head_indices: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """
        Args:
            quantized (`torch.Tensor` of shape `(batch, tokens, codebook_dim)`):
                A prefix of quantized latents, of any float type.
            code_mask (`torch.BoolTensor` of shape `(batch, tokens)`, *optional*): False hides a code.
            head_indices (`torch.LongTensor` of shape `(batch,)`, or `int`, *optional*): Head of each sample or all.

        Returns:
            Pixels of shape `(batch, num_channels, image_size, image_size)`.
        """
        return self.to_pixels(self.patch_states(quantized, code_mask, head_indices, **kwargs))

    def patch_states(
        self,
        quantized: torch.Tensor,
        code_mask: torch.BoolTensor | None = None,
        head_indices: torch.Tensor | int | None = None,
        patch_tokens: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """
        The first half of `forward`, all that depends on the budget: states of shape `(batch, patches, width)`. Tokens
        of that shape, of which the mask token is one, may stand in place of one mask token per patch.
        """
        batch_size, num_codes, _ = quantized.shape
        if patch_tokens is None:
            patch_tokens = self.mask_token.expand(-1, self.grid_size**2, -1)
        image_tokens = torch.cat([self.class_embedding.expand(len(patch_tokens), -1, -1), patch_tokens], dim=1)
        image_tokens = (image_tokens + self.position_embedding).expand(batch_size, -1, -1)
        quantized = quantized.to(self.mask_token.dtype)  # the quantizer computes in float32
        code_tokens = self.code_projection(quantized) + self.latent_position_embedding[:, :num_codes]
        hidden_states = torch.cat([image_tokens.to(code_tokens.dtype), code_tokens], dim=1)
        hidden_states = self.layernorm_pre(hidden_states)  # (batch, 1 + patches + num_codes, width)
        if code_mask is not None:
            code_mask = nn.functional.pad(code_mask, (image_tokens.shape[1], 0), value=True)
        attention_mask = create_bidirectional_mask(self.config, hidden_states, code_mask)
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask, head_indices, **kwargs)
        return self.layernorm_post(hidden_states[:, 1 : image_tokens.shape[1]])

    def to_pixels(self, patch_states: torch.Tensor) -> torch.Tensor:
        """The second half of `forward`, from the states to the pixels."""
        if self.config.pixel_decoder_config is not None:
            return self.pixel_decoder(patch_states)
        patches = self.pixel_projection(patch_states).transpose(1, 2)  # (batch, channels * patch_size**2, patches)
        pixels = patches.unflatten(2, (self.grid_size, self.grid_size))
        return self.pixel_conv(nn.functional.pixel_shuffle(pixels, self.config.patch_size))


class AdaTokVisionModel(PreTrainedModel):
    """
    Base of the models: how they attend, start and load, and what they accept.

    Attributes:
        _own_keywords (`str`): What a message about an unknown keyword of `encode` and `forward` offers instead.
    """

    _own_keywords: str
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["AdaTokLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # Of the encoder only: the decoder may take a batch in groups, whose states have no common shape.
    _can_record_outputs = {
        "hidden_states": OutputRecorder(AdaTokLayer, layer_name="encoder"),
        "attentions": OutputRecorder(AdaTokAttention, index=1, layer_name="encoder"),
    }
    accepts_loss_kwargs = False  # `forward` takes keywords for the attention, none for the loss

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if isinstance(module, nn.Linear):
            init_linear(module)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        else:
            super()._init_weights(module)
        if isinstance(module, AdaTokVisionEncoder | AdaTokDecoder):
            module.init_weights()

    def get_input_embeddings(self) -> None:
        """`None`: pixels enter by a convolution, there is no table of embeddings to exchange or resize."""
        return None

    def _takes_batch_statistics(self, pixel_values: torch.Tensor, return_loss: bool) -> bool:
        # Under a user's adapter the running statistics belong to what stays as it is: no adapter would save them.
        return self.training and return_loss and len(pixel_values) > 1 and not hasattr(self, "peft_config")

    def _check_keywords(self, kwargs: dict, of_forward: bool = False):
        # The attention ignores what it does not know, so that a misspelt `budgets` would have no effect.
        for name in kwargs:
            if name not in TransformersKwargs.__annotations__:
                raise TypeError(
                    f"AdaTok knows no keyword {name!r}; {self._own_keywords} are its own, and the attention takes "
                    f"{', '.join(TransformersKwargs.__annotations__)}."
                )
            if name.removeprefix("output_") in self._can_record_outputs and kwargs[name] and not of_forward:
                raise TypeError(f"encode and decode record nothing; model(pixel_values, {name}=True) does.")

    def _check_pixel_values(self, pixel_values: torch.Tensor):
        size = self.config.image_size
        expected = (self.config.num_channels, size, size)
        if not isinstance(pixel_values, torch.Tensor):
            raise ValueError(
                f"pixel_values must be a tensor of shape (batch, {', '.join(map(str, expected))}); got a "
                f"{type(pixel_values).__name__}, of which AdaTokImageProcessor makes one."
            )
        if pixel_values.shape[1:] != expected or len(pixel_values) == 0 or not pixel_values.is_floating_point():
            raise ValueError(
                f"pixel_values must be floats of shape (batch, {', '.join(map(str, expected))}); got "
                f"{pixel_values.dtype} of shape {tuple(pixel_values.shape)}. AdaTokImageProcessor makes them."
            )
        if not torch.compiler.is_compiling() and not torch.isfinite(pixel_values).all():
            raise ValueError("pixel_values contain NaN or infinite values; they must be finite and in [-1, 1].")
        if not torch.compiler.is_compiling() and (largest := pixel_values.abs().max()) > MAX_PIXEL_VALUE:
            raise ValueError(
                f"pixel_values must lie in [-1, 1]; got {largest:g}, as of a picture in [0, 255]. "
                "AdaTokImageProcessor scales them."
            )


def is_integer(tensor: torch.Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def resolve_counts(
    name: str,
    counts: int | Sequence[int] | torch.Tensor,
    batch_size: int,
    limits: tuple[int, int],
    device: torch.device,
) -> torch.LongTensor:
    """
    How many tokens each image keeps, `(batch,)`, given one number for all or one for each. Raises a `ValueError` that
    begins with `name` unless they are integers within the limits, both of which are allowed.
    """
    least, most = limits
    # Python's integers have their values while a compiler traces, tensors do not.
    for count in counts if isinstance(counts, list | tuple) else [counts]:
        if isinstance(count, int) and not isinstance(count, bool) and not least <= count <= most:
            raise ValueError(f"{name} must lie between {least} and {most}; got {counts}.")
    try:
        resolved = torch.as_tensor(counts, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be one integer, or one per image; got {counts!r}.") from error
    if not is_integer(resolved) or resolved.shape not in ((), (batch_size,)):
        raise ValueError(
            f"{name} must be one integer or {batch_size} of them, one per image; got {resolved.dtype} of shape "
            f"{tuple(resolved.shape)}."
        )
    resolved = resolved.long()  # types of 8 bits could not be compared with the limits
    if not torch.compiler.is_compiling() and not ((resolved >= least) & (resolved <= most)).all():
        raise ValueError(f"{name} must lie between {least} and {most}; got {resolved.tolist()}.")
    return resolved.expand(batch_size).contiguous()


def pad_codes(image_codes: Sequence[Sequence[int]], pad_code_id: int, device: torch.device) -> torch.Tensor:
    """
    Codes of images as one tensor `(batch, codes)`, given as an array, or as lists that may differ in length and are
    filled up with the pad code. `ValueError` for anything else.
    """
    try:
        if isinstance(image_codes, list | tuple):
            rows = [torch.as_tensor(row) for row in image_codes]
            if any(row.ndim != 1 or not is_integer(row) for row in rows):
                raise ValueError("not rows of integers")
            image_codes = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_code_id)
        return torch.as_tensor(image_codes, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            "image_codes must be integers of shape (batch, codes), one list of codes per image, or what encode "
            f"returned; got a {type(image_codes).__name__}."
        ) from error
