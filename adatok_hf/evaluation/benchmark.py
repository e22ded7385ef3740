"""How long encoding and decoding take, and what mixed budgets cost against one budget for all."""

import random
import time
from collections.abc import Callable, Sequence
from statistics import fmean, median

import torch

from ..modeling import AdaTokModel


def spread_budgets(candidates: Sequence[int], batch_size: int) -> list[int]:
    """
    Spreads budgets over the candidates such that their mean is a whole number, so that a batch of one budget can have
    as many codes: the candidates in turn where that does it, else the most diverse of many random draws.
    """
    generator = random.Random(0)
    in_turn = [candidates[i % len(candidates)] for i in range(batch_size)]
    draws = [generator.choices(candidates, k=batch_size) for _ in range(1000)]
    whole = [draw for draw in (in_turn, *draws, [candidates[0]] * batch_size) if sum(draw) % batch_size == 0]
    return max(whole, key=lambda draw: len(set(draw)))


def time_interleaved(
    calls: dict[str, Callable[[], object]], device: torch.device, repeats: int, warmup: int
) -> dict[str, float]:
    """
    Gives the median time of each call in milliseconds. Every round makes each call once, in an order that rotates, so
    that a busy machine hits all of them alike. A GPU is synchronised before and after each call.
    """
    names = list(calls)
    timings = {name: [] for name in names}
    for round_index in range(warmup + repeats):
        shift = round_index % len(names)
        for name in names[shift:] + names[:shift]:
            synchronize(device)
            start = time.perf_counter()
            calls[name]()
            synchronize(device)
            if round_index >= warmup:
                timings[name].append(1000 * (time.perf_counter() - start))
    return {name: median(values) for name, values in timings.items()}


def synchronize(device: torch.device):
    """Waits for the GPU, if that is what the device is."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def count_recompilations(model: AdaTokModel, image_codes: torch.Tensor, assignments: int = 10) -> int:
    """
    Counts the graphs that `torch.compile` makes of mixed-budget decoding beyond those of the first call.

    Args:
        model ([`AdaTokModel`]): The model, in evaluation mode.
        image_codes (`torch.LongTensor` of shape `(batch, num_latent_tokens)`): Codes without pad codes.
        assignments (`int`, *optional*, defaults to 10): Random budget assignments, each decoded once.

    Returns:
        `int`: 0 if one compilation serves every assignment.
    """
    graphs = 0

    def counting_backend(graph: torch.fx.GraphModule, example_inputs: list[torch.Tensor]) -> Callable:
        nonlocal graphs
        graphs += 1
        return graph.forward  # whether to recompile is decided before any backend, so none is needed to count

    torch.compiler.reset()
    decode = torch.compile(model.decode, backend=counting_backend)
    generator = torch.Generator().manual_seed(0)
    candidates = torch.tensor(model.config.budgets)
    graphs_of_first = 0
    for assignment in range(assignments):
        draw = torch.randint(len(candidates), (image_codes.shape[0],), generator=generator)
        decode(image_codes, budgets=candidates[draw].to(image_codes.device))
        graphs_of_first = graphs if assignment == 0 else graphs_of_first
    torch.compiler.reset()
    return graphs - graphs_of_first


@torch.no_grad()
def run_benchmark(model: AdaTokModel, batch_size: int = 32, repeats: int = 20, warmup: int = 3) -> dict:
    r"""
    Measures encoding, decoding at each candidate budget, and decoding of mixed against uniform budgets.

    A uniform batch is decoded with its sequences truncated, which is the fastest way there is: what mixed budgets are
    compared with has the same mean budget, so the same number of codes. Codes and pixels are random, since time does
    not depend on them. The model's training mode is restored afterwards.

    Args:
        model ([`AdaTokModel`]): The model, on the device and in the dtype to be measured.
        batch_size (`int`, *optional*, defaults to 32): Images in a batch, at least 1.
        repeats (`int`, *optional*, defaults to 20): Timed rounds of which the median is taken, at least 1.
        warmup (`int`, *optional*, defaults to 3): Untimed rounds before them.

    Returns:
        `dict`: `rows`, each with `name`, `milliseconds` of a batch, `images_per_second` and `ratio` (encoding against
        the whole encode, decoding against the uniform batch of the same mean); `mixed_over_uniform` by the default
        path of the device, `mixed_grouped_over_uniform`, `mixed_masked_over_uniform`, `policy_share` of the encode
        time in 0..1, `recompilations`, `device`, `torch`, `num_threads`, `batch_size`, `mean_budget`,
        `mixed_budgets`. Everything in it can be written as JSON.

    Raises:
        `ValueError`: if `batch_size` or `repeats` is below 1.

    Example:

    ```python
    >>> from adatok_hf import AdaTokConfig, AdaTokModel
    >>> from adatok_hf.evaluation.benchmark import run_benchmark

    >>> config = AdaTokConfig(image_size=32, patch_size=8, hidden_size=32, num_attention_heads=2, budgets=[64, 256])
    >>> result = run_benchmark(AdaTokModel(config), batch_size=2, repeats=1)
    >>> result["mean_budget"], result["recompilations"]
    (160, 0)

    ```"""
    for name, value in (("batch_size", batch_size), ("repeats", repeats)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}.")
    was_training = model.training
    model.eval()
    config, device = model.config, model.device
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, config.num_channels, config.image_size, config.image_size)
    pixel_values = (torch.rand(shape, generator=generator) * 2 - 1).to(device, model.dtype)
    image_codes = torch.randint(config.codebook_size, (batch_size, config.num_latent_tokens), generator=generator)
    image_codes = image_codes.to(device)
    _, features = model.encoder(pixel_values)
    mixed_budgets = spread_budgets(config.budgets, batch_size)
    mean_budget = round(fmean(mixed_budgets))
    mixed = torch.tensor(mixed_budgets, device=device)

    uniform_name = f"decode uniform {mean_budget}"
    calls = {
        "encode": lambda: model.encode(pixel_values),
        "encode without policy": lambda: model.quantizer(model.encoder(pixel_values)[0]),
        "policy alone": lambda: model.policy(features),
        uniform_name: lambda: model.decode(image_codes, mean_budget, group_by_budget=True),
        "decode mixed": lambda: model.decode(image_codes, mixed),
        "decode mixed, grouped": lambda: model.decode(image_codes, mixed, group_by_budget=True),
        "decode mixed, masked": lambda: model.decode(image_codes, mixed, group_by_budget=False),
    }
    for budget in config.budgets:  # the mean may be a candidate itself, which then has its row already
        calls.setdefault(
            f"decode uniform {budget}", lambda budget=budget: model.decode(image_codes, budget, group_by_budget=True)
        )
    milliseconds = time_interleaved(calls, device, repeats, warmup)
    recompilations = count_recompilations(model, image_codes)
    model.train(was_training)

    uniform = milliseconds[uniform_name]
    return {
        "rows": [
            {
                "name": name,
                "milliseconds": value,
                "images_per_second": 1000 * batch_size / value,
                "ratio": value / (uniform if name.startswith("decode") else milliseconds["encode"]),
            }
            for name, value in milliseconds.items()
        ],
        "mixed_over_uniform": milliseconds["decode mixed"] / uniform,
        "mixed_grouped_over_uniform": milliseconds["decode mixed, grouped"] / uniform,
        "mixed_masked_over_uniform": milliseconds["decode mixed, masked"] / uniform,
        "policy_share": milliseconds["policy alone"] / milliseconds["encode"],
        "recompilations": recompilations,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "num_threads": torch.get_num_threads(),
        "batch_size": batch_size,
        "mean_budget": mean_budget,
        "mixed_budgets": mixed_budgets,
    }


def format_table(result: dict) -> str:
    """Lays out what [`run_benchmark`] gives as a table of plain text with the conditions below it."""
    width = max(len(row["name"]) for row in result["rows"])
    lines = [f"{'':{width}}  ms/batch   images/s   ratio"]
    for row in result["rows"]:
        lines.append(
            f"{row['name']:{width}}  {row['milliseconds']:8.2f} {row['images_per_second']:10.1f} {row['ratio']:7.3f}"
        )
    lines += [
        "",
        f"Medians on {result['device']}, {result['num_threads']} threads, torch {result['torch']}, batches of "
        f"{result['batch_size']}. Ratio: encoding against",
        f"`encode`, decoding against one budget of {result['mean_budget']} for all, which is the mean of the mixed "
        "budgets.",
        f"Policy: {result['policy_share']:.1%} of the encode time. "
        f"Recompilations over ten budget assignments: {result['recompilations']}.",
    ]
    return "\n".join(lines)
