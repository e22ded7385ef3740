"""A foreign checkpoint to a complete AdaTok checkpoint."""

from pathlib import Path

from ..checkpoint import save_checkpoint
from ..files import check_empty
from ..modeling import AdaTokImageProcessor, AdaTokModel
from .source import OriginalCheckpoint, read_original
from .titok import FAMILIES, convert_original


FACTS = {
    "titok": {
        "original method": "TiTok, huggingface.co/papers/2406.07550",
        "original code": "github.com/bytedance/1d-tokenizer (Apache-2.0)",
        "trained budgets": "all codes only; fewer are an extension that the heads must learn",
    },
    "one-d-piece": {
        "original method": "One-D-Piece, huggingface.co/papers/2501.10064",
        "original code": "github.com/turingmotors/One-D-Piece (Apache-2.0)",
        "trained budgets": "every number of codes",
    },
}


def convert_checkpoint(
    source: str | Path,
    folder: str | Path,
    family: str,
    *,
    budgets: list[int] | None = None,
    config: str | Path | None = None,
    filename: str | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> AdaTokModel:
    """
    Converts a TiTok or One-D-Piece checkpoint and writes weights, configuration, image processor and card.

    Args:
        source (`str` or `Path`): File of weights, folder that holds one, or repository id on the Hub.
        folder (`str` or `Path`): Where to. Must not exist, or be empty.
        family (`str`): `"titok"` or `"one-d-piece"`.
        budgets (`list[int]`, *optional*): Candidate budgets; eight equal steps up to all codes when unset.
        config (`str` or `Path`, *optional*): The original JSON or YAML configuration, if not beside the weights.
        filename (`str`, *optional*): Which weights to take of a folder or repository that holds several.
        revision (`str`, *optional*): Branch, tag or commit, for a repository id.
        token (`str`, *optional*): Hub token; the one of `hf auth login` or `HF_TOKEN` when unset.

    Returns:
        [`AdaTokModel`]: what was written.

    Raises:
        `ValueError`: if the output exists, the source cannot be read (see
            [`~adatok_hf.conversion.source.read_original`]) or not be converted (see
            [`~adatok_hf.conversion.titok.convert_original`]). Nothing is written then.

    Example:

    ```python
    >>> from adatok_hf.conversion import convert_checkpoint

    >>> convert_checkpoint("no/such/folder", "converted", "one-d-piece")
    Traceback (most recent call last):
    ValueError: There is no folder no/such/folder, and this is no Hub repository id either.

    ```"""
    if family not in FAMILIES:
        raise ValueError(f"A checkpoint can be converted from {' or '.join(FAMILIES)}; got {family!r}.")
    folder = Path(folder)
    check_empty(folder)
    original = read_original(source, config=config, filename=filename, revision=revision, token=token)
    model = convert_original(original, family, budgets)
    size = model.config.image_size
    processor = AdaTokImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    metrics = {"training": training_facts(original, family)}
    save_checkpoint(folder, model, processor, metrics=metrics, license=original.license)
    return model


def training_facts(original: OriginalCheckpoint, family: str) -> dict[str, str]:
    """What the card says of a converted model's origin."""
    facts = {"converted from": original.name, **FACTS[family]}
    if original.license is None:
        facts["licence"] = "Apache-2.0, that of the original code; the original checkpoint names none"
    facts["heads and policy"] = "not trained: the model equals the original, and every image gets all codes"
    if original.is_on_hub:
        facts["base_model"] = original.name
    return facts
