"""TaTok model configuration."""

import math

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_adatok import AdaTokPixelDecoderConfig, check_backbone, check_sizes, fill_decoder


ENTROPIES = ("prior", "surprisal", "residual")
RULES = ("relative", "absolute")


def check_rule(rule: str):
    """Raises a `ValueError` unless there is such a rule for thresholds."""
    if rule not in RULES:
        raise ValueError(f"The rule of the threshold must be {' or '.join(RULES)}; got {rule!r}.")


def check_threshold(threshold: float, rule: str):
    """Raises a `ValueError` unless a threshold lies in the range of its rule."""
    check_rule(rule)
    if rule == "relative" and not 0 <= threshold <= 1:
        raise ValueError(f"A relative threshold is a share of the entropy to keep, from 0 to 1; got {threshold}.")
    if rule == "absolute" and not 0 <= threshold < math.inf:
        raise ValueError(f"An absolute threshold is the entropy to discard at most, from 0; got {threshold}.")


@strict
class TaTokConfig(PreTrainedConfig):
    r"""
    Configuration of a [`TaTokModel`], the image tokenizer of huggingface.co/papers/2605.16384 with global tokens and
    filtered patch tokens. The defaults give 256 px, a base ViT and 256 patch tokens.

    Args:
        image_size (`int`, *optional*, defaults to 256):
            Height and width of the pixel values, a multiple of `patch_size`.
        patch_size (`int`, *optional*, defaults to 16):
            Height and width of one patch.
        num_channels (`int`, *optional*, defaults to 3):
            Channels of the pixel values.
        hidden_size (`int`, *optional*, defaults to 768):
            Width of the encoder.
        num_hidden_layers (`int`, *optional*, defaults to 12):
            Blocks of the encoder.
        num_attention_heads (`int`, *optional*, defaults to 12):
            Attention heads in each block of the encoder.
        intermediate_size (`int`, *optional*, defaults to 3072):
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
        num_global_tokens (`int`, *optional*, defaults to 16):
            Number G of global tokens, which every image keeps.
        global_codebook_size (`int`, *optional*, defaults to 4096):
            Entries of the codebook of the global tokens.
        patch_codebook_size (`int`, *optional*, defaults to 4096):
            Entries of the codebook of the patch tokens. The id `patch_codebook_size` itself is the pad code.
        codebook_dim (`int`, *optional*, defaults to 12):
            Width of an entry of either codebook.
        commitment_cost (`float`, *optional*, defaults to 0.25):
            Weight of the commitment term against the codebook term of the quantization loss.
        normalize_codes (`bool`, *optional*, defaults to `True`):
            Whether latents and codebook entries are scaled to unit vectors before they are compared and decoded.
        latent_batch_norm (`bool`, *optional*, defaults to `True`):
            Whether the latents are normalised over the images before quantization.
        pixel_decoder_config ([`AdaTokPixelDecoderConfig`] or `dict`, *optional*):
            A convolutional pixel decoder after the decoder's transformer, in place of one linear layer per patch.
        prior_hidden_size (`int`, *optional*, defaults to 256):
            Width of the prior over patch codes, which gives their conditional entropy.
        prior_num_hidden_layers (`int`, *optional*, defaults to 2):
            Blocks of the prior.
        prior_num_attention_heads (`int`, *optional*, defaults to 4):
            Attention heads in each block of the prior.
        entropy (`str`, *optional*, defaults to `"prior"`):
            What patches are filtered by: `"prior"`, the conditional entropy of their codes in bits; `"surprisal"`, the
            bits that the prior gives the very code of the patch, of which the entropy is the expectation; or
            `"residual"`, a proxy, the mean squared error of the patch when the global tokens alone are decoded.
        threshold (`float`, *optional*):
            Where filtering ends when `encode` is given nothing else. `None` keeps all patches.
        threshold_rule (`str`, *optional*, defaults to `"relative"`):
            `"relative"`: the kept patches hold at least the share `threshold` of the entropy. `"absolute"`: the
            dropped ones hold at most `threshold`, in the unit of the entropy.

    Raises:
        `ValueError`: if a size is below 1, or `image_size` no multiple of `patch_size`, or a width no multiple of its
            attention heads, or if the pixel decoder upsamples by what does not divide `patch_size`, or if there is no
            such entropy or rule, or the threshold is out of its range.

    Example:

    ```python
    >>> from adatok_hf import TaTokConfig

    >>> config = TaTokConfig(image_size=64, patch_size=8, num_global_tokens=8, patch_codebook_size=1024)
    >>> config.num_patches, config.pad_code_id
    (64, 1024)
    >>> round(config.count_bits(8 + 6), 1)  # 8 codes of 12 bits, 6 of 10, and which 6 of the 64 places they are for
    188.2

    ```"""

    model_type = "tatok"
    sub_configs = {"pixel_decoder_config": AdaTokPixelDecoderConfig}

    image_size: int = 256
    patch_size: int = 16
    num_channels: int = 3
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    decoder_hidden_size: int | None = None
    decoder_num_hidden_layers: int | None = None
    decoder_num_attention_heads: int | None = None
    decoder_intermediate_size: int | None = None
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    num_global_tokens: int = 16
    global_codebook_size: int = 4096
    patch_codebook_size: int = 4096
    codebook_dim: int = 12
    commitment_cost: float = 0.25
    normalize_codes: bool = True
    latent_batch_norm: bool = True
    pixel_decoder_config: AdaTokPixelDecoderConfig | dict | None = None
    prior_hidden_size: int = 256
    prior_num_hidden_layers: int = 2
    prior_num_attention_heads: int = 4
    entropy: str = "prior"
    threshold: float | int | None = None
    threshold_rule: str = "relative"

    def __post_init__(self, **kwargs):
        fill_decoder(self)
        self.validate_architecture()  # `@strict` calls it too, but wraps what it raises: this one is a ValueError
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of `@strict`: runs whenever a configuration is made or loaded."""
        check_sizes(self, TaTokConfig)
        check_backbone(self)
        if self.prior_hidden_size % self.prior_num_attention_heads:
            raise ValueError(
                f"prior_hidden_size must be a multiple of prior_num_attention_heads={self.prior_num_attention_heads}; "
                f"got {self.prior_hidden_size}."
            )
        if self.entropy not in ENTROPIES:
            raise ValueError(f"entropy must be {', '.join(ENTROPIES)}; got {self.entropy!r}.")
        check_threshold(0 if self.threshold is None else self.threshold, self.threshold_rule)

    @property
    def num_patches(self) -> int:
        """Number P of patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def pad_code_id(self) -> int:
        """Id that stands in the patch codes where a patch is dropped."""
        return self.patch_codebook_size

    @property
    def choice(self) -> str:
        """All that decides, beside the prior's weights, which patches an image keeps."""
        return f"{self.threshold} {self.threshold_rule} {self.entropy}"

    @property
    def num_latent_tokens(self) -> int:
        """Number of tokens of an image that keeps all patches."""
        return self.num_global_tokens + self.num_patches

    @property
    def budgets(self) -> list[int]:
        """Numbers of tokens to look at: the global ones alone, and with each further eighth of the patches."""
        return sorted({self.num_global_tokens + self.num_patches * eighth // 8 for eighth in range(9)})

    def count_place_bits(self, num_kept: int) -> float:
        """What it takes to say which patches are kept: one bit for each, or their number and one of all such sets."""
        places = self.num_patches
        return min(places, math.log2(places + 1) + math.log2(math.comb(places, num_kept)))

    def count_bits(self, num_tokens: int) -> float:
        """What an image of so many tokens, globals among them, takes: all codes, and which patches are kept."""
        num_kept = num_tokens - self.num_global_tokens
        if not 0 <= num_kept <= self.num_patches:
            raise ValueError(
                f"num_tokens must lie between {self.num_global_tokens} and {self.num_latent_tokens}; got {num_tokens}."
            )
        codes = self.num_global_tokens * math.log2(self.global_codebook_size)
        return codes + num_kept * math.log2(self.patch_codebook_size) + self.count_place_bits(num_kept)


__all__ = ["TaTokConfig"]
