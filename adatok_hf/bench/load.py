"""What a request costs where many come: time by threads and batch, and memory beyond what is there."""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import torch

from ..modeling import AdaTokModel
from ..tables import align_columns
from .bench import choose_candidates, decode_calls, make_workload, verb_calls
from .instruments import resident_growth, time_interleaved


VERBS = ("encode", "decode mixed")


@torch.inference_mode()
def run_load_benchmark(
    model: AdaTokModel,
    batches: Sequence[int] = (1, 2, 4, 8, 16, 32),
    threads: Sequence[int] = (1, 2),
    repeats: int = 5,
    warmup: int = 1,
    pictures: torch.Tensor | None = None,
) -> dict:
    """
    Times requests of several sizes with several numbers of threads, all in turns, and then makes each of them once
    more to see how much memory it takes: what a server of many users is laid out by. Pixels and codes are random.

    Args:
        model ([`AdaTokModel`]): In evaluation mode, on the CPU.
        batches (`Sequence[int]`, *optional*, defaults to `(1, 2, 4, 8, 16, 32)`):
            Images of a request, each at least 1.
        threads (`Sequence[int]`, *optional*, defaults to `(1, 2)`):
            Threads of PyTorch, each at least 1; their number is put back afterwards.
        repeats (`int`, *optional*, defaults to 5): Timed rounds of which the median is taken, at least 1.
        warmup (`int`, *optional*, defaults to 1): Untimed rounds before them, at least 0.
        pictures (`torch.Tensor`, *optional*): As for [`~adatok_hf.bench.bench.run_benchmark`].

    Returns:
        `dict`, which can be written as JSON: `rows` with `name`, `threads`, `batch_size`, `milliseconds` of a request,
        `images_per_second`, `ratio` of the time of an image to that in a request of `batches[0]` with `threads[0]`,
        and `memory`, the MiB by which the process grows at the peak of a request, `None` where the system does not say
        so; `disturbance`, the median share by which the slowest round of a call was slower than its fastest; `device`,
        `torch`, `dtype`, `repeats` and `mixed_budgets_from`.

    Raises:
        `ValueError`: if the model is not on the CPU, or a number is out of its range.

    Example:

    ```python
    >>> from adatok_hf import AdaTokConfig, AdaTokModel
    >>> from adatok_hf.bench.load import run_load_benchmark

    >>> model = AdaTokModel(AdaTokConfig(image_size=32, patch_size=8, hidden_size=32, num_attention_heads=2)).eval()
    >>> result = run_load_benchmark(model, batches=[1, 2], threads=[1], repeats=1)
    >>> [(row["name"], row["batch_size"]) for row in result["rows"]]
    [('encode', 1), ('decode mixed', 1), ('encode', 2), ('decode mixed', 2)]

    ```"""
    if model.device.type != "cpu":
        raise ValueError(f"Threads and their memory are those of the CPU; the model is on {model.device}.")
    numbers = [("batches", size, 1) for size in batches] + [("threads", number, 1) for number in threads]
    for name, value, least in (*numbers, ("repeats", repeats, 1), ("warmup", warmup, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}.")
    candidates, source = choose_candidates(model, pictures)
    calls = request_calls(model, candidates, batches, threads)
    before = torch.get_num_threads()
    try:
        timings = time_interleaved(calls, model.device, repeats, warmup)
        growth = {cell: resident_growth(call) for cell, call in calls.items()}
    finally:
        torch.set_num_threads(before)
    milliseconds = {cell: median(values) for cell, values in timings.items()}
    rows = []
    for (number, size, name), value in milliseconds.items():
        first, grown = milliseconds[threads[0], batches[0], name] / batches[0], growth[number, size, name]
        rows.append(
            {
                "name": name,
                "threads": number,
                "batch_size": size,
                "milliseconds": value,
                "images_per_second": 1000 * size / value,
                "ratio": value / size / first,
                "memory": None if grown is None else grown / 2**20,
            }
        )
    return {
        "rows": rows,
        "disturbance": median(max(values) / min(values) - 1 for values in timings.values()),
        "device": "cpu",
        "torch": torch.__version__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "repeats": repeats,
        "mixed_budgets_from": source,
    }


def request_calls(
    model: AdaTokModel, candidates: Sequence[int], batches: Sequence[int], threads: Sequence[int]
) -> dict[tuple[int, int, str], Callable[[], object]]:
    """Encoding and mixed decoding by number of threads, which each call sets, by batch size and name."""

    def request(number: int, call: Callable[[], object]) -> object:
        torch.set_num_threads(number)
        return call()

    calls = {}
    for size in dict.fromkeys(batches):
        load = make_workload(model, size, candidates)
        verbs = verb_calls(model, load) | decode_calls(model, load)
        for number in dict.fromkeys(threads):
            calls |= {(number, size, name): partial(request, number, verbs[name]) for name in VERBS}
    return calls


def format_load_table(result: dict) -> str:
    """Lays out the rows of [`run_load_benchmark`] as plain text."""
    lines = [("", "threads", "batch", "ms", "images/s", "time an image", "MiB more")]
    for row in result["rows"]:
        grown = "?" if row["memory"] is None else f"{row['memory']:.1f}"
        numbers = (f"{row['milliseconds']:.1f}", f"{row['images_per_second']:.0f}", f"{row['ratio']:.2f}", grown)
        lines.append((row["name"], str(row["threads"]), str(row["batch_size"]), *numbers))
    return align_columns(lines)


__all__ = ["format_load_table", "run_load_benchmark"]
