"""`adatok calibrate`: a model with a wanted mean budget."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from .common import load_model, prepare_folder, say
from .options import DataOption, DeviceOption, MaxImagesOption, ModelOption


def calibrate(
    mean_budget: Annotated[float, typer.Option(help="The wanted mean budget, in codes per image.")],
    data: DataOption,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the calibrated copy of the model goes.")],
    split: Annotated[str, typer.Option(help="Split of the data.")] = "train",
    max_images: MaxImagesOption = None,
    threshold_rule: Annotated[
        str | None, typer.Option(metavar="relative|absolute", help="Of a TaTok's threshold; the model's if not given.")
    ] = None,
    entropy: Annotated[
        str | None,
        typer.Option(metavar="prior|surprisal|residual", help="What a TaTok filters by; the model's if not given."),
    ] = None,
    model: ModelOption = None,
    device: DeviceOption = None,
):
    """
    Make a copy of a model that spends a wanted mean budget, measured on calibration images: an AdaTok with another
    cost bias of its policy, a TaTok with another threshold of its filter.
    """
    from .. import default_checkpoint
    from ..allocation.calibrate import save_calibrated
    from ..allocation.choice import check_mean_budget
    from ..codec.sequential_tatok import SequentialTaTok
    from ..data import load_image_dataset
    from ..files import check_empty
    from ..hub import find_folder

    check_empty(out)
    prepare_folder(out.absolute().parent)
    network, model_id, processor = load_model(model, device, with_tatok=True)
    is_tatok = isinstance(network, SequentialTaTok)
    network = network.model if is_tatok else network
    if not is_tatok and not network.config.is_policy_trained:
        raise ValueError(f"The policy of {model_id} has not been trained; train it first: adatok train policy.")
    check_mean_budget(mean_budget, network.config.budgets)
    if (threshold_rule or entropy) is not None and not is_tatok:
        raise ValueError(
            f"Only a TaTok has a filter, and {model_id} is none; leave --threshold-rule and --entropy out."
        )
    images = load_image_dataset(data, split, max_images)
    if is_tatok:
        choice, kept = find_threshold(network, processor, images, mean_budget, threshold_rule, entropy)
    else:
        choice, kept = find_cost_bias(network, processor, images, mean_budget)
    save_calibrated(find_folder(model or default_checkpoint()), out, network, processor, **choice)
    settings = ", ".join(
        f"{name.replace('_', ' ')} {value if isinstance(value, str) else format(value, '.4g')}"
        for name, value in choice.items()
    )
    counts = Counter(kept)
    histogram = ", ".join(f"{budget}: {counts[budget]}" for budget in sorted({*network.config.budgets, *kept}))
    typer.echo(
        f"{len(kept)} images, {settings}, mean budget {sum(kept) / len(kept):.2f} (images per budget {histogram}), "
        f"written to {out}"
    )
    if len(kept) < len(images):
        raise typer.Exit(1)


def find_cost_bias(network, processor, images, mean_budget: float) -> tuple[dict[str, float], list[int]]:
    """The cost bias of a policy with the wanted mean, and the budget of each image."""
    from ..allocation.calibrate import score_images
    from ..allocation.choice import calibrate_cost_bias, choose_columns

    candidates = network.config.budgets
    logits = score_images(network, processor, images, warn=say)
    cost_bias = calibrate_cost_bias(logits, candidates, mean_budget)
    columns = choose_columns(logits, candidates, cost_bias).tolist()
    return {"cost_bias": cost_bias}, [candidates[column] for column in columns]


def find_threshold(
    network, processor, images, mean_budget: float, rule: str | None, kind: str | None
) -> tuple[dict, list[int]]:
    """The filter with the wanted mean, by a rule and a kind of entropy or the model's, and each image's tokens."""
    from ..allocation.calibrate import score_patches
    from ..allocation.choice import calibrate_threshold

    config = network.config
    rule, kind = rule or config.threshold_rule, kind or config.entropy
    entropy = score_patches(network, processor, images, warn=say, entropy=kind)
    threshold = calibrate_threshold(network, entropy, mean_budget, rule)
    counts = network.count_kept(entropy, threshold, threshold_rule=rule)
    choice = {"threshold": threshold, "threshold_rule": rule, "entropy": kind}
    return choice, (config.num_global_tokens + counts).tolist()
