"""Sampling of image codes by a causal language model, such that few codes cost little time."""

from collections.abc import Callable, Iterable, Sequence
from operator import index
from typing import NamedTuple

import torch
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .vocabulary_adatok import ImageVocabulary


SCHEDULES = ("constant", "linear")


class SampledCodes(NamedTuple):
    """
    Image codes of shape `(images, largest candidate budget)`, the pad code `codebook_size` beyond the budget, and the
    budgets of shape `(images,)`; on the CPU.
    """

    image_codes: torch.LongTensor
    budgets: torch.LongTensor


class CodeSampler:
    r"""
    Draws images as codes. First the budgets of all images are drawn, in one forward pass for each batch of them; then
    the images are sorted by budget, so that those of near budgets are decoded together, and a batch shrinks as its
    rows are done. At every position only the logits of legal ids are looked at.

    Each image has random numbers of its own, as many as it may have codes, drawn before anything else. So the codes
    of an image do not depend on its neighbours, nor on the size of the batch, but for the rounding of the model.

    Args:
        model ([`~transformers.LlamaForCausalLM`]): In evaluation mode, with a vocabulary in its configuration.
        temperature (`float`, *optional*, defaults to 1.0): Divides the logits, of budgets too; at least 0, which takes
            the likeliest id.
        top_k (`int`, *optional*, defaults to 0): Draws a code among that many likeliest ones; 0 for all.
        top_p (`float`, *optional*, defaults to 1.0): Draws a code among the likeliest ones that have this probability
            together, in (0, 1].
        guidance_scale (`float`, *optional*, defaults to 1.0): Logits of codes are `u + scale * (c - u)`, of those with
            the class and those with the null class; at least 0. Budgets are drawn as learned. Unless it is 1, every
            row is computed twice.
        guidance_schedule (`str`, *optional*, defaults to `"constant"`): `"linear"` lets the scale rise from 1 at the
            first code to `guidance_scale` at the last of the budget.

    Raises:
        `ValueError`: if a number is out of its range, or the model has no vocabulary.

    Example:

    ```python
    >>> import torch
    >>> from transformers import LlamaForCausalLM
    >>> from adatok_hf.modeling.sampling_adatok import CodeSampler
    >>> from adatok_hf.modeling.vocabulary_adatok import ImageVocabulary

    >>> vocabulary = ImageVocabulary(codebook_size=8, budgets=[2, 4], class_names=["cat", "owl"])
    >>> config = vocabulary.model_config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    >>> sample = CodeSampler(LlamaForCausalLM(config).eval(), guidance_scale=2.0)
    >>> codes = sample(["owl", "cat", "owl"], budgets=[2, 4, 4], generators=torch.Generator().manual_seed(0))
    >>> codes.image_codes.shape, codes.image_codes[0, 2:].tolist()
    (torch.Size([3, 4]), [8, 8])

    ```"""

    vocabulary_class = ImageVocabulary

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        guidance_scale: float = 1.0,
        guidance_schedule: str = "constant",
    ):
        if not temperature >= 0:
            raise ValueError(f"temperature must be at least 0; got {temperature}.")
        if top_k < 0:
            raise ValueError(f"top_k must be at least 0, which stands for all codes; got {top_k}.")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1; got {top_p}.")
        if not 0 <= guidance_scale < float("inf"):
            raise ValueError(f"guidance_scale must be at least 0, and 1 for none; got {guidance_scale}.")
        if guidance_schedule not in SCHEDULES:
            raise ValueError(f"guidance_schedule must be one of {', '.join(SCHEDULES)}; got {guidance_schedule!r}.")
        self.model, self.vocabulary = model, self.vocabulary_class.from_config(model.config)
        self.temperature, self.guidance_scale, self.guidance_schedule = temperature, guidance_scale, guidance_schedule
        self.warpers = LogitsProcessorList()
        if temperature not in (0, 1):
            self.warpers.append(TemperatureLogitsWarper(float(temperature)))
        self.code_warpers = LogitsProcessorList(self.warpers)
        if top_k:
            self.code_warpers.append(TopKLogitsWarper(top_k))
        if top_p < 1:
            self.code_warpers.append(TopPLogitsWarper(float(top_p)))

    @torch.no_grad()
    def __call__(
        self,
        labels: Sequence[int | str | None],
        budgets: int | Sequence[int] | None = None,
        generators: torch.Generator | Sequence[torch.Generator] | None = None,
        batch_size: int = 64,
        progress: Callable[[int], object] | None = None,
    ) -> SampledCodes:
        """
        Draws one image for each label.

        Args:
            labels (`Sequence[int | str | None]`): Classes by number or name, `None` for any.
            budgets (`int` or `Sequence[int]`, *optional*): Candidate budgets, one for all or one per image. Drawn by
                the model if not given.
            generators (`torch.Generator` or a list of them, *optional*): One per image, or one that serves them in
                turn.
            batch_size (`int`, *optional*, defaults to 64): Images decoded together, at least 1.
            progress (`Callable`, *optional*): Is told how many images have been finished since the last time.

        Returns:
            [`SampledCodes`]

        Raises:
            `ValueError`: without labels, for an unknown class, a budget that is no candidate, numbers of budgets or
                generators that do not fit, and where the model gives no finite logits.
        """
        ids, budgets = self._write(labels, budgets, generators, batch_size, progress)
        return SampledCodes(
            ids.masked_fill(ids == self.vocabulary.pad_token_id, self.vocabulary.codebook_size), budgets
        )

    def _write(
        self,
        labels: Sequence[int | str | None],
        budgets: int | Sequence[int] | None,
        generators: torch.Generator | Sequence[torch.Generator] | None,
        batch_size: int,
        progress: Callable[[int], object] | None,
    ) -> tuple[torch.LongTensor, torch.LongTensor]:
        """The ids behind the budgets, `(images, of the largest budget)` with pad ids behind them, and the budgets."""
        labels = labels.tolist() if isinstance(labels, torch.Tensor) else list(labels)
        if not labels:
            raise ValueError("There is nothing to draw: give at least one label.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
        classes = torch.tensor([self.vocabulary.class_id(label) for label in labels])
        noise = self._noise(len(labels), generators)
        budget_ids = self._budget_ids(budgets, classes, noise[:, 0], batch_size)
        budgets = torch.tensor(self.vocabulary.budgets)[budget_ids - self.vocabulary.first_budget_id]
        lengths = torch.tensor([self.vocabulary.count_ids(budget) for budget in budgets.tolist()])
        ids = torch.full((len(labels), self.vocabulary.max_length - 2), self.vocabulary.pad_token_id)
        for rows in lengths.argsort(descending=True, stable=True).split(batch_size):
            prompts = torch.stack([classes[rows], budget_ids[rows]], dim=1)
            longest = int(lengths[rows[0]])
            ids[rows, :longest] = self._decode(prompts, lengths[rows], noise[rows, 1:], progress)
        return ids, budgets

    @property
    def device(self) -> torch.device:
        """Where the model computes; one that accelerate offloads lies elsewhere between its calls."""
        hook = getattr(self.model, "_hf_hook", None)
        return torch.device(getattr(hook, "execution_device", None) or self.model.device)

    def _noise(self, count: int, generators: torch.Generator | Sequence[torch.Generator] | None) -> torch.Tensor:
        """Random numbers in [0, 1) of shape `(images, 1 + ids)`, on the CPU."""
        width = self.vocabulary.max_length - 1
        if generators is None or isinstance(generators, torch.Generator):
            generators = [generators] * count
        if len(generators) != count:
            raise ValueError(f"{count} images need one generator, or one each; got {len(generators)}.")
        rows = [
            torch.rand(width, generator=generator, device="cpu" if generator is None else generator.device)
            for generator in generators
        ]
        return torch.stack([row.cpu() for row in rows])

    def _budget_ids(
        self, budgets: int | Sequence[int] | None, classes: torch.LongTensor, noise: torch.Tensor, batch_size: int
    ) -> torch.LongTensor:
        if budgets is None:
            drawn = []
            for prompts, numbers in zip(classes[:, None].split(batch_size), noise.split(batch_size)):
                output = self.model(prompts.to(self.device), use_cache=False, logits_to_keep=1)
                legal = self.vocabulary.budget_ids
                logits = output.logits[:, -1, legal.start : legal.stop]
                self._check_logits(logits.isfinite().all())
                drawn.append(self._draw(logits, numbers, self.warpers).cpu() + legal.start)
            return torch.cat(drawn)
        each = budgets if isinstance(budgets, Iterable) else [budgets] * len(classes)
        try:
            wanted = [index(budget) for budget in each]
        except TypeError as error:
            raise ValueError(f"budgets must be a whole number, or one for each image; got {budgets!r}.") from error
        if len(wanted) != len(classes):
            raise ValueError(f"{len(classes)} images need one budget, or one each; got {len(wanted)}.")
        return torch.tensor([self.vocabulary.budget_id(budget) for budget in wanted])

    def _decode(
        self,
        prompts: torch.LongTensor,
        lengths: torch.LongTensor,
        noise: torch.Tensor,
        progress: Callable[[int], object] | None,
    ) -> torch.LongTensor:
        """Ids of images whose lengths descend, `(images, largest length)`, with pad ids behind the lengths."""
        device = self.device
        is_guided = self.guidance_scale != 1
        noise, inputs, cache = noise.to(device), prompts.to(device), DynamicCache(config=self.model.config)
        if is_guided:
            inputs = torch.cat([inputs, inputs])
            inputs[len(prompts) :, 0] = self.vocabulary.null_class_id
        ids = torch.full((len(prompts), int(lengths[0])), self.vocabulary.pad_token_id, device=device)
        active, wanted, is_finite = len(prompts), lengths.to(device), torch.tensor(True, device=device)
        for place in range(ids.shape[1]):
            output = self.model(inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            legal = self.vocabulary.legal_ids(place)
            logits = output.logits[:, -1, legal.start : legal.stop].float()
            if is_guided:
                logits = self._guide(*logits.chunk(2), place, wanted[:active])
            is_finite = is_finite & logits.isfinite().all()  # looked at in the end, as a GPU would wait for it
            logits = logits.nan_to_num()
            drawn = self._draw_id(logits, noise[:active, place], place, ids[:active], wanted[:active])
            ids[:active, place] = drawn
            left = int((lengths > place + 1).sum())
            if left < active:
                kept = torch.arange(left, device=device)
                if left:
                    cache.batch_select_indices(torch.cat([kept, active + kept]) if is_guided else kept)
                if progress is not None:
                    progress(active - left)
                active, drawn = left, drawn[:left]
            inputs = drawn[:, None].repeat(2 if is_guided else 1, 1)
        self._check_logits(is_finite)
        return ids.cpu()

    def _check_logits(self, is_finite: torch.Tensor):
        if not is_finite:
            raise ValueError(
                "The generator's logits are not finite (NaN, or beyond the floating point type); take a smaller "
                f"guidance scale than {self.guidance_scale:g}, another dtype, or weights that are sound."
            )

    def _guide(self, with_class, without_class, place: int, lengths: torch.LongTensor) -> torch.Tensor:
        scale = torch.as_tensor(self.guidance_scale, device=with_class.device)
        if self.guidance_schedule == "linear":
            share = place / (lengths - 1).clamp(min=1)
            scale = (1 + (self.guidance_scale - 1) * share)[:, None]
        return without_class + scale * (with_class - without_class)

    def _draw_id(
        self,
        logits: torch.Tensor,
        noise: torch.Tensor,
        place: int,
        written: torch.LongTensor,
        lengths: torch.LongTensor,
    ) -> torch.LongTensor:
        """The ids at a place, given the logits of those that are legal there and what is written before."""
        return self.vocabulary.legal_ids(place).start + self._draw(logits, noise, self.code_warpers)

    def _draw(self, logits: torch.Tensor, noise: torch.Tensor, warpers: LogitsProcessorList) -> torch.LongTensor:
        """One id per row by inverting the cumulative distribution, so that a row needs one random number."""
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        logits = logits.float() - logits.amax(dim=-1, keepdim=True)  # a small temperature must not overflow
        cumulative = warpers(None, logits).softmax(dim=-1).cumsum(dim=-1)
        total = cumulative[:, -1:]
        # Rounding must not reach the total, behind which there is no id.
        threshold = torch.minimum(noise.to(logits.device)[:, None] * total, total.nextafter(torch.zeros_like(total)))
        return torch.searchsorted(cumulative, threshold, right=True)[:, 0]


__all__ = ["CodeSampler", "SampledCodes"]
