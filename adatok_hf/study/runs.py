"""Trained networks of a study, each kept in a file of its own so that a study that was cut off goes on."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..allocation.reward_table import RewardTable
from ..files import whole_file
from ..modeling import AdaTokConfig
from ..modeling.modeling_adatok import AdaTokPolicy
from ..training.train_policy import train_policy
from .controls import predict_fidelity


STEP_OF_THE_WEIGHTS = {"weighting_learning_rate", "weighting_decay", "weight_floor"}
WITHOUT_EFFECT = {"output_dir", "logging_dir", "run_name", "report_to", "disable_tqdm", "log_level"}
HISTORY_KEYS = (
    "step",
    "weight_fidelity",
    "weight_efficiency",
    "grad_norm_fidelity",
    "grad_norm_efficiency",
    "mean_budget",
    "fidelity",
    "entropy",
)


class StudyRuns:
    """
    Trains a network unless its file is there already. The name of the file says what was trained and ends in a
    fingerprint of the table, the arguments and the sizes of the network, so nothing stale is ever taken.

    Args:
        folder (`Path`): Where the files go; made if need be.
        table ([`RewardTable`]): Training images.
        on_run (`Callable`): Called after each network, for a progress bar.
    """

    def __init__(self, folder: Path, table: RewardTable, on_run: Callable[[], object]):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.table, self.on_run = folder, table, on_run
        digest = hashlib.sha256(json.dumps(asdict(table.info), sort_keys=True).encode())
        for tensor in (table.features, table.lpips, table.mse):
            digest.update(tensor.contiguous().numpy().tobytes())
        self.table_digest = digest.hexdigest()

    def policy(self, arguments, config: AdaTokConfig) -> tuple[AdaTokPolicy, list[dict]]:
        """The policy that these arguments give, and what was logged while it trained."""
        rule, ignored = arguments.weighting, WITHOUT_EFFECT
        if rule in ("fixed", "hypervolume"):
            ignored = ignored | STEP_OF_THE_WEIGHTS
        if rule in ("fixed", "gradient"):
            rule = f"{rule}-{arguments.fidelity_weight:.2f}"
        name = f"{rule}-{arguments.scale_rewards}-{len(config.budgets)}-budgets-seed-{arguments.seed}"
        settings = {
            field.name: getattr(arguments, field.name) for field in fields(arguments) if field.name not in ignored
        }

        def train() -> tuple[AdaTokPolicy, list[dict]]:
            trained = train_policy(self.table, config, arguments)
            steps = [row for row in trained.history if "weight_fidelity" in row]
            return trained.policy, [{key: row[key] for key in HISTORY_KEYS if key in row} for row in steps]

        return self._kept(name, settings, config, train)

    def regressor(self, seed: int, mse_weight: float, config: AdaTokConfig) -> AdaTokPolicy:
        """The supervised network of this seed, see [`~adatok_hf.study.controls.predict_fidelity`]."""
        settings = {"seed": seed, "mse_weight": mse_weight}
        return self._kept(
            f"regressor-seed-{seed}",
            settings,
            config,
            lambda: (predict_fidelity(self.table, config, mse_weight, seed), []),
        )[0]

    def _kept(self, name: str, settings: dict, config: AdaTokConfig, train: Callable):
        sizes = [config.budgets, config.hidden_size, config.policy_hidden_size, config.hidden_act]
        key = json.dumps([name, settings, sizes, self.table_digest], sort_keys=True, default=str)
        path = self.folder / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:10]}.safetensors"
        if path.is_file():
            policy, history = _load(path, config)
        else:
            policy, history = train()
            if not all(torch.isfinite(parameter).all() for parameter in policy.parameters()):
                raise ValueError(f"The training of {name} diverged; lower the learning rate.")
            with whole_file(path) as temporary:
                save_file(policy.state_dict(), temporary, metadata={"history": json.dumps(history)})
        self.on_run()
        return policy.eval(), history


def _load(path: Path, config: AdaTokConfig) -> tuple[AdaTokPolicy, list[dict]]:
    policy = AdaTokPolicy(config)
    try:
        with safe_open(path, framework="pt") as file:
            policy.load_state_dict({name: file.get_tensor(name) for name in file.keys()})
            return policy, json.loads(file.metadata()["history"])
    except (SafetensorError, RuntimeError, TypeError, KeyError, json.JSONDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"The trained run {path} is damaged ({reason}); delete it.") from error


@torch.no_grad()
def scores_of(network: AdaTokPolicy, table: RewardTable) -> torch.Tensor:
    """What a network says about the images of a table, `(images, candidates)`."""
    return network(table.features)


__all__ = ["StudyRuns", "scores_of"]
