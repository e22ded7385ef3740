"""Sampling of TaTok images by a causal language model: global codes, then places and codes of kept patches."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from .sampling_adatok import CodeSampler
from .vocabulary_tatok import TaTokVocabulary


class SampledTokens(NamedTuple):
    """
    What [`TaTokModel.decode`] takes, on the CPU: global codes of shape `(images, num_global_tokens)` and patch codes
    of shape `(images, num_patches)`, the pad code where a patch is dropped; and numbers of tokens of shape
    `(images,)`.
    """

    global_codes: torch.LongTensor
    patch_codes: torch.LongTensor
    num_tokens: torch.LongTensor


class TaTokSampler(CodeSampler):
    r"""
    Draws TaTok images, with the promises of [`CodeSampler`]. Places ascend, and no further than leaves one for each
    patch that is to come, whatever the model would rather write.

    Args:
        model ([`~transformers.LlamaForCausalLM`]): In evaluation mode, with a vocabulary of TaTok in its
            configuration.
        kwargs: Those of [`CodeSampler`]; what is said there of codes holds for places too.

    Raises:
        `ValueError`: if a number is out of its range, or the model has no such vocabulary.

    Example:

    ```python
    >>> import torch
    >>> from transformers import LlamaForCausalLM
    >>> from adatok_hf import TaTokConfig, TaTokModel
    >>> from adatok_hf.modeling.sampling_tatok import TaTokSampler
    >>> from adatok_hf.modeling.vocabulary_tatok import TaTokVocabulary

    >>> sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> tokenizer = TaTokModel(TaTokConfig(image_size=32, patch_size=8, num_global_tokens=4, **sizes)).eval()
    >>> vocabulary = TaTokVocabulary.for_tokenizer(tokenizer.config, ["cat", "owl"])
    >>> sample = TaTokSampler(LlamaForCausalLM(vocabulary.model_config(**sizes)).eval())
    >>> tokens = sample(["owl", "cat"], budgets=[4, 10], generators=torch.Generator().manual_seed(0))
    >>> with torch.no_grad():
    ...     pixel_values = tokenizer.decode(tokens.global_codes, tokens.patch_codes).pixel_values
    >>> (tokens.patch_codes != tokenizer.config.pad_code_id).sum(dim=1).tolist(), tuple(pixel_values.shape)
    ([0, 6], (2, 3, 32, 32))

    ```"""

    vocabulary_class = TaTokVocabulary

    @torch.no_grad()
    def __call__(
        self,
        labels: Sequence[int | str | None],
        budgets: int | Sequence[int] | None = None,
        generators: torch.Generator | Sequence[torch.Generator] | None = None,
        batch_size: int = 64,
        progress: Callable[[int], object] | None = None,
    ) -> SampledTokens:
        """
        Draws one image for each label.

        Args:
            labels, generators, batch_size, progress: See [`CodeSampler`].
            budgets (`int` or `Sequence[int]`, *optional*): Numbers of tokens in
                `num_global_tokens .. num_global_tokens + num_patches`, one for all or one per image. Drawn by the
                model if not given.

        Returns:
            [`SampledTokens`]

        Raises:
            `ValueError`: as [`CodeSampler`].
        """
        ids, budgets = self._write(labels, budgets, generators, batch_size, progress)
        vocabulary, first = self.vocabulary, self.vocabulary.num_global_tokens
        places, codes = ids[:, first:].unflatten(1, (vocabulary.num_patches, 2)).unbind(-1)
        is_written = torch.arange(vocabulary.num_patches) < (budgets - first)[:, None]
        # Pad ids go to a column behind the last place, which is cut off.
        places = (places - vocabulary.place_ids.start).masked_fill(~is_written, vocabulary.num_patches)
        patch_codes = torch.full((len(ids), vocabulary.num_patches + 1), vocabulary.patch_codebook_size)
        patch_codes.scatter_(1, places, codes - vocabulary.patch_ids.start)
        return SampledTokens(ids[:, :first], patch_codes[:, :-1], budgets)

    def _draw_id(
        self,
        logits: torch.Tensor,
        noise: torch.Tensor,
        place: int,
        written: torch.LongTensor,
        lengths: torch.LongTensor,
    ) -> torch.LongTensor:
        first = self.vocabulary.place_ids.start
        if self.vocabulary.legal_ids(place) != self.vocabulary.place_ids:
            return super()._draw_id(logits, noise, place, written, lengths)
        highest = self.vocabulary.num_patches - (lengths - place) // 2
        lowest = torch.zeros_like(highest)
        if place > self.vocabulary.num_global_tokens:
            lowest = written[:, place - 2] - first + 1
        places = torch.arange(self.vocabulary.num_patches, device=logits.device)
        illegal = (places < lowest[:, None]) | (places > highest[:, None])
        drawn = super()._draw_id(logits.masked_fill(illegal, -torch.inf), noise, place, written, lengths)
        # Sums on a GPU are rounded in an order of its own, and may rise where nothing is added.
        return torch.minimum(torch.maximum(drawn, first + lowest), first + highest)


__all__ = ["SampledTokens", "TaTokSampler"]
