from pathlib import Path

import pytest
import torch
from torch import nn

from adatok_hf.bench.instruments import count_flops, matmul_calls, peak_memory, resident_growth, time_interleaved


CPU = torch.device("cpu")


def test_calls_take_turns_in_an_order_that_rotates_once():
    made = []
    calls = {name: lambda name=name: made.append(name) for name in "abc"}
    times = time_interleaved(calls, CPU, repeats=5, warmup=1)
    assert "".join(made) == "abcabcbcabcacabcab"
    assert {name: len(values) for name, values in times.items()} == {"a": 5, "b": 5, "c": 5}


def test_flops_of_a_linear_layer_and_a_convolution():
    linear, conv = nn.Linear(8, 16), nn.Conv2d(3, 5, kernel_size=3, padding=1)
    assert count_flops(lambda: linear(torch.zeros(2, 4, 8))) == 2 * 2 * 4 * 8 * 16
    assert count_flops(lambda: conv(torch.zeros(2, 3, 6, 6))) == 2 * 2 * 6 * 6 * 5 * 3 * 9


@pytest.mark.parametrize("masked", [False, True])
def test_flops_of_attention_are_counted_on_every_device(masked):
    query = torch.zeros(2, 3, 7, 4)  # (batch, heads, tokens, head_dim)
    mask = torch.ones(7, 7, dtype=torch.bool) if masked else None
    flops = count_flops(lambda: nn.functional.scaled_dot_product_attention(query, query, query, attn_mask=mask))
    assert flops == 2 * (2 * 2 * 3 * 7 * 7 * 4)


def test_flops_of_a_fused_block_are_counted_and_the_fast_path_stays_on():
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True).eval()
    flops = count_flops(lambda: block(torch.zeros(2, 5, 8)))
    assert flops == 2 * 2 * 5 * 8 * (4 * 8 + 2 * 16) + 2 * 2 * 2 * 5 * 5 * 8
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_matmul_has_the_flops_it_says():
    calls, flops = matmul_calls(CPU, torch.bfloat16)
    assert count_flops(calls["torch"]) == flops and calls["torch"]().dtype == torch.bfloat16


def test_all_libraries_multiply_the_same_matrices():
    products = [call() for call in matmul_calls(CPU, torch.float32)[0].values()]
    assert len(products) == 1 + torch.backends.mkldnn.is_available()
    torch.testing.assert_close(products[0], products[-1], rtol=1e-4, atol=1e-3)


def test_peak_memory_is_that_of_tensors_alive_together():
    inputs = torch.zeros(1000)

    def keep_all():
        return [inputs.exp() for _ in range(5)]

    def keep_none():
        for _ in range(5):
            inputs.exp()

    assert peak_memory(keep_all, CPU) == 5 * 4000
    assert peak_memory(keep_none, CPU) == 4000


def test_views_and_changes_in_place_need_no_memory():
    inputs = torch.zeros(10, 10)
    assert peak_memory(lambda: inputs.t().reshape(10, 10).unflatten(0, (2, 5)).mul_(2), CPU) == 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
def test_a_process_grows_by_what_a_call_has_at_its_peak():
    def fill(mebibytes: int):
        return lambda: [torch.ones(mebibytes, 2**18) for _ in range(2)]

    grown = {size: resident_growth(fill(size)) / 2**20 for size in (8, 64)}
    assert grown[8] == pytest.approx(2 * 8, abs=4)
    assert grown[64] == pytest.approx(2 * 64, abs=8)
