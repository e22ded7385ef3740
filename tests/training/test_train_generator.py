import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from adatok_hf.cli import main
from adatok_hf.codec.tokenize_dataset import TokenizeJob, tokenize_dataset
from adatok_hf.generation.load_pipeline import load_tatok_generator
from adatok_hf.modeling.sampling_tatok import TaTokSampler
from adatok_hf.modeling.vocabulary_adatok import ImageVocabulary
from adatok_hf.training.generator_arguments import (
    GeneratorDataArguments,
    GeneratorModelArguments,
    GeneratorTrainingArguments,
)
from adatok_hf.training.recipe import RECIPES_DIR, parse_recipe
from adatok_hf.training.train_generator import build_generator, train


CLASSES = [GeneratorModelArguments, GeneratorDataArguments, GeneratorTrainingArguments]
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture
def codes(tmp_path, tiny_checkpoint, write_pictures):
    """Makes a folder with the codes of eight pictures, at one budget."""

    def make(name: str, budget: int | None = 8, model: Path = tiny_checkpoint) -> str:
        job = TokenizeJob(str(model), str(write_pictures(tmp_path / f"{name}-pictures", 8)), budgets=budget)
        tokenize_dataset(job, tmp_path / name)
        return str(tmp_path / name)

    return make


@pytest.fixture
def arguments(tmp_path):
    return GeneratorTrainingArguments(
        str(tmp_path / "run"), max_steps=2, use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no"
    )


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES_DIR.glob("generator/*.yaml")))
def test_shipped_recipe_parses_and_builds_its_model(name):
    on_cpu = ["--use_cpu", "true", "--tf32", "false"]
    model_arguments, _, arguments = parse_recipe("generator", name, on_cpu, CLASSES)
    architecture = {key: value for key, value in asdict(model_arguments).items() if value is not None}
    config = ImageVocabulary(4096, [16, 32]).model_config(**architecture)
    assert {key: getattr(config, key) for key in architecture} == architecture
    assert arguments.output_dir == f"outputs/{name}-generator" and arguments.class_dropout == 0.1


def test_the_large_recipe_has_the_size_of_llamagen_b():
    model_arguments, _, _ = parse_recipe("generator", "base-256", ["--use_cpu", "true", "--tf32", "false"], CLASSES)
    vocabulary = ImageVocabulary(16384, range(32, 257, 32), [str(index) for index in range(1000)])
    import torch

    with torch.device("meta"):
        model = build_generator(model_arguments, vocabulary)
    assert 105e6 < model.num_parameters() < 118e6  # 111 M


def test_training_writes_a_plain_model_that_names_its_tokenizer(codes, arguments, tiny_model):
    from adatok_hf.checkpoint import codes_hash

    metrics = train(GeneratorModelArguments(**SMALL), GeneratorDataArguments(codes("train"), codes("eval")), arguments)
    assert metrics["eval_loss"] > 0
    model = AutoModelForCausalLM.from_pretrained(arguments.output_dir)
    assert type(model) is LlamaForCausalLM
    vocabulary = ImageVocabulary.from_config(model.config)
    assert vocabulary.tokenizer_hash == codes_hash(tiny_model)
    assert model.generation_config.suppress_tokens == vocabulary.generation_config().suppress_tokens


def test_the_command_prints_its_metrics_as_json(codes, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    rows = SMALL | {"use_cpu": "true", "max_steps": 1, "report_to": "none", "disable_tqdm": "true"}
    rows |= {"eval_strategy": "steps", "eval_steps": 1}  # as the shipped recipes, but there are no images for it
    recipe.write_text("\n".join(f"{key}: {value}" for key, value in rows.items()) + f"\noutput_dir: {tmp_path}/run\n")
    with pytest.raises(SystemExit) as exit_info:
        main(["train", "generator", "--recipe", str(recipe), "--data", codes("train")])
    assert exit_info.value.code == 0
    assert set(json.loads(capsys.readouterr().out.splitlines()[-1])) == {"train_loss"}


def test_a_finished_training_is_taken_up_and_one_of_other_codes_is_not(codes, arguments, tmp_path, one_sentence):
    arguments.save_strategy, data = "steps", GeneratorDataArguments(codes("train"))
    assert train(GeneratorModelArguments(**SMALL), data, arguments).keys() == {"train_loss"}
    (tmp_path / "run" / "model.safetensors").unlink()
    assert train(GeneratorModelArguments(**SMALL), data, arguments) == {}
    assert (tmp_path / "run" / "model.safetensors").is_file()
    with one_sentence("checkpoint-2 is of another run", "train_data="):
        train(GeneratorModelArguments(**SMALL), GeneratorDataArguments(codes("others")), arguments)


def test_a_tatok_has_its_generator_by_the_same_recipe(codes, tatok_checkpoint, tiny_tatok, tmp_path, capsys):
    folders = [codes(name, None, tatok_checkpoint) for name in ("train", "eval")]
    rows = ["--use_cpu", "true", "--bf16", "false", "--report_to", "none", "--disable_tqdm", "true"]
    rows += ["--eval_data", folders[1], "--output_dir", str(tmp_path / "run")]
    sizes = [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]
    with pytest.raises(SystemExit) as exit_info:
        main(["train", "generator", "--recipe", "tiny-64", "--data", folders[0], "--max_steps", "2", *rows, *sizes])
    assert exit_info.value.code == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["eval_loss"] > 0
    generator, tokenizer, _ = load_tatok_generator(tmp_path / "run", tatok_checkpoint)
    tokens = TaTokSampler(generator)([None] * 2, [4, 9])
    assert (tokens.patch_codes != tokenizer.config.pad_code_id).sum(dim=1).tolist() == [0, 5]
    card = (tmp_path / "run" / "README.md").read_text()
    assert "tatok_vocabulary" in card and "place and the code" in card and "{" not in card


def test_a_generator_can_be_trained_further_where_its_ids_mean_the_same(codes, arguments, tmp_path, one_sentence):
    data = GeneratorDataArguments(codes("train"))
    train(GeneratorModelArguments(**SMALL), data, arguments)
    vocabulary = ImageVocabulary.from_config(AutoModelForCausalLM.from_pretrained(arguments.output_dir).config)
    again = GeneratorModelArguments(init_from=arguments.output_dir)
    assert build_generator(again, vocabulary).config.hidden_size == 16
    with one_sentence("other classes", arguments.output_dir):
        build_generator(again, ImageVocabulary(vocabulary.codebook_size, vocabulary.budgets, ["owl"]))
    of_another_tokenizer = replace(vocabulary, tokenizer_hash="another")
    assert ImageVocabulary.from_config(build_generator(again, of_another_tokenizer).config) == of_another_tokenizer
    further = replace(arguments, output_dir=f"{arguments.output_dir}-further")
    train(again, data, further)
    assert f"- started from: {arguments.output_dir}" in Path(further.output_dir, "README.md").read_text()
    with one_sentence("hidden_size=16", "32"):
        build_generator(GeneratorModelArguments(init_from=arguments.output_dir, hidden_size=32), vocabulary)


def test_without_data_there_is_nothing_to_train_on(arguments, one_sentence):
    with one_sentence("tokenize-dataset"):
        train(GeneratorModelArguments(**SMALL), GeneratorDataArguments(), arguments)


def test_a_training_that_diverged_exports_nothing(codes, arguments, one_sentence):
    arguments.learning_rate, arguments.max_grad_norm = 1e38, 0.0
    with one_sentence("diverged", arguments.output_dir):
        train(GeneratorModelArguments(**SMALL), GeneratorDataArguments(codes("train")), arguments)
    assert not (Path(arguments.output_dir) / "config.json").exists()
