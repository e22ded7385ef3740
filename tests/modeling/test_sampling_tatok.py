"""Sampling of TaTok images: what may be drawn at all, and what an image depends on."""

import pytest
import torch

from adatok_hf.modeling.sampling_tatok import TaTokSampler


LABELS = ["emoji", 1, None, "places/abbey", "emoji"]
BUDGETS = [4, 20, 9, 12, 9]


def seeds(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(index) for index in range(count)]


def same(first, second) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_a_batch_gives_what_one_by_one_gives(tatok_generator, guidance_scale):
    sample = TaTokSampler(tatok_generator, guidance_scale=guidance_scale)
    together = sample(LABELS, generators=seeds(5))
    alone = [sample([label], generators=[seed]) for label, seed in zip(LABELS, seeds(5))]
    assert same(together, [torch.cat(parts) for parts in zip(*alone)])
    assert len(set(together.num_tokens.tolist())) > 1


def test_the_same_seed_gives_the_same_image_whatever_the_batch_size(tatok_generator):
    sample = TaTokSampler(tatok_generator, guidance_scale=2.0, guidance_schedule="linear", top_k=20)
    results = [sample(LABELS, BUDGETS, seeds(5), batch_size=size) for size in (1, 2, 64)]
    assert same(results[0], results[1]) and same(results[0], results[2])
    assert not same(results[0], sample(LABELS, BUDGETS, seeds(5)[::-1]))


def uncached_draw(generator, vocabulary, label, budget, seed, scale):
    """The same sampling by a forward pass of everything for each id, among those that `next_ids` allows."""
    noise = torch.rand(vocabulary.max_length - 1, generator=torch.Generator().manual_seed(seed))[1:]
    sequence = [vocabulary.class_id(label), vocabulary.budget_id(budget)]
    for place in range(vocabulary.count_ids(budget)):
        rows = torch.tensor([sequence, [vocabulary.null_class_id, *sequence[1:]]])
        with torch.no_grad():
            guided, free = generator(rows, use_cache=False).logits[:, -1]
        legal = vocabulary.next_ids(sequence)
        cumulative = (free + scale * (guided - free))[legal.start : legal.stop].softmax(-1).cumsum(-1)
        sequence.append(legal[min(int((cumulative <= noise[place]).sum()), len(legal) - 1)])
    return sequence


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_neither_the_cache_nor_the_batch_changes_anything(tatok_generator, tatok_vocabulary, scale):
    tokens = TaTokSampler(tatok_generator, guidance_scale=scale)(LABELS, BUDGETS, seeds(5))
    for row, (label, budget) in enumerate(zip(LABELS, BUDGETS)):
        written = tatok_vocabulary.to_sequence(label, tokens.global_codes[row], tokens.patch_codes[row])
        assert written == uncached_draw(tatok_generator, tatok_vocabulary, label, budget, row, scale)


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("favourite", ["pad_token_id", "null_class_id", "last place", "first place"])
def test_ids_that_are_not_legal_are_never_drawn_however_likely(
    tatok_generator, tatok_vocabulary, favourite, temperature
):
    places = {"last place": tatok_vocabulary.place_ids[-1], "first place": tatok_vocabulary.place_ids[0]}
    id = places[favourite] if favourite in places else getattr(tatok_vocabulary, favourite)
    lm_head = tatok_generator.lm_head
    lm_head.register_forward_hook(lambda module, args, logits: logits.index_fill(-1, torch.tensor([id]), 1e4))
    tokens = TaTokSampler(tatok_generator, temperature=temperature)([0] * 5, BUDGETS, seeds(5))
    assert ((tokens.global_codes >= 0) & (tokens.global_codes < 64)).all()
    assert ((tokens.patch_codes >= 0) & (tokens.patch_codes <= 32)).all()
    kept = tokens.patch_codes != 32
    assert (4 + kept.sum(dim=1)).tolist() == BUDGETS == tokens.num_tokens.tolist()
    if favourite in places:  # which are taken where they may be: by the last patch, or the first
        assert kept[1:, -1 if favourite == "last place" else 0].all()


def test_an_image_with_all_patches_has_every_place(tatok_generator):
    tokens = TaTokSampler(tatok_generator)([None], 20)
    assert (tokens.patch_codes < 32).all()


def test_greedy_images_are_those_of_generate(tatok_generator, tatok_vocabulary):
    prompts = torch.tensor([[tatok_vocabulary.class_id(label), tatok_vocabulary.budget_id(9)] for label in LABELS])
    rows = tatok_generator.generate(
        prompts,
        do_sample=False,
        max_new_tokens=tatok_vocabulary.count_ids(9),
        prefix_allowed_tokens_fn=lambda _, sequence: list(tatok_vocabulary.next_ids(sequence)),
    )
    tokens = TaTokSampler(tatok_generator, temperature=0)(LABELS, 9)
    images = [tatok_vocabulary.from_sequence(row)[1:] for row in rows]
    assert list(zip(tokens.global_codes.tolist(), tokens.patch_codes.tolist())) == images


def test_a_row_takes_two_ids_for_each_patch_and_leaves_when_it_is_done(tatok_generator):
    rows = []
    tatok_generator.register_forward_pre_hook(lambda _, args, kwargs: rows.append(args[0].numel()), with_kwargs=True)
    TaTokSampler(tatok_generator)(["emoji"] * 3, budgets=[4, 6, 7])
    assert rows == [6] + [3] * 3 + [2] * 4 + [1] * 2


def test_pixels_follow_from_what_was_drawn(tatok_generator, tiny_tatok):
    tokens = TaTokSampler(tatok_generator)(LABELS, BUDGETS, seeds(5))
    with torch.no_grad():
        pixel_values = tiny_tatok.decode(tokens.global_codes, tokens.patch_codes).pixel_values
    assert pixel_values.shape == (5, 3, 32, 32) and pixel_values.isfinite().all()


def test_a_generator_of_adatok_is_refused(generator, one_sentence):
    with one_sentence("no tatok_vocabulary", "TaTok"):
        TaTokSampler(generator)


def test_numbers_of_tokens_out_of_range_are_refused(tatok_generator, one_sentence):
    with one_sentence("between 4, the global tokens, and 20", "got 3"):
        TaTokSampler(tatok_generator)(["emoji"], 3)
