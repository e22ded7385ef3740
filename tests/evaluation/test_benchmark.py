import json

import pytest
import torch

from adatok_hf import AdaTokConfig, AdaTokModel
from adatok_hf.evaluation.benchmark import count_recompilations, format_table, run_benchmark, spread_budgets


@pytest.fixture(scope="module")
def result() -> dict:
    config = AdaTokConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        num_latent_tokens=16,
        budgets=[4, 8, 16],
        lora_rank=2,
    )
    return run_benchmark(AdaTokModel(config), batch_size=6, repeats=2, warmup=1)


def test_every_call_has_a_row_with_positive_numbers(result):
    names = [row["name"] for row in result["rows"]]
    assert names[:3] == ["encode", "encode without policy", "policy alone"]
    assert {"decode mixed", "decode mixed, grouped", "decode mixed, masked"} < set(names)
    assert {f"decode uniform {budget}" for budget in (4, 8, 16)} < set(names)
    for row in result["rows"]:
        assert row.keys() == {"name", "milliseconds", "images_per_second", "ratio"}
        assert row["milliseconds"] > 0 and row["ratio"] > 0
        assert row["images_per_second"] == pytest.approx(6000 / row["milliseconds"])


def test_ratios_are_those_of_the_rows(result):
    rows = {row["name"]: row for row in result["rows"]}
    uniform = rows[f"decode uniform {result['mean_budget']}"]["milliseconds"]
    assert rows[f"decode uniform {result['mean_budget']}"]["ratio"] == rows["encode"]["ratio"] == 1
    for key, name in (
        ("mixed_over_uniform", "decode mixed"),
        ("mixed_grouped_over_uniform", "decode mixed, grouped"),
        ("mixed_masked_over_uniform", "decode mixed, masked"),
    ):
        assert result[key] == rows[name]["ratio"] == rows[name]["milliseconds"] / uniform
    assert result["policy_share"] == rows["policy alone"]["ratio"]


def test_the_conditions_are_in_the_result_and_it_is_json(result):
    assert (result["device"], result["torch"], result["batch_size"]) == ("cpu", torch.__version__, 6)
    assert result["num_threads"] == torch.get_num_threads()
    assert json.loads(json.dumps(result)) == result


def test_the_uniform_batch_has_as_many_codes_as_the_mixed_one(result):
    assert sum(result["mixed_budgets"]) == 6 * result["mean_budget"]
    assert len(set(result["mixed_budgets"])) > 1


def test_changing_budgets_does_not_recompile(result):
    assert result["recompilations"] == 0


def test_a_decode_that_depends_on_the_budgets_in_python_is_counted(tiny_model):
    tiny_model.decode = lambda image_codes, budgets: image_codes[:, : max(budgets.tolist())] + 1
    assert count_recompilations(tiny_model, torch.zeros(2, 16, dtype=torch.long)) > 0


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_is_restored(tiny_model, training):
    run_benchmark(tiny_model.train(training), batch_size=2, repeats=1, warmup=0)
    assert tiny_model.training is training


@pytest.mark.parametrize("candidates", [[4, 8, 16], list(range(4, 33, 4)), [7, 20], [32]])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 32])
def test_spread_budgets_have_a_whole_mean(candidates, batch_size):
    budgets = spread_budgets(candidates, batch_size)
    assert len(budgets) == batch_size and set(budgets) <= set(candidates)
    assert sum(budgets) % batch_size == 0


def test_eight_candidates_are_all_in_a_batch_of_32():
    assert set(spread_budgets(range(4, 33, 4), 32)) == set(range(4, 33, 4))


@pytest.mark.parametrize("name", ["batch_size", "repeats"])
def test_a_count_below_one_is_a_value_error(tiny_model, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1; got 0"):
        run_benchmark(tiny_model, **{name: 0})


def test_the_table_has_a_line_for_every_row(result):
    table = format_table(result)
    assert all(any(line.startswith(row["name"]) for line in table.splitlines()) for row in result["rows"])
    assert max(map(len, table.splitlines())) < 100
