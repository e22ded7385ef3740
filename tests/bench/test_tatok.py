import json

import pytest
import torch

from adatok_hf.bench.tatok import run_tatok_benchmark
from adatok_hf.cli import main


def test_rows_are_the_verbs_and_what_filtering_adds(tiny_tatok):
    result = run_tatok_benchmark(tiny_tatok, batch_size=2, repeats=2, warmup=0, block_size=4)
    rows = {row["name"]: row for row in result["rows"]}
    assert set(rows) == {
        *("encode", "encode without filter", "prior alone", "encode, residual", "encode, blocks of 4", "decode")
    }
    assert rows["encode"]["ratio"] == 1
    for row in rows.values():
        assert row["images_per_second"] == pytest.approx(2000 / row["milliseconds"])
    gflops = {name: row["gflops"] for name, row in rows.items()}
    assert gflops["encode"] == pytest.approx(gflops["encode without filter"] + gflops["prior alone"])
    assert gflops["encode, blocks of 4"] == pytest.approx(gflops["encode"] + 3 * gflops["prior alone"])
    assert gflops["encode, residual"] == pytest.approx(gflops["encode without filter"] + gflops["decode"])


def test_the_command_ends_in_one_json_object(tatok_checkpoint, tmp_path, capsys):
    out = tmp_path / "bench.json"
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--model", str(tatok_checkpoint), "--batch-size", "2", "--repeats", "1", "--out", str(out)])
    assert ended.value.code == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["model"] == str(tatok_checkpoint) and len(last["rows"]) == 6
    assert last["num_threads"] == torch.get_num_threads() and json.loads(out.read_text()) == last


@pytest.mark.parametrize("option", ["batch_size", "repeats", "block_size"])
def test_numbers_below_one_are_refused(tiny_tatok, one_sentence, option):
    with one_sentence(f"{option} must be at least 1; got 0"):
        run_tatok_benchmark(tiny_tatok, **{option: 0})
