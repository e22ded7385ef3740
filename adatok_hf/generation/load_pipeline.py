"""Pipelines from folders and from the Hub, without any code but that of this package."""

from pathlib import Path

from transformers import LlamaForCausalLM

from .. import default_checkpoint
from ..checkpoint import load_checkpoint, model_hash
from ..files import first_line, read_json
from ..hub import find_folder
from ..modeling.vocabulary_adatok import CONFIG_KEY, ImageVocabulary


def load_pipeline(source: str | Path, tokenizer: str | Path | None = None):
    """
    Loads a saved pipeline, or puts one together of a generator and its tokenizer.

    Args:
        source (`str` or `Path`): Folder or Hub id of a pipeline, or of a generator as `adatok train generator` writes
            it.
        tokenizer (`str` or `Path`, *optional*): Folder or Hub id of the tokenizer, for a generator; the embedded one
            if not given.

    Returns:
        [`AdaTokPipeline`]

    Raises:
        `ValueError`: if one of them cannot be loaded, or they do not belong together: by the fingerprint, the codebook
            or the budgets.
        `ImportError`: if diffusers is not installed.
    """
    try:
        from ..modeling.pipeline_adatok import AdaTokPipeline
    except ImportError as error:
        raise ImportError("Pipelines need diffusers: pip install adatok-hf[generate].") from error
    folder = find_folder(source)
    is_pipeline = (folder / "model_index.json").is_file()
    if is_pipeline and tokenizer is not None:
        raise ValueError(f"{source} is a pipeline with a tokenizer of its own; name a generator to choose another.")
    model, processor = load_checkpoint(
        folder / "image_tokenizer" if is_pipeline else tokenizer or default_checkpoint()
    )
    transformer = load_generator(folder / "transformer" if is_pipeline else folder)
    expected = ImageVocabulary.from_config(transformer.config).tokenizer_hash
    pipeline = AdaTokPipeline(model, processor, transformer)
    if expected is not None and model_hash(model) != expected:
        raise ValueError(
            f"The generator {source} was trained on codes of another tokenizer: fingerprint {expected[:12]}, not "
            f"{model_hash(model)[:12]}."
        )
    return pipeline


def load_generator(folder: Path) -> LlamaForCausalLM:
    """Loads a generator in evaluation mode; raises `ValueError` if the folder has none."""
    path = folder / "config.json"
    if not path.is_file() or CONFIG_KEY not in read_json(path):
        raise ValueError(f"{folder} is no generator: it has no config.json with an {CONFIG_KEY}.")
    try:
        model = LlamaForCausalLM.from_pretrained(folder, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"The generator {folder} cannot be loaded: {first_line(error)}") from error
    return model.eval()


__all__ = ["load_generator", "load_pipeline"]
