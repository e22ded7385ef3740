import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from adatok_hf.modeling.vocabulary_adatok import ImageVocabulary
from adatok_hf.modeling.vocabulary_tatok import TaTokVocabulary


def test_one_global_token_alone_is_an_image():
    vocabulary = TaTokVocabulary(1, 8, 4, 16)
    assert vocabulary.from_sequence(vocabulary.to_sequence(None, [3], [16] * 4)) == (None, [3], [16] * 4)


def test_every_id_has_one_meaning(tatok_vocabulary):
    vocabulary = tatok_vocabulary
    classes = [vocabulary.class_id(label) for label in (0, 1, None)]
    budgets = [vocabulary.budget_id(budget) for budget in range(4, 21)]
    ids = [*vocabulary.global_ids, *vocabulary.patch_ids, *vocabulary.place_ids, *classes, *budgets]
    assert [*ids, vocabulary.pad_token_id] == list(range(vocabulary.vocab_size))
    assert (vocabulary.vocab_size, vocabulary.max_length) == (64 + 32 + 16 + 3 + 17 + 1, 2 + 4 + 2 * 16)


@pytest.mark.parametrize("label", [0, 1, None])
@pytest.mark.parametrize("num_tokens", [4, 5, 12, 20])
def test_a_sequence_gives_back_what_the_tokenizer_wrote(tatok_vocabulary, tiny_tatok, label, num_tokens):
    pixel_values = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        encoded = tiny_tatok.encode(pixel_values, num_tokens=num_tokens)
    codes = encoded.global_codes[0].tolist(), encoded.patch_codes[0].tolist()
    sequence = tatok_vocabulary.to_sequence(label, *codes)
    assert len(sequence) == 2 + 4 + 2 * (num_tokens - 4)
    places = [id - tatok_vocabulary.place_ids.start for id in sequence[6::2]]
    assert places == encoded.kept_mask[0].nonzero().flatten().tolist()  # row by row, so they ascend
    assert tatok_vocabulary.from_sequence(sequence) == (label, *codes)
    assert tatok_vocabulary.from_sequence([*sequence, tatok_vocabulary.pad_token_id]) == (label, *codes)


GLOBALS, PLACE, PATCH, CLASS, BUDGET = [3, 1, 4, 1], 96, 64, 112, 115  # first ids of each kind
GOOD = [CLASS, BUDGET + 2, *GLOBALS, PLACE + 2, PATCH + 7, PLACE + 9, PATCH]


def test_the_good_sequence_is_good(tatok_vocabulary):
    label, global_codes, patch_codes = tatok_vocabulary.from_sequence(GOOD)
    assert (label, global_codes) == (0, GLOBALS)
    assert {place: code for place, code in enumerate(patch_codes) if code != 32} == {2: 7, 9: 0}


@pytest.mark.parametrize(
    "changes, part",
    [
        ({0: PATCH}, "begin with a class and a budget"),
        ({1: CLASS}, "begin with a class and a budget"),
        ({1: BUDGET + 3}, "budget 7 must have 10 ids behind it, 4 global codes and two for each of 3 patches; got 8"),
        ({2: PATCH}, "Id 0 behind the budget must be a global code, from 0 to 63; got 64"),
        ({6: PATCH + 7, 7: PLACE + 2}, "Id 4 behind the budget must be a place behind the one before, from 96 to 110"),
        ({6: PLACE + 15}, "from 96 to 110; got 111"),  # no place is left for the second patch
        ({7: PLACE}, "Id 5 behind the budget must be a patch code, from 64 to 95; got 96"),
        ({8: PLACE + 2}, "Id 6 behind the budget must be a place behind the one before, from 99 to 111; got 98"),
        ({8: PLACE + 1}, "from 99 to 111; got 97"),
        ({9: 5}, "must be a patch code"),
    ],
)
def test_sequences_that_are_no_image_are_refused(tatok_vocabulary, one_sentence, changes, part):
    with one_sentence(part):
        tatok_vocabulary.from_sequence([changes.get(index, id) for index, id in enumerate(GOOD)])


def test_what_may_follow_is_what_from_sequence_takes(tatok_vocabulary):
    for length in range(2, len(GOOD)):
        legal = tatok_vocabulary.next_ids(GOOD[:length])
        assert GOOD[length] in legal
        for id in range(tatok_vocabulary.vocab_size):
            changed = [*GOOD[:length], id, *GOOD[length + 1 :]]
            if id not in legal:
                with pytest.raises(ValueError, match=f"Id {length - 2} behind|must have 8 ids"):
                    tatok_vocabulary.from_sequence(changed)
    assert list(tatok_vocabulary.next_ids(GOOD)) == [tatok_vocabulary.pad_token_id]
    assert tatok_vocabulary.next_ids([]) == range(112, 115) and tatok_vocabulary.next_ids([112]) == range(115, 132)


@pytest.mark.parametrize(
    "global_codes, patch_codes, part",
    [
        ([1, 2, 3], [32] * 16, "4 global codes; got 3"),
        ([1, 2, 3, 64], [32] * 16, "global code must lie between 0 and 63; got 64"),
        ([1, 2, 3, 4], [32] * 15, "16 patch codes; got 15"),
        ([1, 2, 3, 4], [33] * 16, "patch code must lie between 0 and 32; got 33"),
    ],
)
def test_codes_that_are_no_image_are_refused(tatok_vocabulary, one_sentence, global_codes, patch_codes, part):
    with one_sentence(part):
        tatok_vocabulary.to_sequence(0, global_codes, patch_codes)


@pytest.mark.parametrize("budget", [3, 21])
def test_budgets_without_all_globals_or_with_too_many_patches_are_refused(tatok_vocabulary, one_sentence, budget):
    with one_sentence("between 4, the global tokens, and 20", f"got {budget}"):
        tatok_vocabulary.budget_id(budget)


def test_impossible_vocabularies_are_refused(one_sentence):
    with one_sentence("num_patches must be at least 1; got 0"):
        TaTokVocabulary(4, 64, 0, 32)
    with one_sentence("name of its own"):
        TaTokVocabulary(4, 64, 16, 32, ["owl", "owl"])


def test_the_folder_keeps_the_vocabulary_in_its_config(tatok_generator, tatok_vocabulary, tmp_path, one_sentence):
    tatok_generator.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(model) is LlamaForCausalLM
    assert TaTokVocabulary.from_config(model.config) == tatok_vocabulary
    with one_sentence("no image_vocabulary", "AdaTok"):
        ImageVocabulary.from_config(model.config)


def test_generate_of_transformers_writes_images_too(tatok_generator, tatok_vocabulary):
    vocabulary = tatok_vocabulary
    prompts = torch.tensor([[vocabulary.class_id(0), vocabulary.budget_id(budget)] for budget in (4, 7, 20)])
    torch.manual_seed(0)
    rows = tatok_generator.generate(
        prompts, prefix_allowed_tokens_fn=lambda _, sequence: list(vocabulary.next_ids(sequence))
    )
    kept = [sum(code != 32 for code in vocabulary.from_sequence(row)[2]) for row in rows]
    assert kept == [0, 3, 16]
