"""What a Trainer adds for data that are read as they come."""

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from ..stream import ImageStream, PlacedCollator
from .stateful_trainer import StatefulTrainer


class StreamingTrainer(StatefulTrainer):
    """
    A Trainer that may train on an [`~adatok_hf.stream.ImageStream`]. Every batch says where the stream goes on after
    it, so what workers have read ahead is not lost, and a checkpoint holds the place of every reader.

    Raises:
        `ValueError`: when resumed with another stream than that of the checkpoint, or with none.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._stream = self.train_dataset if isinstance(self.train_dataset, ImageStream) else None
        if self._stream is not None:
            self.args.ignore_data_skip = True  # the stream itself begins at its place
            self._places, self._next_reader = self._stream.places.clone(), 0
            self.add_callback(_OneEpoch())

    def get_train_dataloader(self) -> DataLoader:
        if self._stream is None:
            return super().get_train_dataloader()
        args = self.args
        # Not accelerate's, which reads a batch ahead. A generator of its own leaves that of the training alone.
        return DataLoader(
            self._stream,
            batch_size=args.train_batch_size,
            collate_fn=PlacedCollator(self.data_collator),
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            generator=torch.Generator(),
        )

    def training_step(self, model: nn.Module, inputs: dict, num_items_in_batch: int | None = None) -> torch.Tensor:
        if "place" in inputs:
            reader, *place = inputs.pop("place").tolist()
            self._places[reader] = torch.tensor(place)
            self._next_reader = (reader + 1) % len(self._places)
        return super().training_step(model, inputs, num_items_in_batch)

    def _stream_facts(self) -> dict[str, int]:
        """What a place in a stream depends on, by the names of the options."""
        stream = self._stream
        return {
            "seed": stream.seed,
            "shuffle_window": stream.window,
            "files": stream.table.num_shards,
            "readers": stream.all_readers,
        }

    def extra_state(self) -> dict:
        if self._stream is None:
            return {}
        places = self.accelerator.gather(self._places.to(self.args.device)).cpu()
        return {"stream": {"places": places, "next_reader": self._next_reader, "facts": self._stream_facts()}}

    def load_extra_state(self, state: dict):
        if self.train_dataset is None:
            return
        saved = state.get("stream")
        if (saved is None) != (self._stream is None):
            how = "without" if saved is None else "with"
            raise ValueError(f"The checkpoint is of a run {how} --streaming; go on {how} it, or start anew.")
        if saved is None:
            return
        for name, value in self._stream_facts().items():
            if saved["facts"][name] != value:
                raise ValueError(
                    f"The checkpoint's stream has {name}={saved['facts'][name]}, this one {value}; make them alike, "
                    "or start anew."
                )
        first, readers = self._stream.first, self._stream.readers
        self._places, self._next_reader = saved["places"][first : first + readers], saved["next_reader"]
        self._stream.places, self._stream.next_reader = self._places.clone(), self._next_reader


class _OneEpoch(TrainerCallback):
    """Says how much of a training is over, also where it was resumed: to the Trainer a stream is one long epoch."""

    def on_step_end(self, args, state, control, **kwargs):
        state.epoch = state.global_step / state.max_steps
