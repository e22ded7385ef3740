"""The Trainer of the generator: the stock one, with batches of equal length."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Sampler

from ..modeling.vocabulary_adatok import GeneratorVocabulary
from .generator_arguments import GeneratorTrainingArguments
from .optimizer import MuonTrainer
from .stateful_trainer import ResumableTrainer


IGNORED = -100


class SequenceCollator:
    """
    Makes a batch of sequences: `input_ids` filled up with the pad id, and `labels`, which are the same but for the
    class and the pad ids, which are not to be predicted.

    Args:
        vocabulary ([`ImageVocabulary`] or [`TaTokVocabulary`]): Of the sequences.
        class_dropout (`float`, *optional*, defaults to 0.0): Share of the sequences that get the null class, in
            [0, 1).

    Example:

    ```python
    >>> from adatok_hf.modeling.vocabulary_adatok import ImageVocabulary
    >>> from adatok_hf.training.generator_trainer import SequenceCollator

    >>> collate = SequenceCollator(ImageVocabulary(codebook_size=8, budgets=[1, 2]))
    >>> collate([{"input_ids": [8, 9, 5]}, {"input_ids": [8, 10, 0, 7]}])["labels"].tolist()
    [[-100, 9, 5, -100], [-100, 10, 0, 7]]

    ```"""

    def __init__(self, vocabulary: GeneratorVocabulary, class_dropout: float = 0.0):
        self.vocabulary, self.class_dropout = vocabulary, class_dropout

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        sequences = [torch.as_tensor(example["input_ids"]) for example in examples]
        pad = self.vocabulary.pad_token_id
        input_ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=pad)
        labels = input_ids.masked_fill(input_ids == pad, IGNORED)
        labels[:, 0] = IGNORED
        if self.class_dropout:
            input_ids[torch.rand(len(sequences)) < self.class_dropout, 0] = self.vocabulary.null_class_id
        # No mask: the pad ids stand behind, where a causal model does not look.
        return {"input_ids": input_ids, "labels": labels}


class EqualLengthSampler(Sampler):
    """
    Draws all rows in random order, but such that those of a batch have one length: a batch is a random draw from the
    rows of its length, and the batches come in random order. At most as many batches as there are lengths are mixed.

    `Trainer`'s own sampler by length serves the long ones first within each stretch of fifty batches, after which a
    model expects what it saw last: the smallest budget.

    Args:
        lengths (`Sequence[int]`): Of all rows.
        batch_size (`int`): Rows that are served at the same time, by all processes together.
        seed (`int`, *optional*, defaults to 0): With the epoch it decides the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int = 0):
        self.lengths, self.batch_size, self.seed, self.epoch = torch.as_tensor(lengths), batch_size, seed, 0

    def set_epoch(self, epoch: int):
        """`Trainer` calls it, so that a resumed run goes on in the same order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator)
        order = order[self.lengths[order].argsort(stable=True)]
        whole = len(order) // self.batch_size
        batches = order[: whole * self.batch_size].view(whole, self.batch_size)
        batches = batches[torch.randperm(whole, generator=generator)]
        return iter(torch.cat([batches.flatten(), order[whole * self.batch_size :]]).tolist())


class AdaTokGeneratorTrainer(MuonTrainer, ResumableTrainer):
    """
    Trains a causal language model on sequences of image codes. What differs from [`~transformers.Trainer`]: batches
    have one length, every token weighs the same although batches have few or many, in evaluation too, and that drops
    no class.

    Args:
        vocabulary ([`ImageVocabulary`] or [`TaTokVocabulary`]): Of the sequences.
        kwargs: As for [`~transformers.Trainer`]; the datasets have the columns `input_ids` and `length`.
    """

    args: GeneratorTrainingArguments

    def __init__(self, vocabulary: GeneratorVocabulary, args: GeneratorTrainingArguments, **kwargs):
        self.vocabulary = vocabulary
        super().__init__(args=args, data_collator=SequenceCollator(vocabulary, args.class_dropout), **kwargs)
        self.mean_targets = _mean_targets(self.train_dataset) if self.train_dataset is not None else None

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        collator, self.data_collator = self.data_collator, SequenceCollator(self.vocabulary)
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = collator

    def _get_train_sampler(self, train_dataset=None) -> Sampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        together = self.args.train_batch_size * self.args.world_size
        return EqualLengthSampler(dataset["length"][:], together, self.args.data_seed or self.args.seed)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if num_items_in_batch is not None and model.training:
            # The mean over a batch would let a token of a small budget weigh more than one of a large budget.
            processes = self.args.world_size if self.args.average_tokens_across_devices else 1
            sequences = self.args.train_batch_size * self.args.gradient_accumulation_steps * processes
            num_items_in_batch = torch.as_tensor(self.mean_targets * sequences, device=self.args.device)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def prediction_step(self, model, inputs, *args, **kwargs):
        loss, *others = super().prediction_step(model, inputs, *args, **kwargs)
        targets = (inputs["labels"][:, 1:] != IGNORED).sum() / len(inputs["labels"])
        return loss * targets, *others  # of a whole sequence, as the loop below takes the mean over sequences

    def evaluation_loop(self, dataloader, *args, metric_key_prefix="eval", **kwargs):
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        output.metrics[f"{metric_key_prefix}_loss"] /= _mean_targets(dataloader.dataset)
        return output


def _mean_targets(dataset) -> float:
    """Of a sequence, all ids but the class."""
    lengths = dataset["length"][:]
    return sum(lengths) / len(lengths) - 1


__all__ = ["AdaTokGeneratorTrainer", "EqualLengthSampler", "SequenceCollator"]
