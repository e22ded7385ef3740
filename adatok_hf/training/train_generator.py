"""The generator: from a recipe to a plain Llama folder, `adatok train generator`."""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from transformers import IntervalStrategy, LlamaForCausalLM, set_seed

from ..files import first_line, whole_files, write_json
from ..generation.sequences import load_sequences
from ..model_card import CARD_NAME
from ..modeling.vocabulary_adatok import GeneratorVocabulary
from ..modeling.vocabulary_tatok import TaTokVocabulary
from .generator_arguments import (
    ARGUMENT_CLASSES,
    GeneratorDataArguments,
    GeneratorModelArguments,
    GeneratorTrainingArguments,
)
from .generator_trainer import AdaTokGeneratorTrainer
from .recipe import checkpoint_to_resume, named, run_recipe


CARD = """---
library_name: transformers
pipeline_tag: unconditional-image-generation
tags: [adatok, image-generation]
---

# {name}

A stock `LlamaForCausalLM` that writes images as codes of {codec} tokenizer: class, budget, then {layout}.
{classes} {codes} The fingerprint of the tokenizer is in `config.json`, under `{key}`.

```{use}
```

{training}
"""
USE = """bash
adatok generate --generator {name} --model TOKENIZER{label} -n 8 --out out"""
TATOK_USE = """python
from adatok_hf.generation.load_pipeline import load_tatok_generator
from adatok_hf.modeling.sampling_tatok import TaTokSampler

generator, tokenizer, processor = load_tatok_generator("{name}", "TOKENIZER")
tokens = TaTokSampler(generator)([None])
images = processor.post_process(tokenizer.decode(tokens.global_codes, tokens.patch_codes).pixel_values.detach())"""


def build_generator(arguments: GeneratorModelArguments, vocabulary: GeneratorVocabulary) -> LlamaForCausalLM:
    """
    Makes a model with random weights, or loads the generator named by `init_from`, which may have been one of another
    tokenizer with as many codes: it learns the new ones.

    Raises:
        `ValueError`: if the architecture is impossible or is not that of `init_from`, or its ids mean something else.
    """
    architecture = {key: value for key, value in asdict(arguments).items() if value is not None}
    init_from = architecture.pop("init_from", None)
    if init_from is None:
        model = LlamaForCausalLM(vocabulary.model_config(**architecture))
    else:
        try:
            model = LlamaForCausalLM.from_pretrained(init_from)
        except OSError as error:
            raise ValueError(f"The generator {init_from} cannot be loaded: {first_line(error)}") from error
        for name, value in architecture.items():
            if getattr(model.config, name) != value:
                raise ValueError(f"{init_from} has {name}={getattr(model.config, name)}, but the recipe says {value}.")
        found = type(vocabulary).from_config(model.config)
        if replace(found, tokenizer_hash=vocabulary.tokenizer_hash) != vocabulary:
            raise ValueError(f"{init_from} has another number of codes, other budgets or other classes than the data.")
        setattr(model.config, vocabulary.config_key, vocabulary.to_dict())
    model.generation_config = vocabulary.generation_config()
    return model


def train(
    model_arguments: GeneratorModelArguments,
    data_arguments: GeneratorDataArguments,
    arguments: GeneratorTrainingArguments,
) -> dict[str, float]:
    """
    Trains a generator and writes it into `arguments.output_dir` as a plain transformers model; a run that was cut off
    is resumed.

    Returns:
        `dict[str, float]`: `eval_loss` in nats of a token where there is evaluation data, else `train_loss`, or
        nothing of a run that was finished already.
    """
    if not data_arguments.train_data:
        raise ValueError("There is nothing to train on: give --train_data, a folder of `adatok tokenize-dataset`.")
    set_seed(arguments.seed)
    train_dataset, vocabulary = load_sequences(data_arguments.train_data)
    eval_dataset = None
    if not data_arguments.eval_data:
        arguments.eval_strategy = IntervalStrategy.NO  # the recipes' steps are for those who have such data
    else:
        eval_dataset, eval_vocabulary = load_sequences(data_arguments.eval_data, data_arguments.max_eval_images)
        if eval_vocabulary != vocabulary:
            raise ValueError(
                f"{data_arguments.eval_data} has codes of another tokenizer, or other classes, than "
                f"{data_arguments.train_data}."
            )
        eval_dataset = eval_dataset.sort("length")
    trainer = AdaTokGeneratorTrainer(
        vocabulary=vocabulary,
        model=build_generator(model_arguments, vocabulary),
        args=arguments,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
    )
    trainer.identity = {
        "tokenizer": vocabulary.tokenizer_hash,
        "train_data": named(data_arguments.train_data),
        "init_from": named(model_arguments.init_from),
    }
    trained = trainer.train(resume_from_checkpoint=checkpoint_to_resume(arguments, trainer.identity)).metrics
    losses = {name: value for name, value in trained.items() if name == "train_loss"}
    metrics = trainer.evaluate() if eval_dataset is not None else losses
    if trainer.is_world_process_zero():
        export_generator(trainer, arguments.output_dir, metrics, model_arguments.init_from)
    return metrics


def export_generator(
    trainer: AdaTokGeneratorTrainer, folder: str | Path, metrics: dict[str, float], init_from: str | None = None
):
    """Writes the model, its metrics and a card, all of them or none; `ValueError` if a weight is not finite."""
    if not all(parameter.isfinite().all() for parameter in trainer.model.parameters()):
        raise ValueError(
            f"The training has diverged: weights are not finite after {trainer.state.global_step} steps, and {folder} "
            "is left as it is. Start anew with a lower learning rate."
        )
    arguments, vocabulary, steps = trainer.args, trainer.vocabulary, trainer.state.global_step
    facts = {
        "training sequences": len(trainer.train_dataset),
        "steps": steps,
        "sequences per step": trainer.rows_per_step,
        "parameters": trainer.model.num_parameters(),
        "class dropout": arguments.class_dropout,
    }
    if init_from is not None:
        facts["started from"] = init_from
    if "eval_loss" in metrics:
        facts["loss on other images"] = f"{metrics['eval_loss']:.3f} nats a token"
    card = make_card(Path(folder).name, vocabulary, facts)
    model = trainer.accelerator.unwrap_model(trainer.model)
    weights = model.state_dict()
    if arguments.export_half_precision:
        weights = {name: weight.half() for name, weight in weights.items()}
    with whole_files(folder) as temporary:
        model.save_pretrained(temporary, state_dict=weights)
        write_json(temporary / "metrics.json", {"training": facts, **metrics})
        (temporary / CARD_NAME).write_text(card, encoding="utf-8")


def make_card(name: str, vocabulary: GeneratorVocabulary, facts: dict) -> str:
    """Says what the sequences are and what the generator was trained on."""
    classes = f"{len(vocabulary.class_names)} classes" if vocabulary.class_names else "No classes"
    if isinstance(vocabulary, TaTokVocabulary):
        words = {
            "codec": "a TaTok",
            "layout": "the global codes, then the place and the code of each kept patch",
            "codes": f"{vocabulary.num_global_tokens} global codes of {vocabulary.global_codebook_size}, and up to "
            f"{vocabulary.num_patches} patch codes of {vocabulary.patch_codebook_size}.",
            "use": TATOK_USE.format(name=name),
        }
    else:
        words = {
            "codec": "an AdaTok",
            "layout": "so many codes",
            "codes": f"Codes 0 to {vocabulary.codebook_size - 1}, {math.log2(vocabulary.codebook_size):g} bits each; "
            f"candidate budgets {', '.join(map(str, vocabulary.budgets))}.",
            "use": USE.format(name=name, label=" --label any" if vocabulary.class_names else ""),
        }
    return CARD.format(
        name=name,
        key=vocabulary.config_key,
        classes=f"{classes}, and one that stands for any.",
        training="\n".join(f"- {name}: {value}" for name, value in facts.items()),
        **words,
    )


def train_recipe(recipe: str, overrides: Sequence[str] = ()):
    """
    Runs a recipe and prints its metrics as JSON.

    Args:
        recipe (`str`): Name of a shipped recipe, or path of a YAML file.
        overrides (`Sequence[str]`, *optional*): Any field of the argument classes, as in `--learning-rate 1e-4`.
    """
    run_recipe("generator", recipe, overrides, ARGUMENT_CLASSES, train)
