"""A converted model gives the codes and pixels that the original code was recorded to give, and is a checkpoint."""

import hashlib
import re

import pytest
import torch
from checkpoint_files import FILES
from fresh_process import FreshProcess
from hub_server import Commit, HubServer, Repository
from originals import WEIGHTS, write_config, write_weights
from originals import read_original as read_variant
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import AutoModel

from adatok_hf.checkpoint import architecture, load_checkpoint
from adatok_hf.cli import main
from adatok_hf.conversion import convert_checkpoint
from adatok_hf.conversion.source import OriginalCheckpoint, read_original
from adatok_hf.conversion.titok import convert_original


NESTED = [name for name in WEIGHTS if name.startswith("one-d-piece")]
TWO_STAGE = [name for name in WEIGHTS if "vq8k" not in name]
ONE_HEAD = [16]  # it is the heads that take time
WIDE_RANGE = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
UNEVEN_RANGE = ([0.485, 0.456, 0.406], [0.229, 0.5, 2.0])


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def conversion(variant, tmp_path_factory):
    """The model that `convert_checkpoint` returns, and the folder that it writes."""
    folder = tmp_path_factory.mktemp(variant.name)
    source, full = variant.publish(folder / "original"), len(variant.tensors["latent_tokens"])
    model = convert_checkpoint(source, folder / "converted", variant.family, budgets=[full // 4, full])
    return model, folder / "converted"


@pytest.fixture
def converted(conversion):
    return conversion[0]


@pytest.fixture
def converted_folder(conversion):
    return conversion[1]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        yield server


@pytest.fixture(scope="module")
def reader(hub, tmp_path_factory):
    """A process that talks to `hub`."""
    folder = tmp_path_factory.mktemp("reader")
    with FreshProcess(folder, [], HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET="1") as process:
        yield process


def to_range(pixel_values: torch.Tensor) -> torch.Tensor:
    """[0, 1], as the original has it, to [-1, 1]."""
    return pixel_values * 2 - 1


def from_range(pixel_values: torch.Tensor) -> torch.Tensor:
    return (pixel_values + 1) / 2


def convert(original, config=None, tensors=None, budgets=ONE_HEAD):
    tensors = tensors or {name: tensor.float() for name, tensor in original.tensors.items()}
    checkpoint = OriginalCheckpoint(original.name, False, tensors, config or original.config)
    return convert_original(checkpoint, original.family, budgets)


def same_weights(first, second) -> bool:
    first, second = first.state_dict(), second.state_dict()
    shared = [
        name for name in first if "lora_A" not in name and not name.startswith("policy.")
    ]  # the others are drawn
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in shared)


def publish_on_hub(hub, repo_id, folder, revision="main"):
    files = {path.name: hub.store(path.read_bytes()) for path in folder.iterdir()}
    repository = hub.repositories.setdefault(repo_id, Repository(private=False))
    oid = hashlib.sha1(f"{repo_id} {revision}".encode()).hexdigest()
    repository.branches[revision] = [Commit(oid, "everything", files)]


def test_the_codes_are_those_of_the_original(variant, converted):
    codes = variant.recorded["codes"]
    assert codes.unique().numel() > 8  # or equality would say little
    encoded = converted.encode(to_range(variant.recorded["pixel_values"]), budgets=codes.shape[1])
    assert torch.equal(encoded.image_codes, codes)


def test_the_latents_are_those_of_the_original(variant, converted):
    latents, _ = converted.encoder(to_range(variant.recorded["pixel_values"]))
    torch.testing.assert_close(latents, variant.recorded["latents"], atol=3e-5, rtol=0)


@pytest.mark.parametrize("group_by_budget", [True, False])
def test_the_pixels_are_those_of_the_original(variant, converted, group_by_budget):
    pixels = converted.decode(variant.recorded["codes"], group_by_budget=group_by_budget).pixel_values
    torch.testing.assert_close(from_range(pixels), variant.recorded["pixels"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("group_by_budget", [True, False])
@pytest.mark.parametrize("variant", NESTED, indirect=True)
def test_every_prefix_decodes_as_the_truncation_of_the_original(variant, converted, group_by_budget):
    prefixes = {int(name.removeprefix("pixels_")): name for name in variant.recorded if name.startswith("pixels_")}
    assert sorted(prefixes) == [1, 3, 8, 15]
    for budget, name in prefixes.items():
        expected = variant.recorded[name]
        assert (expected - variant.recorded["pixels"]).abs().max() > 1e-4
        pixels = converted.decode(variant.recorded["codes"], budget, group_by_budget).pixel_values
        torch.testing.assert_close(from_range(pixels), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", TWO_STAGE, indirect=True)
def test_the_logits_over_the_pixel_codebook_are_those_of_the_original(variant, converted):
    decoder = converted.decoder
    states = decoder.patch_states(converted.quantizer.lookup(variant.recorded["codes"]))
    pixel_decoder = decoder.pixel_decoder
    logits = pixel_decoder.logit_projection(pixel_decoder.hidden_projection(states).tanh())
    expected = variant.recorded["logits"].flatten(2).transpose(1, 2)  # (batch, entries, rows, columns)
    torch.testing.assert_close(logits, expected, atol=3e-5, rtol=1e-5)


def test_auto_model_loads_what_was_written_bit_for_bit(variant, converted, converted_folder):
    loaded, info = AutoModel.from_pretrained(converted_folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    expected, actual = converted.state_dict(), loaded.state_dict()
    assert expected.keys() == actual.keys()
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())
    assert architecture(loaded.config) == architecture(converted.config)


def test_no_head_changes_anything(variant, converted):
    config = converted.config
    quantized = converted.quantizer.lookup(variant.recorded["codes"])
    with_heads = {}
    for budget in config.budgets:
        pixels = converted.decode(variant.recorded["codes"], budget).pixel_values
        with_heads[budget] = (quantized[:, :budget], pixels)
    layers = [layer for layer in converted.decoder.modules() if isinstance(layer, LoraLayer)]
    assert len(layers) == 2 * config.decoder_num_hidden_layers
    try:
        for layer in layers:
            layer.enable_adapters(False)
        for prefix, pixels in with_heads.values():
            torch.testing.assert_close(pixels, converted.decoder(prefix), atol=2e-6, rtol=0)
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def test_the_policy_is_untrained_and_gives_the_full_budget(variant, converted):
    full = converted.config.num_latent_tokens
    assert not converted.config.is_policy_trained
    assert converted.encode(to_range(variant.recorded["pixel_values"])).budgets.tolist() == [full] * 3


@pytest.mark.parametrize("variant", ["titok_s128", "one-d-piece_s256"], indirect=True)
def test_a_converted_folder_is_complete(variant, converted_folder):
    assert {path.name for path in converted_folder.iterdir()} == FILES
    model, processor = load_checkpoint(converted_folder)
    assert model.dtype == torch.float32
    assert processor.crop_size["height"] == model.config.image_size == 16
    card = (converted_folder / "README.md").read_text(encoding="utf-8")
    front_matter = card.split("---\n")[1]
    assert "license: apache-2.0\n" in front_matter and "base_model" not in front_matter
    paper, code = {
        "titok": ("2406.07550", "github.com/bytedance/1d-tokenizer (Apache-2.0)"),
        "one-d-piece": ("2501.10064", "github.com/turingmotors/One-D-Piece (Apache-2.0)"),
    }[variant.family]
    assert f"huggingface.co/papers/{paper}" in card and code in card and f"{variant.name}" in card
    assert "licence: Apache-2.0, that of the original code; the original checkpoint names none" in card
    assert "heads and policy: not trained" in card and "Its policy is not trained" in card


def test_the_command_says_what_it_wrote_and_nothing_else(two_stage, tmp_path, capsys):
    source, out = two_stage.publish(tmp_path / "original"), tmp_path / "deep" / "converted"
    with pytest.raises(SystemExit) as exit_info:
        main(["convert", str(source), "--from", "titok", "--out", str(out), "--budgets", "4, 16"])
    captured = capsys.readouterr()
    assert exit_info.value.code == 0 and captured.err == ""
    assert captured.out == f"0.5 million parameters, 16 px, candidate budgets 4, 16, written to {out}\n"
    assert [path.name for path in tmp_path.iterdir() if path.name != "original"] == ["deep"]
    assert [path.name for path in out.parent.iterdir()] == ["converted"]
    model, _ = load_checkpoint(out)
    assert model.config.budgets == [4, 16] and same_weights(model, convert(two_stage, budgets=[4, 16]))
    assert (tmp_path / "original" / "model.safetensors").is_file()


def test_an_empty_output_folder_is_filled(two_stage, tmp_path):
    (tmp_path / "out").mkdir()
    convert_checkpoint(two_stage.publish(tmp_path / "original"), tmp_path / "out", "titok", budgets=ONE_HEAD)
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES


@pytest.mark.parametrize(
    "name", ["model.safetensors", "weights.safetensors", "weights.bin", "weights.pth", "weights.pt"]
)
@pytest.mark.parametrize("config_name", ["config.json", "config.yaml", "elsewhere/titok.yaml"])
def test_a_file_of_weights_is_a_source(two_stage, tmp_path, name, config_name):
    (tmp_path / "elsewhere").mkdir()
    write_weights(tmp_path / name, two_stage.tensors)
    write_config(tmp_path / config_name, two_stage.config)
    named = tmp_path / config_name if "elsewhere" in config_name else None
    read = read_original(tmp_path / name, config=named)
    assert read.config == two_stage.config and not read.is_on_hub and read.license is None
    assert read.tensors.keys() == two_stage.tensors.keys()
    for key, tensor in read.tensors.items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, two_stage.tensors[key].float())


def test_a_pickle_of_the_legacy_format_is_a_source(one_d_piece, tmp_path):
    torch.save(one_d_piece.tensors, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert read_original(tmp_path / "a.pth").tensors.keys() == one_d_piece.tensors.keys()


@pytest.mark.parametrize("name", ["titok_bl64_vq8k", "titok_s128"])
def test_the_candidate_budgets_are_eight_equal_steps_unless_given(name):
    expected = {"titok_bl64_vq8k": [1, 2, 3, 4, 5, 6, 7, 8], "titok_s128": [2, 4, 6, 8, 10, 12, 14, 16]}[name]
    assert convert(read_variant(name), budgets=None).config.budgets == expected


def test_filename_chooses_among_several_weights(two_stage, tmp_path):
    source = two_stage.publish(tmp_path / "original")
    other = {name: -tensor for name, tensor in two_stage.tensors.items()}
    write_weights(source / "other.safetensors", other)
    usual = convert_checkpoint(source, tmp_path / "usual", "titok", budgets=ONE_HEAD)  # the usual name goes first
    assert same_weights(usual, convert(two_stage))
    chosen = convert_checkpoint(source, tmp_path / "chosen", "titok", filename="other.safetensors", budgets=ONE_HEAD)
    assert same_weights(chosen, convert(two_stage, tensors={name: t.float() for name, t in other.items()}))


def test_config_goes_before_the_one_beside_the_weights(two_stage, tmp_path):
    source = two_stage.publish(tmp_path / "original")
    (source / "config.json").write_text("not this one")
    write_config(tmp_path / "right.yaml", two_stage.config)
    model = convert_checkpoint(source, tmp_path / "out", "titok", config=tmp_path / "right.yaml", budgets=ONE_HEAD)
    assert same_weights(model, convert(two_stage))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_every_precision_become_single_precision(two_stage, tmp_path, dtype):
    two_stage.tensors = {name: tensor.to(dtype) for name, tensor in two_stage.tensors.items()}
    model = convert_checkpoint(two_stage.publish(tmp_path / "original"), tmp_path / "out", "titok", budgets=ONE_HEAD)
    single = {name: tensor.float() for name, tensor in two_stage.tensors.items()}
    assert same_weights(model, convert(two_stage, tensors=single))
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize("kind", ["two_stage", "one_stage"])
@pytest.mark.parametrize("mean, std", [WIDE_RANGE, UNEVEN_RANGE], ids=["wide", "uneven"])
def test_normalisation_of_the_images_is_folded_in(request, kind, mean, std):
    original = request.getfixturevalue(kind)
    recorded = original.recorded
    original.config["dataset"]["preprocessing"] |= {"normalize_mean": mean, "normalize_std": std}
    model = convert(original)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    pixel_values = to_range(recorded["pixel_values"] * std + mean)  # what such a model sees as the recorded input
    encoded = model.encode(pixel_values)
    assert torch.equal(encoded.image_codes, recorded["codes"])
    torch.testing.assert_close(model.encoder(pixel_values)[0], recorded["latents"], atol=1e-4, rtol=0)
    pixels = from_range(model.decode(encoded.image_codes).pixel_values)
    torch.testing.assert_close(pixels, recorded["pixels"] * std + mean, atol=2e-5, rtol=0)


def test_the_commitment_cost_may_be_a_whole_number(two_stage):
    two_stage.config["model"]["vq_model"]["commitment_cost"] = 1
    assert convert(two_stage).config.commitment_cost == 1.0


def test_one_d_piece_needs_no_configuration_at_its_published_size(one_d_piece, tmp_path):
    tensors = {name: tensor.float() for name, tensor in one_d_piece.tensors.items()}
    generator = torch.Generator().manual_seed(0)
    for name, shape in {
        "latent_tokens": (256, 64),
        "encoder.latent_token_positional_embedding": (256, 64),
        "decoder.latent_token_positional_embedding": (256, 64),
        "encoder.positional_embedding": (257, 64),
        "decoder.positional_embedding": (257, 64),
        "encoder.patch_embed.weight": (64, 3, 16, 16),
    }.items():
        tensors[name] = torch.randn(shape, generator=generator)
    for level in (3, 4):  # patches of 16 pixels need five levels
        tensors |= {
            re.sub(r"up\.2\.", f"up.{level}.", name): tensor for name, tensor in tensors.items() if ".up.2." in name
        }
    write_weights(tmp_path / "original" / "pytorch_model.bin", tensors)
    model = convert_checkpoint(tmp_path / "original", tmp_path / "out", "one-d-piece")
    config = one_d_piece.config
    config["model"]["vq_model"] |= {"num_latent_tokens": 256, "vit_enc_patch_size": 16, "vit_dec_patch_size": 16}
    config["dataset"]["preprocessing"]["crop_size"] = 256
    expected = convert(one_d_piece, config, tensors, budgets=None)
    assert architecture(model.config) == architecture(expected.config) and same_weights(model, expected)
    assert model.config.budgets == [32, 64, 96, 128, 160, 192, 224, 256]
    assert model.config.pixel_decoder_config.hidden_sizes == [32, 32, 32, 32, 64]


def test_the_card_takes_the_licence_of_the_original_card(two_stage, tmp_path):
    source = two_stage.publish(tmp_path / "original")
    (source / "README.md").write_text("---\nlicense: mit\n---\n\n# A model\n", encoding="utf-8")
    convert_checkpoint(source, tmp_path / "out", "titok", budgets=ONE_HEAD)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "license: mit\n" in card and "names none" not in card


@pytest.mark.parametrize(
    "content", [b"no front matter", b"---\nlicense: [mit\n---\n", b"---\n- mit\n---\n", b"\xff\xfe"]
)
def test_a_card_that_cannot_be_read_names_no_licence(two_stage, tmp_path, content):
    source = two_stage.publish(tmp_path / "original")
    (source / "README.md").write_bytes(content)
    assert read_original(source).license is None


def test_a_hub_id_is_a_source_and_becomes_the_base_model(one_d_piece, tmp_path, hub, reader):
    folder = one_d_piece.publish(tmp_path / "original")
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n", encoding="utf-8")
    (folder / "large.ckpt").write_bytes(b"not wanted")
    publish_on_hub(hub, "turing/one-d-piece", folder)
    out = tmp_path / "converted"
    code = reader.run(f"""
        from adatok_hf.cli import main
        try:
            main(["convert", "turing/one-d-piece", "--from", "one-d-piece", "--out", {str(out)!r}, "--budgets", "16"])
        except SystemExit as stop:
            result = stop.code
    """)
    assert code == 0 and {path.name for path in out.iterdir()} == FILES
    assert same_weights(load_checkpoint(out)[0], convert(one_d_piece))
    front_matter = (out / "README.md").read_text(encoding="utf-8").split("---\n")[1]
    assert "base_model: turing/one-d-piece\n" in front_matter and "license: cc-by-4.0\n" in front_matter


def test_revision_and_filename_choose_on_the_hub(two_stage, tmp_path, hub, reader):
    publish_on_hub(hub, "byte/titok", two_stage.publish(tmp_path / "original"))
    other = {name: -tensor for name, tensor in two_stage.tensors.items()}
    write_weights(tmp_path / "branch" / "other.safetensors", other)
    write_config(tmp_path / "branch" / "config.json", two_stage.config)
    publish_on_hub(hub, "byte/titok", tmp_path / "branch", revision="next")
    reader.run(f"""
        from adatok_hf.conversion import convert_checkpoint
        convert_checkpoint(
            "byte/titok", {str(tmp_path / "out")!r}, "titok", budgets={ONE_HEAD}, revision="next",
            filename="other.safetensors",
        )
    """)
    expected = convert(two_stage, tensors={name: tensor.float() for name, tensor in other.items()})
    assert same_weights(load_checkpoint(tmp_path / "out")[0], expected)


@pytest.mark.parametrize(
    "source, options, sentence",
    [
        ("nobody/nothing", {}, "The Hub has no model nobody/nothing"),
        ("byte/odd-names", {"revision": "none"}, "byte/odd-names on the Hub has no such revision."),
        ("byte/odd-names", {}, "byte/odd-names holds no weights under a usual name"),
        ("byte/odd-names", {"filename": "b.bin"}, "byte/odd-names has no weights b.bin; there are none."),
    ],
)
def test_what_the_hub_lacks_is_said_in_one_sentence(tmp_path, hub, reader, source, options, sentence):
    (tmp_path / "original").mkdir()
    (tmp_path / "original" / "a.pth").write_bytes(b"weights")
    publish_on_hub(hub, "byte/odd-names", tmp_path / "original")
    error = reader.fail(f"""
        from adatok_hf.conversion import convert_checkpoint
        convert_checkpoint({source!r}, {str(tmp_path / "out")!r}, "titok", **{options!r})
    """)
    assert error.startswith("ValueError: ") and sentence in error and "\n" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["original"]
