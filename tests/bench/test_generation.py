import json
from statistics import fmean

import pytest

from adatok_hf.bench.generation import BASE, format_table, random_generator, run_generation_benchmark, spread_over
from adatok_hf.cli import main


@pytest.fixture
def measure(generator, tiny_model):
    def run(**options):
        defaults = {"images": 6, "batch_size": 2, "repeats": 1, "warmup": 0, "latency_images": 2}
        return run_generation_benchmark(generator, tiny_model, **(defaults | options))

    return run


@pytest.mark.parametrize("mean", [40, 118, 200])
def test_budgets_are_spread_over_all_candidates_with_the_wanted_mean(mean):
    budgets = spread_over(range(32, 257, 32), 512, mean)
    assert fmean(budgets) == pytest.approx(mean, abs=2)
    assert len(set(budgets)) >= 5 and budgets != sorted(budgets)


def test_without_a_mean_candidates_have_equal_shares():
    budgets = spread_over([4, 8, 16], 30)
    assert [budgets.count(budget) for budget in (4, 8, 16)] == [10, 10, 10]


@pytest.mark.parametrize("mean", [3, 17])
def test_a_mean_outside_of_the_candidates_is_refused(mean, one_sentence):
    with one_sentence("between 4 and 16", str(mean)):
        spread_over([4, 8, 16], 10, mean)


def test_the_result_says_what_was_asked(measure):
    result = measure(mean_budget=8)
    assert result["token_ratio"] == pytest.approx(16 / result["mean_budget"])
    speed = {row["name"]: row["images_per_second"] for row in result["rows"]}
    assert result["throughput_ratio"] == pytest.approx(speed["adaptive"] / speed["full"])
    assert result["efficiency"] == pytest.approx(result["throughput_ratio"] / result["token_ratio"])
    assert result["static_batch_ratio"] == pytest.approx(speed["static batches"] / speed["full"])
    assert result["generate_ratio"] == pytest.approx(speed["generate, static batches"] / speed["full"])
    assert result["continuous_batching_ratio"] == pytest.approx(speed["continuous batching"] / speed["full"])
    assert set(result["latency"]) == {"adaptive", "full"} and json.dumps(result)


def test_the_generator_draws_the_budgets_unless_a_mean_is_given(measure):
    assert measure(latency_images=0)["mean_budget"] in [total / 6 for total in range(24, 97, 4)]


def test_every_way_writes_as_many_codes_as_it_must(generator, tiny_model):
    rows = []
    generator.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append((args[0] if args else kwargs["input_ids"]).numel()), with_kwargs=True
    )
    from adatok_hf.bench.generation import make_calls
    from adatok_hf.modeling.sampling_adatok import CodeSampler

    calls = make_calls(CodeSampler(generator), tiny_model, ["emoji"] * 4, [4, 16, 8, 4], batch_size=2)

    def inputs(name):
        rows.clear()
        calls[name]()
        return sum(rows)

    # One id per budget, two per prompt, and all codes but the last of an image are inputs again.
    assert inputs("adaptive") == 4 + 4 * 2 + (3 + 15 + 7 + 3)
    assert inputs("full") == 4 + 4 * 2 + 4 * 15
    assert inputs("static batches") == inputs("generate, static batches") == 4 * 2 + 2 * 15 + 2 * 7
    assert inputs("continuous batching") >= 4 * 2 + (3 + 15 + 7 + 3)  # it fills up its batches
    assert inputs("adaptive, pixels") == inputs("full, pixels") == 0


def test_with_guidance_generate_is_left_out(measure):
    result = measure(guidance_scale=2.0, latency_images=0)
    assert result["generate_ratio"] is result["continuous_batching_ratio"] is result["latency"] is None
    assert "generate" not in format_table(result)


def test_the_paper_geometry_has_the_size_of_llamagen_b():
    import torch

    from adatok_hf import AdaTokConfig

    with torch.device("meta"):
        model = random_generator(AdaTokConfig(codebook_size=16384), BASE)
    assert 105e6 < model.num_parameters() < 118e6  # 111 M


@pytest.mark.parametrize("options", [{"images": 0}, {"batch_size": 0}, {"repeats": 0}])
def test_numbers_below_their_least_value_are_refused(measure, one_sentence, options):
    with one_sentence(next(iter(options)), "at least 1"):
        measure(**options)


def test_the_last_line_of_the_command_is_json(generator, tiny_checkpoint, tmp_path, capsys):
    generator.save_pretrained(tmp_path / "generator")
    parts = ["--generator", str(tmp_path / "generator"), "--model", str(tiny_checkpoint), "--device", "cpu"]
    numbers = ["--images", "4", "--batch-size", "2", "--repeats", "1", "--warmup", "0", "--latency-images", "1"]
    with pytest.raises(SystemExit) as exit_info:
        main(["bench", "generation", *parts, *numbers, "--out", str(tmp_path / "result.json")])
    assert exit_info.value.code == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert result.keys() >= {"throughput_ratio", "token_ratio", "static_batch_ratio", "mean_budget"}
