"""What a recipe may say. A recipe is one flat YAML file whose keys are the fields of these classes."""

import inspect
import json
from dataclasses import dataclass, field, make_dataclass

from transformers import PreTrainedConfig

from ..modeling import AdaTokConfig
from .argument_help import docstring_help
from .optimizer import MuonTrainingArguments


TRAINABLE_PARTS = ("heads", "decoder")
PARSED_KINDS = {"budgets": list[int], "pixel_decoder_config": dict | str}  # what a command line can give


def architecture_arguments(config_class: type[PreTrainedConfig], written_later: tuple[str, ...]) -> type:
    """
    A dataclass of the fields of a configuration, `None` where a recipe says nothing.

    Args:
        config_class (`type`): Its docstring describes all fields in the format of transformers.
        written_later (`tuple[str, ...]`): Fields that are no architecture: later stages and calibration set them.
    """
    help_texts = docstring_help(config_class)
    fields = []
    for name, kind in inspect.get_annotations(config_class).items():
        if name in written_later:
            continue
        default = config_class.__dataclass_fields__[name].default
        default = list(default) if isinstance(default, tuple) else default
        text = help_texts[name] + ("" if default is None else f" In a new model: {default}.")
        kind = PARSED_KINDS.get(name, kind)
        fields.append((name, kind | None, field(default=None, metadata={"help": text.replace("%", "%%")})))
    return make_dataclass("Architecture", fields)


@dataclass
class StartArguments:
    """What training starts from."""

    init_from: str | None = field(
        default=None, metadata={"help": "Checkpoint folder or Hub repo to start from instead of random weights."}
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "eager, sdpa or another; eager trains twice as fast as sdpa on CPUs."}
    )

    def __post_init__(self):
        if isinstance(self.pixel_decoder_config, str):
            try:
                self.pixel_decoder_config = json.loads(self.pixel_decoder_config)
            except json.JSONDecodeError as error:
                raise ValueError(f"pixel_decoder_config is not JSON: {error}.") from error


@dataclass
class ModelArguments(StartArguments, architecture_arguments(AdaTokConfig, ("is_policy_trained", "cost_bias"))):
    """The architecture: the fields of [`AdaTokConfig`]. What is left out keeps its default, or that of `init_from`."""


@dataclass
class DataArguments:
    """The images."""

    train_data: str = field(default="", metadata={"help": "Image folder, parquet file or glob, or Hub dataset."})
    eval_data: str | None = field(
        default=None, metadata={"help": "The same for evaluation. A folder of parquet files may serve both."}
    )
    train_split: str = field(default="train", metadata={"help": "Split of the training data."})
    eval_split: str = field(default="validation", metadata={"help": "Split of the evaluation data."})
    max_eval_images: int = field(default=512, metadata={"help": "How many evaluation images to use, evenly spread."})
    min_crop: float = field(
        default=1.0,
        metadata={
            "help": "Training images are random squares whose side is between this share of the shortest edge and all "
            "of it; 1 only moves them along the longer edge."
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read parquet or tar files, or a Hub dataset, as they come and copy nothing; needs max_steps."
        },
    )
    shuffle_window: int = field(
        default=1000, metadata={"help": "Images that each reader of a stream shuffles; it holds their bytes."}
    )
    data_description: str | None = field(
        default=None, metadata={"help": "What the training images are and on which terms, for the model card."}
    )


@dataclass
class ReconstructionTrainingArguments(MuonTrainingArguments):
    """
    Arguments of stage 1, prioritized representation learning: those of [`~transformers.TrainingArguments`] and the
    losses.
    """

    do_train: bool = field(default=True, metadata={"help": "Whether to train; else only evaluate."})
    # Trainer would drop the images before the collator sees them.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Keep False: the collator needs the images."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Keep False: every trained weight gets a gradient at every step."}
    )
    train_only: str | None = field(
        default=None,
        metadata={
            "help": "heads, or decoder with its heads: all else stays bit-identical and nothing is revived. If not "
            "given, all but the policy is trained."
        },
    )
    training_budgets: list[int] | None = field(
        default=None, metadata={"help": "Budgets to draw from and to evaluate at; the candidates if not given."}
    )
    full_budget_share: float = field(
        default=0.0, metadata={"help": "Share of the images that keep all codes, so that the last tokens learn too."}
    )
    reconstruction_weight: float = field(default=1.0, metadata={"help": "Weight of the mean squared error."})
    perceptual_weight: float = field(default=1.0, metadata={"help": "Weight of LPIPS; 0 needs no network."})
    perceptual_start: int = field(default=0, metadata={"help": "Step at which LPIPS begins."})
    perceptual_crop: int | None = field(
        default=None, metadata={"help": "Side of the random square that LPIPS sees; the whole image if not given."}
    )
    perceptual_net: str = field(default="alex", metadata={"help": "Backbone of LPIPS: alex (fast) or vgg (better)."})
    eval_perceptual_net: str = field(default="alex", metadata={"help": "Backbone of the LPIPS that is reported."})
    quantization_weight: float = field(default=1.0, metadata={"help": "Weight of codebook and commitment terms."})
    adversarial_weight: float = field(default=0.0, metadata={"help": "Weight of the hinge GAN; 0 trains no critic."})
    discriminator_features: bool = field(
        default=False,
        metadata={"help": "Whether the critic judges by the features of LPIPS too, from which it learns much faster."},
    )
    adversarial_start: int = field(default=0, metadata={"help": "Step at which the generator hears the critic."})
    discriminator_warmup: int = field(default=500, metadata={"help": "Steps the critic trains alone before that."})
    discriminator_learning_rate: float = field(
        default=1e-4, metadata={"help": "Learning rate of the critic, by the schedule of all rates."}
    )
    discriminator_hidden_size: int = field(
        default=64, metadata={"help": "Channels after its first convolution, on each level of features."}
    )
    lecam_weight: float = field(default=0.001, metadata={"help": "Weight of the LeCam regularisation."})
    ema_decay: float = field(default=0.999, metadata={"help": "Decay of the averaged weights, which are exported."})
    export_half_precision: bool = field(
        default=False, metadata={"help": "Store the exported weights in 16 bits; they still load in 32."}
    )
    revive_steps: int = field(default=100, metadata={"help": "Revive unused codes every so many steps; 0 never."})
    revive_until: float = field(default=0.6, metadata={"help": "Share of training after which none is revived."})
    revive_latents_steps: list[int] = field(
        default_factory=list, metadata={"help": "Steps after which latent tokens without influence are restarted."}
    )
    even_pixels: bool = field(
        default=False,
        metadata={
            "help": "Keep the lattice of the pixel decoder's last convolution out of plain areas: where its input is "
            "constant, so are the pixels."
        },
    )
    freeze_latent_norm_step: int | None = field(
        default=None, metadata={"help": "Step from which the latents are normalised by fixed statistics."}
    )
    license: str | None = field(
        default=None,
        metadata={
            "help": "Licence of the exported weights, an identifier of the Hub such as cc-by-nc-4.0, for the model "
            "card; if not given that of the weights that training starts from, else apache-2.0."
        },
    )
    grid_images: int = field(default=8, metadata={"help": "Images in the picture grid saved at each evaluation."})
    weights_dir: str | None = field(default=None, metadata={"help": "Folder with LPIPS backbones, for offline use."})

    def __post_init__(self):
        if self.train_only is not None and self.train_only not in TRAINABLE_PARTS:
            raise ValueError(
                f"train_only must be one of {', '.join(TRAINABLE_PARTS)}, or not given; got {self.train_only!r}."
            )
        if self.even_pixels and self.train_only == "heads":
            raise ValueError("even_pixels changes the decoder, of which train_only=heads leaves all else as it is.")
        if not 0 <= self.full_budget_share <= 1:
            raise ValueError(f"full_budget_share must lie in [0, 1]; got {self.full_budget_share}.")
        if self.adversarial_weight > 0 and self.discriminator_features:
            if self.perceptual_weight <= 0 or self.critic_start < self.perceptual_start:
                raise ValueError(
                    "discriminator_features needs LPIPS at a weight above 0 and from the critic's first step on; got "
                    f"perceptual_weight={self.perceptual_weight} and perceptual_start={self.perceptual_start} where "
                    f"the critic begins at step {self.critic_start}."
                )
        super().__post_init__()

    @property
    def critic_start(self) -> int:
        """Step at which the critic begins to train."""
        return self.adversarial_start - self.discriminator_warmup


ARGUMENT_CLASSES = (ModelArguments, DataArguments, ReconstructionTrainingArguments)
