"""Sampling of codes: what an image depends on, what it does not, and what may be drawn at all."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from adatok_hf.modeling.sampling_adatok import CodeSampler


LABELS = ["emoji", 1, None, "places/alley", "emoji", "places/abbey"]
BUDGETS = [4, 16, 8, 8, 16, 4]


def seeds(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + index) for index in range(count)]


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_a_batch_gives_what_one_by_one_gives(generator, guidance_scale):
    sample = CodeSampler(generator, guidance_scale=guidance_scale)
    together = sample(LABELS, generators=seeds(6))
    alone = [sample([label], generators=[seed]) for label, seed in zip(LABELS, seeds(6))]
    assert torch.equal(together.budgets, torch.cat([one.budgets for one in alone]))
    assert torch.equal(together.image_codes, torch.cat([one.image_codes for one in alone]))
    assert len(set(together.budgets.tolist())) > 1


def test_the_same_seed_gives_the_same_image_whatever_the_batch_size(generator):
    sample = CodeSampler(generator, guidance_scale=2.0, guidance_schedule="linear", top_k=20)
    results = [sample(LABELS, BUDGETS, seeds(6), batch_size=size).image_codes for size in (1, 4, 64)]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    assert not torch.equal(results[0], sample(LABELS, BUDGETS, seeds(6, first=9)).image_codes)


def test_one_generator_serves_all_images_in_turn(generator):
    sample = CodeSampler(generator)
    first = sample(["emoji"] * 3, 16, torch.Generator().manual_seed(0)).image_codes
    assert torch.equal(first, sample(["emoji"] * 3, 16, torch.Generator().manual_seed(0)).image_codes)
    assert len({tuple(codes) for codes in first.tolist()}) == 3


def uncached_draw(generator, vocabulary, label, budget, seed, scale):
    """The same sampling by a forward pass of everything for each code."""
    noise = torch.rand(17, generator=torch.Generator().manual_seed(seed))[1:]
    sequence = [vocabulary.class_id(label), vocabulary.budget_id(budget)]
    for place in range(budget):
        rows = torch.tensor([sequence, [vocabulary.null_class_id, *sequence[1:]]])
        with torch.no_grad():
            guided, free = generator(rows, use_cache=False).logits[:, -1, : vocabulary.codebook_size]
        cumulative = (free + scale * (guided - free)).softmax(-1).cumsum(-1)
        sequence.append(int((cumulative <= noise[place]).sum()))
    return sequence[2:]


@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
def test_the_cache_changes_nothing(generator, vocabulary, scale):
    codes = CodeSampler(generator, guidance_scale=scale)(LABELS, BUDGETS, seeds(6)).image_codes
    for row, (label, budget) in enumerate(zip(LABELS, BUDGETS)):
        assert codes[row, :budget].tolist() == uncached_draw(generator, vocabulary, label, budget, row, scale)


def test_cached_logits_are_those_without_a_cache(generator, vocabulary):
    rows = torch.tensor([vocabulary.to_sequence(0, range(16)), vocabulary.to_sequence(1, range(20, 36))])
    cache, parts = DynamicCache(config=generator.config), []
    with torch.no_grad():
        whole = generator(rows, use_cache=False).logits
        for place in range(rows.shape[1]):
            parts.append(generator(rows[:, place : place + 1], past_key_values=cache, use_cache=True).logits)
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-4)


def test_the_pad_code_fills_what_is_beyond_the_budget(generator, vocabulary):
    codes = CodeSampler(generator)(LABELS, BUDGETS)
    assert codes.budgets.tolist() == BUDGETS
    inside = torch.arange(16) < codes.budgets[:, None]
    assert (codes.image_codes[~inside] == vocabulary.codebook_size).all()
    assert (codes.image_codes[inside] < vocabulary.codebook_size).all()


def test_ids_that_are_not_legal_are_never_drawn_however_likely(generator, vocabulary):
    with torch.no_grad():
        generator.lm_head.weight[vocabulary.codebook_size :] *= 50  # classes, budgets and pad outbid all codes
    drawn = CodeSampler(generator)(["emoji"] * 50, generators=torch.Generator().manual_seed(0))
    assert set(drawn.budgets.tolist()) <= set(vocabulary.budgets)
    inside = torch.arange(16) < drawn.budgets[:, None]
    assert drawn.image_codes[inside].max() < vocabulary.codebook_size


def test_a_batch_shrinks_as_its_rows_are_done(generator):
    rows = []
    generator.register_forward_pre_hook(lambda _, args, kwargs: rows.append(args[0].numel()), with_kwargs=True)
    CodeSampler(generator)(["emoji"] * 3, budgets=[4, 16, 8])
    assert rows == [6] + [3] * 3 + [2] * 4 + [1] * 8


def test_near_budgets_share_a_batch(generator):
    calls = []
    generator.register_forward_pre_hook(lambda _, args, kwargs: calls.append(len(args[0])), with_kwargs=True)
    CodeSampler(generator)(["emoji"] * 4, budgets=[4, 16, 4, 16], batch_size=2)
    assert calls == [2] * (16 + 4)


def test_budgets_of_all_images_are_drawn_in_one_pass(generator):
    calls = []
    generator.register_forward_pre_hook(lambda _, args, kwargs: calls.append(tuple(args[0].shape)), with_kwargs=True)
    CodeSampler(generator)(["emoji"] * 10)
    assert calls[0] == (10, 1)


def test_guidance_doubles_the_rows_only_where_there_is_some(generator):
    rows = []
    generator.register_forward_pre_hook(lambda _, args, kwargs: rows.append(len(args[0])), with_kwargs=True)
    CodeSampler(generator, guidance_scale=1.0)(["emoji"], 4)
    CodeSampler(generator, guidance_scale=2.0)(["emoji"], 4)
    assert rows == [1] * 4 + [2] * 4


def test_guidance_of_nothing_gives_images_of_any_class(generator):
    free = CodeSampler(generator, guidance_scale=0.0)(["emoji"] * 4, 16, seeds(4)).image_codes
    assert torch.equal(free, CodeSampler(generator)([None] * 4, 16, seeds(4)).image_codes)


def test_a_linear_schedule_begins_without_guidance_and_ends_with_all_of_it(generator):
    sample = CodeSampler(generator, guidance_scale=3.0, guidance_schedule="linear")
    logits = torch.tensor([[1.0], [1.0]]), torch.tensor([[0.0], [0.0]])
    budgets = torch.tensor([16, 4])
    assert sample._guide(*logits, 0, budgets).flatten().tolist() == [1.0, 1.0]
    assert sample._guide(*logits, 3, budgets).flatten().tolist() == pytest.approx([1.4, 3.0])


def test_draws_follow_the_distribution(generator):
    sample = CodeSampler(generator)
    logits = torch.tensor([0.1, 0.6, 0.0, 0.3]).log().expand(4000, 4)
    drawn = sample._draw(logits, torch.rand(4000, generator=torch.Generator().manual_seed(0)), sample.warpers)
    assert torch.allclose(drawn.bincount(minlength=4) / 4000, torch.tensor([0.1, 0.6, 0.0, 0.3]), atol=0.03)


def test_the_ends_of_the_interval_draw_what_is_possible(generator):
    sample = CodeSampler(generator, top_k=2)
    logits = torch.tensor([[0.0, 3.0, 2.0, 0.0]] * 2)
    assert sample._draw(logits, torch.tensor([0.0, 1.0]), sample.code_warpers).tolist() == [1, 2]


@pytest.mark.parametrize("options, least", [({"top_k": 1}, 1), ({"top_p": 1e-6}, 1), ({"temperature": 0}, 1)])
def test_without_choice_the_likeliest_codes_come_out(generator, options, least):
    greedy = CodeSampler(generator, **options)(LABELS, BUDGETS).image_codes
    assert torch.equal(greedy, CodeSampler(generator, **options)(LABELS, BUDGETS, seeds(6, first=50)).image_codes)


def test_a_low_temperature_draws_less_variety(generator):
    def variety(temperature):
        codes = CodeSampler(generator, temperature=temperature)(["emoji"] * 100, 4, seeds(100)).image_codes
        return len(set(codes[:, 0].tolist()))

    assert variety(0.3) < variety(1.0) < variety(3.0)


def test_greedy_codes_are_those_of_generate(generator, vocabulary):
    prompts = torch.tensor([[vocabulary.class_id(label), vocabulary.budget_id(8)] for label in LABELS])
    plain = generator.generate(prompts, max_new_tokens=8, do_sample=False)[:, 2:]
    assert torch.equal(CodeSampler(generator, temperature=0)(LABELS, 8).image_codes[:, :8], plain)


def test_progress_counts_every_image_once(generator):
    told = []
    CodeSampler(generator)(LABELS, BUDGETS, batch_size=4, progress=told.append)
    assert sum(told) == 6


@pytest.mark.parametrize(
    "options, part",
    [
        ({"guidance_scale": -0.5}, "guidance_scale"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"temperature": -1}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0}, "top_p"),
        ({"guidance_schedule": "cosine"}, "constant, linear"),
    ],
)
def test_settings_out_of_range_are_refused(generator, one_sentence, options, part):
    with one_sentence(part):
        CodeSampler(generator, **options)


@pytest.mark.parametrize(
    "request_, part",
    [
        (SimpleNamespace(labels=[]), "at least one label"),
        (SimpleNamespace(labels=["abbey"]), "places/abbey"),
        (SimpleNamespace(labels=[1], budgets=5), "4, 8, 16"),
        (SimpleNamespace(labels=[1], budgets=[4, 8]), "one each; got 2"),
        (SimpleNamespace(labels=[1], budgets=5.5), "a whole number, or one for each image; got 5.5"),
        (SimpleNamespace(labels=[1], budgets="8"), "a whole number, or one for each image; got '8'"),
        (SimpleNamespace(labels=[1, 2], generators=seeds(1)), "one each; got 1"),
        (SimpleNamespace(labels=[1], batch_size=0), "batch_size"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(generator, one_sentence, request_, part):
    with one_sentence(part):
        CodeSampler(generator)(**vars(request_))


def test_labels_and_budgets_may_be_arrays(generator):
    sample = CodeSampler(generator)
    expected = sample([1, 0], [8, 8], seeds(2)).image_codes
    for budgets in (torch.tensor([8, 8]), np.int64(8)):
        assert torch.equal(sample(torch.tensor([1, 0]), budgets, seeds(2)).image_codes, expected)


def test_a_tiny_temperature_takes_the_likeliest_codes(generator):
    likeliest = CodeSampler(generator, temperature=0)(LABELS, BUDGETS).image_codes
    assert torch.equal(CodeSampler(generator, temperature=1e-40)(LABELS, BUDGETS).image_codes, likeliest)


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("budgets", [None, 8])
def test_logits_that_are_not_finite_give_no_image(generator, one_sentence, monkeypatch, budgets, temperature):
    monkeypatch.setattr(generator.lm_head, "forward", lambda states: torch.full((*states.shape[:2], 300), torch.nan))
    with one_sentence("logits are not finite"):
        CodeSampler(generator, temperature=temperature)(["emoji"], budgets)


def test_a_guidance_beyond_floats_is_refused(generator, one_sentence):
    with one_sentence("a smaller guidance scale than 1e+38"):
        CodeSampler(generator, guidance_scale=1e38)(["emoji"], 8)
