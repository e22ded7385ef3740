"""Pipelines from folders and from the Hub, without any code but that of this package."""

from pathlib import Path

from safetensors import SafetensorError
from transformers import LlamaForCausalLM, PreTrainedModel

from .. import default_checkpoint
from ..checkpoint import codes_hash, load_checkpoint
from ..files import first_line, read_json
from ..hub import find_folder
from ..modeling import AdaTokImageProcessor, TaTokModel
from ..modeling.vocabulary_adatok import GeneratorVocabulary, ImageVocabulary
from ..modeling.vocabulary_tatok import TaTokVocabulary


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
    if writes_tatok(folder):
        raise ValueError(f"{source} writes TaTok images, of which there is no pipeline; draw them by TaTokSampler.")
    is_pipeline = (folder / "model_index.json").is_file()
    if is_pipeline and tokenizer is not None:
        raise ValueError(f"{source} is a pipeline with a tokenizer of its own; name a generator to choose another.")
    model, processor = load_checkpoint(
        folder / "image_tokenizer" if is_pipeline else tokenizer or default_checkpoint()
    )
    transformer = load_generator(folder / "transformer" if is_pipeline else folder)
    pipeline = AdaTokPipeline(model, processor, transformer)
    check_fingerprint(pipeline.vocabulary, model, source)
    return pipeline


def load_tatok_generator(
    source: str | Path, tokenizer: str | Path
) -> tuple[LlamaForCausalLM, TaTokModel, AdaTokImageProcessor]:
    """
    Loads a generator of TaTok images and its tokenizer, for [`TaTokSampler`] and [`TaTokModel.decode`].

    Args:
        source (`str` or `Path`): Folder or Hub id of a generator as `adatok train generator` writes it.
        tokenizer (`str` or `Path`): Folder or Hub id of the TaTok.

    Returns:
        `tuple`: the generator and the tokenizer, in evaluation mode, and the image processor.

    Raises:
        `ValueError`: if one of them cannot be loaded, or they do not belong together.
    """
    generator = load_generator(find_folder(source), TaTokVocabulary)
    model, processor = load_checkpoint(tokenizer, kinds=(TaTokModel,))
    vocabulary = TaTokVocabulary.from_config(generator.config)
    expected = TaTokVocabulary.for_tokenizer(model.config, vocabulary.class_names, vocabulary.tokenizer_hash)
    if vocabulary != expected:
        raise ValueError(
            f"The generator {source} and the tokenizer {tokenizer} do not belong together: their numbers of codes or "
            "places differ."
        )
    check_fingerprint(vocabulary, model, source)
    return generator, model.eval(), processor


def check_fingerprint(vocabulary: GeneratorVocabulary, tokenizer: PreTrainedModel, source: str | Path):
    """Raises a `ValueError` if a vocabulary names another tokenizer."""
    expected = vocabulary.tokenizer_hash
    if expected is not None and codes_hash(tokenizer) != expected:
        raise ValueError(
            f"The generator {source} was trained on codes of another tokenizer: fingerprint {expected[:12]}, not "
            f"{codes_hash(tokenizer)[:12]}."
        )


def writes_tatok(source: str | Path) -> bool:
    """Whether a folder or Hub id is a generator of TaTok images."""
    path = find_folder(source) / "config.json"
    return path.is_file() and TaTokVocabulary.config_key in read_json(path)


def load_generator(folder: Path, kind: type[GeneratorVocabulary] = ImageVocabulary) -> LlamaForCausalLM:
    """Loads a generator in evaluation mode; raises `ValueError` if the folder has none of that kind."""
    path = folder / "config.json"
    if not path.is_file() or kind.config_key not in read_json(path):
        raise ValueError(
            f"{folder} is no generator of {kind.codec} codes: it has no config.json with {kind.config_key}."
        )
    try:
        model, found = LlamaForCausalLM.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:
        raise ValueError(f"The generator {folder} cannot be loaded: {first_line(error)}") from error
    for names, problem in ((found["missing_keys"], "lack"), (found["unexpected_keys"], "have the superfluous")):
        if names:
            raise ValueError(f"The weights of the generator {folder} {problem} {min(names)}, one of {len(names)}.")
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise ValueError(f"The weights of the generator {folder} are damaged: {name} has NaN or infinite values.")
    return model.eval()


__all__ = ["load_generator", "load_pipeline", "load_tatok_generator", "writes_tatok"]
