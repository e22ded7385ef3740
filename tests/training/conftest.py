"""A trainer that takes a few steps on the CPU."""

import pytest
from transformers import TrainerCallback, set_seed

from adatok_hf import AdaTokModel
from adatok_hf.data import ImageCollator
from adatok_hf.training.tokenizer_arguments import ReconstructionTrainingArguments
from adatok_hf.training.tokenizer_trainer import ReconstructionTrainer


class AfterEachStep(TrainerCallback):
    """Keeps what `look` returns after every optimizer step."""

    def __init__(self, look):
        self.look, self.seen = look, []

    def on_step_end(self, args, state, control, **kwargs):
        self.seen.append(self.look())


@pytest.fixture
def watch():
    """Keeps what a function returns after every optimizer step of a trainer: gives the list it fills."""

    def attach(trainer: ReconstructionTrainer, look) -> list:
        callback = AfterEachStep(look)
        trainer.add_callback(callback)
        return callback.seen

    return attach


@pytest.fixture
def make_trainer(tmp_path, tiny_config, processor, pictures):
    """Makes a trainer of a random model; keywords are fields of the arguments, or `images` and `config`."""

    def make(output_dir="run", images=None, eval_images=None, config=None, **arguments) -> ReconstructionTrainer:
        defaults = {
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 4,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "perceptual_weight": 0.0,
            "revive_steps": 0,
            "discriminator_hidden_size": 8,
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
        }
        set_seed(0)
        trainer = ReconstructionTrainer(
            model=AdaTokModel(config or tiny_config),
            args=ReconstructionTrainingArguments(str(tmp_path / output_dir), **{**defaults, **arguments}),
            train_dataset=[{"image": image} for image in images or pictures],
            eval_dataset=[{"image": image} for image in eval_images or pictures[:6]],
            data_collator=ImageCollator(processor),
            processing_class=processor,
        )
        set_seed(0)  # whatever the trainer builds beside the model must not shift the draws of the training
        return trainer

    return make


@pytest.fixture
def snapshot():
    """A copy of a module's state."""
    return lambda module: {name: tensor.clone() for name, tensor in module.state_dict().items()}
