import json

import pytest
import torch

from adatok_hf import AdaTokConfig, AdaTokModel
from adatok_hf.bench import bench as benchmark
from adatok_hf.bench.bench import (
    check_sweep,
    count_recompilations,
    format_table,
    run_benchmark,
    spread_budgets,
)
from adatok_hf.cli import main
from adatok_hf.export.export import export_model
from adatok_hf.export.exported import ExportedAdaTok


WIDTH, DEPTH, MLP, PATCHES, RANK = 32, 1, 64, 16, 2


@pytest.fixture(scope="module")
def result() -> dict:
    config = AdaTokConfig(
        image_size=32,
        patch_size=8,
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=2,
        intermediate_size=MLP,
        num_latent_tokens=16,
        codebook_size=64,
        codebook_dim=12,
        budgets=[4, 8, 16],
        lora_rank=RANK,
        policy_hidden_size=16,
    )
    return run_benchmark(AdaTokModel(config), batch_size=6, repeats=2, sweep=[1, 3])


@pytest.fixture
def without_tracing(monkeypatch):
    """Leaves the slow count of recompilations out."""
    monkeypatch.setattr(benchmark, "count_recompilations", lambda *_: 0)


def block_flops(tokens: int) -> int:
    """Products of one block of the model above by hand: projections, MLP, and the two products of the attention."""
    return 2 * tokens * WIDTH * (4 * WIDTH + 2 * MLP) + 2 * 2 * tokens**2 * WIDTH


def test_every_call_has_a_row_with_positive_numbers(result):
    names = [row["name"] for row in result["rows"]]
    assert names[:3] == ["encode", "encode without policy", "policy alone"]
    assert {"decode mixed", "decode mixed, grouped", "decode mixed, masked"} < set(names)
    assert {f"decode uniform {budget}" for budget in (4, 8, 16)} < set(names)
    assert {"plain encode", "plain decode 16", "search of budgets"} < set(names)
    for row in result["rows"]:
        assert row.keys() == {"name", "milliseconds", "images_per_second", "ratio", "gflops", "ceiling_share"}
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


@pytest.mark.usefixtures("without_tracing")
@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_is_restored(tiny_model, training):
    run_benchmark(tiny_model.train(training), batch_size=2, repeats=1, warmup=0, sweep=[1], dtypes=["float32"])
    assert tiny_model.training is training


@pytest.mark.parametrize("candidates", [[4, 8, 16], list(range(4, 33, 4)), [7, 20], [32]])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 32])
def test_spread_budgets_have_a_whole_mean(candidates, batch_size):
    budgets = spread_budgets(candidates, batch_size)
    assert len(budgets) == batch_size and set(budgets) <= set(candidates)
    assert sum(budgets) % batch_size == 0


def test_eight_candidates_are_all_in_a_batch_of_32():
    assert set(spread_budgets(range(4, 33, 4), 32)) == set(range(4, 33, 4))


def test_spread_budgets_follow_the_shares_of_the_candidates():
    budgets = spread_budgets([4, 4, 4, 16], 32)
    assert sum(budgets) == 32 * 7 and budgets.count(4) == 24


def test_flops_equal_a_count_by_hand(result):
    patch_embedding = 2 * PATCHES * 3 * 8 * 8 * WIDTH
    quantizer = 2 * 16 * WIDTH * 12 + 2 * 16 * 12 * 64
    policy = 2 * (2 * WIDTH * 16 + 16 * 3)
    encode = patch_embedding + DEPTH * block_flops(1 + PATCHES + 16) + quantizer + policy
    assert result["flops"]["encode"] == pytest.approx(encode / 1e9)
    for budget in (4, 8, 16):
        tokens = 1 + PATCHES + budget
        heads = 2 * 2 * RANK * WIDTH * MLP / 6  # merged into both linears, once for the batch of 6
        pixels = 2 * PATCHES * WIDTH * 3 * 8 * 8 + 2 * 32 * 32 * 3 * 3 * 9
        decode = 2 * budget * 12 * WIDTH + DEPTH * (block_flops(tokens) + heads) + pixels
        assert result["flops"]["decode"][str(budget)] == pytest.approx(decode / 1e9)


def test_the_disturbance_is_that_of_the_slowest_round(tiny_model, monkeypatch):
    monkeypatch.setattr(benchmark, "count_recompilations", lambda *_: 0)
    monkeypatch.setattr(benchmark, "time_interleaved", lambda calls, *_: {name: [4.0, 2.0, 3.0] for name in calls})
    result = run_benchmark(tiny_model, batch_size=2, sweep=[1], dtypes=["float32"])
    assert result["disturbance"] == 1 and {row["milliseconds"] for row in result["rows"]} == {3}


def test_the_share_of_the_ceiling_is_flops_over_time_over_ceiling(result):
    ceiling = result["ceiling"]["gflops_per_second"]["float32"]
    for row in result["rows"]:
        speed = row["gflops"] * row["images_per_second"]
        assert row["ceiling_share"] == pytest.approx(speed / ceiling)


def test_yardsticks_are_ratios_of_the_rows(result):
    times = {row["name"]: row["milliseconds"] for row in result["rows"]}
    mean, yardsticks = result["mean_budget"], result["yardsticks"]
    assert yardsticks["encode_over_plain"] == times["encode without policy"] / times["plain encode"]
    assert yardsticks["decode_over_plain"] == {
        str(budget): times[f"decode uniform {budget}"] / times[f"plain decode {budget}"] for budget in (mean, 16)
    }
    search = times["search of budgets"]
    assert yardsticks["search_over_encode"] == search / times["encode"]
    assert yardsticks["search_over_round_trip"] == search / (times["encode"] + times["decode mixed"])


def test_a_search_costs_an_encode_and_all_decodes(result):
    gflops = {row["name"]: row["gflops"] for row in result["rows"]}
    decodes = sum(result["flops"]["decode"].values())
    assert gflops["search of budgets"] == pytest.approx(gflops["encode"] + decodes)


def test_the_sweep_has_every_dtype_and_batch_size(result):
    cells = [(row["dtype"], row["batch_size"], row["name"]) for row in result["sweep"]]
    expected = [(d, b, n) for d in ("float32", "bfloat16") for b in (1, 3) for n in ("encode", "decode mixed")]
    assert cells == expected
    for row in result["sweep"]:
        assert row["images_per_second"] == pytest.approx(1000 * row["batch_size"] / row["milliseconds"])
    assert result["ceiling"]["gflops_per_second"].keys() == {"float32", "bfloat16"}


def test_the_ceiling_is_the_fastest_product_of_its_dtype_and_all_are_shown(result):
    ceiling, table = result["ceiling"], format_table(result)
    for dtype, speeds in ceiling["products"].items():
        assert ceiling["gflops_per_second"][dtype] == max(speeds.values())
        assert all(f"{dtype} {speed:.0f} by {library}" in table for library, speed in speeds.items())


@pytest.mark.usefixtures("without_tracing")
def test_exports_are_swept_over_with_the_flops_of_the_model(tiny_model):
    seen = []
    exported = ExportedAdaTok(
        lambda pixels: seen.append(pixels.shape), lambda codes, budgets: seen.append(budgets), {}
    )
    result = run_benchmark(tiny_model, 2, 1, 0, sweep=[1, 3], dtypes=["float32"], exports={"onnx": exported})
    rows = {(row["dtype"], row["batch_size"], row["name"]): row for row in result["sweep"]}
    assert [key for key in rows if key[0] == "onnx"] == [
        ("onnx", size, name) for size in (1, 3) for name in ("encode", "decode mixed")
    ]
    flops = [row["ceiling_share"] * row["milliseconds"] for row in (rows[k, 3, "encode"] for k in ("onnx", "float32"))]
    assert flops[0] == pytest.approx(flops[1]) and (3, 3, 32, 32) in seen and "onnx" in format_table(result)


def test_an_export_of_another_model_is_one_sentence(tiny_model, processor, tiny_checkpoint, tmp_path, capsys):
    tiny_model.quantizer.codebook.weight.data += 1
    export_model(tiny_model, processor, tmp_path / "export", "torch")
    with pytest.raises(SystemExit) as exit_info:
        main(["bench", "--model", str(tiny_checkpoint), "--export", str(tmp_path / "export")])
    stderr = capsys.readouterr().err
    assert exit_info.value.code == 2 and "other weights" in stderr and len(stderr.splitlines()) == 1


@pytest.mark.usefixtures("without_tracing")
def test_the_sweep_takes_the_main_table_where_it_has_the_number(tiny_model):
    result = run_benchmark(tiny_model, batch_size=2, repeats=1, warmup=0, sweep=[2], dtypes=["float32"])
    times = {row["name"]: row["milliseconds"] for row in result["rows"]}
    assert [row["milliseconds"] for row in result["sweep"]] == [times["encode"], times["decode mixed"]]


def test_a_mask_needs_more_memory_than_groups(result):
    memory = result["memory"]
    assert memory["method"] == "tensors alive after each operation"
    assert memory["decode mixed"] == memory["decode mixed, grouped"] < memory["decode mixed, masked"]
    assert memory["encode"] > 0 and memory["weights"] > 0


@pytest.mark.usefixtures("without_tracing")
@pytest.mark.parametrize("is_trained", [True, False])
def test_a_trained_policy_chooses_the_mixed_budgets(tiny_model, is_trained):
    tiny_model.config.is_policy_trained = is_trained
    tiny_model.policy.fc2.bias.data[1] = 100  # always the second of 4, 8, 16
    pictures = torch.zeros(5, 3, 32, 32)
    result = run_benchmark(tiny_model, 4, 1, 0, pictures=pictures, sweep=[1], dtypes=["float32"])
    assert result["mixed_budgets_from"] == ("policy" if is_trained else "spread")
    assert (result["mixed_budgets"] == [8] * 4) is is_trained


@pytest.mark.usefixtures("without_tracing")
def test_the_weights_stay_as_they_are(tiny_model):
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    run_benchmark(tiny_model, batch_size=2, repeats=1, warmup=0, sweep=[1], dtypes=["bfloat16"])
    after = tiny_model.state_dict()
    assert all(after[name].dtype == tensor.dtype and after[name].equal(tensor) for name, tensor in before.items())


@pytest.mark.usefixtures("without_tracing")
def test_compiled_calls_are_rows_where_asked_for(tiny_model, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled.append(function) or function)
    result = run_benchmark(tiny_model, 2, 1, 0, sweep=[1], dtypes=["float32"], compile=True)
    assert compiled == [tiny_model.encode, tiny_model.decode]
    assert {"encode, compiled", "decode mixed, compiled"} < {row["name"] for row in result["rows"]}
    assert result["compile"].keys() == {"encode", "decode mixed"} and "Compiled over plain" in format_table(result)


def test_no_compiler_is_one_sentence_and_the_training_mode_is_restored(tiny_model, monkeypatch):
    def fail(*_):
        raise RuntimeError("no C++ compiler\n\nand a long trace")

    monkeypatch.setattr(torch, "compile", lambda *_: fail)
    with pytest.raises(ValueError, match=r"does not work here \(no C\+\+ compiler\); leave it out\.$"):
        run_benchmark(tiny_model.train(), 2, 1, 0, sweep=[1], dtypes=["float32"], compile=True)
    assert tiny_model.training


@pytest.mark.parametrize("name, value", [("batch_size", 0), ("repeats", 0), ("warmup", -1)])
def test_a_count_out_of_range_is_a_value_error(tiny_model, name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least {value + 1}; got {value}"):
        run_benchmark(tiny_model, **{name: value})


def test_an_unknown_dtype_is_a_value_error():
    with pytest.raises(ValueError, match="float32, bfloat16, float16; got 'int8'"):
        check_sweep(torch.device("cpu"), [1], ["float32", "int8"])


def test_a_batch_size_of_zero_in_the_sweep_is_a_value_error():
    with pytest.raises(ValueError, match="at least 1; got 0"):
        check_sweep(torch.device("cpu"), [8, 0], None)


@pytest.mark.parametrize("option", [["--sweep", "0"], ["--dtype", "int8"]])
def test_bad_options_of_the_command_are_one_line(tiny_checkpoint, capsys, option):
    with pytest.raises(SystemExit) as exit_info:
        main(["bench", "--model", str(tiny_checkpoint), *option])
    stderr = capsys.readouterr().err
    assert exit_info.value.code == 2 and stderr.startswith("adatok: error: ") and len(stderr.splitlines()) == 1


def test_the_table_has_a_line_for_every_row(result):
    lines = format_table(result).splitlines()
    for row in (*result["rows"], *result["sweep"]):
        assert any(line.startswith(row["name"]) for line in lines)
    assert max(map(len, lines)) < 100
