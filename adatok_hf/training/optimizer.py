"""Muon for the matrices, AdamW for the rest, as one optimizer."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer
from transformers import Trainer, TrainingArguments


@dataclass
class MuonTrainingArguments(TrainingArguments):
    """Arguments of a training in which Muon may take over the matrices of the transformer layers."""

    muon: bool = field(
        default=False,
        metadata={"help": "Whether Muon trains the matrices of the transformer layers, and AdamW only the rest."},
    )
    adamw_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of AdamW beside Muon; learning_rate is for both if not given."}
    )

    def __post_init__(self):
        if self.adamw_learning_rate is not None and not (self.muon and self.adamw_learning_rate >= 0):
            raise ValueError(
                f"adamw_learning_rate must be at least 0, with muon=True; got {self.adamw_learning_rate} with "
                f"muon={self.muon}. Without Muon, learning_rate is that of AdamW."
            )
        super().__post_init__()


class MuonWithAdamW(Optimizer):
    """
    Muon, which orthogonalises the update of a matrix, beside AdamW for everything that is none. Both can take the same
    learning rate, as Muon's updates have the size of AdamW's; where Muon takes a high one, AdamW may need less.

    Args:
        matrices (iterable of `torch.nn.Parameter`): What Muon trains, all of two dimensions.
        others (iterable of `torch.nn.Parameter`): What AdamW trains.
        lr (`float`): Learning rate of Muon.
        adamw_lr (`float`, *optional*): Learning rate of AdamW; that of Muon if not given.
        weight_decay (`float`, *optional*, defaults to 0.0): Decoupled weight decay of the matrices; the rest has none.
        momentum (`float`, *optional*, defaults to 0.95): Momentum of Muon.
        betas (`tuple[float, float]`, *optional*, defaults to `(0.9, 0.99)`): Decays of AdamW's moments.
        eps (`float`, *optional*, defaults to 1e-8): Epsilon of AdamW.

    Raises:
        `ValueError`: if one of the matrices has not two dimensions.

    Sources: huggingface.co/papers/2502.16982 for the scale, huggingface.co/papers/1711.05101
    """

    def __init__(
        self,
        matrices: Iterable[torch.nn.Parameter],
        others: Iterable[torch.nn.Parameter],
        lr: float,
        adamw_lr: float | None = None,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
    ):
        self.parts = {
            "muon": Muon(
                matrices, lr=lr, weight_decay=weight_decay, momentum=momentum, adjust_lr_fn="match_rms_adamw"
            ),
            "adamw": AdamW(others, lr=lr if adamw_lr is None else adamw_lr, weight_decay=0.0, betas=betas, eps=eps),
        }
        super().__init__([group for part in self.parts.values() for group in part.param_groups], defaults={"lr": lr})
        self._share_groups()

    def _share_groups(self):
        # The very groups of the parts, so that a scheduler which sets a learning rate here sets theirs.
        self.param_groups = [group for part in self.parts.values() for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts.values():
            part.step()
        return loss

    def state_dict(self) -> dict:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict):
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        self._share_groups()


def muon_with_adamw(model: nn.Module, args: MuonTrainingArguments) -> MuonWithAdamW:
    """The optimizer of a model's trained parameters: Muon for the matrices of its `layers`, AdamW for the rest."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (matrices if parameter.ndim == 2 and ".layers." in name else others).append(parameter)
    return MuonWithAdamW(
        matrices,
        others,
        args.learning_rate,
        args.adamw_learning_rate,
        weight_decay=args.weight_decay,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
    )


class MuonTrainer(Trainer):
    """A Trainer whose optimizer is [`muon_with_adamw`] where the arguments ask for Muon."""

    args: MuonTrainingArguments

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        if self.optimizer is None and self.args.muon:
            self.optimizer = muon_with_adamw(model or self.model, self.args)
        return super().create_optimizer(model)
