"""One id space for the codes and places of a TaTok, so that a stock causal language model writes its images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from transformers import GenerationConfig, PreTrainedConfig

from .vocabulary_adatok import GeneratorVocabulary


@dataclass(frozen=True)
class TaTokVocabulary(GeneratorVocabulary):
    r"""
    The ids of a generator of TaTok images. In this order: the global codes; the patch codes; the places of patches,
    row by row; the classes; the null class, which stands for any; the budgets, numbers of tokens from the global ones
    alone to those with every patch; the pad id. An image is the sequence `class, budget, global codes`, and then for
    each kept patch its place and its code, the places ascending.

    It is stored under `tatok_vocabulary` in the generator's `config.json`, so that the folder stays one of a plain
    transformers model.

    Args:
        num_global_tokens, global_codebook_size, num_patches, patch_codebook_size (`int`): Those of the tokenizer, see
            [`TaTokConfig`]; each at least 1.
        class_names (`Sequence[str]`, *optional*): Names of the classes, all different; none for a generator that is
            not conditioned.
        tokenizer_hash (`str`, *optional*): Fingerprint of the tokenizer whose codes these are, see
            `adatok_hf.checkpoint.codes_hash`.

    Raises:
        `ValueError`: if a number is below 1, or a name is there twice.

    Example:

    ```python
    >>> from adatok_hf.modeling.vocabulary_tatok import TaTokVocabulary

    >>> sizes = {"num_global_tokens": 2, "global_codebook_size": 8, "num_patches": 4, "patch_codebook_size": 16}
    >>> vocabulary = TaTokVocabulary(**sizes, class_names=["cat", "owl"])
    >>> vocabulary.to_sequence("owl", [5, 0], [16, 3, 16, 1])  # two patches are kept, those at places 1 and 3
    [29, 33, 5, 0, 25, 11, 27, 9]
    >>> vocabulary.from_sequence([29, 33, 5, 0, 25, 11, 27, 9])
    (1, [5, 0], [16, 3, 16, 1])
    >>> vocabulary.next_ids([29, 33, 5, 0, 25, 11])  # one place is missing, behind place 1
    range(26, 28)

    ```"""

    config_key: ClassVar[str] = "tatok_vocabulary"
    codec: ClassVar[str] = "TaTok"

    num_global_tokens: int
    global_codebook_size: int
    num_patches: int
    patch_codebook_size: int
    class_names: Sequence[str] = ()
    tokenizer_hash: str | None = None

    def __post_init__(self):
        for name in ("num_global_tokens", "global_codebook_size", "num_patches", "patch_codebook_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}.")
        self._check_class_names()

    @classmethod
    def for_tokenizer(
        cls, config: PreTrainedConfig, class_names: Sequence[str] = (), tokenizer_hash: str | None = None
    ) -> "TaTokVocabulary":
        """The vocabulary for the codes of a tokenizer, given its [`TaTokConfig`]."""
        return cls(
            config.num_global_tokens,
            config.global_codebook_size,
            config.num_patches,
            config.patch_codebook_size,
            class_names,
            tokenizer_hash,
        )

    @property
    def budgets(self) -> range:
        """All numbers of tokens that an image may have."""
        return range(self.num_global_tokens, self.num_global_tokens + self.num_patches + 1)

    @property
    def global_ids(self) -> range:
        return range(self.global_codebook_size)

    @property
    def patch_ids(self) -> range:
        return range(self.global_codebook_size, self.global_codebook_size + self.patch_codebook_size)

    @property
    def place_ids(self) -> range:
        return range(self.patch_ids.stop, self.patch_ids.stop + self.num_patches)

    @property
    def first_class_id(self) -> int:
        return self.place_ids.stop

    def count_ids(self, budget: int) -> int:
        """One id for each global token, and two for each kept patch."""
        return 2 * budget - self.num_global_tokens

    def legal_ids(self, place: int) -> range:
        """Global codes first, then in turn places and patch codes."""
        if place < self.num_global_tokens:
            return self.global_ids
        return self.patch_ids if (place - self.num_global_tokens) % 2 else self.place_ids

    def next_ids(self, sequence: Sequence[int]) -> range:
        """
        What may follow the beginning of a sequence; with it the model's own `generate` writes images too:
        `prefix_allowed_tokens_fn=lambda _, sequence: list(vocabulary.next_ids(sequence))`.

        Args:
            sequence (`Sequence[int]`): Its ids so far, which are taken to be legal; none for the classes.
        """
        if len(sequence) < 2:
            return self.budget_ids if len(sequence) else range(self.first_class_id, self.null_class_id + 1)
        left = self.count_ids(self.budgets[int(sequence[1]) - self.first_budget_id]) - (len(sequence) - 2)
        if left <= 0:
            return range(self.pad_token_id, self.vocab_size)
        return self._legal_ids(len(sequence) - 2, left, int(sequence[-2]))

    def to_sequence(
        self, label: int | str | None, global_codes: Sequence[int], patch_codes: Sequence[int]
    ) -> list[int]:
        """
        The sequence of an image.

        Args:
            label (`int` or `str`, *optional*): As in [`~TaTokVocabulary.class_id`].
            global_codes (`Sequence[int]`): All of them, in `0 .. global_codebook_size - 1`.
            patch_codes (`Sequence[int]`): Of all places, as [`TaTokModel.encode`] gives them: in
                `0 .. patch_codebook_size - 1`, and the pad code `patch_codebook_size` where a patch is dropped.

        Raises:
            `ValueError`: for an unknown class, a wrong number of codes, or a code out of range.
        """
        global_codes, patch_codes = [int(code) for code in global_codes], [int(code) for code in patch_codes]
        for name, codes, count, size in (
            ("global", global_codes, self.num_global_tokens, self.global_codebook_size),
            ("patch", patch_codes, self.num_patches, self.patch_codebook_size + 1),
        ):
            if len(codes) != count:
                raise ValueError(f"An image must have {count} {name} codes; got {len(codes)}.")
            for code in codes:
                if not 0 <= code < size:
                    raise ValueError(f"Every {name} code must lie between 0 and {size - 1}; got {code}.")
        sequence = list(global_codes)
        for place, code in enumerate(patch_codes):
            if code != self.patch_codebook_size:
                sequence += [self.place_ids[place], self.patch_ids[code]]
        budget = (len(sequence) + self.num_global_tokens) // 2
        return [self.class_id(label), self.budget_id(budget), *sequence]

    def from_sequence(self, sequence: Sequence[int]) -> tuple[int | None, list[int], list[int]]:
        """
        The class, `None` if it stands for any, the global codes and the patch codes of a sequence, as
        [`~TaTokVocabulary.to_sequence`] takes them; pad ids behind it are dropped.

        Raises:
            `ValueError`: if it is not a class, a budget, the global codes and as many patches as the budget says, each
                a place behind the one before and a code.
        """
        label, budget, ids = self._read_head(sequence)
        count = self.count_ids(budget)
        if len(ids) != count:
            raise ValueError(
                f"A sequence of budget {budget} must have {count} ids behind it, {self.num_global_tokens} global "
                f"codes and two for each of {budget - self.num_global_tokens} patches; got {len(ids)}."
            )
        for place, id in enumerate(ids):
            legal = self._legal_ids(place, count - place, ids[max(place - 2, 0)])
            if id not in legal:
                raise ValueError(
                    f"Id {place} behind the budget must be a {self._kind(place)}, from {legal[0]} to {legal[-1]}; got "
                    f"{id}."
                )
        patches = ids[self.num_global_tokens :]
        patch_codes = [self.patch_codebook_size] * self.num_patches
        for place, code in zip(patches[::2], patches[1::2]):
            patch_codes[place - self.place_ids.start] = code - self.patch_ids.start
        return label, ids[: self.num_global_tokens], patch_codes

    def generation_config(self) -> GenerationConfig:
        """
        Defaults of the model's own `generate`, sampled from the whole distribution. They forbid classes and budgets;
        that places and codes take turns and places ascend is for [`~TaTokVocabulary.next_ids`] to say.
        """
        return self._generation_config(suppress_tokens=list(range(self.first_class_id, self.pad_token_id)))

    def _legal_ids(self, place: int, left: int, before: int) -> range:
        """Where `left` ids are to come; places lie behind that of the patch before and leave room for the others."""
        legal = self.legal_ids(place)
        if legal != self.place_ids:
            return legal
        start = legal.start if place == self.num_global_tokens else before + 1
        return range(start, legal.stop - left // 2 + 1)

    def _kind(self, place: int) -> str:
        if place < self.num_global_tokens:
            return "global code"
        return "patch code" if (place - self.num_global_tokens) % 2 else "place behind the one before"

    def _say_budgets(self) -> str:
        return f"lie between {self.budgets[0]}, the global tokens, and {self.budgets[-1]}"


__all__ = ["TaTokVocabulary"]
