import json
from pathlib import Path

import pytest
import torch

from adatok_hf.bench.generation import BASE, spread_over
from adatok_hf.bench.tatok_generation import (
    count_ratios,
    format_tatok_generation_table,
    make_calls,
    random_tatok_generator,
    raster_generator,
    run_tatok_generation_benchmark,
)
from adatok_hf.cli import main
from adatok_hf.modeling.sampling_adatok import CodeSampler
from adatok_hf.modeling.sampling_tatok import TaTokSampler
from adatok_hf.modeling.vocabulary_tatok import TaTokVocabulary


@pytest.fixture
def measure(tatok_generator, tiny_tatok):
    def run(**options):
        defaults = {"images": 6, "batch_size": 2, "repeats": 1, "warmup": 0, "latency_images": 2}
        return run_tatok_generation_benchmark(tatok_generator, tiny_tatok, **(defaults | options))

    return run


def test_the_cost_of_places_is_told_apart_from_the_tokens(measure):
    result = measure(mean_budget=10)
    tokens = result["mean_tokens"]
    assert tokens == 4 + result["mean_kept"] and tokens == pytest.approx(10, abs=1)
    assert result["token_ratio"] == pytest.approx(16 / tokens)
    assert result["position_cost"] == pytest.approx((4 + 2 * result["mean_kept"]) / tokens)
    assert result["length_ratio"] == pytest.approx(result["token_ratio"] / result["position_cost"])
    rows = {row["name"]: row for row in result["rows"]}
    assert [row["ids_per_image"] for row in rows.values()] == pytest.approx([2 * tokens - 4, tokens, 16])
    speed = {name: row["images_per_second"] for name, row in rows.items()}
    assert result["throughput_ratio"] == pytest.approx(speed["kept patches"] / speed["all patches"])
    known = speed["kept patches, places known"] / speed["all patches"]
    assert result["throughput_ratio_places_known"] == pytest.approx(known)
    assert set(result["latency"]) == {"kept patches", "all patches"} and json.dumps(result)
    assert f"{tokens:.1f} tokens on average in place of 16" in format_tatok_generation_table(result)


def test_the_generator_draws_the_budgets_unless_a_mean_is_given(measure):
    assert 4 <= measure(latency_images=0)["mean_tokens"] <= 20


def test_every_way_writes_as_many_ids_as_it_must(tatok_generator, tiny_tatok):
    sample, raster = TaTokSampler(tatok_generator), CodeSampler(raster_generator(tatok_generator))
    rows = []
    for model in (sample.model, raster.model):
        model.register_forward_pre_hook(
            lambda _, args, kwargs: rows.append((args[0] if args else kwargs["input_ids"]).numel()), with_kwargs=True
        )
    calls = make_calls(sample, raster, tiny_tatok, [0] * 4, [4, 20, 9, 5], batch_size=2)

    def inputs(name):
        rows.clear()
        with torch.no_grad():
            calls[name]()
        return sum(rows)

    # One id per budget, two per prompt, and all ids but the last of an image are inputs again.
    assert inputs("kept patches") == 4 + 4 * 2 + (3 + 35 + 13 + 5)
    assert inputs("kept patches, places known") == 4 + 4 * 2 + (3 + 19 + 8 + 4)
    assert inputs("all patches") == 4 * 2 + 4 * 15
    assert inputs("pixels") == 0


def test_both_llamas_have_one_size_but_for_their_ids(tatok_generator):
    raster = raster_generator(tatok_generator)
    difference = tatok_generator.num_parameters() - raster.num_parameters()
    assert difference == 2 * 32 * (tatok_generator.config.vocab_size - raster.config.vocab_size)


def test_the_paper_geometry_has_the_size_of_llamagen_b():
    from adatok_hf import TaTokConfig

    with torch.device("meta"):
        model = random_tatok_generator(TaTokConfig(), BASE)
    assert 95e6 < model.num_parameters() < 118e6


def test_the_page_says_what_the_bench_counts_at_the_geometry_of_the_paper():
    from adatok_hf import TaTokConfig

    vocabulary = TaTokVocabulary.for_tokenizer(TaTokConfig())
    counts = count_ratios(vocabulary, spread_over(vocabulary.budgets, 256, 56.4))
    page = (Path(__file__).parents[2] / "docs" / "tatok.md").read_text(encoding="utf-8")
    for title, name in (
        ("token ratio", "token_ratio"),
        ("cost of places", "position_cost"),
        ("length", "length_ratio"),
    ):
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {title}")]
        assert row.split("|")[-2].strip() == f"{counts[name]:.2f}"


@pytest.mark.parametrize("options", [{"images": 0}, {"batch_size": 0}, {"repeats": 0}])
def test_numbers_below_their_least_value_are_refused(measure, one_sentence, options):
    with one_sentence(next(iter(options)), "at least 1"):
        measure(**options)


def test_the_last_line_of_the_command_is_json(tatok_generator, tatok_checkpoint, tmp_path, capsys):
    tatok_generator.save_pretrained(tmp_path / "generator")
    parts = ["bench", "generation", "--generator", str(tmp_path / "generator"), "--device", "cpu"]
    numbers = ["--images", "4", "--batch-size", "2", "--repeats", "1", "--warmup", "0", "--latency-images", "1"]
    with pytest.raises(SystemExit) as exit_info:
        main([*parts, *numbers])
    assert exit_info.value.code == 2 and "--model" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_info:
        main([*parts, *numbers, "--model", str(tatok_checkpoint), "--out", str(tmp_path / "result.json")])
    assert exit_info.value.code == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert result.keys() >= {"throughput_ratio", "token_ratio", "position_cost", "mean_tokens"}
