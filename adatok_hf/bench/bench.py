"""How fast a model is, against plain networks of its size and against what the machine can do."""

import copy
import itertools
import random
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import NamedTuple

import torch

from ..export.exported import ExportedAdaTok
from ..modeling import AdaTokModel
from .instruments import ceiling_size, count_flops, matmul_calls, peak_memory, time_interleaved
from .yardsticks import PlainDecoder, PlainEncoder, search_budgets


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
COMPILED = ("encode", "decode mixed")  # what is compiled too where that is asked for
MATMUL = "matmul"


class Workload(NamedTuple):
    """
    A batch to measure with: random pixels and codes, and one candidate budget per image. `uniform_budget` is the mean
    of `mixed_budgets`, so that a batch of one budget has as many codes.
    """

    pixel_values: torch.Tensor
    image_codes: torch.Tensor
    mixed_budgets: list[int]
    uniform_budget: int


def spread_budgets(candidates: Sequence[int], batch_size: int) -> list[int]:
    """
    Draws budgets whose mean is a whole number, so that a batch of one budget can have as many codes: of many random
    draws, and the candidates in turn, the one whose mean is nearest to that of the candidates, then the most diverse.
    A candidate that is given often is drawn often.
    """
    generator = random.Random(0)
    in_turn = [candidates[i % len(candidates)] for i in range(batch_size)]
    draws = [generator.choices(candidates, k=batch_size) for _ in range(1000)]
    whole = [draw for draw in (in_turn, *draws, [candidates[0]] * batch_size) if sum(draw) % batch_size == 0]
    mean = fmean(candidates)
    return max(whole, key=lambda draw: (-abs(fmean(draw) - mean), len(set(draw))))


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
def run_benchmark(
    model: AdaTokModel,
    batch_size: int = 32,
    repeats: int = 5,
    warmup: int = 1,
    *,
    pictures: torch.Tensor | None = None,
    sweep: Sequence[int] = (1, 8, 32),
    dtypes: Sequence[str] | None = None,
    exports: dict[str, ExportedAdaTok] | None = None,
    compile: bool = False,
) -> dict:
    r"""
    Measures encoding and decoding against each other, against plain networks of the same size and against the machine.

    All timed calls take turns in one loop. A uniform batch is decoded with its sequences truncated, which is the
    fastest way there is: what mixed budgets are compared with has the same mean budget, so the same number of codes.
    Codes and pixels are random, since time does not depend on them. The model's training mode is restored afterwards.

    Args:
        model ([`AdaTokModel`]): The model, on the device and in the dtype of the main table.
        batch_size (`int`, *optional*, defaults to 32): Images in a batch of the main table, at least 1.
        repeats (`int`, *optional*, defaults to 5): Timed rounds of which the median is taken, at least 1.
        warmup (`int`, *optional*, defaults to 1): Untimed rounds before them, at least 0.
        pictures (`torch.Tensor` of shape `(pictures, num_channels, image_size, image_size)`, *optional*): In [-1, 1].
            The mixed budgets are those that a trained policy chooses for them. Without pictures, or with an untrained
            policy, they are the candidate budgets in equal shares.
        sweep (`Sequence[int]`, *optional*, defaults to `(1, 8, 32)`): Further batch sizes, each at least 1.
        dtypes (`Sequence[str]`, *optional*): Number formats of the sweep: `float32`, `bfloat16`, `float16`. Unset,
            `float32` and, where the device has it, `bfloat16`.
        exports (`dict[str, ExportedAdaTok]`, *optional*): Exports of the model to sweep over as well, by the name to
            report; see [`~adatok_hf.export.exported.load_exports`]. They run on the CPU.
        compile (`bool`, *optional*, defaults to `False`): Whether to measure `torch.compile` too. It takes minutes.

    Returns:
        `dict`, which can be written as JSON:

        - `rows`: `name`, `milliseconds` of a batch, `images_per_second`, `ratio` (encoding and searching against
          `encode`, decoding against the uniform batch of the same mean), `gflops` of an image, `ceiling_share`: FLOPs
          per second as a share of those of the fastest matmul.
        - `mixed_over_uniform` by the default path of the device, `mixed_grouped_over_uniform`,
          `mixed_masked_over_uniform`, `policy_share` of the encode time in 0..1, `recompilations`.
        - `flops`: GFLOPs of an image for `encode` and for `decode` at each candidate budget.
        - `ceiling`: `size` of the square matrices, `gflops_per_second` by dtype, which is the best of `products` by
          dtype and library.
        - `yardsticks`: `encode_over_plain` and `decode_over_plain` in time, `parameters` of both, `search_over_encode`
          in time and `search_over_round_trip`, encoding and decoding of mixed budgets.
        - `sweep`: rows with `dtype` (or the name of an export, whose ceiling is that of float32), `batch_size`,
          `name`, `milliseconds`, `images_per_second`, `ceiling_share`.
        - `memory`: MiB of the weights, and of single calls beyond weights and inputs, with the `method`.
        - `compile`: times of the compiled calls over the plain ones, or `None`.
        - `disturbance`: how much longer the slowest round of a call took than its fastest, as a share, in the median
          of all calls. Near 0 on an idle machine; where it is large, the ratios are not to be trusted.
        - `device`, `torch`, `num_threads`, `dtype`, `batch_size`, `repeats`, `mean_budget`, `mixed_budgets` and
          `mixed_budgets_from`, `policy` or `spread`.

    Raises:
        `ValueError`: if `batch_size`, `repeats` or a size in `sweep` is below 1 or `warmup` below 0, for an unknown
            dtype, and where `torch.compile` does not work.

    Example:

    ```python
    >>> from adatok_hf import AdaTokConfig, AdaTokModel
    >>> from adatok_hf.bench.bench import run_benchmark

    >>> config = AdaTokConfig(image_size=32, patch_size=8, hidden_size=32, num_attention_heads=2, budgets=[64, 256])
    >>> result = run_benchmark(AdaTokModel(config), batch_size=2, repeats=1, sweep=[1], dtypes=["float32"])
    >>> result["mean_budget"], result["recompilations"]
    (160, 0)

    ```"""
    for name, value, least in (("batch_size", batch_size, 1), ("repeats", repeats, 1), ("warmup", warmup, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}.")
    dtypes = check_sweep(model.device, sweep, dtypes)
    was_training = model.training
    model.eval()
    try:
        return _run(model, batch_size, repeats, warmup, pictures, sweep, dtypes, exports or {}, compile)
    finally:
        model.train(was_training)


def check_sweep(device: torch.device, sweep: Sequence[int], dtypes: Sequence[str] | None) -> list[str]:
    """Gives the dtypes to sweep over; raises `ValueError` for a batch size below 1 and for an unknown dtype."""
    for size in sweep:
        if size < 1:
            raise ValueError(f"Every batch size of the sweep must be at least 1; got {size}.")
    if dtypes is None:
        has_bfloat16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
        return ["float32", "bfloat16"] if has_bfloat16 else ["float32"]
    for name in dtypes:
        if name not in DTYPES:
            raise ValueError(f"A dtype must be one of {', '.join(DTYPES)}; got {name!r}.")
    return list(dict.fromkeys(dtypes))


def _run(
    model: AdaTokModel,
    batch_size: int,
    repeats: int,
    warmup: int,
    pictures: torch.Tensor | None,
    sweep: Sequence[int],
    dtypes: list[str],
    exports: dict[str, ExportedAdaTok],
    compile: bool,
) -> dict:
    device, dtype = model.device, str(model.dtype).removeprefix("torch.")
    candidates, source = choose_candidates(model, pictures)
    load = make_workload(model, batch_size, candidates)
    plain = [kind(model.config).to(device, model.dtype).eval() for kind in (PlainEncoder, PlainDecoder)]
    calls = verb_calls(model, load) | decode_calls(model, load) | yardstick_calls(model, load, *plain)
    flops = {name: count_flops(call) for name, call in calls.items()}
    memory = measure_memory(model, calls)
    cells = sweep_calls(model, candidates, sweep, dtypes) | export_calls(model, candidates, sweep, exports)
    wanted = dict.fromkeys([dtype, *dtypes, *(["float32"] if exports else [])])
    matmuls = {name: matmul_calls(device, DTYPES[name]) for name in wanted}
    compiled = compile_calls(model, load) if compile else {}

    timed = (
        calls
        | compiled
        | {
            (MATMUL, name, library): call
            for name, (libraries, _) in matmuls.items()
            for library, call in libraries.items()
        }
    )
    same = {cell: cell[-1] for cell in cells if cell[:2] == (dtype, batch_size)}  # the main table has it already
    timed |= {cell: call for cell, (call, _) in cells.items() if cell not in same}
    timings = time_interleaved(timed, device, repeats, warmup)
    milliseconds = {name: median(values) for name, values in timings.items()}
    milliseconds |= {cell: milliseconds[name] for cell, name in same.items()}
    products = {
        name: {library: count / milliseconds[MATMUL, name, library] / 1e6 for library in libraries}
        for name, (libraries, count) in matmuls.items()
    }
    ceilings = {name: max(speeds.values()) for name, speeds in products.items()}
    ceilings |= {name: ceilings["float32"] for name in exports}
    rows = [
        make_row(name, milliseconds, flops[name.removesuffix(", compiled")], load, ceilings[dtype])
        for name in (*calls, *compiled)
    ]
    by_name = {row["name"]: row for row in rows}
    return {
        "rows": rows,
        "mixed_over_uniform": by_name["decode mixed"]["ratio"],
        "mixed_grouped_over_uniform": by_name["decode mixed, grouped"]["ratio"],
        "mixed_masked_over_uniform": by_name["decode mixed, masked"]["ratio"],
        "policy_share": by_name["policy alone"]["ratio"],
        "recompilations": count_recompilations(model, load.image_codes),
        "flops": {
            "encode": by_name["encode"]["gflops"],
            "decode": {str(b): by_name[f"decode uniform {b}"]["gflops"] for b in model.config.budgets},
        },
        "ceiling": {
            "size": ceiling_size(device),
            "gflops_per_second": {name: ceilings[name] for name in products},
            "products": products,
        },
        "yardsticks": compare_yardsticks(model, load, milliseconds, *plain),
        "sweep": [sweep_row(cell, milliseconds[cell], count, ceilings) for cell, (_, count) in cells.items()],
        "memory": memory,
        "compile": {name: milliseconds[f"{name}, compiled"] / milliseconds[name] for name in COMPILED}
        if compile
        else None,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "num_threads": torch.get_num_threads(),
        "dtype": dtype,
        "batch_size": batch_size,
        "repeats": repeats,
        "disturbance": median(max(values) / min(values) - 1 for values in timings.values()),
        "mean_budget": load.uniform_budget,
        "mixed_budgets": load.mixed_budgets,
        "mixed_budgets_from": source,
    }


def choose_candidates(model: AdaTokModel, pictures: torch.Tensor | None) -> tuple[list[int], str]:
    """Budgets to draw batches from, and whether they are the policy's choices or the candidates in equal shares."""
    if pictures is None or not model.config.is_policy_trained:
        return model.config.budgets, "spread"
    return model.encode(pictures.to(model.device)).budgets.tolist(), "policy"


def make_workload(model: AdaTokModel, batch_size: int, candidates: Sequence[int]) -> Workload:
    """Makes a batch on the model's device and in its dtype, the same on every machine."""
    config = model.config
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, config.num_channels, config.image_size, config.image_size)
    pixel_values = (torch.rand(shape, generator=generator) * 2 - 1).to(model.device, model.dtype)
    image_codes = torch.randint(config.codebook_size, (batch_size, config.num_latent_tokens), generator=generator)
    mixed_budgets = spread_budgets(candidates, batch_size)
    return Workload(pixel_values, image_codes.to(model.device), mixed_budgets, sum(mixed_budgets) // batch_size)


def verb_calls(model: AdaTokModel, load: Workload) -> dict[str, Callable]:
    """The calls of an encode and its parts."""
    _, features = model.encoder(load.pixel_values)
    return {
        "encode": lambda: model.encode(load.pixel_values),
        "encode without policy": lambda: model.quantizer(model.encoder(load.pixel_values)[0]),
        "policy alone": lambda: model.policy(features),
    }


def decode_calls(model: AdaTokModel, load: Workload) -> dict[str, Callable]:
    """Decoding of the mixed budgets by each path, of their mean, and of every candidate budget."""
    mixed = torch.tensor(load.mixed_budgets, device=model.device)

    def uniform(budget: int) -> Callable:
        return lambda: model.decode(load.image_codes, budget, group_by_budget=True)

    return {
        f"decode uniform {load.uniform_budget}": uniform(load.uniform_budget),
        "decode mixed": lambda: model.decode(load.image_codes, mixed),
        "decode mixed, grouped": lambda: model.decode(load.image_codes, mixed, group_by_budget=True),
        "decode mixed, masked": lambda: model.decode(load.image_codes, mixed, group_by_budget=False),
    } | {
        f"decode uniform {budget}": uniform(budget)
        for budget in model.config.budgets
        if budget != load.uniform_budget  # the mean may be a candidate itself, which then has its row already
    }


def yardstick_calls(
    model: AdaTokModel, load: Workload, encoder: PlainEncoder, decoder: PlainDecoder
) -> dict[str, Callable]:
    """The plain networks on sequences as long as the model's, and the search for budgets."""
    latents = model.quantizer.lookup(load.image_codes)
    calls = {"plain encode": lambda: encoder(load.pixel_values)}
    for budget in (load.uniform_budget, model.config.num_latent_tokens):
        calls[f"plain decode {budget}"] = lambda budget=budget: decoder(latents[:, :budget])
    return calls | {"search of budgets": lambda: search_budgets(model, load.pixel_values)}


def compile_calls(model: AdaTokModel, load: Workload) -> dict[str, Callable]:
    """Compiled encoding and decoding, each called once; raises `ValueError` where compilation fails."""
    torch.compiler.reset()
    encode, decode = torch.compile(model.encode), torch.compile(model.decode)
    mixed = torch.tensor(load.mixed_budgets, device=model.device)
    calls = (lambda: encode(load.pixel_values), lambda: decode(load.image_codes, mixed))
    try:
        for call in calls:
            call()
    except RuntimeError as error:  # what dynamo and its backends raise, for example where there is no C++ compiler
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"torch.compile does not work here ({reason}); leave it out.") from error
    return {f"{name}, compiled": call for name, call in zip(COMPILED, calls)}


def sweep_calls(
    model: AdaTokModel, candidates: Sequence[int], sweep: Sequence[int], dtypes: list[str]
) -> dict[tuple[str, int, str], tuple[Callable, int]]:
    """Encoding and mixed decoding, each with its FLOPs, by dtype, batch size and name."""
    cells = {}
    for dtype in dtypes:
        network = model if model.dtype == DTYPES[dtype] else copy.deepcopy(model).to(DTYPES[dtype])
        for size in dict.fromkeys(sweep):
            load = make_workload(network, size, candidates)
            verbs = verb_calls(network, load) | decode_calls(network, load)
            for name in ("encode", "decode mixed"):
                cells[dtype, size, name] = verbs[name], count_flops(verbs[name])
    return cells


def export_calls(
    model: AdaTokModel, candidates: Sequence[int], sweep: Sequence[int], exports: dict[str, ExportedAdaTok]
) -> dict[tuple[str, int, str], tuple[Callable, int]]:
    """As [`sweep_calls`], of exports; FLOPs are those that the model needs."""
    cells = {}
    for export, size in itertools.product(exports, dict.fromkeys(sweep)):
        graphs, load = exports[export], make_workload(model, size, candidates)
        inputs = load.pixel_values.float().cpu(), load.image_codes.cpu(), torch.tensor(load.mixed_budgets)
        calls = {
            "encode": lambda graphs=graphs, inputs=inputs: graphs.encode(inputs[0]),
            "decode mixed": lambda graphs=graphs, inputs=inputs: graphs.decode(*inputs[1:]),
        }
        own = verb_calls(model, load) | decode_calls(model, load)
        cells |= {(export, size, name): (call, count_flops(own[name])) for name, call in calls.items()}
    return cells


def measure_memory(model: AdaTokModel, calls: dict[str, Callable]) -> dict:
    """Weights and peaks of single calls in MiB, and how the peaks were found."""
    names = ("encode", "decode mixed", "decode mixed, grouped", "decode mixed, masked")
    by_allocator = model.device.type == "cuda"
    return {
        "weights": sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers())) / 2**20,
        **{name: peak_memory(calls[name], model.device) / 2**20 for name in names},
        "method": "torch.cuda.max_memory_allocated" if by_allocator else "tensors alive after each operation",
    }


def make_row(name: str, milliseconds: dict, flops: int, load: Workload, ceiling: float) -> dict:
    """A line of the main table."""
    size, value = len(load.pixel_values), milliseconds[name]
    is_decode = name.startswith(("decode", "plain decode"))
    return {
        "name": name,
        "milliseconds": value,
        "images_per_second": 1000 * size / value,
        "ratio": value / milliseconds[f"decode uniform {load.uniform_budget}" if is_decode else "encode"],
        "gflops": flops / size / 1e9,
        "ceiling_share": flops / value / 1e6 / ceiling,
    }


def sweep_row(cell: tuple[str, int, str], milliseconds: float, flops: int, ceilings: dict[str, float]) -> dict:
    """A line of the sweep."""
    dtype, size, name = cell
    return {
        "dtype": dtype,
        "batch_size": size,
        "name": name,
        "milliseconds": milliseconds,
        "images_per_second": 1000 * size / milliseconds,
        "ceiling_share": flops / milliseconds / 1e6 / ceilings[dtype],
    }


def compare_yardsticks(
    model: AdaTokModel, load: Workload, milliseconds: dict, encoder: PlainEncoder, decoder: PlainDecoder
) -> dict:
    """Times of the model over those of the plain networks, and of the search over those of the model."""
    search = milliseconds["search of budgets"]
    return {
        "encode_over_plain": milliseconds["encode without policy"] / milliseconds["plain encode"],
        "decode_over_plain": {
            str(budget): milliseconds[f"decode uniform {budget}"] / milliseconds[f"plain decode {budget}"]
            for budget in dict.fromkeys((load.uniform_budget, model.config.num_latent_tokens))
        },
        "search_over_encode": search / milliseconds["encode"],
        "search_over_round_trip": search / (milliseconds["encode"] + milliseconds["decode mixed"]),
        "parameters": {
            "encoder": _count_parameters(model.encoder),
            "plain encoder": _count_parameters(encoder),
            "decoder without heads": _count_parameters(model.decoder),
            "plain decoder": _count_parameters(decoder),
        },
    }


def _count_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for name, parameter in module.named_parameters() if "lora_" not in name)


def format_table(result: dict) -> str:
    """Lays out what [`run_benchmark`] gives as tables of plain text with the conditions below them."""
    width = max(len(row["name"]) for row in result["rows"])
    lines = [f"{'':{width}}  ms/batch   images/s    ratio  GFLOPs/image  of ceiling"]
    for row in result["rows"]:
        lines.append(
            f"{row['name']:{width}}  {row['milliseconds']:8.2f} {row['images_per_second']:10.1f} {row['ratio']:8.3f} "
            f"{row['gflops']:13.4f} {row['ceiling_share']:11.1%}"
        )
    lines += ["", f"{'sweep':{width}}  dtype      batch  ms/image   images/s  of ceiling"]
    for row in result["sweep"]:
        lines.append(
            f"{row['name']:{width}}  {row['dtype']:9} {row['batch_size']:6} "
            f"{row['milliseconds'] / row['batch_size']:9.3f} {row['images_per_second']:10.1f} "
            f"{row['ceiling_share']:11.1%}"
        )
    return "\n".join([*lines, "", *_conditions(result)])


def _conditions(result: dict) -> list[str]:
    yardsticks, memory, ceiling = result["yardsticks"], result["memory"], result["ceiling"]
    decode = ", ".join(f"{value:.2f} at {budget} codes" for budget, value in yardsticks["decode_over_plain"].items())
    origin = "the policy's choices" if result["mixed_budgets_from"] == "policy" else "candidates in equal shares"
    compiled = "torch.compile was left out (--compile measures it)."
    if result["compile"] is not None:
        compiled = "Compiled over plain: " + ", ".join(f"{n} {v:.2f}" for n, v in result["compile"].items()) + "."
    return [
        f"Medians of {result['repeats']} rounds on {result['device']}, {result['num_threads']} threads, torch "
        f"{result['torch']}, {result['dtype']}, batches of {result['batch_size']}.",
        f"The slowest round of a call took {result['disturbance']:.0%} longer than its fastest: an idle machine gives "
        "little.",
        "Ratio: encoding and searching against `encode`, decoding against one budget of "
        f"{result['mean_budget']} for all,",
        f"which is the mean of the mixed budgets ({origin}).",
        f"Ceiling: the fastest of these {ceiling['size']}-square matmuls, in GFLOP/s:",
        ", ".join(
            f"{name} {speed:.0f} by {library}"
            for name, speeds in ceiling["products"].items()
            for library, speed in speeds.items()
        )
        + ".",
        f"Policy: {result['policy_share']:.1%} of the encode time. "
        f"Recompilations over ten budget assignments: {result['recompilations']}.",
        f"Time over a plain ViT of equal size: encode {yardsticks['encode_over_plain']:.2f}, decode {decode}.",
        f"Searching for budgets instead of asking the policy: {yardsticks['search_over_encode']:.1f} times `encode`, "
        f"{yardsticks['search_over_round_trip']:.1f} times",
        "encoding and decoding.",
        f"Memory in MiB: weights {memory['weights']:.1f}; beyond them at the peak: encode {memory['encode']:.1f}, "
        f"decode {memory['decode mixed']:.1f}",
        f"(masked {memory['decode mixed, masked']:.1f}), by {memory['method']}.",
        compiled,
    ]
