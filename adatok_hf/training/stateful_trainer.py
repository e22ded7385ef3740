"""What both Trainers add to `Trainer`: means of what they measure at each step, and a state beyond the optimizer's."""

import os

import torch
from transformers import Trainer


class StatefulTrainer(Trainer):
    """
    A Trainer that logs the means of measures since the last log line, and that saves a state of its own beside the
    optimizer's.

    Attributes:
        state_name (`str`): File of the state in a checkpoint.

    Raises:
        `ValueError`: when resumed from a checkpoint without that file.
    """

    state_name: str

    def __init__(self, *args, **kwargs):
        self._measures: dict[str, list[torch.Tensor]] = {}
        super().__init__(*args, **kwargs)

    def extra_state(self) -> dict:
        """What `torch.load(weights_only=True)` can read: tensors, numbers, and containers of them."""
        raise NotImplementedError

    def load_extra_state(self, state: dict):
        """Takes up what [`~StatefulTrainer.extra_state`] gave."""
        raise NotImplementedError

    def add_measures(self, measures: dict[str, torch.Tensor]):
        """Keeps scalars for the mean that the next log line gives, over steps and processes."""
        for name, value in measures.items():
            self._measures.setdefault(name, []).append(value.detach())

    def log(self, logs: dict[str, float], start_time: float | None = None):
        if "loss" in logs:
            for name, values in self._measures.items():
                logs[name] = self.accelerator.reduce(torch.stack(values).mean(), "mean").item()
            self._measures = {}
        super().log(logs, start_time)

    def _save_optimizer_and_scheduler(self, output_dir: str):
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            torch.save(self.extra_state(), os.path.join(output_dir, self.state_name))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        path = os.path.join(checkpoint, self.state_name)
        if not os.path.isfile(path):
            raise ValueError(
                f"{checkpoint} has no {self.state_name}, so it cannot be resumed; name a checkpoint of this trainer."
            )
        self.load_extra_state(torch.load(path, map_location="cpu", weights_only=True))
