"""How fast a TaTok's images are generated: kept patches with their places against all patches without."""

from collections.abc import Callable
from statistics import fmean, median

import torch
from transformers import LlamaForCausalLM, PreTrainedModel

from ..modeling import TaTokConfig, TaTokModel
from ..modeling.sampling_adatok import CodeSampler
from ..modeling.sampling_tatok import TaTokSampler
from ..modeling.vocabulary_adatok import ImageVocabulary
from ..modeling.vocabulary_tatok import TaTokVocabulary
from ..tables import align_columns
from .generation import BASE, NUM_CLASSES, ask_budgets, conditions, format_latency, measure_latency, spread_over
from .instruments import time_interleaved


KEPT, PLACES_KNOWN, ALL = "kept patches", "kept patches, places known", "all patches"
ARCHITECTURE = (*BASE, "num_key_value_heads")


def random_tatok_generator(config: TaTokConfig, architecture: dict[str, int] = BASE) -> LlamaForCausalLM:
    """As [`~adatok_hf.bench.generation.random_generator`], for a TaTok."""
    vocabulary = TaTokVocabulary.for_tokenizer(config, [str(index) for index in range(NUM_CLASSES)])
    return LlamaForCausalLM(vocabulary.model_config(**architecture)).eval()


def raster_generator(generator: PreTrainedModel) -> LlamaForCausalLM:
    """A random model of the same size that writes patch codes alone, each at the place that it has by its turn."""
    vocabulary = TaTokVocabulary.from_config(generator.config)
    lengths = range(1, vocabulary.num_global_tokens + vocabulary.num_patches + 1)
    raster = ImageVocabulary(vocabulary.patch_codebook_size, lengths, vocabulary.class_names)
    architecture = {name: getattr(generator.config, name) for name in ARCHITECTURE}
    model = LlamaForCausalLM(raster.model_config(**architecture))
    return model.eval().to(generator.device, generator.dtype)


@torch.no_grad()
def run_tatok_generation_benchmark(
    generator: PreTrainedModel,
    tokenizer: TaTokModel,
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
    Measures images a second of kept patches, each written as a place and a code, against all patch codes in raster
    order, as a tokenizer of a fixed rate has them: neither global codes, nor budgets, nor places. The same sampling
    loop, batch size, guidance and size of Llama, decoding to pixels included. In a third way the kept tokens are
    written without places, as if they were known: what is between the two is the cost of places.

    Args:
        generator ([`~transformers.LlamaForCausalLM`]): Writes TaTok images; in evaluation mode, on the device to
            measure. What it is compared with has random weights, since time does not depend on them.
        tokenizer ([`TaTokModel`]): Decodes them; on the same device.
        mean_budget (`float`, *optional*): Mean number of tokens, which are then spread over all numbers that there
            are. Drawn by the generator if not given.
        images, batch_size, guidance_scale, repeats, warmup, latency_images:
            As in [`~adatok_hf.bench.generation.run_generation_benchmark`].

    Returns:
        `dict`, which can be written as JSON:

        - `throughput_ratio`: images a second of kept patches over those of all patches.
        - `token_ratio`: patches of an image over its mean number of tokens, global ones included.
        - `position_cost`: ids that are written for an image over its tokens, `(G + 2 k) / (G + k)` with G global
          tokens and a mean of k kept patches; `length_ratio`: `token_ratio / position_cost`, what is left of it.
        - `throughput_ratio_places_known`: `throughput_ratio` if places cost nothing.
        - `writing_ratio`: `throughput_ratio` of the ids alone, without decoding to pixels.
        - `rows`: `name`, `seconds` of a round, `images_per_second`, `ids_per_image`, `pixels_share` of the time that
          goes into decoding to pixels, in 0..1.
        - `latency`: of one image, by kept and by all patches: `median` and `p95` in milliseconds.
        - `mean_tokens`, `mean_kept`, `num_patches`, `num_global_tokens`, `raster_parameters`, and what
          [`~adatok_hf.bench.generation.run_generation_benchmark`] says of the conditions.

    Raises:
        `ValueError`: if a number is below its least value, or the mean lies outside of what there is.

    Example:

    ```python
    >>> from adatok_hf import TaTokConfig, TaTokModel
    >>> from adatok_hf.bench.tatok_generation import random_tatok_generator, run_tatok_generation_benchmark

    >>> config = TaTokConfig(image_size=32, patch_size=8, hidden_size=32, num_attention_heads=2, num_hidden_layers=1,
    ...     intermediate_size=32, num_global_tokens=2, global_codebook_size=16, patch_codebook_size=16)
    >>> sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    >>> generator = random_tatok_generator(config, sizes)
    >>> result = run_tatok_generation_benchmark(
    ...     generator, TaTokModel(config).eval(), images=4, mean_budget=10, repeats=1, latency_images=0
    ... )
    >>> round(result["token_ratio"], 2), round(result["position_cost"], 2), round(result["length_ratio"], 2)
    (1.6, 1.8, 0.89)

    ```"""
    for name, value, least in (("images", images, 1), ("batch_size", batch_size, 1), ("repeats", repeats, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}.")
    sample = TaTokSampler(generator, guidance_scale=guidance_scale)
    raster = CodeSampler(raster_generator(generator), guidance_scale=guidance_scale)
    vocabulary = sample.vocabulary
    labels = [index % len(vocabulary.class_names) if vocabulary.class_names else None for index in range(images)]
    if mean_budget is not None:
        budgets = spread_over(vocabulary.budgets, images, mean_budget)
    else:
        budgets = sample(labels, None, torch.Generator().manual_seed(0), batch_size).num_tokens.tolist()
    calls = make_calls(sample, raster, tokenizer, labels, budgets, batch_size)
    timings = time_interleaved(calls, generator.device, repeats, warmup)
    seconds = {name: median(values) / 1000 for name, values in timings.items()}
    counts = count_ratios(vocabulary, budgets)
    mean_tokens = counts["mean_tokens"]
    ids = {KEPT: mean_tokens * counts["position_cost"], PLACES_KNOWN: mean_tokens, ALL: vocabulary.num_patches}
    rows = [
        {
            "name": name,
            "seconds": seconds[name],
            "images_per_second": images / seconds[name],
            "ids_per_image": count,
            "pixels_share": seconds["pixels"] / seconds[name],
        }
        for name, count in ids.items()
    ]
    one_calls = make_one_calls(sample, raster, tokenizer, labels, budgets)
    return {
        "throughput_ratio": seconds[ALL] / seconds[KEPT],
        **counts,
        "throughput_ratio_places_known": seconds[ALL] / seconds[PLACES_KNOWN],
        "writing_ratio": (seconds[ALL] - seconds["pixels"]) / (seconds[KEPT] - seconds["pixels"]),
        "rows": rows,
        "latency": measure_latency(one_calls, latency_images, generator.device),
        "mean_kept": mean_tokens - vocabulary.num_global_tokens,
        "num_patches": vocabulary.num_patches,
        "num_global_tokens": vocabulary.num_global_tokens,
        "images": images,
        "batch_size": batch_size,
        "guidance_scale": guidance_scale,
        "repeats": repeats,
        "raster_parameters": raster.model.num_parameters(),
        **conditions(generator, timings),
    }


def count_ratios(vocabulary: TaTokVocabulary, budgets: list[int]) -> dict[str, float]:
    """What follows from the numbers of tokens alone, see [`run_tatok_generation_benchmark`]."""
    mean_tokens, mean_ids = fmean(budgets), fmean(vocabulary.count_ids(budget) for budget in budgets)
    return {
        "mean_tokens": mean_tokens,
        "token_ratio": vocabulary.num_patches / mean_tokens,
        "position_cost": mean_ids / mean_tokens,
        "length_ratio": vocabulary.num_patches / mean_ids,
    }


def make_calls(
    sample: TaTokSampler,
    raster: CodeSampler,
    tokenizer: TaTokModel,
    labels: list,
    budgets: list[int],
    batch_size: int,
) -> dict[str, Callable]:
    """What is timed: whole requests by each way; and pixels alone, which take as long for few patches as for all."""
    vocabulary, device = sample.vocabulary, tokenizer.device
    random = torch.Generator().manual_seed(0)
    shapes = {"global": (len(labels), vocabulary.num_global_tokens), "patch": (len(labels), vocabulary.num_patches)}
    global_codes = torch.randint(vocabulary.global_codebook_size, shapes["global"], generator=random)
    patch_codes = torch.randint(vocabulary.patch_codebook_size, shapes["patch"], generator=random)

    def pixels():
        for start in range(0, len(labels), batch_size):
            rows = slice(start, start + batch_size)
            tokenizer.decode(global_codes[rows].to(device), patch_codes[rows].to(device))

    def write(sampler: CodeSampler, counts: list[int]):
        sampler(labels, counts, torch.Generator().manual_seed(0), batch_size)
        pixels()

    def write_kept(sampler: CodeSampler):
        ask_budgets(sampler, labels, batch_size)
        write(sampler, budgets)

    return {
        KEPT: lambda: write_kept(sample),
        PLACES_KNOWN: lambda: write_kept(raster),
        ALL: lambda: write(raster, [vocabulary.num_patches] * len(labels)),
        "pixels": pixels,
    }


def make_one_calls(
    sample: TaTokSampler, raster: CodeSampler, tokenizer: TaTokModel, labels: list, budgets: list[int]
) -> dict[str, Callable[[int], object]]:
    """Makes image `index` alone, of the patches that it keeps or of all."""
    num_globals = tokenizer.config.num_global_tokens

    def kept(index: int):
        tokens = sample([labels[index % len(labels)]], budgets[index % len(budgets)])
        tokenizer.decode(tokens.global_codes, tokens.patch_codes)

    def every(index: int):
        codes = raster([labels[index % len(labels)]], tokenizer.config.num_patches).image_codes
        patch_codes = codes[:, : tokenizer.config.num_patches]
        tokenizer.decode(torch.zeros(1, num_globals, dtype=torch.long), patch_codes)

    return {KEPT: kept, ALL: every}


def format_tatok_generation_table(result: dict) -> str:
    """The rows of a result as plain text, and what they mean."""
    lines = [("way", "s", "images/s", "ids", "pixels")]
    for row in result["rows"]:
        numbers = (f"{row['seconds']:.2f}", f"{row['images_per_second']:.2f}", f"{row['ids_per_image']:.1f}")
        lines.append((row["name"], *numbers, f"{row['pixels_share']:.0%}"))
    return (
        f"{align_columns(lines)}\n{result['mean_tokens']:.1f} tokens on average in place of {result['num_patches']}, "
        f"{result['token_ratio']:.2f} times fewer; places make sequences {result['position_cost']:.2f} times as long, "
        f"which leaves {result['length_ratio']:.2f}. Measured: {result['throughput_ratio']:.2f} times the images a "
        f"second, {result['throughput_ratio_places_known']:.2f} if places were known."
        f"{format_latency(result['latency'])}"
    )


__all__ = [
    "count_ratios",
    "format_tatok_generation_table",
    "random_tatok_generator",
    "raster_generator",
    "run_tatok_generation_benchmark",
]
