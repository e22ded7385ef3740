"""What a recipe of TaTok may say beyond those of the tokenizer."""

from dataclasses import dataclass, field

from ..modeling import TaTokConfig
from .tokenizer_arguments import (
    DataArguments,
    ReconstructionTrainingArguments,
    StartArguments,
    architecture_arguments,
)


@dataclass
class TaTokModelArguments(StartArguments, architecture_arguments(TaTokConfig, ("threshold",))):
    """The architecture: the fields of [`TaTokConfig`]. What is left out keeps its default, or that of `init_from`."""


@dataclass
class TaTokTrainingArguments(ReconstructionTrainingArguments):
    """Arguments of a TaTok: those of the tokenizer, the prior, and what is dropped while it trains."""

    prior_weight: float = field(
        default=0.1,
        metadata={"help": "Weight of the prior's loss. It reaches the prior alone, but counts in max_grad_norm."},
    )
    hidden_globals_share: float = field(
        default=0.1,
        metadata={"help": "Share of images decoded without their global codes, so that this control can be measured."},
    )

    def __post_init__(self):
        if self.train_only is not None or self.revive_latents_steps or self.full_budget_share:
            raise ValueError(
                "train_only, revive_latents_steps and full_budget_share are for AdaTok's heads and latent tokens only."
            )
        if not 0 <= self.hidden_globals_share < 1:
            raise ValueError(f"hidden_globals_share must be at least 0 and below 1; got {self.hidden_globals_share}.")
        super().__post_init__()


ARGUMENT_CLASSES = (TaTokModelArguments, DataArguments, TaTokTrainingArguments)
