import json

import pytest
import torch
from fresh_process import FreshProcess
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from adatok_hf.modeling.vocabulary_adatok import ImageVocabulary


@pytest.fixture
def folder(tmp_path, generator):
    generator.save_pretrained(tmp_path / "generator")
    return tmp_path / "generator"


def test_every_id_has_one_meaning(vocabulary):
    classes = [vocabulary.class_id(label) for label in (0, 1, 2, None)]
    ids = [*vocabulary.code_ids, *classes, *vocabulary.budget_ids, vocabulary.pad_token_id]
    assert ids == list(range(vocabulary.vocab_size))


@pytest.mark.parametrize("label", [0, 2, None])
@pytest.mark.parametrize("budget", [4, 8, 16])
def test_a_sequence_gives_back_what_it_was_made_of(vocabulary, label, budget):
    codes = list(range(63, 63 - budget, -1))
    sequence = vocabulary.to_sequence(label, codes)
    assert len(sequence) == 2 + budget and sequence[2:] == codes
    assert vocabulary.from_sequence(sequence) == (label, codes)
    assert vocabulary.from_sequence([*sequence, vocabulary.pad_token_id]) == (label, codes)


def test_names_are_labels_too(vocabulary):
    assert vocabulary.class_id("places/alley") == vocabulary.class_id(2) == 66


@pytest.mark.parametrize(
    "label, parts",
    [("abbey", ["'abbey'", "places/abbey"]), ("emojy", ["emoji"]), (3, ["0 to 2"]), (0.9, ["0 to 2; got 0.9"])],
)
def test_an_unknown_class_is_refused_with_near_names(vocabulary, one_sentence, label, parts):
    with one_sentence(*parts):
        vocabulary.class_id(label)


def test_without_classes_only_the_null_class_is_left(one_sentence):
    vocabulary = ImageVocabulary(8, [4])
    assert vocabulary.class_id(None) == 8
    with one_sentence("no classes"):
        vocabulary.class_id(0)
    with one_sentence("no classes"):
        vocabulary.class_id("emoji")


@pytest.mark.parametrize("codes", [[1, 2, 3], [1, 2, 3, 64], [1, 2, 3, -1]])
def test_codes_that_are_no_image_are_refused(vocabulary, one_sentence, codes):
    with one_sentence("must"):
        vocabulary.to_sequence(0, codes)


@pytest.mark.parametrize("sequence", [[], [64], [5, 68, 1, 1, 1, 1], [64, 68, 1, 1, 1], [64, 68, 1, 1, 1, 64]])
def test_sequences_that_are_no_image_are_refused(vocabulary, one_sentence, sequence):
    with one_sentence("must"):
        vocabulary.from_sequence(sequence)


@pytest.mark.parametrize("facts", [{"budgets": [8, 4]}, {"budgets": []}, {"codebook_size": 0}, {"class_names": "aa"}])
def test_impossible_vocabularies_are_refused(facts):
    with pytest.raises(ValueError):
        ImageVocabulary(**{"codebook_size": 8, "budgets": [4], **facts})


def test_the_folder_keeps_the_vocabulary_in_its_config(folder, vocabulary):
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model) is LlamaForCausalLM
    assert ImageVocabulary.from_config(model.config) == vocabulary
    assert "auto_map" not in json.loads((folder / "config.json").read_text())


def test_generate_writes_nothing_but_codes(folder, vocabulary):
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight[vocabulary.pad_token_id - 1] = 100.0  # a model that would rather write budgets
    prompts = torch.tensor([[vocabulary.class_id(label), vocabulary.budget_id(8)] for label in (0, 1, None)])
    rows = model.generate(prompts, max_new_tokens=8)
    assert [vocabulary.from_sequence(row)[0] for row in rows] == [0, 1, None]
    assert model.generate(prompts).shape == (3, vocabulary.max_length)


def test_generate_draws_a_budget_where_it_is_told_to(folder, vocabulary):
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompts = torch.full((20, 1), vocabulary.class_id(0))
    legal = vocabulary.not_in(vocabulary.budget_ids)
    budgets = model.generate(prompts, max_new_tokens=1, suppress_tokens=legal)[:, 1]
    assert set(budgets.tolist()) <= set(vocabulary.budget_ids)


def test_a_stranger_loads_and_samples_it_without_our_package(folder, tmp_path, vocabulary):
    prompt = [vocabulary.class_id(1), vocabulary.budget_id(4)]
    with FreshProcess(tmp_path, ["adatok_hf", "diffusers"], HF_HUB_OFFLINE="1") as process:
        row = process.run(f"""
            import torch
            from transformers import AutoModelForCausalLM
            model = AutoModelForCausalLM.from_pretrained({str(folder)!r})
            result = model.generate(torch.tensor([{prompt}]), max_new_tokens=4)[0].tolist()
        """)
    assert vocabulary.from_sequence(row)[0] == 1


def test_a_model_of_something_else_is_refused(vocabulary, one_sentence):
    config = vocabulary.model_config(hidden_size=32, num_attention_heads=2)
    config.image_vocabulary = config.image_vocabulary | {"budgets": [4, 16]}
    with one_sentence("71 ids", "72"):
        ImageVocabulary.from_config(config)
    config.image_vocabulary = {"size": 3}
    with one_sentence("damaged"):
        ImageVocabulary.from_config(config)
    del config.image_vocabulary
    with one_sentence("no image_vocabulary"):
        ImageVocabulary.from_config(config)
