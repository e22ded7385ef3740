"""What a recipe may say. A recipe is one flat YAML file whose keys are the fields of these classes."""

import json
from dataclasses import dataclass, field

from transformers import TrainingArguments


TRAINABLE_PARTS = ("heads", "decoder")


@dataclass
class ModelArguments:
    """The architecture; what is left out keeps the default of [`AdaTokConfig`]."""

    init_from: str | None = field(
        default=None, metadata={"help": "Checkpoint folder or Hub repo to start from instead of random weights."}
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "eager, sdpa or another; eager trains twice as fast as sdpa on CPUs."}
    )
    image_size: int | None = field(default=None, metadata={"help": "Height and width of the images."})
    patch_size: int | None = field(default=None, metadata={"help": "Height and width of one patch."})
    hidden_size: int | None = field(default=None, metadata={"help": "Width of the encoder."})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "Blocks of the encoder."})
    num_attention_heads: int | None = field(default=None, metadata={"help": "Attention heads of the encoder."})
    intermediate_size: int | None = field(default=None, metadata={"help": "Width of the encoder's MLPs."})
    decoder_hidden_size: int | None = field(default=None, metadata={"help": "Width of the decoder."})
    decoder_num_hidden_layers: int | None = field(default=None, metadata={"help": "Blocks of the decoder."})
    decoder_num_attention_heads: int | None = field(default=None, metadata={"help": "Attention heads of the decoder."})
    decoder_intermediate_size: int | None = field(default=None, metadata={"help": "Width of the decoder's MLPs."})
    num_latent_tokens: int | None = field(default=None, metadata={"help": "Number N of latent tokens."})
    codebook_size: int | None = field(default=None, metadata={"help": "Entries of the codebook."})
    codebook_dim: int | None = field(default=None, metadata={"help": "Width of a codebook entry."})
    commitment_cost: float | None = field(default=None, metadata={"help": "Weight of the commitment term."})
    budgets: list[int] | None = field(default=None, metadata={"help": "Candidate budgets, ascending, the last is N."})
    pixel_decoder_config: dict | str | None = field(
        default=None, metadata={"help": "Fields of a convolutional pixel decoder, as JSON."}
    )
    lora_rank: int | None = field(default=None, metadata={"help": "Rank of the heads."})
    lora_alpha: int | None = field(default=None, metadata={"help": "Scale of the heads."})

    def __post_init__(self):
        if isinstance(self.pixel_decoder_config, str):
            try:
                self.pixel_decoder_config = json.loads(self.pixel_decoder_config)
            except json.JSONDecodeError as error:
                raise ValueError(f"pixel_decoder_config is not JSON: {error}.") from error


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
    data_description: str | None = field(
        default=None, metadata={"help": "What the training images are and on which terms, for the model card."}
    )


@dataclass
class ReconstructionTrainingArguments(TrainingArguments):
    """
    Arguments of stage 1, prioritized representation learning: those of [`~transformers.TrainingArguments`] and the
    losses.
    """

    do_train: bool = field(default=True, metadata={"help": "Whether to train; else only evaluate."})
    # Trainer would drop the images before the collator sees them.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Keep False: the collator needs the images."})
    train_only: str | None = field(
        default=None,
        metadata={
            "help": "heads, or decoder with its heads: all else stays bit-identical and nothing is revived. If not "
            "given, all but the policy is trained."
        },
    )
    muon: bool = field(
        default=False,
        metadata={"help": "Whether Muon trains the matrices of the transformer layers, and AdamW only the rest."},
    )
    training_budgets: list[int] | None = field(
        default=None, metadata={"help": "Budgets to draw from and to evaluate at; the candidates if not given."}
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
    adversarial_start: int = field(default=0, metadata={"help": "Step at which the generator hears the critic."})
    discriminator_warmup: int = field(default=500, metadata={"help": "Steps the critic trains alone before that."})
    discriminator_learning_rate: float = field(default=1e-4, metadata={"help": "Learning rate of the critic."})
    discriminator_hidden_size: int = field(default=64, metadata={"help": "Channels after its first convolution."})
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
    freeze_latent_norm_step: int | None = field(
        default=None, metadata={"help": "Step from which the latents are normalised by fixed statistics."}
    )
    grid_images: int = field(default=8, metadata={"help": "Images in the picture grid saved at each evaluation."})
    weights_dir: str | None = field(default=None, metadata={"help": "Folder with LPIPS backbones, for offline use."})

    def __post_init__(self):
        if self.train_only is not None and self.train_only not in TRAINABLE_PARTS:
            raise ValueError(
                f"train_only must be one of {', '.join(TRAINABLE_PARTS)}, or not given; got {self.train_only!r}."
            )
        super().__post_init__()
