"""Which patches a TaTok should keep, what its global tokens are worth, and how it does beside AdaTok at equal bits."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from ..allocation.choice import calibrate_threshold
from ..codec.sequential_tatok import SequentialTaTok
from ..metrics.budgets import measure_budgets, measure_pixels
from ..modeling import AdaTokImageProcessor, AdaTokModel, TaTokConfig, TaTokModel
from ..tables import align_columns
from .statistics import interval, resampled_means


REFERENCE = "DTF, prior"
BATCH_SIZE = 32


@dataclass
class TaTokCodes:
    """
    All codes of some images, and by what their patches may be chosen.

    Args:
        global_codes, patch_codes (`torch.LongTensor` of shape `(images, tokens)`): All of them.
        prior, surprisal, residual, variance (`torch.Tensor` of shape `(images, num_patches)`): Conditional entropy and
            surprisal in bits, error of the reconstruction from the global codes alone, and variance of the pixels of a
            patch.
        block_order (`torch.LongTensor` of shape `(images, num_patches)`): Places as filtering in blocks takes them.
    """

    global_codes: torch.LongTensor
    patch_codes: torch.LongTensor
    prior: torch.Tensor
    surprisal: torch.Tensor
    residual: torch.Tensor
    variance: torch.Tensor
    block_order: torch.LongTensor


def encode_for_study(model: TaTokModel, pixel_values: torch.Tensor, block_size: int) -> TaTokCodes:
    """Encodes a batch of images in [-1, 1] once for each way to look at their patches."""
    every = model.config.num_latent_tokens
    full = model.encode(pixel_values, num_tokens=every, entropy="prior")
    surprisal = model.encode(pixel_values, num_tokens=every, entropy="surprisal")
    residual = model.encode(pixel_values, num_tokens=every, entropy="residual")
    blocks = model.encode(pixel_values, num_tokens=every, entropy="prior", block_size=block_size)
    patches = nn.functional.unfold(pixel_values, model.config.patch_size, stride=model.config.patch_size)
    channels = patches.unflatten(1, (model.config.num_channels, -1))  # (batch, channels, pixels, patches)
    columns = (
        full.global_codes,
        full.patch_codes,
        full.patch_entropy,
        surprisal.patch_entropy,
        residual.patch_entropy,
        channels.var(dim=2).mean(dim=1),
        blocks.patch_order,
    )
    return TaTokCodes(*(column.cpu() for column in columns))


def keep_first(order: torch.LongTensor, counts: int | torch.LongTensor) -> torch.BoolTensor:
    """
    The places that are kept, `(images, num_patches)`, of those in an order.

    Example:

    ```python
    >>> import torch
    >>> from adatok_hf.study.tatok_study import keep_first

    >>> keep_first(torch.tensor([[2, 0, 1], [1, 2, 0]]), torch.tensor([1, 2])).int().tolist()
    [[0, 0, 1], [0, 1, 1]]

    ```"""
    counts = torch.as_tensor(counts).expand(len(order))
    return order.argsort(dim=1) < counts[:, None]


def filtering_arms(model: TaTokModel, codes: TaTokCodes, tokens: int, seed: int = 0) -> dict[str, torch.BoolTensor]:
    """
    Which patches each way to choose keeps: so many of every image, or as many of the mean image where a threshold
    chooses their number too.

    Args:
        model ([`TaTokModel`]): The model.
        codes ([`TaTokCodes`]): Of all images.
        tokens (`int`): Global tokens and kept patches.
        seed (`int`, *optional*, defaults to 0): Of the random places.

    Returns:
        `dict[str, torch.BoolTensor]` of shape `(images, num_patches)`, by the name of the arm.
    """
    count = tokens - model.config.num_global_tokens
    noise = torch.rand(codes.prior.shape, generator=torch.Generator().manual_seed(seed))
    scores = {REFERENCE: codes.prior, "DTF, surprisal": codes.surprisal, "DTF, residual": codes.residual}
    scores["pixel variance"] = codes.variance
    arms = {name: keep_first(_falling(values), count) for name, values in {**scores, "random": noise}.items()}
    arms["DTF, prior in blocks"] = keep_first(codes.block_order, count)
    for name, values in (("prior", codes.prior), ("surprisal", codes.surprisal), ("residual", codes.residual)):
        order = _falling(values)
        for rule in ("relative", "absolute"):
            threshold = calibrate_threshold(model, values.gather(1, order), tokens, rule)
            counts = model.count_kept(values.gather(1, order), threshold, threshold_rule=rule)
            arms[f"DTF, {name}, {rule} threshold"] = keep_first(order, counts)
    return arms


@torch.inference_mode()
def run_tatok_study(
    tatok: SequentialTaTok,
    processor: AdaTokImageProcessor,
    adatok: AdaTokModel,
    adatok_processor: AdaTokImageProcessor,
    images: Dataset,
    lpips: nn.Module,
    *,
    tokens: int = 14,
    block_size: int = 4,
) -> dict:
    """
    Measures every way to choose patches at the same number of tokens, and both models at equal bits, where the TaTok
    filters as its configuration says.

    Args:
        tatok ([`~adatok_hf.codec.sequential_tatok.SequentialTaTok`]): The TaTok.
        processor ([`AdaTokImageProcessor`]): Its image processor.
        adatok ([`AdaTokModel`]): The model to compare with, of the same image size.
        adatok_processor ([`AdaTokImageProcessor`]): Its image processor.
        images (`Dataset`): Held-out images, items with a PIL picture under `"image"` and its kind under `"group"`.
        lpips (`nn.Module`): The perceptual network.
        tokens (`int`, *optional*, defaults to 14): The number of tokens, the global ones among them.
        block_size (`int`, *optional*, defaults to 4): Patches that filtering in blocks takes at once.

    Returns:
        `dict`: `n` images, `tokens`, `block_size`, `rows` and `groups`. A row has `arm`, `mean_tokens`, mean `bits`
        with all side information, mean `lpips` and `psnr` (dB), `against`, the arm that it is compared with on the
        same images, and the 95 % bootstrap intervals of the differences, `ci` of LPIPS and `psnr_ci`; `None` where it
        is that arm itself. `groups` has the differences of both models at equal bits by kind of image.

    Raises:
        `ValueError`: if there are fewer than 2 images, the sizes of the models differ, or the number of tokens is out
            of range.
    """
    model, config = tatok.model, tatok.config
    if adatok.config.image_size != config.image_size:
        raise ValueError(
            f"The models must have one image size; got {config.image_size} and {adatok.config.image_size} pixels."
        )
    if not config.num_global_tokens < tokens <= config.num_latent_tokens:
        raise ValueError(
            f"tokens must be above {config.num_global_tokens}, the global tokens, and at most "
            f"{config.num_latent_tokens}; got {tokens}."
        )
    if len(images) < 2:
        raise ValueError(f"The study needs at least 2 images; got {len(images)}.")
    lpips = lpips.to(model.device)
    parts, pairs, kinds = [], [], []
    for pictures in _batches(images, "Encoding"):
        kinds += [item.get("group", "") for item in pictures]
        parts.append(encode_for_study(model, _pixels(pictures, processor, model), block_size))
        inputs = _pixels(pictures, adatok_processor, adatok)
        image_codes = adatok.encode(inputs, budgets=adatok.config.num_latent_tokens).image_codes
        pairs.append(measure_budgets(adatok, image_codes, inputs, lpips, adatok.config.budgets))
    codes = TaTokCodes(*(torch.cat([getattr(part, name) for part in parts]) for name in TaTokCodes.__annotations__))
    arms = {name: (mask, True) for name, mask in filtering_arms(model, codes, tokens).items()}
    order = _falling(codes.prior)
    arms["globals hidden, as many patches in their place"] = (keep_first(order, tokens), False)
    arms["globals hidden, same patches"] = (keep_first(order, tokens - config.num_global_tokens), False)
    matches = {budget: _tokens_for(config, adatok.config.count_bits(budget)) for budget in adatok.config.budgets}
    matches = {budget: found for budget, found in matches.items() if found is not None}
    own = _falling(getattr(codes, config.entropy))
    for found in sorted({*matches.values(), config.num_global_tokens, config.num_latent_tokens}):
        arms[_name(found)] = (keep_first(own, found - config.num_global_tokens), True)
    values = _measure_arms(model, processor, images, codes, arms, lpips)
    for column, budget in enumerate(adatok.config.budgets):
        measured = {name: torch.cat([part[name][:, column] for part in pairs]).numpy() for name in ("lpips", "psnr")}
        bits = np.full(len(images), adatok.config.count_bits(budget))
        values[f"AdaTok, {budget} codes"] = {"tokens": np.full(len(images), budget), "bits": bits, **measured}
    against = {name: None if name == REFERENCE or name.startswith("TaTok, ") else REFERENCE for name in arms}
    against |= {f"AdaTok, {budget} codes": None for budget in adatok.config.budgets}
    against |= {_name(found): f"AdaTok, {budget} codes" for budget, found in matches.items()}
    return {
        "n": len(images),
        "tokens": tokens,
        "block_size": block_size,
        "rows": _rows(values, against),
        "groups": _groups(values, matches, kinds),
    }


def format_tatok_table(result: dict) -> str:
    """Lays out the rows of [`run_tatok_study`] as plain text."""
    lines = [("arm", "tokens", "bits", "LPIPS", "PSNR (dB)", "LPIPS minus that of", "")]
    for row in result["rows"]:
        difference = "-" if row["ci"] is None else "[{:+.4f}, {:+.4f}]".format(*row["ci"])
        numbers = (f"{row['mean_tokens']:.1f}", f"{row['bits']:.0f}", f"{row['lpips']:.4f}", f"{row['psnr']:.2f}")
        lines.append((row["arm"], *numbers, difference, row["against"] or ""))
    return f"{align_columns(lines)}\n\nMeans over {result['n']} images, 95 % bootstrap intervals over the same images."


def _measure_arms(
    model: TaTokModel,
    processor: AdaTokImageProcessor,
    images: Dataset,
    codes: TaTokCodes,
    arms: dict[str, tuple[torch.BoolTensor, bool]],
    lpips: nn.Module,
) -> dict[str, dict[str, np.ndarray]]:
    """Tokens, bits, LPIPS and PSNR of each image, by arm: its kept mask, and whether global codes are seen."""
    config = model.config
    global_bits = config.count_bits(config.num_global_tokens) - config.count_place_bits(0)
    measured: dict[str, list[dict]] = {name: [] for name in arms}
    for start, pictures in zip(range(0, len(images), BATCH_SIZE), _batches(images, "Decoding")):
        rows, pixel_values = slice(start, start + BATCH_SIZE), _pixels(pictures, processor, model)
        for name, (kept_mask, sees_globals) in arms.items():
            decoded = model.decode(
                codes.global_codes[rows],
                codes.patch_codes[rows],
                kept_mask[rows],
                None if sees_globals else torch.zeros(len(pictures), dtype=torch.bool, device=model.device),
            )
            measured[name].append(measure_pixels(decoded.pixel_values, pixel_values, lpips))
    values = {}
    for name, (kept_mask, sees_globals) in arms.items():
        kept = kept_mask.sum(dim=1).tolist()
        hidden = 0 if sees_globals else config.num_global_tokens
        values[name] = {
            "tokens": np.array([config.num_global_tokens - hidden + count for count in kept]),
            "bits": np.array(
                [config.count_bits(config.num_global_tokens + n) - global_bits * (hidden > 0) for n in kept]
            ),
            **{key: torch.cat([part[key] for part in measured[name]]).numpy() for key in ("lpips", "psnr")},
        }
    return values


def _rows(values: dict[str, dict[str, np.ndarray]], against: dict[str, str | None]) -> list[dict]:
    keys = ("lpips", "psnr")
    resampled = resampled_means(
        {
            (name, key): values[name][key] - values[other][key]
            for name, other in against.items()
            for key in keys
            if other is not None
        }
    )
    return [
        {
            "arm": name,
            "mean_tokens": float(columns["tokens"].mean()),
            "bits": float(columns["bits"].mean()),
            **{key: float(columns[key].mean()) for key in keys},
            "against": against[name],
            "ci": None if against[name] is None else interval(resampled[name, "lpips"]),
            "psnr_ci": None if against[name] is None else interval(resampled[name, "psnr"]),
        }
        for name, columns in values.items()
    ]


def _groups(values: dict, matches: dict[int, int], kinds: list[str]) -> list[dict]:
    rows = []
    for budget, found in matches.items():
        for kind in sorted(set(kinds)):
            inside = np.array([each == kind for each in kinds])
            differences = {
                key: float((values[_name(found)][key] - values[f"AdaTok, {budget} codes"][key])[inside].mean())
                for key in ("lpips", "psnr")
            }
            rows.append({"kind": kind, "n": int(inside.sum()), "adatok_codes": budget, "tokens": found, **differences})
    return rows


def _tokens_for(config: TaTokConfig, bits: float) -> int | None:
    """The most tokens that take no more than so many bits, `None` if the global ones alone take more."""
    fitting = range(config.num_global_tokens, config.num_latent_tokens + 1)
    return max((tokens for tokens in fitting if config.count_bits(tokens) <= bits), default=None)


def _name(tokens: int) -> str:
    return f"TaTok, {tokens} tokens"


def _falling(values: torch.Tensor) -> torch.LongTensor:
    return values.argsort(dim=1, descending=True, stable=True)


def _batches(images: Dataset, description: str):
    starts = range(0, len(images), BATCH_SIZE)
    for start in tqdm(starts, desc=description, unit="batch", disable=None):
        yield [images[row] for row in range(start, min(start + BATCH_SIZE, len(images)))]


def _pixels(pictures: list[dict], processor: Callable, model) -> torch.Tensor:
    return processor([item["image"] for item in pictures], return_tensors="pt")["pixel_values"].to(model.device)


__all__ = ["encode_for_study", "filtering_arms", "format_tatok_table", "keep_first", "run_tatok_study"]
