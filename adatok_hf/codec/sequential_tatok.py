"""TaTok behind AdaTok's verbs: its tokens as one sequence of ids, of which every prefix with all globals decodes."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from ..modeling import AdaTokEncoderOutput, TaTokConfig, TaTokDecoderOutput, TaTokModel
from ..modeling.backbone import is_integer, pad_codes, resolve_counts


class SequenceConfig:
    """
    What AdaTok's configuration says of its codes, for the sequences of a TaTok. All else is the TaTok's own.

    Attributes:
        codebook_size (`int`): Number of ids: those of the global codes, then for each place those of its patch codes.
            The id `codebook_size` itself is the pad code.
        is_policy_trained (`bool`): Whether the model has a threshold to choose by.
    """

    def __init__(self, config: TaTokConfig):
        self._config = config

    def __getattr__(self, name: str):
        if name == "_config":  # not there yet, in a copy
            raise AttributeError(name)
        return getattr(self._config, name)

    @property
    def codebook_size(self) -> int:
        config = self._config
        return config.global_codebook_size + config.num_patches * config.patch_codebook_size

    @property
    def is_policy_trained(self) -> bool:
        return self._config.threshold is not None


class SequentialTaTok(nn.Module):
    r"""
    A TaTok with the verbs of [`AdaTokModel`]. An image is one sequence of ids: its global codes, then its patches by
    falling entropy, each as `global_codebook_size + place * patch_codebook_size + code`. The budget is the number of
    tokens, and filtering to a smaller budget is cutting the sequence off.

    Args:
        model ([`TaTokModel`]): In evaluation mode.

    Example:

    ```python
    >>> import torch
    >>> from adatok_hf import TaTokConfig, TaTokModel
    >>> from adatok_hf.codec.sequential_tatok import SequentialTaTok

    >>> config = TaTokConfig(image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    >>> model = SequentialTaTok(TaTokModel(config).eval())
    >>> with torch.no_grad():
    ...     encoded = model.encode(torch.rand(2, 3, 32, 32) * 2 - 1, budgets=20)
    ...     pixels = model.decode(encoded.image_codes, budgets=[17, 20]).pixel_values
    >>> encoded.image_codes.shape, tuple(pixels.shape)
    (torch.Size([2, 32]), (2, 3, 32, 32))

    ```"""

    def __init__(self, model: TaTokModel):
        super().__init__()
        self.model = model
        self.config = SequenceConfig(model.config)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def policy(self) -> nn.Module:
        """What decides, with the threshold, how many tokens an image gets."""
        return self.model.prior

    def state_dict(self, *args, **kwargs) -> dict[str, torch.Tensor]:
        """That of the model itself."""
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: dict[str, torch.Tensor], *args, **kwargs):
        """Takes what `state_dict` gives."""
        return self.model.load_state_dict(state_dict, *args, **kwargs)

    def encode(
        self,
        pixel_values: torch.FloatTensor,
        budgets: int | Sequence[int] | torch.Tensor | None = None,
        cost_bias: float | None = None,
    ) -> AdaTokEncoderOutput:
        r"""
        Turns images into sequences, see [`TaTokModel.encode`].

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, num_channels, image_size, image_size)`):
                Images in [-1, 1].
            budgets (`int`, or `(batch,)` integers, *optional*):
                Tokens, in `num_global_tokens .. num_latent_tokens`; unset, the model's threshold decides.
            cost_bias (`float`, *optional*): Must be unset: there is no policy to shift.

        Returns:
            [`AdaTokEncoderOutput`] without scores: `image_codes` of shape `(batch, num_latent_tokens)`.
        """
        if cost_bias is not None:
            raise ValueError(f"TaTok has no policy that a cost bias could shift, but a threshold; got {cost_bias}.")
        config = self.model.config
        full = self.model.encode(pixel_values, num_tokens=config.num_latent_tokens)
        entropy = full.patch_entropy.gather(1, full.patch_order)
        own = self.model.count_kept(entropy, num_tokens=budgets)
        ids = config.global_codebook_size + full.patch_codes
        ids = ids + config.patch_codebook_size * torch.arange(config.num_patches, device=ids.device)
        image_codes = torch.cat([full.global_codes, ids.gather(1, full.patch_order)], dim=1)
        kept = config.num_global_tokens + own
        code_mask = torch.arange(config.num_latent_tokens, device=ids.device) < kept[:, None]
        return AdaTokEncoderOutput(
            image_codes=image_codes.masked_fill(~code_mask, self.config.codebook_size),
            budgets=kept,
            code_mask=code_mask,
            budget_logits=entropy,
        )

    def chosen_budgets(self, encoded: AdaTokEncoderOutput) -> torch.LongTensor:
        """The numbers of tokens `(batch,)` that the threshold gives images, whatever they were encoded with."""
        return self.model.config.num_global_tokens + self.model.count_kept(encoded.budget_logits)

    def decode(
        self,
        image_codes: torch.LongTensor | AdaTokEncoderOutput | Sequence[Sequence[int]],
        budgets: int | Sequence[int] | torch.Tensor | None = None,
    ) -> TaTokDecoderOutput:
        r"""
        Reconstructs images from the leading `budgets` ids, see [`TaTokModel.decode`].

        Args:
            image_codes (`torch.LongTensor` of shape `(batch, tokens)`):
                Sequences as `encode` gives them, all that it returned, or lists that may differ in length.
            budgets (`int`, or `(batch,)` integers, *optional*):
                How many leading ids to use, at least all globals; unset, all before the first pad code.

        Returns:
            [`TaTokDecoderOutput`]

        Raises:
            `ValueError`: for budgets and ids out of range, and for a place that is named twice.
        """
        global_codes, patch_codes, kept_mask = self.take_apart(image_codes, budgets)
        return self.model.decode(global_codes, patch_codes, kept_mask)

    def take_apart(
        self,
        image_codes: torch.LongTensor | AdaTokEncoderOutput | Sequence[Sequence[int]],
        budgets: int | Sequence[int] | torch.Tensor | None = None,
    ) -> tuple[torch.LongTensor, torch.LongTensor, torch.BoolTensor]:
        """Global codes, patch codes and kept mask of sequences; arguments and errors are those of `decode`."""
        config = self.model.config
        first, size = config.num_global_tokens, config.patch_codebook_size
        if isinstance(image_codes, AdaTokEncoderOutput):
            budgets = image_codes.budgets if budgets is None else budgets
            image_codes = image_codes.image_codes
        image_codes = pad_codes(image_codes, self.config.codebook_size, self.device)
        if (
            not is_integer(image_codes)
            or image_codes.ndim != 2
            or not first <= image_codes.shape[1] <= config.num_latent_tokens
        ):
            raise ValueError(
                f"image_codes must be integers of shape (batch, {first} to {config.num_latent_tokens}); got "
                f"{image_codes.dtype} of shape {tuple(image_codes.shape)}."
            )
        if budgets is None:
            budgets = (image_codes == self.config.codebook_size).int().cumsum(dim=1).eq(0).sum(dim=1)
        limits = (first, image_codes.shape[1])
        budgets = resolve_counts(
            "budgets, the global tokens included,", budgets, len(image_codes), limits, self.device
        )
        inside = torch.arange(image_codes.shape[1], device=self.device) < budgets[:, None]
        inside, ids = inside[:, first:], image_codes[:, first:] - config.global_codebook_size
        bad = ids[inside & ((ids < 0) | (ids >= config.num_patches * size))]
        if bad.numel():
            raise ValueError(
                f"Patches must have ids from {config.global_codebook_size} to {self.config.codebook_size - 1}; got "
                f"{bad[0] + config.global_codebook_size}."
            )
        ids = ids.masked_fill(~inside, 0)
        places = ids // size
        times = torch.zeros(len(ids), config.num_patches, dtype=torch.long, device=self.device)
        times = times.scatter_add(1, places, inside.long())
        if (times > 1).any():
            row, place = (times > 1).nonzero()[0].tolist()
            raise ValueError(f"Image {row} names place {place} {times[row, place]} times; each may stand there once.")
        # Each place is named once at most, and what is beyond the budget adds nothing.
        patch_codes = torch.zeros_like(times).scatter_add(1, places, ids % size * inside)
        kept_mask = times == 1
        return image_codes[:, :first], patch_codes.masked_fill(~kept_mask, size), kept_mask


def in_sequences(model: PreTrainedModel) -> PreTrainedModel | SequentialTaTok:
    """Any of our models with AdaTok's verbs: a TaTok behind [`SequentialTaTok`], all else as it is."""
    return SequentialTaTok(model) if isinstance(model, TaTokModel) else model


__all__ = ["SequentialTaTok", "in_sequences"]
