"""Whether the LoRA heads are worth having: no heads, one shared head of as many parameters, or one head per budget."""

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import set_seed
from transformers.utils import logging

from ..checkpoint import checkpoint_name, load_checkpoint, model_hash
from ..data import ImageCollator, ReadableImages, load_image_dataset, load_readable_images
from ..files import write_json
from ..metrics.budgets import measure_budgets
from ..metrics.perceptual import load_lpips
from ..modeling import AdaTokImageProcessor, AdaTokModel
from ..tables import align_columns
from ..training.tokenizer_arguments import ReconstructionTrainingArguments
from ..training.tokenizer_trainer import ReconstructionTrainer
from .statistics import interval, resampled_means


logger = logging.get_logger(__name__)

NO_HEADS, SHARED_HEAD, K_HEADS = ARMS = ("no heads", "shared head", "K heads")
HEADS_ON, HEADS_ZEROED = REFERENCES = ("checkpoint, heads on", "checkpoint, heads zeroed")
RESULT_NAME = "heads.json"


@dataclass
class HeadsStudySettings:
    """What must be alike for two measurements to be compared; see [`run_heads_study`]."""

    checkpoint: str  # fingerprint
    train_data: str
    eval_data: str
    eval_images: int
    steps: int
    batch_size: int
    learning_rate: float
    perceptual_weight: float
    perceptual_net: str
    bf16: bool


def count_head_parameters(model: AdaTokModel, trained_only: bool = False) -> int:
    """Number of parameters in the LoRA heads, of all of them or of those that are trained."""
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if "lora_" in name and (parameter.requires_grad or not trained_only)
    )


@torch.no_grad()
def zero_heads(model: AdaTokModel) -> AdaTokModel:
    """Takes the effect of all heads away, in place, and gives the model back."""
    for layer in _lora_layers(model):
        for up in layer.lora_B.values():
            up.weight.zero_()
    return model


@torch.no_grad()
def merge_heads(model: AdaTokModel) -> AdaTokModel:
    """
    Makes a model in which one head serves every budget, of as many parameters as all heads of the given one together.

    Its rank is that of all heads together, and `lora_alpha` grows with it, so the scale stays. Its down projections
    are those of the heads, stacked, and it has no effect until it is trained. There is nothing left to choose for a
    policy, so none is carried over, and all budgets must be given.

    Args:
        model ([`AdaTokModel`]): The model, which stays as it is.

    Returns:
        [`AdaTokModel`]: with the full budget as its only candidate.

    Example:

    ```python
    >>> from adatok_hf import AdaTokConfig, AdaTokModel
    >>> from adatok_hf.study.heads_study import count_head_parameters, merge_heads

    >>> model = AdaTokModel(AdaTokConfig(hidden_size=32, num_hidden_layers=1, budgets=[64, 128, 256], lora_rank=2))
    >>> shared = merge_heads(model)
    >>> shared.config.budgets, shared.config.lora_rank, count_head_parameters(shared) == count_head_parameters(model)
    ([256], 6, True)

    ```"""
    config, num_heads = copy.deepcopy(model.config), len(model.config.budgets)
    config.budgets = config.budgets[-1:]
    config.lora_rank *= num_heads
    config.lora_alpha *= num_heads
    shared = AdaTokModel(config)
    shared.set_attn_implementation(model.config._attn_implementation)
    base = {name: tensor for name, tensor in model.state_dict().items() if "lora_" not in name}
    base = {name: tensor for name, tensor in base.items() if not name.startswith("policy.")}
    shared.load_state_dict(base, strict=False)
    zero_heads(shared)
    for one, several in zip(_lora_layers(shared), _lora_layers(model)):
        (down,) = one.lora_A.values()
        down.weight.copy_(torch.cat([head.weight for head in several.lora_A.values()]))
    assert count_head_parameters(shared) == count_head_parameters(model)
    return shared.to(model.device).train(model.training)


def build_arm(base: AdaTokModel, arm: str, seed: int) -> AdaTokModel:
    """
    What an arm trains: a copy of the base whose heads have no effect yet. The seed draws their down projections, the
    same ones for all arms: trained ones would favour the heads they come from.
    """
    model = zero_heads(copy.deepcopy(base))
    torch.manual_seed(seed)
    for layer in _lora_layers(model):
        for down in layer.lora_A.values():
            nn.init.kaiming_uniform_(down.weight, a=5**0.5)
    if arm == SHARED_HEAD:
        return merge_heads(model)
    if arm == NO_HEADS:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" not in name)
    return model


def train_arm(
    base: AdaTokModel,
    processor: AdaTokImageProcessor,
    dataset: Dataset,
    settings: HeadsStudySettings,
    arm: str,
    seed: int,
    folder: Path,
    weights_dir: str | None = None,
) -> AdaTokModel:
    """
    Trains the decoder of one arm of [`build_arm`] on items with a PIL picture under `"image"`, with encoder and
    quantizer frozen, and gives the averaged weights. Images, their order, mirroring and budgets depend on the seed
    alone, so they are the same for all arms.
    """
    trainer = ReconstructionTrainer(
        model=build_arm(base, arm, seed),
        args=ReconstructionTrainingArguments(
            output_dir=str(folder),
            train_only="decoder",
            training_budgets=base.config.budgets,
            max_steps=settings.steps,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=settings.steps // 20,
            weight_decay=0.01,
            adam_beta2=0.99,
            max_grad_norm=1.0,
            bf16=settings.bf16,
            use_cpu=not torch.cuda.is_available(),
            perceptual_weight=settings.perceptual_weight,
            perceptual_net=settings.perceptual_net,
            eval_perceptual_net=settings.perceptual_net,  # this trainer measures nothing: no second network
            weights_dir=weights_dir,
            revive_steps=0,
            save_strategy="no",
            logging_steps=max(1, settings.steps // 10),
            seed=seed,
            report_to="none",
        ),
        train_dataset=dataset,
        data_collator=ImageCollator(processor),
        processing_class=processor,
    )
    set_seed(seed)
    trainer.train()
    return trainer.ema.module.eval()


@torch.inference_mode()
def measure(
    model: AdaTokModel, batches: DataLoader, lpips: nn.Module, budgets: Sequence[int]
) -> dict[str, list[list[float]]]:
    """
    Measures clipped and rounded reconstructions at some budgets: under `"psnr"` (dB) and `"lpips"`, one list per image
    with a number per budget.
    """
    lpips = lpips.to(model.device)
    psnr_rows, lpips_rows = [], []
    for batch in batches:
        pixel_values = batch["pixel_values"].to(model.device)
        image_codes = model.encode(pixel_values, budgets=model.config.num_latent_tokens).image_codes
        measures = measure_budgets(model, image_codes, pixel_values, lpips, budgets)
        psnr_rows += measures["psnr"].tolist()
        lpips_rows += measures["lpips"].tolist()
    return {"psnr": psnr_rows, "lpips": lpips_rows}


def run_heads_study(
    checkpoint: str | Path,
    train_data: str,
    eval_data: str,
    out: str | Path,
    *,
    steps: int = 300,
    batch_size: int = 32,
    seeds: int = 2,
    learning_rate: float = 5e-4,
    perceptual_weight: float = 0.5,
    perceptual_net: str = "alex",
    max_eval_images: int = 512,
    bf16: bool = True,
    attn_implementation: str = "eager",
    weights_dir: str | Path | None = None,
) -> dict:
    """
    Trains the decoder of one checkpoint further, equally long and on the same images and budgets, in three ways: with
    no heads, with one head for all budgets, and with a head per candidate budget, the last two of as many parameters.
    Encoder and quantizer are frozen, so all arms decode the same codes. Beside them stands the checkpoint itself, with
    its heads and without them.

    Each finished training is stored in `out/heads`, and a study that was cut off goes on after the last one.

    Args:
        checkpoint (`str` or `Path`): Folder or Hub id, with at least two candidate budgets.
        train_data (`str`): Images, as for [`~adatok_hf.data.load_image_dataset`]; the split `train`.
        eval_data (`str`): Held-out images; the split `validation`.
        out (`str` or `Path`): Folder for the result.
        steps (`int`, *optional*, defaults to 300): Length of each training.
        batch_size (`int`, *optional*, defaults to 32): Images per step.
        seeds (`int`, *optional*, defaults to 2): Trainings of each arm, at least 2.
        learning_rate (`float`, *optional*, defaults to 5e-4): Peak of a cosine.
        perceptual_weight (`float`, *optional*, defaults to 0.5): Weight of LPIPS in the loss.
        perceptual_net (`str`, *optional*, defaults to `"alex"`): Its backbone. `"vgg"` takes three times as long.
        max_eval_images (`int`, *optional*, defaults to 512): How many held-out images, evenly spread.
        bf16 (`bool`, *optional*, defaults to `True`): Whether to train in bfloat16.
        attn_implementation (`str`, *optional*, defaults to `"eager"`): The fastest to train on CPUs.
        weights_dir (`str` or `Path`, *optional*): Folder with the LPIPS weights; else `ADATOK_WEIGHTS_DIR`.

    Returns:
        `dict`: what `out/heads.json` holds: `steps`, `images_per_step`, `seeds`, `n` (held-out images),
        `parameters_of_heads` by arm, `settings`, and `rows`. There is one for each arm and candidate budget, and one
        for the arm's mean over these (`"budget": "mean"`), with `psnr` (dB) and `lpips`, means over images and seeds,
        and how they differ from the K heads on the same images: `psnr_minus_k_heads` and `lpips_minus_k_heads`, their
        95 % bootstrap intervals over images `psnr_ci` and `ci`, and the same differences with `_by_seed`, whose spread
        tells what another training changes. For the K heads themselves these are `None`.

    Raises:
        `ValueError`: for a number out of range, data or a checkpoint that cannot be used, a training that diverges,
            and a folder that holds another study.
    """
    for name, value, least in (
        ("steps", steps, 1),
        ("batch_size", batch_size, 1),
        ("seeds", seeds, 2),
        ("max_eval_images", max_eval_images, 2),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}.")
    base, processor = load_checkpoint(checkpoint)
    budgets = base.config.budgets
    if len(budgets) < 2:
        raise ValueError(f"{checkpoint} has the single candidate budget {budgets[0]}: its one head is shared already.")
    train_dataset = ReadableImages(load_image_dataset(train_data), logger.warning)
    eval_dataset = load_readable_images(eval_data, "validation", max_eval_images, processor, logger.warning)
    settings = HeadsStudySettings(
        checkpoint=model_hash(base),
        train_data=train_data,
        eval_data=eval_data,
        eval_images=len(eval_dataset),
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        perceptual_weight=perceptual_weight,
        perceptual_net=perceptual_net,
        bf16=bf16,
    )
    weights_dir = str(weights_dir) if weights_dir is not None else None
    lpips = load_lpips("alex", weights_dir)
    base.set_attn_implementation(attn_implementation)
    batches = DataLoader(eval_dataset, batch_size=64, collate_fn=ImageCollator(processor))
    folder = Path(out) / "heads"
    folder.mkdir(parents=True, exist_ok=True)
    measured: dict[str, list[dict]] = {}
    for arm, seed in _jobs(seeds):
        path = folder / _file_name(arm, seed)
        if not path.is_file():
            if arm in ARMS:
                model = train_arm(base, processor, train_dataset, settings, arm, seed, folder, weights_dir)
            else:
                model = base if arm == HEADS_ON else zero_heads(copy.deepcopy(base))
            store_measures(path, settings, arm, measure(model, batches, lpips, budgets))
        measured.setdefault(arm, []).append(_read(path, settings))
    result = {
        "model": checkpoint_name(checkpoint),
        "steps": steps,
        "images_per_step": batch_size,
        "seeds": seeds,
        "n": len(eval_dataset),
        "parameters_of_heads": {
            arm: count_head_parameters(build_arm(base, arm, 0), trained_only=True) for arm in ARMS
        },
        "settings": asdict(settings),
        "rows": _rows(measured, budgets),
    }
    write_json(Path(out) / RESULT_NAME, result)
    return result


def format_heads_table(result: dict) -> str:
    """Lays out what [`run_heads_study`] gives as a table of plain text, one line per row, with its size below."""
    lines = [("arm", "budget", "PSNR (dB)", "LPIPS", "LPIPS minus that of K heads")]
    for row in result["rows"]:
        difference = "-"
        if row["ci"] is not None:
            low, high = row["ci"]
            difference = f"{row['lpips_minus_k_heads']:+.4f} [{low:+.4f}, {high:+.4f}]"
        lines.append((row["arm"], str(row["budget"]), f"{row['psnr']:.2f}", f"{row['lpips']:.4f}", difference))
    parameters = result["parameters_of_heads"]
    return "\n".join(
        [
            align_columns(lines),
            "",
            f"Each arm: {result['seeds']} trainings of {result['steps']} steps of {result['images_per_step']} images; "
            f"means over {result['n']} held-out images,",
            f"differences paired by image, 95 % bootstrap intervals over images. Parameters of the heads: "
            f"{parameters[K_HEADS]:,} (K heads),",
            f"{parameters[SHARED_HEAD]:,} (shared head), {parameters[NO_HEADS]:,} (no heads).",
        ]
    )


def _lora_layers(model: AdaTokModel) -> Iterator[LoraLayer]:
    return (module for module in model.decoder.modules() if isinstance(module, LoraLayer))


def _jobs(seeds: int) -> list[tuple[str, int | None]]:
    """All measurements, the trainings of one seed together, so that a cut study has whole comparisons."""
    return [(arm, None) for arm in REFERENCES] + [(arm, seed) for seed in range(seeds) for arm in ARMS]


def _file_name(arm: str, seed: int | None) -> str:
    name = arm.lower().replace(",", "").replace(" ", "-")
    return f"{name}.json" if seed is None else f"{name}-{seed}.json"


def store_measures(path: Path, settings: HeadsStudySettings, arm: str, values: dict[str, list[list[float]]]):
    """Writes what an arm of the study measured; `ValueError` if its training has diverged."""
    if not np.isfinite([values["psnr"], values["lpips"]]).all():
        raise ValueError(
            f"The training of the arm {arm!r} diverged: its measures are not finite. Lower --learning-rate, which is "
            f"{settings.learning_rate}."
        )
    write_json(path, {"settings": asdict(settings), **values}, indent=None)


def _read(path: Path, settings: HeadsStudySettings) -> dict[str, list[list[float]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = HeadsStudySettings(**content["settings"])
        values = {name: content[name] for name in ("psnr", "lpips")}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, and it is made again.") from error
    for name, value in asdict(settings).items():
        if getattr(found, name) != value:
            raise ValueError(
                f"{path} belongs to another study: {name} is {getattr(found, name)!r} there and {value!r} here. Name "
                "another folder by --out."
            )
    return values


def _rows(measured: dict[str, list[dict]], budgets: Sequence[int]) -> list[dict]:
    """Means, and their differences to the K heads on the same images."""
    labels = [*budgets, "mean"]
    values = {}  # (arm, measure) -> (seeds, images, budgets and their mean)
    for arm, runs in measured.items():
        for name in ("psnr", "lpips"):
            table = np.array([run[name] for run in runs])
            values[arm, name] = np.concatenate([table, table.mean(axis=2, keepdims=True)], axis=2)
    differences = {
        (arm, name): table - values[K_HEADS, name] for (arm, name), table in values.items() if arm != K_HEADS
    }
    resampled = resampled_means(
        {
            (arm, name, label): table[:, :, column].mean(axis=0)
            for (arm, name), table in differences.items()
            for column, label in enumerate(labels)
        }
    )
    rows = []
    for arm in measured:
        for column, label in enumerate(labels):
            row = {"arm": arm, "budget": label}
            row |= {name: float(values[arm, name][:, :, column].mean()) for name in ("psnr", "lpips")}
            for name, ci in (("psnr", "psnr_ci"), ("lpips", "ci")):
                by_seed = None if arm == K_HEADS else differences[arm, name][:, :, column].mean(axis=1).tolist()
                row[f"{name}_minus_k_heads"] = by_seed and fmean(by_seed)
                row[ci] = by_seed and interval(resampled[arm, name, label])
                row[f"{name}_minus_k_heads_by_seed"] = by_seed
            rows.append(row)
    return rows


__all__ = [
    "build_arm",
    "count_head_parameters",
    "format_heads_table",
    "merge_heads",
    "run_heads_study",
    "store_measures",
]
