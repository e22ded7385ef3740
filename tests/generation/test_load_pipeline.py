import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from adatok_hf.generation.load_pipeline import load_pipeline, load_tatok_generator
from adatok_hf.modeling.pipeline_adatok import AdaTokPipeline
from adatok_hf.modeling.sampling_tatok import TaTokSampler


@pytest.fixture
def generator_folder(generator, tmp_path):
    generator.save_pretrained(tmp_path / "generator")
    return tmp_path / "generator"


@pytest.fixture
def pipeline_folder(generator_folder, tiny_checkpoint, tmp_path):
    load_pipeline(generator_folder, tiny_checkpoint).save_pretrained(tmp_path / "pipe")
    return tmp_path / "pipe"


def draw(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(["emoji", "places/alley"], generator=[torch.Generator().manual_seed(seed) for seed in range(2)])


def test_a_generator_and_its_tokenizer_make_a_pipeline(generator_folder, tiny_checkpoint):
    pipeline = load_pipeline(generator_folder, tiny_checkpoint)
    assert type(pipeline) is AdaTokPipeline and pipeline.class_names[0] == "emoji"
    assert not pipeline.transformer.training and not pipeline.image_tokenizer.training


def test_a_saved_pipeline_gives_the_same_images(pipeline_folder, generator_folder, tiny_checkpoint):
    first, second = draw(load_pipeline(generator_folder, tiny_checkpoint)), draw(load_pipeline(pipeline_folder))
    assert torch.equal(first.image_codes, second.image_codes)
    assert [image.tobytes() for image in first.images] == [image.tobytes() for image in second.images]


def test_another_tokenizer_of_the_same_shape_is_refused(
    generator_folder, tiny_model, processor, tmp_path, one_sentence
):
    with torch.no_grad():
        tiny_model.quantizer.codebook.weight.add_(1.0)
    tiny_model.save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    with one_sentence("another tokenizer", str(generator_folder)):
        load_pipeline(generator_folder, tmp_path / "other")


def test_a_tokenizer_whose_decoder_was_trained_on_is_taken(generator_folder, tiny_model, processor, tmp_path):
    with torch.no_grad():
        tiny_model.decoder.mask_token.add_(1.0)
    tiny_model.save_pretrained(tmp_path / "later")
    processor.save_pretrained(tmp_path / "later")
    assert load_pipeline(generator_folder, tmp_path / "later").class_names[0] == "emoji"


def test_a_tokenizer_of_other_codes_is_refused(generator_folder, one_sentence):
    with one_sentence("do not belong together", "64 and 4096"):
        load_pipeline(generator_folder)  # the embedded tokenizer


def test_a_pipeline_has_its_own_tokenizer(pipeline_folder, tiny_checkpoint, one_sentence):
    with one_sentence("tokenizer of its own"):
        load_pipeline(pipeline_folder, tiny_checkpoint)


def test_what_is_no_generator_is_refused(tiny_checkpoint, generator_folder, tmp_path, one_sentence):
    (tmp_path / "empty").mkdir()
    config = json.loads((generator_folder / "config.json").read_text())
    del config["image_vocabulary"]
    (generator_folder / "config.json").write_text(json.dumps(config))
    for folder in (tiny_checkpoint, tmp_path / "empty", generator_folder):
        with one_sentence(str(folder), "is no generator"):
            load_pipeline(folder, tiny_checkpoint)


def damage(path, kind: str):
    """Takes a tensor away, spoils one, or cuts the file off."""
    tensors = load_file(path)
    name = "model.layers.0.self_attn.q_proj.weight"
    if kind == "lack":
        del tensors[name]
    tensors |= {"more": torch.zeros(1)} if kind == "superfluous" else {}
    tensors |= {name: torch.full_like(tensors[name], torch.nan)} if kind == "NaN" else {}
    save_file(tensors, path, metadata={"format": "pt"})
    if kind == "cannot be loaded":
        path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("kind", ["lack", "superfluous", "NaN", "cannot be loaded"])
def test_damaged_weights_are_refused(generator_folder, tiny_checkpoint, one_sentence, kind):
    damage(generator_folder / "model.safetensors", kind)
    with one_sentence(str(generator_folder), kind):
        load_pipeline(generator_folder, tiny_checkpoint)


def test_a_tatok_generator_loads_with_its_own_tokenizer_alone(
    tatok_generator, tatok_checkpoint, tiny_tatok, processor, tmp_path, one_sentence
):
    tatok_generator.save_pretrained(tmp_path / "generator")
    generator, tokenizer, _ = load_tatok_generator(tmp_path / "generator", tatok_checkpoint)
    tokens = TaTokSampler(generator)(["emoji"], 9)
    with torch.no_grad():
        assert tokenizer.decode(tokens.global_codes, tokens.patch_codes).pixel_values.shape == (1, 3, 32, 32)
        tiny_tatok.patch_quantizer.codebook.weight.add_(1.0)
    tiny_tatok.save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    with one_sentence("another tokenizer"):
        load_tatok_generator(tmp_path / "generator", tmp_path / "other")
    with one_sentence("TaTokSampler"):
        load_pipeline(tmp_path / "generator")


def test_a_generator_of_adatok_writes_no_tatok_images(generator_folder, tatok_checkpoint, one_sentence):
    with one_sentence("no generator of TaTok codes", "tatok_vocabulary"):
        load_tatok_generator(generator_folder, tatok_checkpoint)
