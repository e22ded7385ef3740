import json

import pytest
import torch

from adatok_hf.bench.load import run_load_benchmark
from adatok_hf.cli import main


@pytest.fixture(scope="module")
def threads() -> int:
    return torch.get_num_threads()


def test_every_request_has_a_row_against_the_first(tiny_model, threads):
    result = run_load_benchmark(tiny_model, batches=[1, 3], threads=[1, 2], repeats=2, warmup=0)
    rows = {(row["threads"], row["batch_size"], row["name"]): row for row in result["rows"]}
    assert len(rows) == 8 and {key[:2] for key in rows} == {(1, 1), (1, 3), (2, 1), (2, 3)}
    for (_, size, name), row in rows.items():
        assert row["images_per_second"] == pytest.approx(1000 * size / row["milliseconds"])
        first = rows[1, 1, name]
        assert row["ratio"] == pytest.approx(row["milliseconds"] / size / first["milliseconds"])
    assert result["mixed_budgets_from"] == "spread"
    assert torch.get_num_threads() == threads


def test_each_call_computes_with_its_threads(tiny_model, threads):
    seen = []
    tiny_model.encoder.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    run_load_benchmark(tiny_model, batches=[1], threads=[2, 1], repeats=1, warmup=0)
    assert {1, 2} <= set(seen) and torch.get_num_threads() == threads


def test_the_command_ends_in_one_json_object(tiny_checkpoint, tmp_path, capsys):
    out = tmp_path / "load.json"
    options = ["--batches", "1,2", "--threads", "1", "--repeats", "1", "--out", str(out)]
    with pytest.raises(SystemExit) as ended:
        main(["bench", "load", "--model", str(tiny_checkpoint), *options])
    assert ended.value.code == 0
    printed = capsys.readouterr().out.splitlines()
    last = json.loads(printed[-1])
    assert json.loads(out.read_text()) == last and last["model"] == str(tiny_checkpoint)
    assert len(last["rows"]) == 4 == len(printed) - 2


@pytest.mark.parametrize("options, name", [({"batches": [0]}, "batches"), ({"threads": [0]}, "threads")])
def test_numbers_below_one_are_refused(tiny_model, one_sentence, options, name):
    with one_sentence(f"{name} must be at least 1; got 0"):
        run_load_benchmark(tiny_model, **options)
