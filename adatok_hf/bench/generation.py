"""How fast images are generated: with budgets of their own against the full budget for all."""

import random
import time
from collections.abc import Callable, Sequence
from statistics import fmean, median

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaForCausalLM, PreTrainedModel

from ..allocation.choice import widest_shares
from ..modeling import AdaTokModel
from ..modeling.sampling_adatok import CodeSampler
from ..modeling.vocabulary_adatok import ImageVocabulary
from ..tables import align_columns
from .instruments import synchronize, time_interleaved


# The sizes of LlamaGen-B, 111 M parameters with 16,384 codes and 1000 classes.
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 2048}
NUM_CLASSES = 1000
CACHE_PAGE = 32  # tokens of a row that continuous batching stores together


def random_generator(config, architecture: dict[str, int] = BASE) -> LlamaForCausalLM:
    """
    A generator with random weights for a tokenizer, since time does not depend on weights.

    Args:
        config ([`AdaTokConfig`]): Gives the codes and budgets.
        architecture (`dict[str, int]`, *optional*): Sizes as for [`~transformers.LlamaConfig`]; LlamaGen-B's if not
            given.
    """
    vocabulary = ImageVocabulary(config.codebook_size, config.budgets, [str(index) for index in range(NUM_CLASSES)])
    return LlamaForCausalLM(vocabulary.model_config(**architecture)).eval()


def spread_over(candidates: Sequence[int], count: int, mean: float | None = None) -> list[int]:
    """
    Budgets for so many images, in random order: in equal shares, or with a wanted mean. Of all distributions over the
    candidates with that mean it takes the widest one, that of largest entropy.

    Args:
        candidates (`Sequence[int]`): Ascending.
        count (`int`): Of images.
        mean (`float`, *optional*): Between the smallest and the largest candidate.

    Raises:
        `ValueError`: for a mean outside of the candidates.
    """
    shares = widest_shares(candidates, sum(candidates) / len(candidates) if mean is None else mean).cumsum(0)
    places = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    budgets = [candidates[min(int(index), len(candidates) - 1)] for index in torch.searchsorted(shares, places)]
    random.Random(0).shuffle(budgets)
    return budgets


@torch.no_grad()
def run_generation_benchmark(
    generator: PreTrainedModel,
    tokenizer: AdaTokModel,
    *,
    images: int = 256,
    batch_size: int = 64,
    mean_budget: float | None = None,
    guidance_scale: float = 1.0,
    repeats: int = 3,
    warmup: int = 1,
    latency_images: int = 16,
) -> dict:
    r"""
    Measures images a second of adaptive budgets against the full budget: the same model, dtype, batch size and
    guidance, the same sampling loop, decoding to pixels included. All timed calls take turns in one loop.

    Args:
        generator ([`~transformers.LlamaForCausalLM`]): Writes the codes; in evaluation mode, on the device to measure.
        tokenizer ([`AdaTokModel`]): Decodes them; on the same device.
        images (`int`, *optional*, defaults to 256): Requests of a round; best a few batches.
        batch_size (`int`, *optional*, defaults to 64): Images written and decoded together, at least 1.
        mean_budget (`float`, *optional*): Of the adaptive requests, whose budgets are then spread over the candidates.
            Drawn by the generator if not given.
        guidance_scale (`float`, *optional*, defaults to 1.0): Unless it is 1, every row is computed twice.
        repeats (`int`, *optional*, defaults to 3): Timed rounds of which the median is taken.
        warmup (`int`, *optional*, defaults to 1): Untimed rounds before them.
        latency_images (`int`, *optional*, defaults to 16): Images made one by one for the latency; 0 for none.

    Returns:
        `dict`, which can be written as JSON:

        - `throughput_ratio`: images a second of `adaptive` over those of `full`; `token_ratio`: codes of `full` over
          those of `adaptive`; `efficiency`: the one over the other, which attention may lift above 1.
        - `static_batch_ratio`: images a second over those of `full` where the same budgets are decoded in batches as
          they come, each of which waits for its longest row.
        - `generate_ratio`: the same for the `generate` of transformers, `continuous_batching_ratio` for its continuous
          batching, whose rows make room as they finish; `None` with guidance.
        - `writing_ratio`: `throughput_ratio` of the codes alone, without decoding to pixels.
        - `rows`: `name`, `seconds` of a round, `images_per_second`, `codes_per_second`, `pixels_share` of the time
          that goes into decoding to pixels, in 0..1.
        - `budget_share`: of the adaptive time that goes into drawing budgets.
        - `latency`: of one image, by `adaptive` and `full`: `median` and `p95` in milliseconds.
        - `mean_budget`, `full_budget`, `images`, `batch_size`, `guidance_scale`, `parameters`, `dtype`, `device`,
          `num_threads`, `torch`, `disturbance`, the median share by which the slowest round exceeds the fastest.

    Raises:
        `ValueError`: if a number is below its least value, or the mean lies outside of the candidates.

    Example:

    ```python
    >>> from adatok_hf import AdaTokConfig, AdaTokModel
    >>> from adatok_hf.bench.generation import random_generator, run_generation_benchmark

    >>> config = AdaTokConfig(image_size=32, patch_size=8, hidden_size=32, num_attention_heads=2, num_hidden_layers=1,
    ...     intermediate_size=32, num_latent_tokens=4, budgets=[2, 4], codebook_size=64)
    >>> sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    >>> generator = random_generator(config, sizes)
    >>> result = run_generation_benchmark(
    ...     generator, AdaTokModel(config).eval(), images=4, mean_budget=3, repeats=1, latency_images=0
    ... )
    >>> result["mean_budget"], round(result["token_ratio"], 3)
    (3.0, 1.333)

    ```"""
    for name, value, least in (("images", images, 1), ("batch_size", batch_size, 1), ("repeats", repeats, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}.")
    sample = CodeSampler(generator, guidance_scale=guidance_scale)
    full = sample.vocabulary.budgets[-1]
    labels = [index % (len(sample.vocabulary.class_names) or 1) for index in range(images)]
    labels = labels if sample.vocabulary.class_names else [None] * images
    if mean_budget is not None:
        budgets = spread_over(sample.vocabulary.budgets, images, mean_budget)
    else:
        budgets = sample(labels, None, torch.Generator().manual_seed(0), batch_size).budgets.tolist()
    calls = make_calls(sample, tokenizer, labels, budgets, batch_size)
    timings = time_interleaved(calls, generator.device, repeats, warmup)
    seconds = {name: median(values) / 1000 for name, values in timings.items()}
    codes = {"adaptive": sum(budgets), "full": images * full, "static batches": sum(budgets)}
    codes |= dict.fromkeys(("generate, static batches", "continuous batching"), sum(budgets))
    rows = [make_row(name, seconds, images, count) for name, count in codes.items() if name in seconds]
    speed = {row["name"]: row["images_per_second"] for row in rows}
    adaptive, full_speed, token_ratio = speed["adaptive"], speed["full"], full * images / sum(budgets)
    writing = (seconds["full"] - seconds["full, pixels"]) / (seconds["adaptive"] - seconds["adaptive, pixels"])
    one_calls = make_one_calls(sample, tokenizer, labels, budgets)
    stock, continuous = speed.get("generate, static batches"), speed.get("continuous batching")
    return {
        "throughput_ratio": adaptive / full_speed,
        "token_ratio": token_ratio,
        "efficiency": adaptive / full_speed / token_ratio,
        "static_batch_ratio": speed["static batches"] / full_speed,
        "generate_ratio": stock / full_speed if stock else None,
        "continuous_batching_ratio": continuous / full_speed if continuous else None,
        "writing_ratio": writing,
        "rows": rows,
        "budget_share": seconds["budgets"] / seconds["adaptive"],
        "latency": measure_latency(one_calls, latency_images, generator.device),
        "mean_budget": fmean(budgets),
        "full_budget": full,
        "images": images,
        "batch_size": batch_size,
        "guidance_scale": guidance_scale,
        "repeats": repeats,
        **conditions(generator, timings),
    }


def conditions(generator: PreTrainedModel, timings: dict[str, list[float]]) -> dict:
    """What was measured on, and how much the rounds of a call differ."""
    device = generator.device
    return {
        "parameters": generator.num_parameters(),
        "dtype": str(generator.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "num_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "disturbance": median(max(values) / min(values) - 1 for values in timings.values()),
    }


def make_calls(
    sample: CodeSampler, tokenizer: AdaTokModel, labels: list, budgets: list[int], batch_size: int
) -> dict[str, Callable]:
    """What is timed: whole requests by each way, and the parts that are shown apart."""
    full = sample.vocabulary.budgets[-1]
    batches = [slice(start, start + batch_size) for start in range(0, len(labels), batch_size)]
    device = tokenizer.device
    random_codes = torch.randint(
        sample.vocabulary.codebook_size, (len(labels), full), generator=torch.Generator().manual_seed(0)
    )

    def pixels(codes: torch.Tensor, kept: list[int]):
        for rows in batches:
            tokenizer.decode(codes[rows].to(device), budgets=torch.tensor(kept[rows], device=device))

    def draw(kept: list[int]):
        # A full budget spares nobody the question, so that only the codes differ.
        ask_budgets(sample, labels, batch_size)
        codes = sample(labels, kept, torch.Generator().manual_seed(0), batch_size)
        pixels(codes.image_codes, kept)

    def static():
        for rows in batches:
            sample(labels[rows], max(budgets[rows]), torch.Generator().manual_seed(0), batch_size)
        pixels(random_codes, budgets)

    calls = {
        "adaptive": lambda: draw(budgets),
        "full": lambda: draw([full] * len(labels)),
        "static batches": static,
        "budgets": lambda: ask_budgets(sample, labels, batch_size),
        "adaptive, pixels": lambda: pixels(random_codes, budgets),
        "full, pixels": lambda: pixels(random_codes, [full] * len(labels)),
    }
    if sample.guidance_scale == 1:
        for name, write in transformers_calls(sample, labels, budgets, batch_size).items():
            calls[name] = lambda write=write: (write(), pixels(random_codes, budgets))
    return calls


def ask_budgets(sample: CodeSampler, labels: list, batch_size: int):
    """The passes that drawing budgets takes."""
    for start in range(0, len(labels), batch_size):
        prompts = [[sample.vocabulary.class_id(label)] for label in labels[start : start + batch_size]]
        sample.model(torch.tensor(prompts, device=sample.model.device), use_cache=False, logits_to_keep=1)


def transformers_calls(sample: CodeSampler, labels: list, budgets: list[int], batch_size: int) -> dict[str, Callable]:
    """What transformers has for writing the same codes."""
    vocabulary, model = sample.vocabulary, sample.model
    full = vocabulary.budgets[-1]
    prompts = [[vocabulary.class_id(label), vocabulary.budget_id(kept)] for label, kept in zip(labels, budgets)]
    # Unlike a configuration of ours, a random model's may be the default: say all that matters.
    settings = {
        "do_sample": True,
        "top_k": 0,
        "suppress_tokens": vocabulary.not_in(vocabulary.code_ids),
        "pad_token_id": vocabulary.pad_token_id,
    }

    def stock():
        for start in range(0, len(prompts), batch_size):
            inputs = torch.tensor(prompts[start : start + batch_size], device=model.device)
            model.generate(inputs, max_new_tokens=max(budgets[start : start + batch_size]), **settings)

    def continuous():
        pages = -(-(full + 2) // CACHE_PAGE) * batch_size
        with model.continuous_batching_context_manager(
            GenerationConfig(**settings, max_new_tokens=full, eos_token_id=-1),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=CACHE_PAGE, num_blocks=pages, max_batch_tokens=pages, max_requests_per_batch=batch_size
            ),
            warmup=False,
        ) as manager:
            waiting = {manager.add_request(prompt, max_new_tokens=kept) for prompt, kept in zip(prompts, budgets)}
            while waiting:
                output = manager.get_result(timeout=60)
                if output is None or output.error:
                    raise RuntimeError(f"Continuous batching stopped: {getattr(output, 'error', 'no answer')}.")
                if output.is_finished():
                    waiting.remove(output.request_id)

    return {"generate, static batches": stock, "continuous batching": continuous}


def make_row(name: str, seconds: dict[str, float], images: int, codes: int) -> dict:
    pixels = seconds["full, pixels" if name == "full" else "adaptive, pixels"]
    return {
        "name": name,
        "seconds": seconds[name],
        "images_per_second": images / seconds[name],
        "codes_per_second": codes / seconds[name],
        "pixels_share": pixels / seconds[name],
    }


def make_one_calls(
    sample: CodeSampler, tokenizer: AdaTokModel, labels: list, budgets: list[int]
) -> dict[str, Callable[[int], object]]:
    """Makes image `index` alone, with its own budget or the full one."""

    def one(index: int, budget: int):
        codes = sample([labels[index % len(labels)]], budget)
        tokenizer.decode(codes.image_codes.to(tokenizer.device), budgets=budget)

    return {
        "adaptive": lambda index: one(index, budgets[index % len(budgets)]),
        "full": lambda index: one(index, sample.vocabulary.budgets[-1]),
    }


def measure_latency(
    calls: dict[str, Callable[[int], object]], count: int, device: torch.device
) -> dict[str, dict[str, float]] | None:
    """Milliseconds of one image after the other, pixels included."""
    if count == 0:
        return None
    result = {}
    for name, call in calls.items():
        times = []
        for index in range(count):
            synchronize(device)
            start = time.perf_counter()
            call(index)
            synchronize(device)
            times.append(1000 * (time.perf_counter() - start))
        result[name] = {"median": median(times), "p95": sorted(times)[min(count - 1, round(0.95 * (count - 1)))]}
    return result


def format_table(result: dict) -> str:
    """The rows of a result as plain text, and what they mean."""
    lines = [("way", "s", "images/s", "codes/s", "pixels")]
    for row in result["rows"]:
        lines.append(
            (
                row["name"],
                f"{row['seconds']:.2f}",
                f"{row['images_per_second']:.2f}",
                f"{row['codes_per_second']:.0f}",
                f"{row['pixels_share']:.0%}",
            )
        )
    text = align_columns(lines)
    text += (
        f"\n{result['mean_budget']:.1f} of {result['full_budget']} codes on average: {result['throughput_ratio']:.2f} "
        f"times the images a second at {result['token_ratio']:.2f} times fewer codes; static batches "
        f"{result['static_batch_ratio']:.2f} times."
    )
    return text + format_latency(result["latency"])


def format_latency(latency: dict[str, dict[str, float]] | None) -> str:
    """A line about single images, none if they were not timed."""
    ways = [
        f"{name} {one['median']:.0f} ms (95th percentile {one['p95']:.0f})" for name, one in (latency or {}).items()
    ]
    return f"\nOne image: {', '.join(ways)}" if ways else ""


__all__ = ["BASE", "format_table", "random_generator", "run_generation_benchmark", "spread_over"]
