"""The Trainer of stage 2: a policy over candidate budgets, by GRPO whose groups are complete."""

from copy import deepcopy

import torch
from torch import nn
from torch.utils.data import Dataset

from ..allocation.choice import check_mean_budget, choose_columns
from ..allocation.grpo import entropy, group_advantages, grpo_loss, kl_divergence, reward_scale
from ..allocation.pareto import (
    FixedWeighting,
    GradientWeighting,
    HypervolumeWeighting,
    Progress,
    TargetMeanWeighting,
)
from ..allocation.reward_table import RewardTable
from ..modeling.modeling_adatok import AdaTokPolicy
from .policy_arguments import PolicyTrainingArguments
from .stateful_trainer import StatefulTrainer


MIN_IMAGES = 64


class RewardDataset(Dataset):
    """
    The rows of a reward table as tensors, fetched a batch at a time.

    Args:
        table ([`RewardTable`]): Its columns must be the candidate budgets.
        mse_weight (`float`): See [`RewardTable.fidelity`].
    """

    def __init__(self, table: RewardTable, mse_weight: float):
        self.features, self.fidelity = table.features, table.fidelity(mse_weight)

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        return {"features": self.features[indices], "fidelity": self.fidelity[indices]}


def _as_it_is(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`RewardDataset` gives whole batches; a lambda would not reach the workers of several processes."""
    return batch


class AdaTokPolicyTrainer(StatefulTrainer):
    """
    Trains a policy on a reward table. The tokenizer is not involved, so it cannot change.

    The group of an image is all its candidate budgets, each with its known reward: the expected advantage under the
    policy and its gradient are exact. Fidelity is `-(LPIPS + mse_weight * MSE)`, efficiency `1 - budget / N`; each is
    centred per image and divided by its deviation over the dataset, and the two are added under weights that
    Dynamic Pareto Weighting moves.

    Args:
        model ([`AdaTokPolicy`]): The `policy` of an [`AdaTokModel`].
        args ([`PolicyTrainingArguments`]): The arguments.
        train_dataset ([`RewardTable`]): Rewards at exactly the candidate budgets of the policy.
        eval_dataset ([`RewardTable`], *optional*): The same for other images; the hypervolume rule needs it.
        kwargs: As for [`~transformers.Trainer`].

    Raises:
        `ValueError`: if there are too few images, rewards that are not finite or all alike, columns that are not
            the policy's candidates, or a target mean outside of these.

    Source: huggingface.co/papers/2606.07185
    """

    state_name = "policy_state.pt"
    args: PolicyTrainingArguments

    def __init__(
        self,
        model: AdaTokPolicy,
        args: PolicyTrainingArguments,
        train_dataset: RewardTable,
        eval_dataset: RewardTable | None = None,
        **kwargs,
    ):
        for table in (train_dataset, eval_dataset):
            if table is not None:
                table.check()
                if len(table.budgets) != model.fc2.out_features:
                    raise ValueError(
                        f"The policy chooses among {model.fc2.out_features} budgets, the reward table has "
                        f"{table.info.budgets}; select the candidates first."
                    )
        if len(train_dataset) < MIN_IMAGES:
            raise ValueError(
                f"The deviation of the rewards needs at least {MIN_IMAGES} images; the table has {len(train_dataset)}."
            )
        if args.target_mean_budget is not None:
            check_mean_budget(args.target_mean_budget, train_dataset.info.budgets)
        if args.weighting == "hypervolume" and eval_dataset is None:
            raise ValueError("The hypervolume rule needs evaluation images, for it rewards points of their front.")
        super().__init__(
            model=model,
            args=args,
            train_dataset=RewardDataset(train_dataset, args.mse_weight),
            eval_dataset=eval_dataset,
            data_collator=_as_it_is,
            **kwargs,
        )
        self.model_accepts_loss_kwargs = False
        self.budgets = train_dataset.budgets
        shares = (self.budgets / self.budgets[-1]).to(args.device)
        self.efficiency, self.shares = 1 - shares, shares
        self.scales = [reward_scale(self.train_dataset.fidelity), reward_scale(self.efficiency)]
        if self.scales[0] < 1e-8:
            raise ValueError("Every image is equally faithful at all budgets, so there is nothing to choose.")
        self.weighting = make_weighting(args, int(self.budgets[-1]))
        self.reference = deepcopy(self.model).requires_grad_(False)
        self.old_policy = deepcopy(self.reference)
        self._point: tuple[float, float] | None = None
        self._micro_batches: list[tuple[torch.Tensor, torch.Tensor]] = []  # of the optimizer step under way

    def advantages(self, fidelity: torch.Tensor) -> torch.Tensor:
        """Of both objectives, `(images, candidates)` to `(images, 2, candidates)`."""
        rewards = torch.stack([fidelity, self.efficiency.expand_as(fidelity)], dim=1)
        if self.args.scale_rewards == "group":
            return group_advantages(rewards)
        scales = [1.0, 1.0] if self.args.scale_rewards == "none" else self.scales
        return group_advantages(rewards, torch.tensor(scales, device=rewards.device)[:, None])

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: int | None = None,
    ):
        args = self.args
        logits = model(inputs["features"])
        log_probs = logits.log_softmax(dim=-1)
        objectives = self.advantages(inputs["fidelity"])
        weights = self.weighting.weights.to(objectives.device)
        advantages = self.weighting.multiplier * (weights[:, None] * objectives).sum(dim=1)
        ref_log_probs = self._log_probs(self.reference, inputs["features"])
        loss, clip_ratio = grpo_loss(
            log_probs,
            self._old_log_probs(inputs["features"], log_probs),
            advantages,
            epsilon=args.epsilon,
            entropy_coef=args.entropy_coef,
            beta=args.beta,
            ref_log_probs=ref_log_probs,
        )
        gradients = self._objective_gradients(log_probs, objectives)
        self._log_step(inputs["fidelity"], log_probs, ref_log_probs, advantages, gradients, clip_ratio)
        mean_share = self.accelerator.reduce(self.shares[logits.argmax(dim=-1)].mean(), "mean")
        self._micro_batches.append((gradients, mean_share))
        return (loss, logits) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: dict, num_items_in_batch: int | None = None) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self._move_weights()
        return loss

    def _move_weights(self):
        """Once per optimizer step, by the mean over its micro-batches."""
        gradients, shares = (torch.stack(values).mean(dim=0) for values in zip(*self._micro_batches))
        peak = self.args.learning_rate
        pace = self._get_learning_rate() / peak if peak else 1.0
        self.weighting.update(Progress(gradients, shares.item(), self._point, pace))
        self._micro_batches, self._point = [], None

    def _old_log_probs(self, features: torch.Tensor, log_probs: torch.Tensor) -> torch.Tensor:
        if self.args.old_policy_steps == 1:
            return log_probs.detach()
        if self.state.global_step % self.args.old_policy_steps == 0:
            self.old_policy.load_state_dict(self.accelerator.unwrap_model(self.model).state_dict())
        return self._log_probs(self.old_policy, features)

    @torch.no_grad()
    def _log_probs(self, policy: nn.Module, features: torch.Tensor) -> torch.Tensor:
        return policy(features).log_softmax(dim=-1)

    def _objective_gradients(self, log_probs: torch.Tensor, objectives: torch.Tensor) -> torch.Tensor:
        """Gradient of each objective's expected advantage by itself, shape `(2, parameters)`."""
        parameters = list(self.accelerator.unwrap_model(self.model).parameters())
        expected = (log_probs.exp()[:, None] * objectives).sum(dim=-1).mean(dim=0)  # (2,)
        rows = [
            torch.cat([grad.flatten() for grad in torch.autograd.grad(value, parameters, retain_graph=True)])
            for value in expected
        ]
        return self.accelerator.reduce(torch.stack(rows), "mean")

    @torch.no_grad()
    def _log_step(self, fidelity, log_probs, ref_log_probs, advantages, gradients, clip_ratio):
        probs, deviation = log_probs.exp(), advantages.square().mean(dim=-1).sqrt()
        norms, weights = gradients.norm(dim=1), self.weighting.weights
        values = {
            "reward": (probs * advantages).sum(dim=-1).mean(),
            "reward_std": deviation.mean(),
            "frac_reward_zero_std": (deviation < 1e-6).float().mean(),
            "entropy": entropy(log_probs).mean(),
            "kl": kl_divergence(log_probs, ref_log_probs).mean(),
            "clip_ratio": clip_ratio,
            "mean_budget": (probs @ self.budgets.to(probs)).mean(),
            "fidelity": (probs * fidelity).sum(dim=-1).mean(),
            "weight_fidelity": weights[0],
            "weight_efficiency": weights[1],
            "reward_multiplier": torch.tensor(self.weighting.multiplier),
            "grad_norm_fidelity": norms[0],
            "grad_norm_efficiency": norms[1],
        }
        self.add_measures({name: value.to(probs.device) for name, value in values.items()})

    @torch.no_grad()
    def evaluate(
        self,
        eval_dataset: RewardTable | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """
        Measures the policy's choice, without a cost bias, on other images.

        Returns:
            `dict[str, float]`: `mean_budget` in codes, `lpips`, `psnr` in dB, `entropy` in nats, and `top_share`, the
            share of the budget that is chosen most, each behind the prefix.
        """
        table = eval_dataset if eval_dataset is not None else self.eval_dataset
        policy = self.accelerator.unwrap_model(self.model).eval()
        log_probs = policy(table.features.to(self.args.device)).log_softmax(dim=-1)
        columns = choose_columns(log_probs, self.budgets.to(log_probs.device), 0.0).cpu()
        metrics = table.means_at(columns) | {
            "entropy": entropy(log_probs).mean().item(),
            "top_share": (columns.bincount().max() / len(columns)).item(),
        }
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        objectives = self.advantages(table.fidelity(self.args.mse_weight).to(log_probs.device))
        fidelity, efficiency = (log_probs.exp()[:, None] * objectives).sum(dim=-1).mean(dim=0).tolist()
        self._point = (fidelity, efficiency)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def extra_state(self) -> dict:
        return {
            "weighting": self.weighting.state_dict(),
            "point": self._point,
            "reference": self.reference.state_dict(),
            "old_policy": self.old_policy.state_dict(),
        }

    def load_extra_state(self, state: dict):
        self.weighting.load_state_dict(state["weighting"])
        self._point = state["point"]
        self.reference.load_state_dict(state["reference"])
        self.old_policy.load_state_dict(state["old_policy"])


def make_weighting(args: PolicyTrainingArguments, num_latent_tokens: int) -> FixedWeighting:
    """The rule that the arguments name, at its start."""
    weights = torch.tensor([args.fidelity_weight, 1 - args.fidelity_weight])
    step = {"learning_rate": args.weighting_learning_rate, "floor": args.weight_floor}
    if args.weighting == "gradient":
        return GradientWeighting(weights, **step, decay=args.weighting_decay)
    if args.weighting == "target_mean":
        return TargetMeanWeighting(weights, **step, target=args.target_mean_budget / num_latent_tokens)
    return HypervolumeWeighting(weights) if args.weighting == "hypervolume" else FixedWeighting(weights)
