"""Runs the training command and keeps what each process ends with: run by torchrun from `test_distributed.py`."""

import os
import sys
from functools import partial
from pathlib import Path

import torch

from adatok_hf.training.recipe import run_recipe
from adatok_hf.training.tokenizer_arguments import ARGUMENT_CLASSES
from adatok_hf.training.tokenizer_trainer import ReconstructionTrainer
from adatok_hf.training.train_tokenizer import train


class RecordingTrainer(ReconstructionTrainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.batches, self.budgets = [], []
        self.model.register_forward_hook(lambda module, args, output: self.budgets.append(output.budgets))

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.batches.append(inputs["pixel_values"])
        return super().compute_loss(model, inputs, *args, **kwargs)

    def train(self, *args, **kwargs):
        codebook = self.model.quantizer.codebook.weight.clone()
        result = super().train(*args, **kwargs)
        state = {
            "model": self.model.state_dict(),
            "average": self.ema.module.state_dict(),
            "discriminator": self.accelerator.unwrap_model(self.discriminator).state_dict(),
            "lecam": self.lecam.state_dict(),
            "first_codebook": codebook,
            "codebook_use": self.codebook_use,
            "batches": self.batches,
            "budgets": self.budgets,
            "start_method": self.args.dataloader_multiprocessing_context,
        }
        torch.save(state, os.path.join(self.args.output_dir, f"rank-{self.args.process_index}.pt"))
        return result


if __name__ == "__main__":  # workers of the data loaders import this file too
    recording = partial(train, trainer_class=RecordingTrainer)
    run_recipe("tokenizer", sys.argv[1], sys.argv[2:], ARGUMENT_CLASSES, recording)
    # Threads of the group that outlive it abort the process now and then. A file each: printed lines would mix.
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    Path(sys.argv[1]).with_name(f"threads-{os.environ['RANK']}.txt").write_text("\n".join(threads))
