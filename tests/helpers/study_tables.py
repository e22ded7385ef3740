"""Reward tables whose answer is known, and a trainer that takes milliseconds."""

from dataclasses import dataclass
from types import SimpleNamespace

import torch

from adatok_hf import AdaTokConfig
from adatok_hf.allocation.reward_table import RewardTable, RewardTableInfo
from adatok_hf.modeling.modeling_adatok import AdaTokPolicy


BUDGETS = [2, 4, 6, 8, 10, 12, 14, 16]
CANDIDATES = [4, 8, 12, 16]


def make_config() -> AdaTokConfig:
    return AdaTokConfig(
        image_size=32,
        patch_size=8,
        hidden_size=8,
        num_attention_heads=2,
        num_latent_tokens=16,
        budgets=CANDIDATES,
        policy_hidden_size=32,
    )


def make_table(images: int, seed: int, is_predictable: bool = True) -> RewardTable:
    """Each image needs between 3 and 16 codes, and more gain it nothing; the features tell how many, or nothing."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(images, 16, generator=generator)
    hidden = features[:, 0] if is_predictable else torch.randn(images, generator=generator)
    needs = 3 + 13 * torch.sigmoid(2 * hidden)
    lpips = 0.2 + 0.02 * (needs[:, None] - torch.tensor(BUDGETS)).clamp(min=0)
    lpips = lpips + 0.005 * torch.randn(lpips.shape, generator=generator)
    columns = {
        "features": features,
        "lpips": lpips,
        "mse": 0.1 * lpips,
        "psnr": 10 * torch.log10(4 / (0.1 * lpips)),
        "webp_bytes": (1000 + 100 * needs).long(),
        "gradient_energy": 2 ** (needs - 16),
        "group": ["simple" if need < 8 else "complex" for need in needs.tolist()],
        "image_hash": [f"{seed}-{image}" for image in range(images)],
    }
    return RewardTable(RewardTableInfo("tiny", "a" * 64, f"set {seed}", images, BUDGETS, 16, 512, "alex"), columns)


@dataclass
class Arguments:
    """The fields that a study sets."""

    seed: int = 0
    weighting: str = "gradient"
    fidelity_weight: float = 0.5
    target_mean_budget: float | None = None
    scale_rewards: str = "dataset"
    mse_weight: float = 1.0
    max_steps: int = 80
    output_dir: str = "anywhere"


def train(table: RewardTable, config: AdaTokConfig, arguments: Arguments) -> SimpleNamespace:
    """Gradient ascent on the expected reward; whatever the rule, the weights stay."""
    torch.manual_seed(arguments.seed)
    policy = AdaTokPolicy(config)
    rewards = table.fidelity(arguments.mse_weight)[:, table.columns(config.budgets)]
    cost = torch.tensor(config.budgets) / config.budgets[-1]
    fidelity, efficiency = (r - r.mean(dim=-1, keepdim=True) for r in (rewards, -cost))
    advantages = arguments.fidelity_weight * fidelity / fidelity.square().mean().sqrt()
    advantages = advantages + (1 - arguments.fidelity_weight) * efficiency / efficiency.square().mean().sqrt()
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    history = []
    for step in range(arguments.max_steps):
        loss = -(policy(table.features).softmax(dim=-1) * advantages).sum(dim=-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 19:
            weight = {"weight_fidelity": arguments.fidelity_weight, "weight_efficiency": 1 - arguments.fidelity_weight}
            norms = {"grad_norm_fidelity": 1.0, "grad_norm_efficiency": 1.0}
            history.append({"step": step + 1, **weight, **norms, "mean_budget": 9.0, "loss": loss.item()})
    history.append({"step": arguments.max_steps, "eval_lpips": 0.2})
    return SimpleNamespace(policy=policy.eval(), history=history)
