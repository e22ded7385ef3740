"""`adatok study policy`, `heads`, `fixed` and `tatok`: experiments with controls."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..files import write_json
from .common import load_model, prepare_folder, say
from .options import DataOption, DeviceOption, ModelOption, RecipeOption, WeightsOption, parse_names


def policy(
    context: typer.Context,
    reward_table: Annotated[Path, typer.Option(metavar="DIR", help="Reward table the policies learn from.")],
    eval_reward_table: Annotated[Path, typer.Option(metavar="DIR", help="Reward table of held-out images.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where study.json, study.md and the plots go.")],
    recipe: RecipeOption,
    mirrored_reward_table: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Reward table of their mirror images, for an oracle that sees these alone."),
    ] = None,
    mean_budget: Annotated[
        float | None, typer.Option(help="Common mean of all arms in codes; the policy's own if not given.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How often each network is trained.")] = 3,
    model: ModelOption = None,
):
    """
    Is choosing the budget per image worth something? Policy, controls and ablations on held-out images. Any further
    `--key value` overrides the recipe. The last line of the output is one JSON object.
    """
    from ..allocation.reward_table import RewardTable
    from ..study.plots import plot_study
    from ..study.policy_study import run_study
    from ..study.report import format_study_table, last_line, write_report
    from ..training.policy_arguments import ARGUMENT_CLASSES
    from ..training.recipe import parse_recipe

    prepare_folder(out)
    network, _, _ = load_model(model, "cpu")
    quiet = ["--save_strategy", "no", "--disable_tqdm", "true", "--log_level", "error", "--output_dir", str(out)]
    _, arguments = parse_recipe("policy", recipe, [*context.args, *quiet], ARGUMENT_CLASSES)
    result = run_study(
        RewardTable.load(reward_table, network),
        RewardTable.load(eval_reward_table, network),
        network.config,
        arguments,
        out,
        policy=network.policy if network.config.is_policy_trained else None,
        mirrored_table=mirrored_reward_table and RewardTable.load(mirrored_reward_table, network),
        seeds=seeds,
        mean_budget=mean_budget,
    )
    plot_study(result, out)
    report = write_report(out)
    typer.echo(format_study_table(result))
    typer.echo(f"The report is {report}.")
    typer.echo(last_line(result))


def tatok(
    data: DataOption,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where tatok.json and the curve go.")],
    model: Annotated[str, typer.Option(metavar="PATH_OR_REPO", help="Folder or Hub id of the TaTok.")],
    adatok: Annotated[
        str | None,
        typer.Option(
            metavar="PATH_OR_REPO", help="AdaTok to compare with at equal bits; the embedded one if not given."
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens that each image, or the mean image, keeps.")] = 14,
    split: Annotated[str, typer.Option(help="Split of the data.")] = "validation",
    max_images: Annotated[int, typer.Option(min=2, help="How many images, evenly spread.")] = 512,
    block_size: Annotated[int, typer.Option(min=1, help="Patches that filtering in blocks takes at once.")] = 4,
    weights_dir: WeightsOption = None,
    device: DeviceOption = None,
):
    """
    Is filtering by conditional entropy worth something, and TaTok against AdaTok? Every way to choose patches at the
    same number of tokens, and both models at equal bits. The last line of the output is one JSON object.
    """
    from ..codec.sequential_tatok import SequentialTaTok
    from ..data import load_readable_images
    from ..metrics.perceptual import load_lpips
    from ..study.plots import plot_tatok
    from ..study.tatok_study import format_tatok_table, run_tatok_study

    prepare_folder(out)
    network, model_id, processor = load_model(model, device, with_tatok=True)
    if not isinstance(network, SequentialTaTok):
        raise ValueError(f"{model_id} is no TaTok; name one by --model.")
    other, other_id, other_processor = load_model(adatok, device)
    images = load_readable_images(data, split, max_images, processor, say)
    result = run_tatok_study(
        network,
        processor,
        other,
        other_processor,
        images,
        load_lpips("alex", weights_dir),
        tokens=tokens,
        block_size=block_size,
    )
    result = {"model": model_id, "adatok": other_id, "data": data, "split": split, **result}
    write_json(out / "tatok.json", result)
    plot_tatok(result, out / "tatok.png")
    typer.echo(format_tatok_table(result))
    typer.echo(json.dumps({**result, "groups": None}))
    if len(images) < len(images.dataset):
        raise typer.Exit(1)


def heads(
    train_data: Annotated[str, typer.Option(help="Image folder, parquet files or Hub dataset.")],
    eval_data: Annotated[str, typer.Option(help="The same, for held-out images.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the result; an unfinished study is continued.")],
    model: ModelOption = None,
    steps: Annotated[int, typer.Option(help="Length of each training.")] = 300,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 32,
    seeds: Annotated[int, typer.Option(help="Trainings of each arm, at least 2.")] = 2,
    learning_rate: Annotated[float, typer.Option(help="Peak of the learning rate.")] = 5e-4,
    perceptual_weight: Annotated[float, typer.Option(help="Weight of LPIPS in the loss.")] = 0.5,
    perceptual_net: Annotated[str, typer.Option(help="Backbone of that LPIPS, alex or vgg.")] = "alex",
    max_eval_images: Annotated[int, typer.Option(help="How many held-out images, evenly spread.")] = 512,
    attn_implementation: Annotated[str, typer.Option(help="eager, sdpa or another.")] = "eager",
    weights_dir: WeightsOption = None,
    bf16: Annotated[bool, typer.Option("--bf16/--no-bf16", help="Train in bfloat16, or in 32 bits.")] = True,
):
    """
    Are the heads worth having? No heads, one shared head and a head per budget, trained alike. The last line of the
    output is one JSON object.
    """
    from .. import default_checkpoint
    from ..study.heads_study import format_heads_table, run_heads_study
    from ..study.report import write_report

    result = run_heads_study(
        model or default_checkpoint(),
        train_data,
        eval_data,
        out,
        steps=steps,
        batch_size=batch_size,
        seeds=seeds,
        learning_rate=learning_rate,
        perceptual_weight=perceptual_weight,
        perceptual_net=perceptual_net,
        max_eval_images=max_eval_images,
        attn_implementation=attn_implementation,
        weights_dir=weights_dir,
        bf16=bf16,
    )
    if (out / "study.json").is_file():
        write_report(out)
    typer.echo(format_heads_table(result))
    typer.echo(json.dumps(result))


def fixed(
    context: typer.Context,
    recipe: RecipeOption,
    train_data: Annotated[str, typer.Option(help="Image folder, parquet files or Hub dataset.")],
    eval_data: Annotated[str, typer.Option(help="The same, for held-out images.")],
    fixed_budget: Annotated[int, typer.Option(help="A candidate: the fixed length, and the mean of all arms.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the result; an unfinished study is continued.")],
    arms: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Only these, for processes that share them out."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Trainings of each arm.")] = 2,
    policy_recipe: Annotated[str, typer.Option(help="Recipe of the policy.")] = "pilot-64",
    policy_images: Annotated[int, typer.Option(help="Training images that the policy learns from.")] = 4096,
    max_eval_images: Annotated[int, typer.Option(help="How many held-out images, evenly spread.")] = 2048,
    rfid: Annotated[bool, typer.Option("--rfid", help="Measure rFID too, which takes Inception and longer.")] = False,
    weights_dir: WeightsOption = None,
):
    """
    Is an adaptive tokenizer better than one of fixed length at its mean? All arms trained from random weights by one
    recipe. Any further `--key value` overrides the recipe. The last line of the output is one JSON object.
    """
    from ..metrics.inception import load_inception
    from ..study.fixed_study import NAMES, FixedStudySettings, format_fixed_table, run_fixed_study

    prepare_folder(out)
    settings = FixedStudySettings(
        recipe=recipe,
        train_data=train_data,
        eval_data=eval_data,
        fixed_budget=fixed_budget,
        overrides=tuple(context.args),
        policy_recipe=policy_recipe,
        seeds=seeds,
        policy_images=policy_images,
        eval_images=max_eval_images,
    )
    inception = load_inception(weights_dir) if rfid else None
    result = run_fixed_study(settings, out, parse_names(arms) if arms else NAMES, weights_dir, inception=inception)
    typer.echo(format_fixed_table(result))
    typer.echo(json.dumps(result))
