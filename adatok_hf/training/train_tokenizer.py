"""Stage 1: from a recipe to a checkpoint, `adatok train tokenizer`."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from torch.utils.data import Subset
from transformers import IntervalStrategy, PreTrainedConfig, PreTrainedModel, TrainerCallback, set_seed
from transformers.utils import logging

from ..checkpoint import load_checkpoint, read_metrics
from ..data import ImageCollator, RandomCrops, ReadableImages, load_image_dataset, load_readable_images
from ..modeling import AdaTokImageProcessor, AdaTokModel
from ..stream import ImageStream, load_image_stream
from .recipe import checkpoint_to_resume, named, run_recipe
from .stateful_trainer import Identity
from .tokenizer_arguments import ARGUMENT_CLASSES, DataArguments, ReconstructionTrainingArguments, StartArguments
from .tokenizer_trainer import ReconstructionTrainer


logger = logging.get_logger(__name__)


def build_model(
    arguments: StartArguments, model_class: type[PreTrainedModel] = AdaTokModel
) -> tuple[PreTrainedModel, AdaTokImageProcessor]:
    """
    Makes a model with random weights, or loads the checkpoint named by `init_from`, and its image processor.

    Raises:
        `ValueError`: if the architecture is impossible, or is not that of `init_from`.
    """
    architecture = {key: value for key, value in asdict(arguments).items() if value is not None}
    init_from = architecture.pop("init_from", None)
    attn_implementation = architecture.pop("attn_implementation", None)
    if init_from is not None:
        model, processor = load_checkpoint(init_from, kinds=(model_class,))
        _check_architecture(architecture, model.config, str(init_from))
    else:
        config = model_class.config_class(**architecture)
        size = config.image_size
        model = model_class(config)
        processor = AdaTokImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    if attn_implementation is not None:
        model.set_attn_implementation(attn_implementation)
    return model, processor


def _check_architecture(wanted: dict, config: PreTrainedConfig, name: str):
    for key, value in wanted.items():
        found = getattr(config, key)
        if isinstance(value, dict) and isinstance(found, PreTrainedConfig):
            _check_architecture(value, found, f"The {key} of {name}")
        elif found != value:
            raise ValueError(f"{name} has {key}={found}, but the recipe says {value}.")


def train(
    model_arguments: StartArguments,
    data_arguments: DataArguments,
    arguments: ReconstructionTrainingArguments,
    trainer_class: type[ReconstructionTrainer] = ReconstructionTrainer,
) -> dict[str, float]:
    """
    Trains, evaluates and exports a tokenizer into `arguments.output_dir`; a run that was cut off is resumed.

    Returns:
        `dict[str, float]`: the final metrics; empty without evaluation data.
    """
    if arguments.do_train and not data_arguments.train_data:
        raise ValueError(
            "There is nothing to train on: give --train_data, an image folder, parquet files or a dataset."
        )
    if arguments.do_train and arguments.train_only is not None and model_arguments.init_from is None:
        raise ValueError(
            f"--train_only {arguments.train_only} trains a part of a finished model: name its folder by --init_from."
        )
    set_seed(arguments.seed)
    model, processor = build_model(model_arguments, trainer_class.model_class)
    train_dataset = eval_dataset = None
    if arguments.do_train and arguments.train_only is None and getattr(model.config, "is_policy_trained", False):
        model.config.is_policy_trained, model.config.cost_bias = False, 0.0  # it knows codes that now change
    if arguments.do_train:
        train_dataset = load_train_images(data_arguments, arguments)
    if not data_arguments.eval_data:
        arguments.eval_strategy = IntervalStrategy.NO  # the recipes' steps are for those who have such data
    else:
        eval_dataset = load_eval_images(data_arguments, processor)
    trainer = trainer_class(
        model=model,
        args=arguments,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        data_collator=ImageCollator(processor),
        processing_class=processor,
    )
    if arguments.do_train:
        if not data_arguments.streaming:
            trainer.add_callback(OtherCropsEachEpoch(train_dataset))
        trainer.identity = tokenizer_identity(model_arguments, data_arguments)
        trainer.train(resume_from_checkpoint=checkpoint_to_resume(arguments, trainer.identity))
    metrics = trainer.evaluate() if eval_dataset is not None else {}
    if arguments.do_train and trainer.is_world_process_zero():
        rows = quality_rows(metrics, trainer.training_budgets)
        trainer.export(arguments.output_dir, {"rows": rows, "training": training_facts(trainer, data_arguments)})
    return metrics


def tokenizer_identity(model_arguments: StartArguments, data_arguments: DataArguments) -> Identity:
    """What makes a training of a tokenizer this one."""
    return {
        "train_data": named(data_arguments.train_data),
        "train_split": data_arguments.train_split,
        "init_from": named(model_arguments.init_from),
    }


def load_train_images(
    data_arguments: DataArguments, arguments: ReconstructionTrainingArguments
) -> RandomCrops | ImageStream:
    """The random crops of the training images, in a table or as a stream; `ValueError` for a stream without an end."""
    source, split = data_arguments.train_data, data_arguments.train_split
    if not data_arguments.streaming:
        images = ReadableImages(load_image_dataset(source, split), logger.warning)
        return RandomCrops(images, data_arguments.min_crop, arguments.seed)
    if arguments.max_steps <= 0:
        raise ValueError(f"A stream has no end: say by --max_steps how long to train; got {arguments.max_steps}.")
    return load_image_stream(
        source,
        split,
        warn=logger.warning,
        window=data_arguments.shuffle_window,
        min_crop=data_arguments.min_crop,
        seed=arguments.seed,
        process=(arguments.process_index, arguments.world_size),
        workers=arguments.dataloader_num_workers,
    )


class OtherCropsEachEpoch(TrainerCallback):
    """Tells crops of their epoch; a data loader does so in one process only."""

    def __init__(self, crops: RandomCrops):
        self.crops = crops

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.crops.set_epoch(int(state.epoch))


def load_eval_images(arguments: DataArguments, processor: AdaTokImageProcessor) -> Subset:
    """The evaluation images that can be read, found out before the training; `ValueError` if none can."""
    split, limit = arguments.eval_split, arguments.max_eval_images
    return load_readable_images(arguments.eval_data, split, limit, processor, logger.warning)


def quality_rows(metrics: dict[str, float], budgets: list[int]) -> list[dict[str, float]]:
    """The metrics of `ReconstructionTrainer.evaluate` as one row per budget, for the model card."""
    names = [name for name in ("psnr", "lpips") if f"eval_{name}_{budgets[0]}" in metrics]
    rows = [{"budget": budget, **{name: metrics[f"eval_{name}_{budget}"] for name in names}} for budget in budgets]
    return rows if names else []


def training_facts(trainer: ReconstructionTrainer, data_arguments: DataArguments) -> dict[str, str | int]:
    """What the model card says of a finished run."""
    arguments, steps = trainer.args, trainer.state.global_step
    images = trainer.train_dataset
    facts = {
        "data": data_arguments.data_description or "not described",
        "training images": "a stream"
        if data_arguments.streaming
        else len(images) - int(images.dataset.unreadable.sum()),
        "steps": steps,
        "images per step": trainer.rows_per_step,
        "images seen": steps * trainer.rows_per_step,
        "perceptual loss": f"LPIPS ({arguments.perceptual_net}), weight {arguments.perceptual_weight}",
        "adversarial loss": f"weight {arguments.adversarial_weight}" if trainer.discriminator is not None else "none",
    }
    if arguments.train_only is not None:
        whole = (read_metrics(Path(trainer.model.name_or_path)) or {}).get("training", {})
        facts = whole | {f"{name}, {arguments.train_only} alone": value for name, value in facts.items()}
    facts["parameters"] = trainer.model.num_parameters()
    if trainer.eval_dataset is not None:
        facts["quality measured on"] = f"{len(trainer.eval_dataset)} images of the evaluation data"
        facts["LPIPS above"] = f"backbone {arguments.eval_perceptual_net}"
    return facts


def train_recipe(recipe: str, overrides: Sequence[str] = ()):
    """
    Runs a recipe and prints its metrics as JSON.

    Args:
        recipe (`str`): Name of a shipped recipe, or path of a YAML file.
        overrides (`Sequence[str]`, *optional*): Any field of the argument classes, as in `--learning-rate 1e-4`.
    """
    run_recipe("tokenizer", recipe, overrides, ARGUMENT_CLASSES, train)
