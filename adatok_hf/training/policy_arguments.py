"""What a recipe of stage 2 may say: the keys of its flat YAML file are the fields of these classes."""

from dataclasses import dataclass, field

from transformers import TrainingArguments

from ..allocation.grpo import SCALES


WEIGHTINGS = ("gradient", "hypervolume", "fixed", "target_mean")


@dataclass
class PolicyDataArguments:
    """The tokenizer and its rewards."""

    init_from: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub repo of the tokenizer; the embedded checkpoint if not given."},
    )
    reward_table: str | None = field(
        default=None,
        metadata={"help": "Folder of the reward table; if not given, `reward-table` in the output."},
    )
    eval_reward_table: str | None = field(
        default=None, metadata={"help": "Table of other images, on which the card reports the policy."}
    )
    train_data: str = field(
        default="", metadata={"help": "Images to make the reward table of, where it is not finished."}
    )
    train_split: str = field(default="train", metadata={"help": "Split of the training data."})
    weights_dir: str | None = field(default=None, metadata={"help": "Folder with LPIPS backbones, for offline use."})


@dataclass
class PolicyTrainingArguments(TrainingArguments):
    """
    Arguments of stage 2, adaptive token allocation: those of [`~transformers.TrainingArguments`], GRPO in the words of
    TRL, and Dynamic Pareto Weighting.
    """

    # The rows are tensors already; Trainer would look for their names in the signature of the policy.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Keep False: the loss needs the rewards."})
    epsilon: float = field(default=0.2, metadata={"help": "The probability ratio is clipped to 1 - and 1 + this."})
    beta: float = field(default=0.0, metadata={"help": "Weight of the KL divergence from the policy at the start."})
    old_policy_steps: int = field(
        default=1,
        metadata={
            "help": "Steps between refreshes of the policy that the ratio is taken to. Each step has other images; "
            "TRL's num_iterations would repeat the same ones."
        },
    )
    scale_rewards: str = field(
        default="dataset",
        metadata={"help": "Divide advantages by the deviation over the dataset, by each group's own, or by none."},
    )
    entropy_coef: float = field(default=0.2, metadata={"help": "Weight of the policy's entropy, in nats."})
    mse_weight: float = field(default=1.0, metadata={"help": "Fidelity is -(LPIPS + this * squared error)."})
    weighting: str = field(
        default="gradient",
        metadata={"help": "gradient and hypervolume (Dynamic Pareto Weighting), fixed, or target_mean (Lagrange)."},
    )
    fidelity_weight: float = field(default=0.5, metadata={"help": "First weight of fidelity; efficiency's is 1 - it."})
    weighting_learning_rate: float = field(default=0.05, metadata={"help": "Step of the weights."})
    weight_floor: float = field(default=0.05, metadata={"help": "Least weight of an objective."})
    weighting_decay: float = field(default=0.9, metadata={"help": "Of the moving average of the influences."})
    target_mean_budget: float | None = field(default=None, metadata={"help": "Mean budget for target_mean, in codes."})

    def __post_init__(self):
        super().__post_init__()
        for name, choices in (("scale_rewards", SCALES), ("weighting", WEIGHTINGS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}.")
        if not 0 < self.fidelity_weight < 1:
            raise ValueError(f"fidelity_weight must lie between 0 and 1; got {self.fidelity_weight}.")
        if not 0 <= self.weight_floor < 0.5:
            raise ValueError(f"weight_floor must lie between 0 and 0.5, half of all weight; got {self.weight_floor}.")
        if self.old_policy_steps < 1:
            raise ValueError(f"old_policy_steps must be at least 1; got {self.old_policy_steps}.")
        if (self.weighting == "target_mean") != (self.target_mean_budget is not None):
            raise ValueError(
                f"target_mean_budget goes with weighting=target_mean; got {self.target_mean_budget} with "
                f"{self.weighting}."
            )


ARGUMENT_CLASSES = (PolicyDataArguments, PolicyTrainingArguments)
