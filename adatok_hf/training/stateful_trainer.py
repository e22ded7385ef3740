"""What our Trainers add to `Trainer`: runs that know their end, means of measures, a state beyond the optimizer's."""

import multiprocessing
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput
from transformers.utils import logging

from ..files import named_errors, write_json


IDENTITY_NAME = "identity.json"
Identity = dict[str, str | float | None]  # what a run is of, by the names of options

logger = logging.get_logger(__name__)


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """
    Takes numbers below 1e-38 for zeros on a CPU meanwhile, which is many times as slow with them. Attention that has
    become sharp gives gradients full of them.
    """
    was_flushed = not torch.tensor(1e-39).mul(1.0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_flushed)


class ResumableTrainer(Trainer):
    """
    A Trainer that takes up a finished run as it ended, where `Trainer` would train one step beyond.

    Of several processes that train, each starts the workers of its data loaders from a server without threads. A fork
    of itself could wait forever for a lock that a thread of its process group held at that moment.

    Attributes:
        identity (`Identity`): What the run is of: its data, what it starts from, its objective. Checkpoints keep it.
    """

    identity: Identity | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        args = self.args
        if args.world_size > 1 and args.dataloader_num_workers and args.dataloader_multiprocessing_context is None:
            args.dataloader_multiprocessing_context = "spawn" if os.name == "nt" else "forkserver"
            multiprocessing.set_forkserver_preload(["adatok_hf.stream"])  # else each worker would import torch anew

    @property
    def rows_per_step(self) -> int:
        """What an optimizer step takes, of all processes together."""
        return self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size

    @flushed_denormals()
    def train(self, resume_from_checkpoint: str | None = None, **kwargs) -> TrainOutput:
        if resume_from_checkpoint is None:
            return super().train(**kwargs)
        state = TrainerState.load_from_json(os.path.join(resume_from_checkpoint, TRAINER_STATE_NAME))
        end = self.args.max_steps if self.args.max_steps > 0 else state.max_steps
        if state.global_step < end:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        logger.warning(f"This run is finished: {resume_from_checkpoint} stands at step {state.global_step} of {end}.")
        self.take_up(resume_from_checkpoint)
        self.state = state
        return TrainOutput(state.global_step, 0.0, {})

    def take_up(self, checkpoint: str):
        """Loads what a finished run is exported from."""
        self._load_from_checkpoint(checkpoint)

    def _save_checkpoint(self, model: nn.Module, trial):
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        try:
            with named_errors(folder):
                if self.args.should_save:
                    shutil.rmtree(folder, ignore_errors=True)  # what a killed save has left, temporary files too
                    folder.mkdir(parents=True, exist_ok=True)
                    if self.identity is not None:  # before all else, or a kill leaves a whole checkpoint of any run
                        write_json(folder / IDENTITY_NAME, self.identity)
                self.accelerator.wait_for_everyone()  # none of the others has begun to write
                super()._save_checkpoint(model, trial)
        except OSError:  # a full disk: the half of a checkpoint is of no use
            shutil.rmtree(folder, ignore_errors=True)
            raise


class StatefulTrainer(ResumableTrainer):
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
        """
        What `torch.load(weights_only=True)` can read: tensors, numbers, and containers of them, for all processes. All
        of them ask for it, one writes it.
        """
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
        state = self.extra_state()
        if self.args.should_save:
            torch.save(state, os.path.join(output_dir, self.state_name))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._load_state_of(checkpoint)

    def take_up(self, checkpoint: str):
        super().take_up(checkpoint)
        self._load_state_of(checkpoint)

    def _load_state_of(self, checkpoint: str):
        path = os.path.join(checkpoint, self.state_name)
        if not os.path.isfile(path):
            raise ValueError(
                f"{checkpoint} has no {self.state_name}, so it cannot be resumed; name a checkpoint of this trainer."
            )
        self.load_extra_state(torch.load(path, map_location="cpu", weights_only=True))
