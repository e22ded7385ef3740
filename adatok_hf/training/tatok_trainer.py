"""The Trainer of TaTok: that of the tokenizer, with patches dropped in place of a prefix kept."""

import torch
from transformers.utils import ModelOutput

from ..modeling import TaTokModel
from ..modeling.blocks import AdaTokVectorQuantizer
from .tatok_arguments import TaTokTrainingArguments
from .tokenizer_trainer import ReconstructionTrainer


def draw_kept_counts(batch_size: int, num_patches: int) -> torch.Tensor:
    """
    How many patches each image keeps: any number, few more often than many, as there a patch is worth most.

    Args:
        batch_size (`int`): Number of images.
        num_patches (`int`): Patches of an image.

    Returns:
        `torch.LongTensor` of shape `(batch_size,)`: in `0 .. num_patches`.

    Example:

    ```python
    >>> import torch
    >>> from adatok_hf.training.tatok_trainer import draw_kept_counts

    >>> _ = torch.manual_seed(0)
    >>> counts = draw_kept_counts(10_000, 64)
    >>> counts.min().item(), counts.max().item(), 14 <= counts.median().item() <= 18
    (0, 64, True)

    ```"""
    return (torch.rand(batch_size).square() * (num_patches + 1)).long().clamp(max=num_patches)


class TaTokTrainer(ReconstructionTrainer):
    """
    Trains encoder, quantizers, decoder and prior so that any set of kept patches decodes.

    Each image of a batch keeps a number of patches of its own from [`draw_kept_counts`]. In half of the steps dynamic
    token filtering chooses them, in the other half they are random, so that neither a young prior nor a set that it
    would not choose finds the decoder unprepared. The losses are those of the tokenizer and the prior's; evaluation
    measures the filtered images at each of `args.training_budgets` tokens.

    Args:
        model ([`TaTokModel`]): The model.
        args ([`TaTokTrainingArguments`]): The arguments.
        kwargs: As for [`~adatok_hf.training.tokenizer_trainer.ReconstructionTrainer`].

    Raises:
        `ValueError`: if `args.training_budgets` do not ascend strictly, or go below the number of global tokens or
            beyond all tokens, or `args.perceptual_crop` is larger than the images.

    Source: huggingface.co/papers/2605.16384
    """

    model_class = TaTokModel
    args: TaTokTrainingArguments
    model: TaTokModel

    def _find_budgets(self, model: TaTokModel, args: TaTokTrainingArguments) -> list[int]:
        budgets = super()._find_budgets(model, args)
        if budgets[0] < model.config.num_global_tokens:
            raise ValueError(
                f"training_budgets must be at least {model.config.num_global_tokens}, the global tokens, which are "
                f"never dropped; got {budgets}."
            )
        return budgets

    def _freeze(self, model: TaTokModel, args: TaTokTrainingArguments):
        """Everything trains."""

    def _quantizers(self, model: TaTokModel) -> list[AdaTokVectorQuantizer]:
        return [model.global_quantizer, model.patch_quantizer]

    def _draw_choice(self, batch_size: int) -> dict[str, torch.Tensor]:
        args, config = self.args, self.model.config
        total = args.world_size * batch_size
        counts = draw_kept_counts(total, config.num_patches)
        global_mask = torch.rand(total) >= args.hidden_globals_share
        rows = slice(args.process_index * batch_size, (args.process_index + 1) * batch_size)
        choice = {"global_mask": global_mask[rows].to(args.device)}
        if torch.rand(()) < 0.5:
            return {"num_tokens": (config.num_global_tokens + counts[rows]).to(args.device), **choice}
        ranks = torch.rand(total, config.num_patches).argsort(dim=1)
        return {"kept_mask": (ranks < counts[:, None])[rows].to(args.device), **choice}

    def _further_loss(self, outputs: ModelOutput, components: dict[str, torch.Tensor]) -> torch.Tensor:
        components["prior"] = outputs.prior_loss.float()
        return self.args.prior_weight * components["prior"]

    def _take_codes(self, outputs: ModelOutput) -> list[torch.Tensor]:
        self._count_codes([outputs.global_codes, outputs.patch_codes[outputs.kept_mask]])
        return [outputs.global_latents.detach(), outputs.patch_latents.detach()]

    def _reconstruct_at_budgets(
        self, model: TaTokModel, pixel_values: torch.Tensor
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        full = model.encode(pixel_values, num_tokens=model.config.num_latent_tokens)
        ranks = full.patch_order.argsort(dim=1)
        return [full.global_codes, full.patch_codes], [
            model.decode(full, kept_mask=ranks < budget - model.config.num_global_tokens).pixel_values
            for budget in self.training_budgets
        ]


__all__ = ["TaTokTrainer", "draw_kept_counts"]
