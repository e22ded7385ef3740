"""Where the figures come from: what was measured, and whether it was of the checkpoint that ships."""

from functools import cache
from pathlib import Path

from adatok_hf import AdaTokConfig, default_checkpoint
from adatok_hf.checkpoint import checkpoint_name, load_checkpoint, model_hash
from adatok_hf.generation.load_pipeline import load_generator


ROOT = Path(__file__).parent.parent.parent
CHECKPOINTS = ROOT / "adatok_hf" / "checkpoints"
STUDY = ROOT / "docs" / "study"
BENCH = ROOT / "docs" / "bench.json"
GENERATION = ROOT / "docs" / "generation.json"
GENERATION_LENGTHS = ROOT / "docs" / "generation_lengths.json"
GENERATION_BENCH = ROOT / "docs" / "generation_bench.json"
TATOK_CODEC_BENCH = ROOT / "docs" / "tatok_codec_bench.json"
TATOK_BENCH = ROOT / "docs" / "tatok_bench.json"
TRAINING_COST = ROOT / "docs" / "training_cost.json"
SPACE = ROOT / "docs" / "space.json"
EXPORT = ROOT / "docs" / "export.json"
BULK = ROOT / "docs" / "bulk.json"
PILOTS = ROOT / "docs" / "pilots.json"


def shipped_folder() -> Path:
    """The checkpoint that the examples load."""
    return Path(default_checkpoint())


def shipped_config() -> AdaTokConfig:
    """Its configuration."""
    return AdaTokConfig.from_pretrained(shipped_folder())


def of_another(model: str, verb: str) -> str:
    """Says so where figures are of another checkpoint than the shipped one."""
    model, shipped = checkpoint_name(model), checkpoint_name(shipped_folder())
    return "" if model == shipped else f"Of `{model}`, which shipped before; `{shipped}` has not been {verb} yet. "


@cache
def shipped_hash() -> str:
    """The hash of its tokenizer."""
    return model_hash(load_checkpoint(shipped_folder())[0])


@cache
def shipped_generator_hash() -> str:
    """The hash of the generator beside it."""
    return model_hash(load_generator(shipped_folder().parent / "transformer"))


def are_shipped(*digests: str | None) -> bool:
    """Whether all hashes are of weights that ship."""
    return {shipped_hash(), shipped_generator_hash()}.issuperset(digests)


def of_predecessor(what: str, *digests: str) -> str:
    """Says so where figures are of weights that shipped before."""
    if are_shipped(*digests):
        return ""
    return f"The {what} is of the weights that shipped before; the present ones are not measured yet. "
