"""One id space for codes, classes and budgets, so that a stock causal language model writes images."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import ClassVar, TypeVar

from transformers import GenerationConfig, LlamaConfig, PreTrainedConfig


CONFIG_KEY = "image_vocabulary"
Kind = TypeVar("Kind", bound="GeneratorVocabulary")


class GeneratorVocabulary:
    """
    What the vocabularies of all generators share. Their ids are, in this order: what an image is made of; the classes;
    the null class, which stands for any; the budgets; the pad id. A sequence is a class, a budget, and then so many
    ids as the budget says.

    Those that inherit are frozen dataclasses with the fields `class_names` and `tokenizer_hash`, and have `budgets`.
    """

    config_key: ClassVar[str]  # where the vocabulary lies in the generator's `config.json`
    codec: ClassVar[str]

    @classmethod
    def from_config(cls: type[Kind], config: PreTrainedConfig) -> Kind:
        """The vocabulary of a generator; raises `ValueError` if the configuration has none, or not a whole one."""
        facts = getattr(config, cls.config_key, None)
        if not isinstance(facts, dict):
            raise ValueError(
                f"The config.json of the generator has no {cls.config_key}, so it does not write {cls.codec} codes."
            )
        try:
            vocabulary = cls(**facts)
        except TypeError as error:
            raise ValueError(
                f"The {cls.config_key} in the config.json of the generator is damaged: {error}."
            ) from error
        if vocabulary.vocab_size != config.vocab_size:
            raise ValueError(
                f"The {cls.config_key} of the generator has {vocabulary.vocab_size} ids, its model "
                f"{config.vocab_size}."
            )
        return vocabulary

    def to_dict(self) -> dict:
        """For `config.json`."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def first_class_id(self) -> int:
        """Id of the first class, of which all smaller ones are what images are made of."""
        raise NotImplementedError

    @property
    def null_class_id(self) -> int:
        """Id of the class that stands for any."""
        return self.first_class_id + len(self.class_names)

    @property
    def first_budget_id(self) -> int:
        """Id of the smallest budget."""
        return self.null_class_id + 1

    @property
    def pad_token_id(self) -> int:
        """The last id; it fills sequences in a batch and is never predicted."""
        return self.first_budget_id + len(self.budgets)

    @property
    def vocab_size(self) -> int:
        return self.pad_token_id + 1

    @property
    def max_length(self) -> int:
        """Length of the longest sequence."""
        return 2 + self.count_ids(self.budgets[-1])

    @property
    def budget_ids(self) -> range:
        return range(self.first_budget_id, self.pad_token_id)

    def count_ids(self, budget: int) -> int:
        """How many ids follow the class and this budget."""
        raise NotImplementedError

    def legal_ids(self, place: int) -> range:
        """The ids that may stand so many places behind the budget."""
        raise NotImplementedError

    def not_in(self, legal: range) -> list[int]:
        """All ids but the legal ones, for `generate(suppress_tokens=...)`."""
        return [id for id in range(self.vocab_size) if id not in legal]

    def class_id(self, label: int | str | None) -> int:
        """
        Id of a class.

        Args:
            label (`int` or `str`, *optional*): Its number in `0 .. classes - 1`, its name, or `None` for any.

        Raises:
            `ValueError`: if there is no such class; names near to the one given are suggested.
        """
        if label is None:
            return self.null_class_id
        if isinstance(label, str):
            if label not in self.class_names:
                raise ValueError(f"There is no class {label!r}; {self._suggest(label)}.")
            return self.first_class_id + self.class_names.index(label)
        if not self.class_names:
            raise ValueError(f"The generator knows no classes; the only label is None, not {label}.")
        if not hasattr(label, "__index__") or not 0 <= label < len(self.class_names):
            raise ValueError(f"A class must be a name or a number from 0 to {len(self.class_names) - 1}; got {label}.")
        return self.first_class_id + int(label)

    def budget_id(self, budget: int) -> int:
        """Id of a budget; raises `ValueError` for a number that is none."""
        if budget not in self.budgets:
            raise ValueError(f"A budget must {self._say_budgets()}; got {budget}.")
        return self.first_budget_id + self.budgets.index(budget)

    def model_config(self, **architecture) -> LlamaConfig:
        """
        Configuration of a Llama model over these ids. No id begins or ends a sequence: where a picture ends is said by
        its budget.

        Args:
            architecture: `hidden_size`, `num_hidden_layers` and the like, as for [`~transformers.LlamaConfig`].
        """
        return LlamaConfig(
            vocab_size=self.vocab_size,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=self.pad_token_id,
            max_position_embeddings=self.max_length,
            **{self.config_key: self.to_dict()},
            **architecture,
        )

    def _generation_config(self, **settings) -> GenerationConfig:
        return GenerationConfig(
            do_sample=True,
            top_k=0,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=self.pad_token_id,
            max_new_tokens=self.max_length - 2,
            **settings,
        )

    def _check_class_names(self):
        object.__setattr__(self, "class_names", tuple(self.class_names))
        if len(set(self.class_names)) < len(self.class_names):
            raise ValueError(f"Every class needs a name of its own; got {list(self.class_names)}.")

    def _read_head(self, sequence: Sequence[int]) -> tuple[int | None, int, list[int]]:
        """The class, the budget and what follows them, without pad ids; `ValueError` if it begins otherwise."""
        ids = [int(id) for id in sequence]
        while ids and ids[-1] == self.pad_token_id:
            ids.pop()
        if len(ids) < 2 or not self.first_class_id <= ids[0] <= self.null_class_id or ids[1] not in self.budget_ids:
            raise ValueError(f"A sequence must begin with a class and a budget; got {ids[:2]}.")
        label = None if ids[0] == self.null_class_id else ids[0] - self.first_class_id
        return label, self.budgets[ids[1] - self.first_budget_id], ids[2:]

    def _say_budgets(self) -> str:
        return f"be one of {', '.join(map(str, self.budgets))}"

    def _suggest(self, name: str) -> str:
        if not self.class_names:
            return "the generator knows no classes"
        inside = [known for known in self.class_names if name.lower() in known.lower()]
        near = list(dict.fromkeys([*get_close_matches(name, self.class_names, n=3), *inside]))[:3]
        return f"did you mean {' or '.join(near)}" if near else f"it knows {', '.join(self.class_names[:3])} and so on"


@dataclass(frozen=True)
class ImageVocabulary(GeneratorVocabulary):
    r"""
    The ids of a generator. In this order: the codes, with the ids that the tokenizer gives them; the classes; the null
    class, which stands for any; the candidate budgets; the pad id. An image is the sequence
    `class, budget, codes[:budget]`.

    It is stored under `image_vocabulary` in the generator's `config.json`, so that the folder stays one of a plain
    transformers model.

    Args:
        codebook_size (`int`): Number of codes, those of the tokenizer.
        budgets (`Sequence[int]`): Candidate budgets of the tokenizer, ascending, each at least 1.
        class_names (`Sequence[str]`, *optional*): Names of the classes, all different; none for a generator that is
            not conditioned.
        tokenizer_hash (`str`, *optional*): Fingerprint of the tokenizer whose codes these are, see
            `adatok_hf.checkpoint.codes_hash`.

    Raises:
        `ValueError`: if a number is below 1, the budgets do not ascend, or a name is there twice.

    Example:

    ```python
    >>> from adatok_hf.modeling.vocabulary_adatok import ImageVocabulary

    >>> vocabulary = ImageVocabulary(codebook_size=8, budgets=[2, 4], class_names=["cat", "owl"])
    >>> vocabulary.to_sequence("owl", [5, 0])  # the class, a budget of 2, its codes
    [9, 11, 5, 0]
    >>> vocabulary.from_sequence([9, 11, 5, 0])
    (1, [5, 0])
    >>> vocabulary.null_class_id, vocabulary.pad_token_id, vocabulary.vocab_size
    (10, 13, 14)

    ```"""

    config_key: ClassVar[str] = CONFIG_KEY
    codec: ClassVar[str] = "AdaTok"

    codebook_size: int
    budgets: Sequence[int]
    class_names: Sequence[str] = ()
    tokenizer_hash: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "budgets", tuple(self.budgets))
        if self.codebook_size < 1:
            raise ValueError(f"codebook_size must be at least 1; got {self.codebook_size}.")
        if not self.budgets or self.budgets[0] < 1 or list(self.budgets) != sorted(set(self.budgets)):
            raise ValueError(f"The candidate budgets must ascend from at least 1; got {list(self.budgets)}.")
        self._check_class_names()

    @property
    def first_class_id(self) -> int:
        return self.codebook_size

    @property
    def code_ids(self) -> range:
        return range(self.codebook_size)

    def count_ids(self, budget: int) -> int:
        """As many codes as the budget says."""
        return budget

    def legal_ids(self, place: int) -> range:
        """Codes, at any place."""
        return self.code_ids

    def to_sequence(self, label: int | str | None, image_codes: Sequence[int]) -> list[int]:
        """
        The sequence of an image.

        Args:
            label (`int` or `str`, *optional*): As in [`~ImageVocabulary.class_id`].
            image_codes (`Sequence[int]`): As many codes as the budget says, in `0 .. codebook_size - 1`.

        Raises:
            `ValueError`: for an unknown class, a number of codes that is no candidate budget, or a code out of range.
        """
        codes = [int(code) for code in image_codes]
        self._check_codes(codes)
        return [self.class_id(label), self.budget_id(len(codes)), *codes]

    def from_sequence(self, sequence: Sequence[int]) -> tuple[int | None, list[int]]:
        """
        The class, `None` if it stands for any, and the codes of a sequence; pad ids behind it are dropped.

        Raises:
            `ValueError`: if it is not a class, a budget and exactly as many codes.
        """
        label, budget, codes = self._read_head(sequence)
        if len(codes) != budget:
            raise ValueError(f"A sequence of budget {budget} must have as many codes; got {len(codes)}.")
        self._check_codes(codes)
        return label, codes

    def generation_config(self) -> GenerationConfig:
        """
        Defaults of the model's own `generate`: it continues `class, budget` by codes alone, sampled from the whole
        distribution. How many is for the caller to say, by `max_new_tokens`; a prefix is an image too.
        """
        return self._generation_config(suppress_tokens=self.not_in(self.code_ids))

    def _check_codes(self, codes: list[int]):
        for place, code in enumerate(codes):
            if not 0 <= code < self.codebook_size:
                raise ValueError(
                    f"A code must lie between 0 and {self.codebook_size - 1}; got {code} at place {place}."
                )


__all__ = ["GeneratorVocabulary", "ImageVocabulary"]
