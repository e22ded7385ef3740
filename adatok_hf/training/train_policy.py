"""Stage 2: from a recipe to a checkpoint with a policy, `adatok train policy`."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import PrinterCallback, set_seed
from transformers.utils import logging

from .. import default_checkpoint
from ..allocation.reward_table import RewardTable, build_reward_table
from ..checkpoint import copy_checkpoint, load_checkpoint, read_metrics
from ..data import load_image_dataset
from ..hub import find_folder
from ..metrics.perceptual import load_lpips
from ..model_card import lasting_facts, model_card, read_license
from ..modeling import AdaTokConfig, AdaTokImageProcessor, AdaTokImageProcessorPil, AdaTokModel
from ..modeling.blocks import init_linear
from ..modeling.modeling_adatok import AdaTokPolicy
from .policy_arguments import ARGUMENT_CLASSES, PolicyDataArguments, PolicyTrainingArguments
from .policy_trainer import AdaTokPolicyTrainer
from .recipe import checkpoint_to_resume, run_recipe
from .stateful_trainer import Identity


logger = logging.get_logger(__name__)


@dataclass
class TrainedPolicy:
    """
    A policy and how it came about.

    Args:
        policy ([`AdaTokPolicy`]): On the CPU, in evaluation mode.
        history (`list[dict[str, float]]`): What the trainer logged, step by step.
        weights (`tuple[float, float]`): Of fidelity and efficiency at the end.
        steps (`int`): How many steps it took.
        batch_size (`int`): Rows of the table a step, of all processes together.
    """

    policy: AdaTokPolicy
    history: list[dict[str, float]]
    weights: tuple[float, float]
    steps: int
    batch_size: int


def new_policy(config: AdaTokConfig, seed: int = 0) -> AdaTokPolicy:
    """A policy with random weights, nearly indifferent between the candidates."""
    set_seed(seed)
    policy = AdaTokPolicy(config)
    init_linear(policy.fc1)
    policy.init_weights(config.initializer_range)
    torch.nn.init.zeros_(policy.fc2.bias)
    return policy


def is_set_aside(count: int) -> torch.BoolTensor:
    """Which of so many training images evaluation gets: every tenth."""
    return torch.arange(count) % 10 == 9


def set_aside(table: RewardTable) -> tuple[RewardTable, RewardTable]:
    """A table without the images that are set aside, and theirs."""
    is_aside = is_set_aside(len(table))
    return table.select(~is_aside), table.select(is_aside)


def train_policy(
    table: RewardTable,
    config: AdaTokConfig,
    arguments: PolicyTrainingArguments,
    eval_table: RewardTable | None = None,
    resume_from_checkpoint: str | None = None,
) -> TrainedPolicy:
    """
    Trains a new policy on a reward table.

    Args:
        table ([`RewardTable`]): Must have the candidate budgets among its columns.
        config ([`AdaTokConfig`]): Gives the candidates and the sizes of the policy.
        arguments ([`PolicyTrainingArguments`]): `arguments.seed` also draws the first weights.
        eval_table ([`RewardTable`], *optional*): Other images; unset, every tenth image is set aside for that.
        resume_from_checkpoint (`str`, *optional*): Folder of a checkpoint of the trainer.

    Raises:
        `ValueError`: as [`AdaTokPolicyTrainer`], and if the table lacks a candidate or has other features.

    Example:

    ```python
    >>> import torch
    >>> from adatok_hf import AdaTokConfig
    >>> from adatok_hf.allocation.reward_table import RewardTable, RewardTableInfo
    >>> from adatok_hf.training.policy_arguments import PolicyTrainingArguments
    >>> from adatok_hf.training.train_policy import train_policy
    >>> from tempfile import TemporaryDirectory

    >>> config = AdaTokConfig(hidden_size=32, num_attention_heads=2, budgets=[64, 256])
    >>> features, names = torch.randn(100, 64), [str(row) for row in range(100)]
    >>> columns = {"features": features, "webp_bytes": [0] * 100, "gradient_energy": [0.0] * 100}
    >>> columns |= {"group": names, "image_hash": names}
    >>> columns |= {"mse": torch.zeros(100, 2), "psnr": torch.zeros(100, 2)}
    >>> columns["lpips"] = 0.5 - 0.3 * (features[:, :1] > 0) * torch.tensor([0.0, 1.0])  # half of them gain nothing
    >>> info = RewardTableInfo("a model", "", "", 100, [64, 256], 256, 512, "alex")
    >>> with TemporaryDirectory() as folder:
    ...     quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "log_level": "error"}
    ...     arguments = PolicyTrainingArguments(folder, max_steps=2, use_cpu=True, **quiet)
    ...     trained = train_policy(RewardTable(info, columns), config, arguments)  # or RewardTable.load(folder)
    >>> trained.policy(features).shape, round(sum(trained.weights), 3)
    (torch.Size([100, 2]), 1.0)

    ```"""
    width = 2 * config.hidden_size
    if table.features.shape[1] != width:
        raise ValueError(f"The policy reads {width} features, the reward table has {table.features.shape[1]}.")
    table.check()
    if eval_table is None:
        table, eval_table = set_aside(table)
    trainer = AdaTokPolicyTrainer(
        model=new_policy(config, arguments.seed),
        args=arguments,
        train_dataset=table.select(budgets=config.budgets),
        eval_dataset=eval_table.select(budgets=config.budgets),
    )
    if arguments.log_level == "error":
        trainer.remove_callback(PrinterCallback)
    trainer.identity = policy_identity(table, arguments)
    trainer.train(resume_from_checkpoint=resume_from_checkpoint)
    trainer.evaluate()
    return TrainedPolicy(
        policy=trainer.accelerator.unwrap_model(trainer.model).cpu().eval(),
        history=trainer.state.log_history,
        weights=tuple(trainer.weighting.weights.tolist()),
        steps=trainer.state.global_step,
        batch_size=trainer.rows_per_step,
    )


def policy_identity(table: RewardTable, arguments: PolicyTrainingArguments) -> Identity:
    """What makes a training of a policy this one: its rewards, and what it makes of them."""
    names = ("weighting", "scale_rewards", "mse_weight", "entropy_coef", "beta", "target_mean_budget")
    return {
        "tokenizer": table.info.model_hash,
        "table": table.info.data,
        "images": len(table),
        **{name: getattr(arguments, name) for name in names},
    }


def train(data_arguments: PolicyDataArguments, arguments: PolicyTrainingArguments) -> dict[str, float]:
    """
    Makes the reward table where it is not finished, trains the policy and writes a copy of the checkpoint with it into
    `arguments.output_dir`. What was cut off goes on.

    Returns:
        `dict[str, float]`: mean budget, LPIPS and PSNR (dB) on the evaluation table, or on images set aside.
    """
    checkpoint = data_arguments.init_from or default_checkpoint()
    model, processor = load_checkpoint(checkpoint)
    folder = data_arguments.reward_table or str(Path(arguments.output_dir) / "reward-table")
    if data_arguments.train_data:
        lpips = load_lpips("alex", data_arguments.weights_dir).to(arguments.device)
        build_reward_table(
            model.to(arguments.device),
            processor,
            load_image_dataset(data_arguments.train_data, data_arguments.train_split),
            lpips,
            folder,
            model_name=str(checkpoint),
            data_name=f"{data_arguments.train_data} ({data_arguments.train_split})",
            warn=logger.warning,
        )
    table = RewardTable.load(folder, model)
    if data_arguments.eval_reward_table is not None:
        eval_table = RewardTable.load(data_arguments.eval_reward_table, model)
        measured_on = f"{len(eval_table)} images of other data"
    else:
        table, eval_table = set_aside(table)
        measured_on = f"{len(eval_table)} training images, every tenth, set aside"
    resumed = checkpoint_to_resume(arguments, policy_identity(table, arguments))
    trained = train_policy(table, model.config, arguments, eval_table, resumed)
    metrics = {
        name.removeprefix("eval_"): value for name, value in trained.history[-1].items() if name.startswith("eval_")
    }
    if PartialState().is_main_process:
        facts = policy_facts(trained, arguments, len(table)) | {"quality measured on": measured_on}
        rows = quality_rows(eval_table.select(budgets=model.config.budgets), metrics)
        export_policy(find_folder(checkpoint), model, processor, trained.policy, arguments.output_dir, rows, facts)
    return metrics


def quality_rows(table: RewardTable, metrics: dict[str, float]) -> list[dict]:
    """What the model card says of each candidate budget and of the policy's choice, all on the images of one table."""
    rows = []
    for column, budget in enumerate(table.info.budgets):
        means = table.means_at(torch.full((len(table),), column))
        rows.append({"budget": budget, "psnr": means["psnr"], "lpips": means["lpips"]})
    return [*rows, {"budget": "auto", **{key: metrics[key] for key in ("mean_budget", "psnr", "lpips")}}]


def policy_facts(trained: TrainedPolicy, arguments: PolicyTrainingArguments, num_images: int) -> dict[str, str]:
    """What the model card says of the policy and the number of images it was trained on."""
    fidelity, efficiency = trained.weights
    rules = {
        "gradient": "Dynamic Pareto Weighting by the gradient rule",
        "hypervolume": "Dynamic Pareto Weighting by the hypervolume rule",
        "fixed": "fixed weights",
        "target_mean": f"a Lagrange multiplier for a mean budget of {arguments.target_mean_budget}",
    }
    return {
        "policy": f"GRPO over all candidate budgets on {num_images} images, {trained.steps} steps of "
        f"{trained.batch_size}; {rules[arguments.weighting]}, final weights {fidelity:.3f} of fidelity "
        f"(LPIPS + {arguments.mse_weight:g} x squared error) and {efficiency:.3f} of efficiency",
        "LPIPS above": "backbone alex",
    }


def export_policy(
    source: Path,
    model: AdaTokModel,
    processor: AdaTokImageProcessor | AdaTokImageProcessorPil,
    policy: AdaTokPolicy,
    output_dir: str | Path,
    rows: list[dict],
    facts: dict[str, str],
):
    """
    Writes a copy of a checkpoint with another policy; every other tensor keeps its bits.

    Args:
        source (`Path`): Folder of the checkpoint.
        model ([`AdaTokModel`]): The checkpoint's model; it stays as it is.
        processor ([`AdaTokImageProcessor`]): The checkpoint's image processor.
        policy ([`AdaTokPolicy`]): The new policy.
        output_dir (`str` or `Path`): Where to, see [`~adatok_hf.checkpoint.copy_checkpoint`].
        rows (`list[dict]`): See [`quality_rows`]; they take the place of those that the checkpoint has, which may be
            of other images.
        facts (`dict[str, str]`): See [`policy_facts`].
    """
    state = {f"policy.{name}": value for name, value in policy.state_dict().items()}
    config = deepcopy(model.config)
    config.is_policy_trained, config.cost_bias = True, 0.0
    report = read_metrics(source) or {}
    report = report | {"rows": rows, "training": lasting_facts(report) | facts}
    card = model_card(config, Path(output_dir).name, report, license=read_license(source))
    copy_checkpoint(source, output_dir, model, processor, config=config, tensors=state, metrics=report, card=card)


def train_recipe(recipe: str, overrides: Sequence[str] = ()):
    """
    Runs a recipe and prints its metrics as JSON.

    Args:
        recipe (`str`): Name of a shipped recipe, or path of a YAML file.
        overrides (`Sequence[str]`, *optional*): Any field of the argument classes, as in `--entropy-coef 0.1`.
    """
    run_recipe("policy", recipe, overrides, ARGUMENT_CLASSES, train)
