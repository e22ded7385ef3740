"""Recipes: the shipped ones and what is said of those that do not fit."""

import json
from dataclasses import asdict, fields
from inspect import get_annotations

import pytest

from adatok_hf import AdaTokConfig, AdaTokModel
from adatok_hf.checkpoint import save_checkpoint
from adatok_hf.training.policy_arguments import PolicyDataArguments, PolicyTrainingArguments
from adatok_hf.training.recipe import RECIPES_DIR, find_recipe, parse_recipe
from adatok_hf.training.tokenizer_arguments import DataArguments, ModelArguments, ReconstructionTrainingArguments
from adatok_hf.training.train_tokenizer import build_model


CLASSES = [ModelArguments, DataArguments, ReconstructionTrainingArguments]
SHIPPED = sorted(path.stem for path in RECIPES_DIR.glob("tokenizer/*.yaml"))
TOKENIZERS = [name for name in SHIPPED if not name.endswith(("-heads", "-decoder"))]
MINIMAL = "output_dir: outputs\nuse_cpu: true\nreport_to: none\n"


@pytest.fixture
def parse(tmp_path):
    """Parses a YAML text with overrides."""

    def parse_text(text: str, *overrides: str):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return parse_recipe("tokenizer", str(path), overrides, CLASSES)

    return parse_text


@pytest.mark.parametrize("name", TOKENIZERS)
def test_shipped_recipe_parses_and_builds_its_config(name):
    on_cpu = ["--use_cpu", "true", "--tf32", "false"]
    model_arguments, _, arguments = parse_recipe("tokenizer", name, on_cpu, CLASSES)
    architecture = {key: value for key, value in asdict(model_arguments).items() if value is not None}
    assert "init_from" not in architecture
    architecture.pop("attn_implementation", None)
    config = AdaTokConfig(**architecture)
    pixel_decoder = architecture.pop("pixel_decoder_config", {})
    assert {key: getattr(config, key) for key in architecture} == architecture
    assert {key: getattr(config.pixel_decoder_config, key) for key in pixel_decoder} == pixel_decoder
    assert f"-{config.image_size}" in name and config.budgets[-1] == config.num_latent_tokens
    assert len(config.budgets) > 1 and arguments.max_steps > 0
    assert arguments.output_dir == f"outputs/{name}"


def test_shipped_recipe_for_the_decoder_goes_on_where_that_of_the_whole_ends():
    on_cpu = ["--use_cpu", "true", "--tf32", "false"]
    model_arguments, _, arguments = parse_recipe("tokenizer", "tiny-64-decoder", on_cpu, CLASSES)
    _, _, whole = parse_recipe("tokenizer", "tiny-64", on_cpu, CLASSES)
    assert arguments.train_only == "decoder" and model_arguments.init_from == whole.output_dir


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.endswith("-heads")])
def test_shipped_recipe_for_heads_trains_nothing_else_and_no_random_weights(name):
    on_cpu = ["--use_cpu", "true", "--tf32", "false"]
    model_arguments, data_arguments, arguments = parse_recipe("tokenizer", name, on_cpu, CLASSES)
    assert arguments.train_only == "heads" and model_arguments.init_from and data_arguments.train_data
    policy_arguments, _ = parse_recipe(
        "policy", name.removesuffix("-heads"), on_cpu, [PolicyDataArguments, PolicyTrainingArguments]
    )
    assert policy_arguments.init_from == arguments.output_dir == f"outputs/{name}"


def test_shipped_recipe_is_found_by_name_and_path():
    path = RECIPES_DIR / "policy" / "tiny-64.yaml"
    assert find_recipe("policy", "tiny-64") == find_recipe("tokenizer", str(path)) == path
    assert find_recipe("tokenizer", "tiny-64") == RECIPES_DIR / "tokenizer" / "tiny-64.yaml"


def test_values_and_lists_are_read(parse):
    model, data, arguments = parse(
        MINIMAL + "budgets: [4, 8, 16]\nlearning_rate: 1e-4\ntrain_data: some folder\nbf16: false\ndo_train: false\n"
    )
    assert model.budgets == [4, 8, 16] and data.train_data == "some folder"
    assert arguments.learning_rate == 1e-4 and not arguments.bf16 and not arguments.do_train


def test_what_is_left_out_keeps_its_default(parse):
    model, data, arguments = parse(MINIMAL)
    assert model == ModelArguments() and data == DataArguments()
    assert arguments.do_train and not arguments.remove_unused_columns and arguments.perceptual_net == "alex"


def test_overrides_win(parse):
    model, _, arguments = parse(
        MINIMAL + "budgets: [4, 8, 16]\nmax_steps: 5\n", "--max_steps", "7", "--budgets", "2", "16", "--bf16=true"
    )
    assert arguments.max_steps == 7 and model.budgets == [2, 16] and arguments.bf16


@pytest.mark.parametrize("word", ["null", "none"])
def test_none_unsets_in_a_recipe_and_on_the_command_line(parse, word):
    text = "eval_data: some folder\nfreeze_latent_norm_step: 5\ntrain_only: heads\nbudgets: [4, 16]\ntf32: true\n"
    names = ("eval_data", "freeze_latent_norm_step", "train_only", "budgets", "tf32")
    lines = "".join(f"{name}: {word}\n" for name in names)
    for parsed in (parse(MINIMAL + lines), parse(MINIMAL + text, *(f"--{name}={word}" for name in names))):
        model, data, arguments = parsed
        assert data.eval_data is model.budgets is arguments.freeze_latent_norm_step is arguments.train_only is None
        assert arguments.tf32 is None


def test_none_stays_a_name_where_it_is_one(parse):
    assert parse(MINIMAL)[2].report_to == [] and parse(MINIMAL, "--train_data", "none")[1].train_data == "none"


def test_empty_list_in_a_recipe_and_on_the_command_line(parse):
    for text, overrides in (("[]", []), ("[5, 10]", ["--revive-latents-steps", "[]"])):
        _, _, arguments = parse(MINIMAL + f"revive_latents_steps: {text}\n", *overrides)
        assert arguments.revive_latents_steps == []


@pytest.mark.parametrize(
    ("text", "named"),
    [("max_steps: null\n", "max_steps"), ("max_steps: []\n", "max_steps"), ("train_data: null\n", "train_data")],
)
def test_what_cannot_be_unset(parse, one_sentence, text, named):
    with one_sentence(named):
        parse(MINIMAL + text)


def test_every_field_of_the_architecture_is_a_key(parse):
    left_out = {"is_policy_trained", "cost_bias"}
    names = {field.name for field in fields(ModelArguments)} - {"init_from", "attn_implementation"}
    assert names == set(get_annotations(AdaTokConfig)) - left_out
    model, _, _ = parse(MINIMAL + "hidden_act: relu\nlatent_batch_norm: false\nlayer_norm_eps: 1e-6\n")
    assert (model.hidden_act, model.latent_batch_norm, model.layer_norm_eps) == ("relu", False, 1e-6)


@pytest.mark.parametrize("width", [16, 32])
def test_a_checkpoint_is_held_against_the_pixel_decoder_of_the_recipe(tiny_model, processor, tmp_path, width):
    decoder = {"hidden_sizes": [16, 16], "norm_num_groups": 4, "codebook_size": None}
    config = AdaTokConfig(**tiny_model.config.to_dict() | {"pixel_decoder_config": decoder})
    save_checkpoint(tmp_path / "start", AdaTokModel(config), processor)
    said = json.dumps(decoder | {"hidden_sizes": [width, 16]})
    arguments = ModelArguments(init_from=str(tmp_path / "start"), budgets=[4, 8, 16], pixel_decoder_config=said)
    if width == 16:
        assert build_model(arguments)[0].config.pixel_decoder_config.hidden_sizes == [16, 16]
    else:
        with pytest.raises(ValueError, match=r"hidden_sizes=\[16, 16\], but the recipe says \[32, 16\]"):
            build_model(arguments)


@pytest.mark.parametrize(
    ("text", "overrides", "named"),
    [
        ("hidden_sizes: 32\n", [], "hidden_sizes"),
        ("", ["--learning_rte", "1"], "learning_rte"),
        ("", ["--learning", "1"], "learning"),
        ("max_steps: many\n", [], "many"),
        ("", ["--max_steps", "many"], "many"),
        ("do_train: perhaps\n", [], "perhaps"),
        ("budgets: [4, eight]\n", [], "eight"),
        ("lr_scheduler_type: zigzag\n", [], "zigzag"),
        ("model:\n  hidden_size: 32\n", [], "recipe.yaml"),
        ("budgets: [4, 8\nmax_steps: 3\n", [], "recipe.yaml"),
    ],
)
def test_key_or_value_that_does_not_fit(parse, one_sentence, text, overrides, named):
    with one_sentence(named):
        parse(MINIMAL + text, *overrides)


@pytest.mark.parametrize("text", ["", "- output_dir\n- outputs\n", "just words\n"])
def test_file_that_is_no_flat_list(parse, one_sentence, text):
    with one_sentence("recipe.yaml"):
        parse(text)


def test_unknown_recipe_lists_the_shipped_ones(one_sentence):
    with one_sentence("'tiny-65'", "tiny-64"):
        find_recipe("tokenizer", "tiny-65")
