"""AdaTok model configuration."""

import math

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


def check_sizes(config: PreTrainedConfig, declared_by: type[PreTrainedConfig]):
    """Raises a `ValueError` unless every whole number that a class declares is at least 1, or `None` where it may."""
    for name, kind in declared_by.__annotations__.items():
        value, is_optional = getattr(config, name), kind == int | None
        if (kind is int or is_optional) and value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1{', or None' if is_optional else ''}; got {value}.")


def check_backbone(config: PreTrainedConfig):
    """Raises a `ValueError` for sizes of pictures, patches, widths and the pixel decoder that do not fit together."""
    if config.image_size % config.patch_size:
        raise ValueError(f"image_size={config.image_size} must be a multiple of patch_size={config.patch_size}.")
    for width, heads in (
        (config.hidden_size, config.num_attention_heads),
        (config.decoder_hidden_size, config.decoder_num_attention_heads),
    ):
        if width % heads or width % 4:
            raise ValueError(
                f"A hidden size must be a multiple of 4 and of its attention heads; got {width} and {heads} heads."
            )
    if config.pixel_decoder_config is not None:
        factor = config.pixel_decoder_config.upsampling_factor
        if config.patch_size % factor:
            raise ValueError(
                f"A pixel decoder of {len(config.pixel_decoder_config.hidden_sizes)} hidden_sizes decodes patches "
                f"of {factor} pixels, or a multiple, but patch_size is {config.patch_size}."
            )


def fill_decoder(config: PreTrainedConfig):
    """Gives the decoder the encoder's sizes where it has none, and makes the pixel decoder's configuration."""
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
        if getattr(config, f"decoder_{name}") is None:
            setattr(config, f"decoder_{name}", getattr(config, name))
    if isinstance(config.pixel_decoder_config, dict):
        config.pixel_decoder_config = AdaTokPixelDecoderConfig(**config.pixel_decoder_config)


@strict
class AdaTokPixelDecoderConfig(PreTrainedConfig):
    r"""
    Configuration of a convolutional pixel decoder: convolutions upsample the grid of patch states to pixels, so that
    no seams show between patches. In some converted checkpoints every patch first becomes a distribution over a
    codebook, and the grid is that of expected entries. The defaults are those of the VQGAN in MaskGIT, which TiTok
    and One-D-Piece decode with.

    Args:
        codebook_size (`int`, *optional*, defaults to 1024):
            Number of entries that a patch is a mixture of; `None` lets the states go straight to the convolutions.
        codebook_dim (`int`, *optional*, defaults to 256):
            Width of an entry; without a codebook it has no effect.
        hidden_sizes (`list[int]`, *optional*, defaults to `[512, 256, 256, 128, 128]`):
            Channels of each resolution, coarse to fine, each twice as fine as the one before.
        places_per_patch (`int`, *optional*):
            Height and width of a patch on the first grid: the first convolution spreads every state over so many
            places in each direction, one if unset. With n hidden sizes a patch has `places_per_patch * 2 ** (n - 1)`
            places on the last grid; where that is less than the patch size, the last convolution gives several pixels
            at every place.
        layers_per_block (`int`, *optional*, defaults to 2):
            Residual blocks at each resolution, and before the first.
        norm_num_groups (`int`, *optional*, defaults to 32):
            Groups of the group normalisations, a divisor of all hidden sizes.
        norm_eps (`float`, *optional*, defaults to 1e-06):
            Epsilon of the group normalisations.

    Raises:
        `ValueError`: if a number is below 1, or the groups do not divide a hidden size.
    """

    model_type = "adatok_pixel_decoder"

    codebook_size: int | None = 1024
    codebook_dim: int = 256
    hidden_sizes: list[int] | tuple[int, ...] = (512, 256, 256, 128, 128)
    places_per_patch: int | None = None
    layers_per_block: int = 2
    norm_num_groups: int = 32
    norm_eps: float = 1e-6

    def __post_init__(self, **kwargs):
        self.hidden_sizes = list(self.hidden_sizes)
        self.validate_architecture()
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of `@strict`: runs whenever a configuration is made or loaded."""
        check_sizes(self, AdaTokPixelDecoderConfig)
        if not self.hidden_sizes or any(size < 1 or size % self.norm_num_groups for size in self.hidden_sizes):
            raise ValueError(
                f"hidden_sizes must be multiples of norm_num_groups={self.norm_num_groups}; got {self.hidden_sizes}."
            )

    @property
    def upsampling_factor(self) -> int:
        """Places of the finest grid along a patch."""
        return (self.places_per_patch or 1) * 2 ** (len(self.hidden_sizes) - 1)


@strict
class AdaTokConfig(PreTrainedConfig):
    r"""
    Configuration of an [`AdaTokModel`], the adaptive 1D image tokenizer of huggingface.co/papers/2606.07185. The
    defaults give the paper's scale: 256 px, a small (8 blocks, width 512) encoder and decoder, 256 latent tokens.

    Args:
        image_size (`int`, *optional*, defaults to 256):
            Height and width of the pixel values, a multiple of `patch_size`.
        patch_size (`int`, *optional*, defaults to 16):
            Height and width of one patch.
        num_channels (`int`, *optional*, defaults to 3):
            Channels of the pixel values.
        hidden_size (`int`, *optional*, defaults to 512):
            Width of the encoder.
        num_hidden_layers (`int`, *optional*, defaults to 8):
            Blocks of the encoder.
        num_attention_heads (`int`, *optional*, defaults to 8):
            Attention heads in each block of the encoder.
        intermediate_size (`int`, *optional*, defaults to 2048):
            Width of the MLPs of the encoder.
        decoder_hidden_size (`int`, *optional*):
            Width of the decoder. Equal to `hidden_size` when unset, as the next three follow the encoder too.
        decoder_num_hidden_layers (`int`, *optional*):
            Blocks of the decoder.
        decoder_num_attention_heads (`int`, *optional*):
            Attention heads in each block of the decoder.
        decoder_intermediate_size (`int`, *optional*):
            Width of the MLPs of the decoder.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation in the MLPs.
        layer_norm_eps (`float`, *optional*, defaults to 1e-05):
            Epsilon of the layer normalisations.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial policy weights. The encoder and decoder have their own laws, see
            `AdaTokPreTrainedModel._init_weights`.
        num_latent_tokens (`int`, *optional*, defaults to 256):
            Number N of latent tokens, so of image codes at the full budget.
        codebook_size (`int`, *optional*, defaults to 4096):
            Number of entries in the codebook. The id `codebook_size` itself is the pad code.
        codebook_dim (`int`, *optional*, defaults to 12):
            Width of a codebook entry.
        commitment_cost (`float`, *optional*, defaults to 0.25):
            Weight of the commitment term against the codebook term of the quantization loss.
        normalize_codes (`bool`, *optional*, defaults to `True`):
            Whether latents and codebook entries are scaled to unit vectors before they are compared and decoded.
        latent_batch_norm (`bool`, *optional*, defaults to `True`):
            Whether the latents are normalised over the images before quantization.
        interleave_latents (`bool`, *optional*, defaults to `False`):
            Whether code n reads the entries n, n + N, n + 2N, ... of the flattened latent states instead of its own
            state: the layout of TiTok's two-stage models and of One-D-Piece.
        budgets (`list[int]`, *optional*, defaults to `[32, 64, 96, 128, 160, 192, 224, 256]`):
            Candidate budgets, ascending, the last one equal to `num_latent_tokens`. Each is served by a head.
        lora_rank (`int`, *optional*, defaults to 16):
            Rank of the heads, the LoRA adapters on the MLPs of the decoder.
        lora_alpha (`int`, *optional*, defaults to 16):
            Scale of the heads: their output is multiplied by `lora_alpha / lora_rank`.
        pixel_decoder_config ([`AdaTokPixelDecoderConfig`] or `dict`, *optional*):
            A convolutional pixel decoder after the decoder's transformer, in place of one linear layer per patch.
        policy_hidden_size (`int`, *optional*, defaults to 512):
            Width of the policy's hidden layer.
        is_policy_trained (`bool`, *optional*, defaults to `False`):
            Whether the policy has been trained. Until then `encode` uses the full budget where none is given.
        cost_bias (`float`, *optional*, defaults to 0.0):
            Shift of the policy that `encode` uses where none is given: positive is cheaper, negative finer, 0 the
            policy as trained. `adatok calibrate` sets it for a wanted mean budget.

    Raises:
        `ValueError`: if a size is below 1, or if the budgets do not ascend or do not end in `num_latent_tokens`, or if
            `image_size` is no multiple of `patch_size`, or a width no multiple of its attention heads, or if
            `cost_bias` is not finite, or if the pixel decoder upsamples by what does not divide `patch_size`.

    Example:

    ```python
    >>> from adatok_hf import AdaTokConfig

    >>> config = AdaTokConfig(image_size=64, patch_size=8, num_latent_tokens=32, budgets=[8, 16, 32])
    >>> config.num_patches, config.pad_code_id
    (64, 4096)

    ```"""

    model_type = "adatok"
    sub_configs = {"pixel_decoder_config": AdaTokPixelDecoderConfig}

    image_size: int = 256
    patch_size: int = 16
    num_channels: int = 3
    hidden_size: int = 512
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    decoder_hidden_size: int | None = None
    decoder_num_hidden_layers: int | None = None
    decoder_num_attention_heads: int | None = None
    decoder_intermediate_size: int | None = None
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    num_latent_tokens: int = 256
    codebook_size: int = 4096
    codebook_dim: int = 12
    commitment_cost: float = 0.25
    normalize_codes: bool = True
    latent_batch_norm: bool = True
    interleave_latents: bool = False
    budgets: list[int] | tuple[int, ...] = (32, 64, 96, 128, 160, 192, 224, 256)
    lora_rank: int = 16
    lora_alpha: int = 16
    pixel_decoder_config: AdaTokPixelDecoderConfig | dict | None = None
    policy_hidden_size: int = 512
    is_policy_trained: bool = False
    cost_bias: float | int = 0.0

    def __post_init__(self, **kwargs):
        self.budgets = list(self.budgets)
        self.cost_bias = float(self.cost_bias)
        fill_decoder(self)
        self.validate_architecture()  # `@strict` calls it too, but wraps what it raises: this one is a ValueError
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of `@strict`: runs whenever a configuration is made or loaded."""
        check_sizes(self, AdaTokConfig)
        if not self.budgets or self.budgets[0] < 1 or sorted(set(self.budgets)) != self.budgets:
            raise ValueError(
                f"budgets must be positive and ascend strictly, for example [8, 16, 32]; got {self.budgets}."
            )
        if self.budgets[-1] != self.num_latent_tokens:
            raise ValueError(
                f"The last of budgets must equal num_latent_tokens={self.num_latent_tokens}; got {self.budgets}."
            )
        if not math.isfinite(self.cost_bias):
            raise ValueError(f"cost_bias must be a finite number, 0 for the policy as trained; got {self.cost_bias}.")
        check_backbone(self)

    @property
    def num_patches(self) -> int:
        """Number of patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def pad_code_id(self) -> int:
        """Id that fills the image codes beyond the budget."""
        return self.codebook_size

    @property
    def choice(self) -> str:
        """All that decides, beside the policy's weights, which budget an image gets."""
        return f"{self.cost_bias} {self.is_policy_trained}"

    def count_bits(self, budget: int) -> float:
        """
        What an image takes: its codes and the index of its budget, which a decoder has to be told. The index counts
        among the candidate budgets where the budget is one of them, else among all `num_latent_tokens`.
        """
        choices = len(self.budgets) if budget in self.budgets else self.num_latent_tokens
        return budget * math.log2(self.codebook_size) + math.log2(choices)


__all__ = ["AdaTokConfig", "AdaTokPixelDecoderConfig"]
