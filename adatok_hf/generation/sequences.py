"""A dataset of image codes as sequences `class, budget, codes[:budget]`."""

from pathlib import Path

from ..codec.tokenize_dataset import read_facts
from ..modeling.vocabulary_adatok import ImageVocabulary


def load_sequences(folder: str | Path, max_images: int | None = None):
    """
    Reads what `adatok tokenize-dataset` wrote, as sequences to train a generator on.

    Args:
        folder (`str` or `Path`): Folder of the shards.
        max_images (`int`, *optional*): Takes that many rows, spread evenly.

    Returns:
        `tuple[datasets.Dataset, ImageVocabulary]`: rows with `input_ids` and their `length`, memory-mapped, and the
        vocabulary. A row without a label has the null class.

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
    vocabulary = ImageVocabulary(
        codebook_size=facts["codebook_size"],
        budgets=facts["candidate_budgets"],
        class_names=facts["class_names"],
        tokenizer_hash=facts["model_hash"],
    )
    rows = load_dataset("parquet", data_files=[str(path) for path in paths], split="train")
    for budget in rows.unique("budget"):
        vocabulary.budget_id(budget)
    if max_images is not None and max_images < len(rows):
        rows = rows.select([index * len(rows) // max_images for index in range(max_images)])
    rows = rows.select_columns(["label", "image_codes"])
    return rows.map(
        _to_sequences, batched=True, remove_columns=rows.column_names, fn_kwargs={"vocabulary": vocabulary}
    ), vocabulary


def _to_sequences(rows: dict[str, list], vocabulary: ImageVocabulary) -> dict[str, list]:
    sequences = [vocabulary.to_sequence(label, codes) for label, codes in zip(rows["label"], rows["image_codes"])]
    return {"input_ids": sequences, "length": [len(sequence) for sequence in sequences]}


__all__ = ["load_sequences"]
