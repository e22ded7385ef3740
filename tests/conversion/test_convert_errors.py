"""Whatever cannot be converted is refused in one sentence, and nothing is written."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from originals import FIXTURES, write_config, write_weights

from adatok_hf import AdaTokImageProcessor
from adatok_hf.cli import main
from adatok_hf.conversion import convert_checkpoint
from adatok_hf.conversion.source import read_weights


ONE_HEAD = ("--budgets", "16")  # it is the heads that take time


class Bomb:
    """Its pickle makes a file when it is loaded without care."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def refuse(tmp_path, capsys):
    """
    Runs the command, which must give exit code 2, one sentence and leave every file as it was; gives the sentence.
    """

    def run(source, *options, family="titok", out=tmp_path / "converted") -> str:
        before = contents(tmp_path)
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main(["convert", str(source), "--from", family, "--out", str(out), *map(str, options)])
        captured = capsys.readouterr()
        assert exit_info.value.code == 2, captured.err
        assert captured.out == ""
        sentence = captured.err.removeprefix("adatok: error: ")
        assert sentence != captured.err and sentence.count("\n") == 1 and sentence.endswith(".\n"), captured.err
        assert sentence.count(". ") == 0, captured.err
        assert contents(tmp_path) == before
        return sentence

    return run


def contents(folder: Path) -> dict:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def change(config: dict, path: str, value):
    """Sets what stands at a dotted path; an ellipsis removes it."""
    *sections, name = path.split(".")
    for key in sections:
        config = config[key]
    if value is ...:
        del config[name]
    else:
        config[name] = value


def test_an_unknown_family_is_refused(two_stage, tmp_path, refuse):
    sentence = refuse(two_stage.publish(tmp_path / "original"), family="magvit")
    assert "titok or one-d-piece" in sentence and "'magvit'" in sentence


def test_titok_is_not_taken_for_one_d_piece(two_stage, tmp_path, refuse):
    sentence = refuse(two_stage.publish(tmp_path / "original"), family="one-d-piece")
    assert "original" in sentence and "not one of one-d-piece; use --from titok." in sentence


def test_one_d_piece_is_not_taken_for_titok(one_d_piece, tmp_path, refuse):
    sentence = refuse(one_d_piece.publish(tmp_path / "original"), family="titok")
    assert "not one of titok; use --from one-d-piece." in sentence


def test_titok_needs_its_configuration(two_stage, tmp_path, refuse):
    write_weights(tmp_path / "original" / "model.safetensors", two_stage.tensors)
    sentence = refuse(tmp_path / "original")
    assert (
        "has no config.json" in sentence and "name the JSON or YAML file of its configuration by --config" in sentence
    )


def test_titok_without_configuration_is_not_taken_for_one_d_piece(two_stage, tmp_path, refuse):
    write_weights(tmp_path / "model.safetensors", two_stage.tensors)
    sentence = refuse(tmp_path / "model.safetensors", family="one-d-piece")
    assert "image_size=16, but 256 is expected" in sentence and "--config" in sentence


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("latent_tokens", "lack latent_tokens."),
        ("quantize.embedding.weight", "lack quantize.embedding.weight."),
        ("encoder.positional_embedding", "lack encoder.positional_embedding."),
        ("encoder.latent_token_positional_embedding", "lack encoder.latent_token_positional_embedding."),
        ("encoder.patch_embed.bias", "lack encoder.patch_embed.bias."),
        ("encoder.ln_post.bias", "lack what becomes encoder.layernorm_post.bias, the first of 1."),
        ("decoder.transformer.0.", "lack decoder.transformer.0."),
        ("decoder.ffn.2.", "lack what becomes decoder.pixel_decoder.logit_projection.bias, the first of 2."),
        ("pixel_quantize.", "lack pixel_quantize.embedding.weight."),
        ("pixel_decoder.mid.0.", "lack pixel_decoder.mid.0."),
        ("pixel_decoder.up.1.", "lack pixel_decoder.up.1."),
        ("pixel_decoder.up.0.block.0.nin_shortcut.weight", "lack pixel_decoder.up.0.block.0.nin_shortcut.weight."),
        ("pixel_decoder.conv_out.bias", "lack pixel_decoder.conv_out.bias."),
        ("", "lack latent_tokens."),
    ],
)
def test_missing_tensors_are_refused(two_stage, tmp_path, refuse, name, sentence):
    kept = {key: tensor for key, tensor in two_stage.tensors.items() if not key.startswith(name)}
    assert len(kept) < len(two_stage.tensors)
    two_stage.tensors = kept
    assert sentence in refuse(two_stage.publish(tmp_path / "original"), *ONE_HEAD)


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("extra.weight", "superfluous extra.weight, the first of 1."),
        ("policy.fc1.weight", "superfluous policy.fc1.weight, the first of 1."),
        ("decoder.conv_out.bias", "superfluous decoder.pixel_conv.bias, the first of 1."),
        ("pixel_decoder.up.1.block.0.nin_shortcut.weight", "nin_shortcut.weight, the first of 1."),
        ("encoder.layernorm_post.bias", "hold encoder.layernorm_post.bias twice, under two names."),
        ("encoder.transformer.1.ln_1.bias", "lack what becomes encoder.layers.1."),
        ("encoder.transformer.99999999.ln_1.bias", "lack encoder.transformer.1."),  # not a model of that many layers
    ],
)
def test_superfluous_tensors_are_refused(two_stage, tmp_path, refuse, name, sentence):
    two_stage.tensors[name] = torch.zeros(64)
    assert sentence in refuse(two_stage.publish(tmp_path / "original"), *ONE_HEAD)


@pytest.mark.parametrize("name", ["text_guidance_proj.weight", "decoder.text_guidance_positional_embedding"])
def test_a_decoder_that_needs_a_text_is_refused(one_stage, tmp_path, refuse, name):
    one_stage.tensors[name] = torch.zeros(64, 64)
    assert "its decoder needs a text (TA-TiTok); only tokenizers of images alone" in refuse(
        one_stage.publish(tmp_path / "original")
    )


@pytest.mark.parametrize(
    "kind, name, shape, sentence",
    [
        ("two_stage", "latent_tokens", (64,), "(64,) in place of 2 dimensions"),
        ("two_stage", "encoder.latent_token_positional_embedding", (8, 64), "(8, 64) in place of (16, 64)"),
        ("two_stage", "encoder.positional_embedding", (18, 64), "has 18 rows"),
        ("two_stage", "encoder.positional_embedding", (0, 64), "has 0 rows"),
        ("two_stage", "decoder.positional_embedding", (18, 64), "(18, 64) in place of (1, 17, 64)"),
        ("two_stage", "encoder.class_embedding", (1, 65), "encoder.class_embedding has shape (1, 65)"),
        ("two_stage", "encoder.ln_pre.weight", (96,), "encoder.ln_pre.weight has 96 channels"),
        ("two_stage", "encoder.patch_embed.weight", (64, 1, 4, 4), "(64, 1, 4, 4) in place of (64, 3, 4, 4)"),
        ("two_stage", "quantize.embedding.weight", (768,), "(768,) in place of 2 dimensions"),
        ("two_stage", "pixel_quantize.embedding.weight", (48,), "(48,) in place of 2 dimensions"),
        ("two_stage", "pixel_decoder.up.0.block.0.nin_shortcut.weight", (64, 32, 1, 1), "(64, 32, 1, 1) in place of"),
        ("two_stage", "pixel_decoder.up.0.block.0.conv2.weight", (64, 64, 1, 1), "(64, 64, 1, 1) in place of"),
        ("two_stage", "pixel_decoder.up.1.block.0.conv1.weight", (33, 32, 3, 3), "[32, 33, 64]"),
        ("two_stage", "pixel_decoder.conv_out.weight", (4, 64, 3, 3), "(4, 64, 3, 3) in place of (3, 64, 3, 3)"),
        ("two_stage", "decoder.ffn.0.weight", (128, 65, 1, 1), "hidden_projection.weight has shape (128, 65, 1, 1)"),
        ("one_stage", "decoder.ffn.0.weight", (48, 64), "(48, 64) in place of 4 dimensions"),
        ("one_stage", "decoder.ffn.0.bias", (47,), "(47,) in place of (48,)"),
        ("one_stage", "decoder.conv_out.weight", (3, 3, 1, 1), "(3, 3, 1, 1) in place of (3, 3, 3, 3)"),
    ],
)
def test_wrong_shapes_are_refused(request, tmp_path, refuse, kind, name, shape, sentence):
    original = request.getfixturevalue(kind)
    assert original.tensors[name].shape != shape
    original.tensors[name] = torch.zeros(shape)
    assert sentence in refuse(original.publish(tmp_path / "original"), *ONE_HEAD)


def test_a_continuous_variant_is_refused(one_stage, tmp_path, refuse):
    (tmp_path / "original").mkdir()
    write_weights(tmp_path / "original" / "model.safetensors", one_stage.tensors)
    sentence = refuse(tmp_path / "original", "--config", FIXTURES / "titok_bl64_vae_c16" / "config.json")
    assert "its latents are continuous (quantize_mode vae)" in sentence and "take one of quantize_mode vq" in sentence


def test_the_configuration_of_another_model_is_refused(two_stage, tmp_path, refuse):
    source = two_stage.publish(tmp_path / "original")
    sentence = refuse(source, "--config", FIXTURES / "titok_sl256_vq8k" / "config.json")
    assert "codebook_dim=12, but 64 is expected; name the configuration that belongs to them by --config." in sentence


@pytest.mark.parametrize(
    "path, value, sentence",
    [
        ("dataset.preprocessing.crop_size", 32, "image_size=16, but 32 is expected"),
        ("model.vq_model.vit_enc_patch_size", 8, "patch_size=4, but 8 is expected"),
        ("model.vq_model.num_latent_tokens", 8, "num_latent_tokens=16, but 8 is expected"),
        ("model.vq_model.codebook_size", 65, "codebook_size=64, but 65 is expected"),
        ("model.vq_model.codebook_size", "64", "codebook_size as int; got '64'."),
        ("model.vq_model.token_size", True, "token_size as int; got True."),
        ("model.vq_model.use_l2_norm", "yes", "use_l2_norm as bool; got 'yes'."),
        ("model.vq_model.use_l2_norm", ..., "use_l2_norm as bool; got None."),
        ("model.vq_model.commitment_cost", "low", "commitment_cost as int or float; got 'low'."),
        ("model.vq_model.finetune_decoder", "yes", "finetune_decoder as bool; got 'yes'."),
        ("model.vq_model", ..., "none of TiTok or One-D-Piece; it has no section model.vq_model."),
        ("model", [], "it has no section model.vq_model."),
        ("model.type", "maskgit", "none of TiTok or One-D-Piece; its model.type is 'maskgit'."),
        ("dataset", ..., "it has no section dataset.preprocessing."),
        ("dataset.preprocessing", None, "it has no section dataset.preprocessing."),
        ("dataset.preprocessing.normalize_mean", 0.5, "normalize_mean as three finite numbers; got 0.5."),
        ("dataset.preprocessing.normalize_mean", [0, 0], "normalize_mean as three finite numbers; got [0, 0]."),
        ("dataset.preprocessing.normalize_mean", ["a", 0, 0], "got ['a', 0, 0]."),
        ("dataset.preprocessing.normalize_mean", [float("nan"), 0, 0], "got [nan, 0, 0]."),
        ("dataset.preprocessing.normalize_std", [1, 1, 0], "three finite numbers above 0; got [1, 1, 0]."),
        ("dataset.preprocessing.normalize_std", [1, 1, float("inf")], "got [1, 1, inf]."),
        ("model.vq_model.finetune_decoder", False, "an intermediate stage of training, without pixels"),
        ("model.vq_model.is_legacy", False, "an intermediate stage of training, without pixels"),
    ],
)
def test_a_configuration_that_cannot_be_right_is_refused(two_stage, tmp_path, refuse, path, value, sentence):
    write_weights(tmp_path / "model.safetensors", two_stage.tensors)
    change(two_stage.config, path, value)
    write_config(tmp_path / "config.yaml", two_stage.config)
    assert sentence in refuse(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "content, sentence",
    [
        ("[1, 2]", "must hold a mapping; got list."),
        ("", "must hold a mapping; got NoneType."),
        ('{"model": ', "cannot be read"),
        ("model: vq_model: 3", "cannot be read"),
        ("\x00", "cannot be read"),
        ("{}", "none of TiTok or One-D-Piece"),
        ("!!python/object/apply:os.mkdir [{marker}]", "cannot be read"),
    ],
)
def test_a_configuration_file_that_holds_none_is_refused(two_stage, tmp_path, refuse, content, sentence):
    source = two_stage.publish(tmp_path / "original")
    (source / "config.json").write_text(content.replace("{marker}", str(tmp_path / "marker")))
    assert sentence in refuse(source)


def test_a_configuration_file_that_is_not_there_is_refused(two_stage, tmp_path, refuse):
    sentence = refuse(two_stage.publish(tmp_path / "original"), "--config", tmp_path / "no.yaml")
    assert "The configuration" in sentence and "no.yaml" in sentence


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_code_in_a_pickle_never_runs(one_d_piece, tmp_path, refuse, recwarn, form, protocol):
    source = one_d_piece.publish(tmp_path / "original")
    path, marker = source / "pytorch_model.bin", tmp_path / "marker"
    content = {**one_d_piece.tensors, "extra": Bomb(marker)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(Bomb(marker), protocol))
        pickle.loads(path.read_bytes())
    else:
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=form == "zip")
        torch.load(path, weights_only=False)
    marker.rmdir()  # so the bomb works
    recwarn.clear()
    sentence = refuse(source, family="one-d-piece")
    assert str(path) in sentence and "no pickle of plain tensors; anything else might run code" in sentence
    assert not marker.exists() and not recwarn.list


@pytest.mark.parametrize("cut", [0, 10, 5000, -30])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_truncated_file_of_weights_is_refused(one_d_piece, tmp_path, refuse, name, cut):
    write_weights(tmp_path / name, one_d_piece.tensors)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:cut])
    sentence = refuse(tmp_path / name, family="one-d-piece")
    assert name in sentence and ("is damaged, or no file of weights" in sentence or "no pickle" in sentence)


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\n", b"<!DOCTYPE html>", bytes(1000)])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_file_that_is_none_of_weights_is_refused(tmp_path, refuse, name, content):
    (tmp_path / name).write_bytes(content)
    sentence = refuse(tmp_path / name, family="one-d-piece")
    assert name in sentence and "weights_only" not in sentence  # torch recommends to switch its guard off


@pytest.mark.parametrize("legacy", [True, False])
def test_a_damaged_pickle_is_a_value_error_wherever_the_damage_is(tmp_path, legacy):
    path = tmp_path / "weights.bin"
    torch.save({"a": torch.ones(3), "b": torch.ones(2, 2)}, path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    refused = 0
    for place in range(0, min(len(content), 600), 7):
        damaged = bytearray(content)
        damaged[place] ^= 0x15
        path.write_bytes(damaged)
        try:
            read_weights(path)  # what is not needed may be damaged
        except ValueError as error:
            refused += 1
            assert str(error).startswith(str(path)) and str(error).endswith(".") and "\n" not in str(error)
    assert refused > 20


@pytest.mark.parametrize(
    "wrap", ["nested", "with a number", "list", "one tensor", "complex", "sparse", "without data"]
)
def test_anything_but_a_flat_state_dict_is_refused(one_d_piece, tmp_path, refuse, wrap):
    tensors = one_d_piece.tensors
    latent_tokens = tensors["latent_tokens"].float()
    content = {
        "nested": {"model": tensors},
        "with a number": {**tensors, "step": 3},
        "list": list(tensors.values()),
        "one tensor": latent_tokens,
        "complex": {**tensors, "latent_tokens": latent_tokens.to(torch.complex64)},
        "sparse": {**tensors, "latent_tokens": latent_tokens.to_sparse()},
        "without data": {**tensors, "latent_tokens": latent_tokens.to("meta")},
    }[wrap]
    source = one_d_piece.publish(tmp_path / "original")
    write_weights(source / "pytorch_model.bin", content)
    sentence = refuse(source, family="one-d-piece")
    assert "pytorch_model.bin must hold a flat state dict, plain tensors by name" in sentence


def test_several_files_of_weights_must_be_chosen_from(two_stage, tmp_path, refuse):
    source = two_stage.publish(tmp_path / "original")
    (source / "model.safetensors").rename(source / "b.safetensors")
    write_weights(source / "a.pth", two_stage.tensors)
    assert "choose one by --filename: a.pth, b.safetensors." in refuse(source)
    sentence = refuse(source, "--filename", "c.safetensors")
    assert "has no weights c.safetensors; there are a.pth, b.safetensors." in sentence


def test_a_folder_without_weights_is_refused(two_stage, tmp_path, refuse):
    write_config(tmp_path / "config.json", two_stage.config)
    sentence = refuse(tmp_path)
    assert "holds no weights under a usual name (model.safetensors, pytorch_model.bin)" in sentence
    assert "--filename" in sentence


@pytest.mark.parametrize("source", ["no/such/folder", "./weights.safetensors"])
def test_a_missing_source_is_refused(refuse, source):
    assert f"There is no folder {source}, and this is no Hub repository id either." in refuse(source)


def test_an_output_folder_with_something_in_it_is_left_alone(two_stage, tmp_path, refuse):
    source = two_stage.publish(tmp_path / "original")
    sentence = refuse(source, out=source)
    assert f"The output folder {source} is not empty; name another one." in sentence


def test_an_output_that_is_a_file_is_left_alone(two_stage, tmp_path, refuse):
    source = two_stage.publish(tmp_path / "original")
    sentence = refuse(source, out=source / "config.json")
    assert "config.json is a file; name a folder." in sentence


@pytest.mark.parametrize(
    "budgets, sentence",
    [
        ("4,8", "must equal num_latent_tokens=16; got [4, 8]."),
        ("8,32", "must equal num_latent_tokens=16; got [8, 32]."),
        ("8,4,16", "ascend strictly, for example [8, 16, 32]; got [8, 4, 16]."),
        ("8,8,16", "got [8, 8, 16]."),
        ("0,16", "--budgets must be whole numbers from 1 with commas between them"),
        ("few", "got 'few'."),
        ("4;16", "got '4;16'."),
        ("4.5,16", "got '4.5,16'."),
        ("4,,16", "got '4,,16'."),
        ("", "got ''."),
    ],
)
def test_bad_budgets_are_refused(two_stage, tmp_path, refuse, budgets, sentence):
    assert sentence in refuse(two_stage.publish(tmp_path / "original"), "--budgets", budgets)


@pytest.mark.parametrize("exists", [True, False])
def test_a_failure_while_writing_leaves_nothing_behind(two_stage, tmp_path, monkeypatch, exists):
    def fail(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    source = two_stage.publish(tmp_path / "original")
    if exists:
        (tmp_path / "out").mkdir()
    before = contents(tmp_path)
    monkeypatch.setattr(AdaTokImageProcessor, "save_pretrained", fail)
    with pytest.raises(OSError, match="No space left"):
        convert_checkpoint(source, tmp_path / "out", "titok", budgets=[16])
    assert contents(tmp_path) == before
