"""TaTok: an image tokenizer with global tokens, and patch tokens of which it keeps those that say something new."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, logging
from transformers.utils.output_capturing import capture_outputs

from .backbone import AdaTokDecoder, AdaTokVisionEncoder, AdaTokVisionModel, is_integer, resolve_counts
from .blocks import AdaTokLayer, AdaTokVectorQuantizer
from .configuration_tatok import ENTROPIES, TaTokConfig, check_rule, check_threshold


logger = logging.get_logger(__name__)


@dataclass
class TaTokEncoderOutput(ModelOutput):
    r"""
    Args:
        global_codes (`torch.LongTensor` of shape `(batch, num_global_tokens)`):
            Ids in `0 .. global_codebook_size - 1`.
        patch_codes (`torch.LongTensor` of shape `(batch, num_patches)`):
            Ids in `0 .. patch_codebook_size - 1`, row by row; the pad code `patch_codebook_size` where one is dropped.
        kept_mask (`torch.BoolTensor` of shape `(batch, num_patches)`):
            True where a patch is kept.
        num_tokens (`torch.LongTensor` of shape `(batch,)`):
            Global tokens and kept patches, in `num_global_tokens .. num_global_tokens + num_patches`.
        patch_entropy (`torch.FloatTensor` of shape `(batch, num_patches)`):
            Conditional entropy of each patch code, or its surprisal, in bits, at least 0; with `entropy="residual"` a
            proxy, the mean squared error of the patch in pixel values of [-1, 1].
        patch_order (`torch.LongTensor` of shape `(batch, num_patches)`):
            The places of the patches, the first kept one first, the last dropped one last.
    """

    global_codes: torch.LongTensor | None = None
    patch_codes: torch.LongTensor | None = None
    kept_mask: torch.BoolTensor | None = None
    num_tokens: torch.LongTensor | None = None
    patch_entropy: torch.FloatTensor | None = None
    patch_order: torch.LongTensor | None = None


@dataclass
class TaTokDecoderOutput(ModelOutput):
    r"""
    Args:
        pixel_values (`torch.FloatTensor` of shape `(batch, num_channels, image_size, image_size)`):
            The reconstruction, nominally in [-1, 1] but not clipped: `AdaTokImageProcessor.post_process` does that.
    """

    pixel_values: torch.FloatTensor | None = None


@dataclass
class TaTokOutput(ModelOutput):
    r"""
    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*, returned with `return_loss=True`):
            Mean squared error of the pixels plus the quantization loss and the loss of the prior.
        pixel_values (`torch.FloatTensor` of shape `(batch, num_channels, image_size, image_size)`):
            The reconstruction, nominally in [-1, 1] but not clipped.
        global_codes, patch_codes, kept_mask, num_tokens:
            As in [`TaTokEncoderOutput`].
        quantization_loss (`torch.FloatTensor` of shape `()`, *optional*, returned with `return_loss=True`):
            Codebook and commitment terms of both codebooks.
        prior_loss (`torch.FloatTensor` of shape `()`, *optional*, returned with `return_loss=True`):
            Cross-entropy of the hidden patch codes in nats. It trains the prior alone.
        global_latents (`torch.FloatTensor` of shape `(batch, num_global_tokens, codebook_dim)`, *optional*, returned
            with `return_loss=True`): What is quantized, from which dead codes are revived.
        patch_latents (`torch.FloatTensor` of shape `(batch, num_patches, codebook_dim)`, *optional*, returned with
            `return_loss=True`): The same of the patches.
        hidden_states (`tuple` of `torch.FloatTensor` of shape `(batch, tokens, hidden_size)`, *optional*, returned
            with `output_hidden_states=True`): The encoder's states before its first block and after each; `tokens` are
            the class token, the patches and the global tokens.
        attentions (`tuple` of `torch.FloatTensor` of shape `(batch, heads, tokens, tokens)`, *optional*, returned with
            `output_attentions=True`): The encoder's attention weights, of each block; empty unless the attention
            implementation is `"eager"`.
    """

    loss: torch.FloatTensor | None = None
    pixel_values: torch.FloatTensor | None = None
    global_codes: torch.LongTensor | None = None
    patch_codes: torch.LongTensor | None = None
    kept_mask: torch.BoolTensor | None = None
    num_tokens: torch.LongTensor | None = None
    quantization_loss: torch.FloatTensor | None = None
    prior_loss: torch.FloatTensor | None = None
    global_latents: torch.FloatTensor | None = None
    patch_latents: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class TaTokEncoder(AdaTokVisionEncoder):
    """A ViT of which the global tokens and the patches themselves become codes."""

    def __init__(self, config: TaTokConfig):
        super().__init__(config, config.num_global_tokens)
        self.latent_projection = nn.Linear(config.hidden_size, config.codebook_dim)
        self.patch_projection = nn.Linear(config.hidden_size, config.codebook_dim)

    def forward(
        self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents of the global tokens, `(batch, num_global_tokens, codebook_dim)`, and of the patches."""
        image_states, global_states = self.states(pixel_values, **kwargs)
        return self.latent_projection(global_states), self.patch_projection(image_states[:, 1:])


class TaTokDecoder(AdaTokDecoder):
    """A ViT that sees all global codes, and the patch codes that are kept at their places."""

    def __init__(self, config: TaTokConfig):
        super().__init__(config, config.num_global_tokens)
        self.patch_projection = nn.Linear(config.codebook_dim, config.decoder_hidden_size)

    def init_weights(self):
        """As large as the positions, like what is made of the global codes."""
        super().init_weights()
        init.normal_(self.patch_projection.weight, std=0.3)

    def forward(
        self,
        global_vectors: torch.Tensor,
        patch_vectors: torch.Tensor,
        kept_mask: torch.BoolTensor,
        global_mask: torch.BoolTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """
        Args:
            global_vectors (`torch.Tensor` of shape `(batch, num_global_tokens, codebook_dim)`): Of any float type.
            patch_vectors (`torch.Tensor` of shape `(batch, num_patches, codebook_dim)`): Of any float type.
            kept_mask (`torch.BoolTensor` of shape `(batch, num_patches)`): False puts the mask token at a place.
            global_mask (`torch.BoolTensor` of shape `(batch,)`, *optional*): False hides the global codes of an image.

        Returns:
            Pixels of shape `(batch, num_channels, image_size, image_size)`.
        """
        patch_tokens = self.patch_projection(patch_vectors.to(self.mask_token.dtype))
        patch_tokens = torch.where(kept_mask[..., None], patch_tokens, self.mask_token.to(patch_tokens.dtype))
        code_mask = None
        if global_mask is not None:
            code_mask = global_mask[:, None].expand(-1, global_vectors.shape[1])
        states = self.patch_states(global_vectors, code_mask, patch_tokens=patch_tokens, **kwargs)
        return self.to_pixels(states)


class TaTokPrior(nn.Module):
    """A small masked transformer that foretells patch codes from the global codes and from the patch codes in view."""

    def __init__(self, config: TaTokConfig):
        super().__init__()
        width = config.prior_hidden_size
        self.global_projection = nn.Linear(config.codebook_dim, width)
        self.patch_projection = nn.Linear(config.codebook_dim, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.position_embedding = nn.Parameter(torch.empty(1, config.num_global_tokens + config.num_patches, width))
        self.layers = nn.ModuleList(
            AdaTokLayer(config, width, config.prior_num_attention_heads, 4 * width)
            for _ in range(config.prior_num_hidden_layers)
        )
        self.layernorm_post = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.code_head = nn.Linear(width, config.patch_codebook_size)

    def init_weights(self):
        """Large positions and codes, as in the decoder, and scores near zero: every code is as likely at first."""
        init.normal_(self.mask_token, std=0.02)
        init.normal_(self.position_embedding, std=0.4)
        init.normal_(self.global_projection.weight, std=0.3)
        init.normal_(self.patch_projection.weight, std=0.3)
        init.normal_(self.code_head.weight, std=0.02)

    def forward(
        self,
        global_vectors: torch.Tensor,
        patch_vectors: torch.Tensor,
        visible: torch.BoolTensor,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """Logits, float32 of shape `(batch, num_patches, patch_codebook_size)`, for the places that are hidden."""
        dtype = self.mask_token.dtype
        patch_tokens = self.patch_projection(patch_vectors.to(dtype))
        patch_tokens = torch.where(visible[..., None], patch_tokens, self.mask_token.to(patch_tokens.dtype))
        hidden_states = torch.cat([self.global_projection(global_vectors.to(dtype)), patch_tokens], dim=1)
        hidden_states = hidden_states + self.position_embedding
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        return self.code_head(self.layernorm_post(hidden_states[:, global_vectors.shape[1] :])).float()


class TaTokPreTrainedModel(AdaTokVisionModel):
    config: TaTokConfig
    base_model_prefix = "tatok"
    _own_keywords = "threshold, num_tokens and kept_mask"
    # One by one, as the counters of the batch normalisations are to stay integers.
    _keep_in_fp32_modules_strict = [
        f"{name}_quantizer.{part}"
        for name in ("global", "patch")
        for part in ("codebook", "latent_norm.running_mean", "latent_norm.running_var")
    ]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, TaTokPrior):
            module.init_weights()


class TaTokModel(TaTokPreTrainedModel):
    r"""
    The image tokenizer of huggingface.co/papers/2605.16384. A few global tokens say what patches have in common, and
    are always kept. Of the patch tokens, Dynamic Token Filtering keeps those of the highest conditional entropy, until
    they hold a wanted share of it.

    Args:
        config ([`TaTokConfig`]): The architecture.

    Example:

    ```python
    >>> import torch
    >>> from adatok_hf import TaTokConfig, TaTokModel

    >>> sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_global_tokens": 4}
    >>> config = TaTokConfig(image_size=32, patch_size=8, **sizes)
    >>> model = TaTokModel(config).eval()
    >>> pixel_values = torch.rand(2, 3, 32, 32) * 2 - 1
    >>> with torch.no_grad():
    ...     encoded = model.encode(pixel_values, num_tokens=torch.tensor([4, 10]))
    ...     decoded = model.decode(encoded.global_codes, encoded.patch_codes, encoded.kept_mask)
    >>> encoded.kept_mask.sum(dim=1).tolist(), decoded.pixel_values.shape == pixel_values.shape
    ([0, 6], True)

    ```"""

    def __init__(self, config: TaTokConfig):
        super().__init__(config)
        self.encoder = TaTokEncoder(config)
        kwargs = {
            "commitment_cost": config.commitment_cost,
            "normalize_codes": config.normalize_codes,
            "batch_norm": config.latent_batch_norm,
        }
        self.global_quantizer = AdaTokVectorQuantizer(
            config.num_global_tokens, config.global_codebook_size, config.codebook_dim, **kwargs
        )
        self.patch_quantizer = AdaTokVectorQuantizer(
            config.num_patches, config.patch_codebook_size, config.codebook_dim, **kwargs
        )
        self.decoder = TaTokDecoder(config)
        self.prior = TaTokPrior(config)
        self.post_init()

    def encode(
        self,
        pixel_values: torch.FloatTensor,
        threshold: float | None = None,
        num_tokens: int | Sequence[int] | torch.Tensor | None = None,
        kept_mask: torch.BoolTensor | None = None,
        threshold_rule: str | None = None,
        entropy: str | None = None,
        block_size: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TaTokEncoderOutput:
        r"""
        Turns images into codes and decides which patches to keep: by a threshold, by number, or as told. Latents are
        normalised by the running statistics, in `train()` mode too.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, num_channels, image_size, image_size)`):
                Images in [-1, 1], as `AdaTokImageProcessor` gives them.
            threshold (`float`, *optional*):
                Relative, in [0, 1]: the smallest set of patches is kept that holds this share of the image's entropy.
                Absolute, from 0: as many patches are dropped as hold no more than that together. Unset,
                `config.threshold`; where that is unset too, all patches are kept.
            num_tokens (`int`, or `(batch,)` integers, *optional*):
                Tokens to keep, the global ones among them, in `num_global_tokens .. num_global_tokens + num_patches`.
            kept_mask (`torch.BoolTensor` of shape `(batch, num_patches)`, *optional*):
                Exactly which patches to keep.
            threshold_rule (`str`, *optional*):
                `"relative"` or `"absolute"`, in place of the configuration's.
            entropy (`str`, *optional*):
                `"prior"`, `"surprisal"` or `"residual"`, in place of the configuration's.
            block_size (`int`, *optional*):
                Recomputes the entropy, given the patches already kept, after every so many of them. This is what
                cumulative conditional entropy means to the letter, at many passes of the prior; unset, one pass.
            kwargs (*optional*): `TransformersKwargs`, for the attention implementation.

        Returns:
            [`TaTokEncoderOutput`]

        Raises:
            `ValueError`: for pixel values of a wrong shape or not finite, for thresholds and numbers of tokens out of
                range, for a mask of a wrong shape, for more than one of the three, for another rule or entropy than
                the configuration's at its threshold, and for blocks of residuals.
            `TypeError`: for a keyword that does not exist.
        """
        self._check_keywords(kwargs)
        self._check_pixel_values(pixel_values)
        check_rule(threshold_rule or self.config.threshold_rule)
        self._check_choice(threshold, num_tokens, kept_mask, threshold_rule)
        pixel_values = pixel_values.to(self.dtype)
        global_latents, patch_latents = self.encoder(pixel_values, **kwargs)
        global_vectors, _, global_codes, _ = self.global_quantizer(global_latents)
        patch_vectors, _, patch_codes, _ = self.patch_quantizer(patch_latents)
        entropy = self._check_entropy(entropy, block_size)
        is_left_to_config = all(choice is None for choice in (threshold, num_tokens, kept_mask))
        if is_left_to_config and self.config.threshold is not None and entropy != self.config.entropy:
            raise ValueError(f"entropy={entropy!r} needs a threshold of its own; got none.")
        order, patch_entropy = self._order(
            pixel_values, global_vectors, patch_vectors, patch_codes, entropy, block_size, **kwargs
        )
        if kept_mask is None:
            counts = self.count_kept(patch_entropy.gather(1, order), threshold, num_tokens, threshold_rule)
            kept_mask = order.argsort(dim=1) < counts[:, None]
        else:
            kept_mask = self._check_kept_mask(kept_mask, len(pixel_values))
            is_kept = kept_mask.gather(1, order).int()
            order = order.gather(1, is_kept.argsort(dim=1, descending=True, stable=True))
        return TaTokEncoderOutput(
            global_codes=global_codes,
            patch_codes=patch_codes.masked_fill(~kept_mask, self.config.pad_code_id),
            kept_mask=kept_mask,
            num_tokens=self.config.num_global_tokens + kept_mask.sum(dim=1),
            patch_entropy=patch_entropy,
            patch_order=order,
        )

    def decode(
        self,
        global_codes: torch.LongTensor | TaTokEncoderOutput,
        patch_codes: torch.LongTensor | None = None,
        kept_mask: torch.BoolTensor | None = None,
        global_mask: torch.BoolTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TaTokDecoderOutput:
        r"""
        Reconstructs images from their global codes and the patch codes that are kept; others have no influence.

        Args:
            global_codes (`torch.LongTensor` of shape `(batch, num_global_tokens)`):
                Codes as `encode` gives them, or all that it returned; `decode(**encoded)` works too.
            patch_codes (`torch.LongTensor` of shape `(batch, num_patches)`):
                Codes as `encode` gives them.
            kept_mask (`torch.BoolTensor` of shape `(batch, num_patches)`, *optional*):
                Which patch codes to use; unset, all that are no pad code.
            global_mask (`torch.BoolTensor` of shape `(batch,)`, *optional*):
                False hides the global codes of an image: a control that shows what they are worth.
            kwargs (*optional*): `TransformersKwargs`, for the attention implementation.

        Returns:
            [`TaTokDecoderOutput`]

        Raises:
            `ValueError`: for codes out of range, pad codes at kept places, and tensors of a wrong shape.
        """
        for name in ("num_tokens", "patch_entropy", "patch_order"):  # of `decode(**encoded)`
            kwargs.pop(name, None)
        self._check_keywords(kwargs)
        if isinstance(global_codes, TaTokEncoderOutput):
            patch_codes = global_codes.patch_codes if patch_codes is None else patch_codes
            kept_mask = global_codes.kept_mask if kept_mask is None else kept_mask
            global_codes = global_codes.global_codes
        config = self.config
        global_codes = self._check_codes("global_codes", global_codes, config.num_global_tokens)
        patch_codes = self._check_codes("patch_codes", patch_codes, config.num_patches)
        if len(global_codes) == 0 or len(global_codes) != len(patch_codes):
            raise ValueError(
                f"There must be global and patch codes of as many images, at least one; got {len(global_codes)} and "
                f"{len(patch_codes)}."
            )
        if kept_mask is None:
            kept_mask = patch_codes != config.pad_code_id
        kept_mask = self._check_kept_mask(kept_mask, len(global_codes))
        self._check_global_mask(global_mask, len(global_codes))
        self._check_range("global", global_codes, config.global_codebook_size)
        self._check_range("kept patch", patch_codes[kept_mask], config.patch_codebook_size)
        pixel_values = self.decoder(
            self.global_quantizer.lookup(global_codes),
            self.patch_quantizer.lookup(patch_codes.masked_fill(~kept_mask, 0)),
            kept_mask,
            global_mask,
            **kwargs,
        )
        return TaTokDecoderOutput(pixel_values=pixel_values)

    @capture_outputs
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        threshold: float | None = None,
        num_tokens: int | Sequence[int] | torch.Tensor | None = None,
        kept_mask: torch.BoolTensor | None = None,
        global_mask: torch.BoolTensor | None = None,
        return_loss: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TaTokOutput:
        r"""
        The round trip: encodes, filters, decodes. Gradients pass the quantizers straight through, at the kept places;
        none passes the choice of places, nor from the prior to the codes. With `return_loss=True` in `train()` mode,
        latents are normalised by the statistics of the batch; an image alone has none and takes the running ones.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, num_channels, image_size, image_size)`):
                Images in [-1, 1].
            threshold, num_tokens, kept_mask:
                As in [`~TaTokModel.encode`].
            global_mask:
                As in [`~TaTokModel.decode`].
            return_loss (`bool`, *optional*, defaults to `False`):
                Whether to return the losses and what is quantized too.
            kwargs (*optional*): `output_hidden_states`, `output_attentions`, `return_dict`, and what else
                `TransformersKwargs` has for the attention implementation.

        Returns:
            [`TaTokOutput`], or a tuple of what it holds with `return_dict=False`.

        Raises:
            `ValueError`, `TypeError`: as [`~TaTokModel.encode`].
        """
        self._check_keywords(kwargs, of_forward=True)
        self._check_pixel_values(pixel_values)
        self._check_choice(threshold, num_tokens, kept_mask)
        self._check_global_mask(global_mask, len(pixel_values))
        pixel_values = pixel_values.to(self.dtype)
        use_batch_statistics = self._takes_batch_statistics(pixel_values, return_loss)
        global_latents, patch_latents = self.encoder(pixel_values, **kwargs)
        global_vectors, global_latents, global_codes, global_loss = self.global_quantizer(
            global_latents, use_batch_statistics
        )
        patch_vectors, patch_latents, patch_codes, patch_loss = self.patch_quantizer(
            patch_latents, use_batch_statistics
        )
        if kept_mask is None:
            with torch.no_grad():
                order, patch_entropy = self._order(
                    pixel_values, global_vectors, patch_vectors, patch_codes, self.config.entropy, None, **kwargs
                )
            counts = self.count_kept(patch_entropy.gather(1, order), threshold, num_tokens, None)
            kept_mask = order.argsort(dim=1) < counts[:, None]
        else:
            kept_mask = self._check_kept_mask(kept_mask, len(pixel_values))
        reconstruction = self.decoder(global_vectors, patch_vectors, kept_mask, global_mask, **kwargs)
        output = TaTokOutput(
            pixel_values=reconstruction,
            global_codes=global_codes,
            patch_codes=patch_codes.masked_fill(~kept_mask, self.config.pad_code_id),
            kept_mask=kept_mask,
            num_tokens=self.config.num_global_tokens + kept_mask.sum(dim=1),
        )
        if return_loss:
            output.quantization_loss = global_loss + patch_loss
            output.prior_loss = self._prior_loss(global_vectors, patch_vectors, patch_codes, kept_mask, **kwargs)
            output.global_latents, output.patch_latents = global_latents, patch_latents
            reconstruction_loss = nn.functional.mse_loss(reconstruction, pixel_values)
            output.loss = reconstruction_loss + output.quantization_loss + output.prior_loss
        return output

    def patch_entropy(
        self,
        global_vectors: torch.Tensor,
        patch_vectors: torch.Tensor,
        visible: torch.BoolTensor,
        patch_codes: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        r"""
        Entropy of what the prior foretells for each place, given the global codes and the patch codes in view; or the
        surprisal of the very codes.

        Args:
            global_vectors (`torch.Tensor` of shape `(batch, num_global_tokens, codebook_dim)`):
                What the global codes stand for, as `global_quantizer.lookup` gives it.
            patch_vectors (`torch.Tensor` of shape `(batch, num_patches, codebook_dim)`):
                The same of the patch codes; those that are not visible have no influence.
            visible (`torch.BoolTensor` of shape `(batch, num_patches)`):
                Which patch codes are known.
            patch_codes (`torch.LongTensor` of shape `(batch, num_patches)`, *optional*):
                All codes, for their surprisal in place of the entropy, which is its expectation.

        Returns:
            `torch.FloatTensor` of shape `(batch, num_patches)`: in bits, from 0, the entropy to
            `log2(patch_codebook_size)`; at visible places it means nothing.
        """
        logits = self.prior(global_vectors.detach(), patch_vectors.detach(), visible, **kwargs)
        log_probabilities = logits.log_softmax(dim=-1)
        if patch_codes is not None:
            return -log_probabilities.gather(-1, patch_codes[..., None])[..., 0] / math.log(2)
        entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=-1)
        return entropy.clamp(min=0) / math.log(2)

    def count_kept(
        self,
        sorted_entropy: torch.Tensor,
        threshold: float | None = None,
        num_tokens: int | Sequence[int] | torch.Tensor | None = None,
        threshold_rule: str | None = None,
    ) -> torch.LongTensor:
        r"""
        How many patches each image keeps.

        Args:
            sorted_entropy (`torch.Tensor` of shape `(batch, num_patches)`):
                Entropies in the order in which patches are kept.
            threshold, num_tokens, threshold_rule:
                As in [`~TaTokModel.encode`].

        Returns:
            `torch.LongTensor` of shape `(batch,)`: in `0 .. num_patches`.
        """
        if num_tokens is not None:
            least = self.config.num_global_tokens
            name, limits = "num_tokens, the global ones included,", (least, least + self.config.num_patches)
            counts = resolve_counts(name, num_tokens, len(sorted_entropy), limits, sorted_entropy.device)
            return counts - least
        rule = threshold_rule or self.config.threshold_rule
        if threshold is None and threshold_rule not in (None, self.config.threshold_rule):
            raise ValueError(f"threshold_rule={threshold_rule!r} needs a threshold of its own; got none.")
        threshold = self.config.threshold if threshold is None else threshold
        if threshold is None:
            logger.warning_once(
                "This checkpoint has no threshold: every image keeps all of its patches. Pass threshold=... or "
                "num_tokens=... to choose yourself."
            )
            return torch.full((len(sorted_entropy),), self.config.num_patches, device=sorted_entropy.device)
        check_threshold(threshold, rule)
        # What is lost with each place and all later ones.
        left = sorted_entropy.flip(1).cumsum(dim=1).flip(1)
        allowed = (1 - threshold) * left[:, :1] if rule == "relative" else threshold
        return (left > allowed).sum(dim=1)

    def _order(
        self,
        pixel_values: torch.Tensor,
        global_vectors: torch.Tensor,
        patch_vectors: torch.Tensor,
        patch_codes: torch.LongTensor,
        entropy: str,
        block_size: int | None,
        **kwargs,
    ) -> tuple[torch.LongTensor, torch.Tensor]:
        """Places by falling entropy, and the entropy of each place at the time it was taken."""
        known = patch_codes if entropy == "surprisal" else None
        visible = torch.zeros(patch_vectors.shape[:2], dtype=torch.bool, device=patch_vectors.device)
        if block_size is None:
            if entropy == "residual":
                values = self._residual(pixel_values, global_vectors, **kwargs)
            else:
                values = self.patch_entropy(global_vectors, patch_vectors, visible, known, **kwargs)
            return values.argsort(dim=1, descending=True, stable=True), values
        blocks, values = [], torch.zeros(visible.shape, device=visible.device)
        for start in range(0, visible.shape[1], block_size):
            left = self.patch_entropy(global_vectors, patch_vectors, visible, known, **kwargs).masked_fill(visible, -1)
            block = left.argsort(dim=1, descending=True, stable=True)[:, : min(block_size, visible.shape[1] - start)]
            blocks.append(block)
            values = values.scatter(1, block, left.gather(1, block))
            visible = visible.scatter(1, block, True)
        return torch.cat(blocks, dim=1), values

    def _residual(self, pixel_values: torch.Tensor, global_vectors: torch.Tensor, **kwargs) -> torch.Tensor:
        """Mean squared error of each patch when the global codes alone are decoded, `(batch, num_patches)`."""
        nothing = global_vectors.new_zeros(len(pixel_values), self.config.num_patches, self.config.codebook_dim)
        pixels = self.decoder(global_vectors, nothing, nothing[..., 0].bool(), **kwargs)
        error = (pixels - pixel_values).float().square().mean(dim=1, keepdim=True)
        return nn.functional.avg_pool2d(error, self.config.patch_size).flatten(1)

    def _prior_loss(
        self,
        global_vectors: torch.Tensor,
        patch_vectors: torch.Tensor,
        patch_codes: torch.LongTensor,
        kept_mask: torch.BoolTensor,
        **kwargs,
    ) -> torch.Tensor:
        # Every other image shows its kept codes, the rest nothing, which is what filtering in one pass asks for.
        shown = torch.arange(len(kept_mask), device=kept_mask.device) % 2 == 1
        visible = kept_mask & shown[:, None]
        logits = self.prior(global_vectors.detach(), patch_vectors.detach(), visible, **kwargs)
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), patch_codes.flatten(), reduction="none")
        hidden = (~visible).flatten().float()
        return (losses * hidden).sum() / hidden.sum().clamp(min=1)

    def _check_choice(
        self, threshold: float | None, num_tokens, kept_mask: torch.Tensor | None, threshold_rule: str | None = None
    ):
        given = {"threshold": threshold, "num_tokens": num_tokens, "kept_mask": kept_mask}
        given = [name for name, value in given.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} each decide what is kept; give one of them.")
        if threshold_rule is not None and given not in ([], ["threshold"]):
            raise ValueError(f"threshold_rule={threshold_rule!r} is for a threshold; {given[0]} decides what is kept.")

    def _check_entropy(self, entropy: str | None, block_size: int | None) -> str:
        entropy = entropy or self.config.entropy
        if entropy not in ENTROPIES:
            raise ValueError(f"entropy must be {', '.join(ENTROPIES)}; got {entropy!r}.")
        if block_size is not None and (entropy == "residual" or block_size < 1):
            raise ValueError(
                f"block_size recomputes the entropy of the prior after every so many patches, at least 1; got "
                f"block_size={block_size} with entropy={entropy!r}."
            )
        return entropy

    def _check_kept_mask(self, kept_mask: torch.Tensor, batch_size: int) -> torch.Tensor:
        expected = (batch_size, self.config.num_patches)
        if not isinstance(kept_mask, torch.Tensor) or kept_mask.shape != expected or kept_mask.dtype != torch.bool:
            found = (
                f"{kept_mask.dtype} of shape {tuple(kept_mask.shape)}"
                if isinstance(kept_mask, torch.Tensor)
                else f"a {type(kept_mask).__name__}"
            )
            raise ValueError(f"kept_mask must be a boolean tensor of shape {expected}; got {found}.")
        return kept_mask.to(self.device)

    def _check_global_mask(self, global_mask: torch.Tensor | None, batch_size: int):
        if global_mask is None:
            return
        if not isinstance(global_mask, torch.Tensor):
            raise ValueError(f"global_mask must be a tensor of booleans; got a {type(global_mask).__name__}.")
        if global_mask.dtype != torch.bool or global_mask.shape != (batch_size,):
            raise ValueError(
                f"global_mask must hold one boolean per image; got {global_mask.dtype} of shape "
                f"{tuple(global_mask.shape)}."
            )

    def _check_codes(self, name: str, codes: torch.Tensor | None, width: int) -> torch.Tensor:
        try:
            codes = torch.as_tensor(codes, device=self.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{name} must be integers of shape (batch, {width}); got a {type(codes).__name__}."
            ) from error
        if codes.ndim != 2 or codes.shape[1] != width or not is_integer(codes):
            raise ValueError(
                f"{name} must be integers of shape (batch, {width}); got {codes.dtype} of shape {tuple(codes.shape)}."
            )
        return codes.long()

    def _check_range(self, kind: str, codes: torch.Tensor, size: int):
        if torch.compiler.is_compiling():
            return
        bad = codes[(codes < 0) | (codes >= size)]
        if bad.numel():
            raise ValueError(f"Every {kind} code must lie between 0 and {size - 1}; got {bad.flatten()[0]}.")


__all__ = ["TaTokDecoderOutput", "TaTokEncoderOutput", "TaTokModel", "TaTokOutput", "TaTokPreTrainedModel"]
