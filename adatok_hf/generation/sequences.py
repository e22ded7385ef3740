"""A dataset of image codes as sequences of a generator's vocabulary."""

from pathlib import Path

from ..codec.tokenize_dataset import read_facts
from ..data import spread_evenly
from ..modeling.vocabulary_adatok import GeneratorVocabulary, ImageVocabulary
from ..modeling.vocabulary_tatok import TaTokVocabulary


def load_sequences(folder: str | Path, max_images: int | None = None):
    """
    Reads what `adatok tokenize-dataset` wrote, as sequences to train a generator on.

    Args:
        folder (`str` or `Path`): Folder of the shards.
        max_images (`int`, *optional*): Takes that many rows, spread evenly.

    Returns:
        `tuple[datasets.Dataset, ImageVocabulary]`: rows with `input_ids` and their `length`, memory-mapped, and the
        vocabulary, a [`TaTokVocabulary`] for codes of a TaTok. A row without a label has the null class.

    Raises:
        `ValueError`: if there are no shards, some are missing, they come from different jobs, or a budget is no
            candidate of the tokenizer.
    """
    from datasets import load_dataset

    paths = sorted(Path(folder).glob("*.parquet"))
    if not paths:
        raise ValueError(f"There are no parquet files in {folder}; make them by `adatok tokenize-dataset`.")
    facts = read_facts(paths[0])
    for path in paths[1:]:
        if read_facts(path) != facts:
            raise ValueError(f"{paths[0].name} and {path.name} in {folder} were made by different jobs.")
    expected = -(-facts["num_images"] // facts["images_per_shard"])
    if len(paths) != expected:
        raise ValueError(f"{folder} has {len(paths)} of {expected} shards; start `adatok tokenize-dataset` again.")
    vocabulary = make_vocabulary(facts)
    rows = load_dataset("parquet", data_files=[str(path) for path in paths], split="train")
    for budget in rows.unique("budget"):
        vocabulary.budget_id(budget)
    rows = rows.select(spread_evenly(len(rows), max_images)).select_columns(["label", "image_codes"])
    return rows.map(
        _to_sequences, batched=True, remove_columns=rows.column_names, fn_kwargs={"vocabulary": vocabulary}
    ), vocabulary


def make_vocabulary(facts: dict) -> GeneratorVocabulary:
    """The vocabulary for what a shard says of its codes."""
    names = {"class_names": facts["class_names"], "tokenizer_hash": facts["codes_hash"]}
    if "tatok" in facts:
        return TaTokVocabulary(**facts["tatok"], **names)
    return ImageVocabulary(codebook_size=facts["codebook_size"], budgets=facts["candidate_budgets"], **names)


def _to_sequences(rows: dict[str, list], vocabulary: GeneratorVocabulary) -> dict[str, list]:
    sequences = [
        vocabulary.to_sequence(label, *_codes(image_codes, vocabulary))
        for label, image_codes in zip(rows["label"], rows["image_codes"])
    ]
    return {"input_ids": sequences, "length": [len(sequence) for sequence in sequences]}


def _codes(image_codes: list[int], vocabulary: GeneratorVocabulary) -> tuple[list[int], ...]:
    """What `to_sequence` takes; of a TaTok the global codes and, of all places, the patch codes."""
    if not isinstance(vocabulary, TaTokVocabulary):
        return (image_codes,)
    patch_codes = [vocabulary.patch_codebook_size] * vocabulary.num_patches
    for id in image_codes[vocabulary.num_global_tokens :]:
        place, code = divmod(id - vocabulary.global_codebook_size, vocabulary.patch_codebook_size)
        patch_codes[place] = code
    return image_codes[: vocabulary.num_global_tokens], patch_codes


__all__ = ["load_sequences", "make_vocabulary"]
