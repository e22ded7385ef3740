"""What filtering patches costs a TaTok, beside encoding and decoding."""

from statistics import median

import torch

from ..modeling import TaTokModel
from ..tables import align_columns
from .instruments import count_flops, time_interleaved


@torch.inference_mode()
def run_tatok_benchmark(
    model: TaTokModel, batch_size: int = 32, repeats: int = 5, warmup: int = 1, block_size: int = 4
) -> dict:
    """
    Times the verbs of a TaTok and the ways to find conditional entropies. All calls take turns in one loop; pixels are
    random, since time does not depend on them. Decoding takes as long for few tokens as for many, since dropped
    patches leave a mask token.

    Args:
        model ([`TaTokModel`]): In evaluation mode, on the device to measure.
        batch_size (`int`, *optional*, defaults to 32): Images in a batch.
        repeats (`int`, *optional*, defaults to 5): Timed rounds of which the median is taken.
        warmup (`int`, *optional*, defaults to 1): Untimed rounds before them.
        block_size (`int`, *optional*, defaults to 4): Patches that filtering in blocks takes at once.

    Returns:
        `dict`, which can be written as JSON: `rows` with `name`, `milliseconds` of a batch, `images_per_second`,
        `ratio` against `encode` and `gflops` of an image; `disturbance`, the median share by which the slowest round
        of a call was slower than its fastest; `device`, `torch`, `num_threads`, `dtype`, `batch_size`, `repeats`.

    Raises:
        `ValueError`: if a number is below 1, or `warmup` below 0.

    Example:

    ```python
    >>> from adatok_hf import TaTokConfig, TaTokModel
    >>> from adatok_hf.bench.tatok import run_tatok_benchmark

    >>> config = TaTokConfig(image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    >>> result = run_tatok_benchmark(TaTokModel(config).eval(), batch_size=2, repeats=1, warmup=0)
    >>> [row["name"] for row in result["rows"]][:2]
    ['encode', 'encode without filter']

    ```"""
    numbers = {"batch_size": batch_size, "repeats": repeats, "block_size": block_size}
    for name, value, least in (*((name, value, 1) for name, value in numbers.items()), ("warmup", warmup, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}.")
    config, device = model.config, model.device
    shape = (batch_size, config.num_channels, config.image_size, config.image_size)
    pixel_values = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1).to(device, model.dtype)
    every = config.num_latent_tokens
    encoded = model.encode(pixel_values, num_tokens=every)
    global_vectors = model.global_quantizer.lookup(encoded.global_codes)
    patch_vectors = model.patch_quantizer.lookup(encoded.patch_codes)
    nothing = torch.zeros_like(encoded.kept_mask)

    def encode_all():
        latents = model.encoder(pixel_values)
        return [quantizer(part) for quantizer, part in zip((model.global_quantizer, model.patch_quantizer), latents)]

    calls = {
        "encode": lambda: model.encode(pixel_values, num_tokens=every),
        "encode without filter": encode_all,
        "prior alone": lambda: model.patch_entropy(global_vectors, patch_vectors, nothing),
        "encode, residual": lambda: model.encode(pixel_values, num_tokens=every, entropy="residual"),
        f"encode, blocks of {block_size}": lambda: model.encode(pixel_values, num_tokens=every, block_size=block_size),
        "decode": lambda: model.decode(encoded),
    }
    flops = {name: count_flops(call) for name, call in calls.items()}
    timings = time_interleaved(calls, device, repeats, warmup)
    milliseconds = {name: median(values) for name, values in timings.items()}
    rows = [
        {
            "name": name,
            "milliseconds": time,
            "images_per_second": 1000 * batch_size / time,
            "ratio": time / milliseconds["encode"],
            "gflops": flops[name] / batch_size / 1e9,
        }
        for name, time in milliseconds.items()
    ]
    return {
        "rows": rows,
        "disturbance": median(max(values) / min(values) - 1 for values in timings.values()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "num_threads": torch.get_num_threads(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "batch_size": batch_size,
        "repeats": repeats,
    }


def format_tatok_table(result: dict) -> str:
    """Lays out the rows of [`run_tatok_benchmark`] as plain text."""
    lines = [("", "ms", "images/s", "of encode", "GFLOPs/image")]
    for row in result["rows"]:
        numbers = (f"{row['milliseconds']:.1f}", f"{row['images_per_second']:.0f}", f"{row['ratio']:.2f}")
        lines.append((row["name"], *numbers, f"{row['gflops']:.3f}"))
    return align_columns(lines)


__all__ = ["format_tatok_table", "run_tatok_benchmark"]
