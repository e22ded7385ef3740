"""Checkpoints that promise what they do not hold."""

import json

import pytest

from adatok_hf.checkpoint import load_checkpoint, push_checkpoint


CONFIGS = [
    *(
        {name: 10**9}
        for name in (
            "image_size",
            "patch_size",
            "num_channels",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "decoder_hidden_size",
            "decoder_num_hidden_layers",
            "decoder_num_attention_heads",
            "decoder_intermediate_size",
            "codebook_size",
            "codebook_dim",
            "lora_rank",
            "policy_hidden_size",
        )
    ),
    {"num_latent_tokens": 10**9, "budgets": [4, 8, 10**9]},
    {"budgets": [*range(1, 17)]},
    {"image_size": 10**9, "patch_size": 10**9},
    {"hidden_size": 40_000, "intermediate_size": 40_000},
    {"num_hidden_layers": 10**30},
    {"pixel_decoder_config": {"layers_per_block": 10**9}},
    {"pixel_decoder_config": {"hidden_sizes": [32 * 10**9]}},
    {"pixel_decoder_config": {"hidden_sizes": [32] * 100_000}},
    {"pixel_decoder_config": 3},
    {"hidden_act": "no_such_function"},
    {"hidden_act": ["gelu"]},
    {"hidden_act": None},
    *({"dtype": value} for value in ("int8", "no_such_type", "nn", 3, [], "float8_e4m3fn", "load")),
    {"torch_dtype": "hub"},
    {"attn_implementation": "someone/a-kernel"},
    {"_attn_implementation": "someone/a-kernel"},
    {"quantization_config": {"quant_method": "bitsandbytes"}},
    {"transformers_weights": "../other.safetensors"},
    {"layer_norm_eps": "small"},
    {"id2label": 3},
    {"budgets": "all"},
    {"budgets": [[4], 8, 16]},
    {"cost_bias": float("nan")},
    {"model_type": ["adatok"]},
]
PROCESSORS = [
    {"size": {"shortest_edge": 10**9}},
    {"size": {"height": 10**9, "width": 10**9}},
    {"size": {"shortest_edge": -5}},
    {"size": "large"},
    {"size": None},
    {"size": 10**30},
    {"crop_size": {"height": 10**9, "width": 10**9}},
    {"crop_size": None},
    {"crop_size": []},
    {"resample": 99},
    {"resample": "bicubic"},
    {"image_mean": [0.5] * 7},
    {"image_mean": "grey"},
    {"image_std": [0, 0, 0]},
    {"image_std": None},
    {"rescale_factor": "1/255"},
    {"do_resize": False},
    {"do_center_crop": False},
    {"do_convert_rgb": False},
    {"image_processor_type": 3},
    {"image_processor_type": "../../x"},
]


def change(path, values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def refuse(tiny_checkpoint, refused):
    def check():
        with refused(str(tiny_checkpoint)):
            load_checkpoint(tiny_checkpoint)

    return check


@pytest.mark.parametrize("values", CONFIGS, ids=lambda values: json.dumps(values)[:60])
def test_a_configuration_is_refused_before_anything_is_built(values, tiny_checkpoint, refuse):
    change(tiny_checkpoint / "config.json", values)
    refuse()


@pytest.mark.parametrize("values", PROCESSORS, ids=lambda values: json.dumps(values)[:60])
def test_odd_values_of_a_processor_are_refused(values, tiny_checkpoint, refused):
    change(tiny_checkpoint / "preprocessor_config.json", values)
    try:
        model, processor = load_checkpoint(tiny_checkpoint)
    except ValueError as error:
        assert str(tiny_checkpoint) in str(error) and "\n" not in str(error) and str(error).endswith(".")
    else:  # what another value stands in for does no harm
        assert values.keys() <= {"do_convert_rgb", "size", "resample", "crop_size", "image_std", "do_resize"}


DEEP = '{"size": ' + "[" * 100_000 + "]" * 100_000 + "}"
TEXTS = [DEEP, "{", "3", "", "[]", '{"a": ' + "9" * 10_000 + "}", "\udcff"]


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text)[:20])
def test_json_that_is_none_or_too_deep_is_refused(name, text, tiny_checkpoint, refuse):
    (tiny_checkpoint / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    refuse()


@pytest.mark.parametrize(
    "index",
    [
        {},
        {"weight_map": []},
        {"weight_map": {"a": 3}},
        {"weight_map": {"a": "../model.safetensors"}},
        {"weight_map": {"a": "/etc/passwd"}},
        {"weight_map": {"a": "gone.safetensors"}},
        {"weight_map": {}},
    ],
)
def test_an_index_of_weights_is_refused(index, tiny_checkpoint, refuse):
    (tiny_checkpoint / "model.safetensors").unlink()
    (tiny_checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    refuse()


@pytest.mark.parametrize(
    "header", [b"", b"\xff" * 8, (10**12).to_bytes(8, "little"), (2).to_bytes(8, "little") + b"{}", bytes(8)]
)
def test_damaged_weights_are_refused(header, tiny_checkpoint, refuse):
    (tiny_checkpoint / "model.safetensors").write_bytes(header)
    refuse()


def test_an_adapter_that_names_other_weights_is_refused(tiny_checkpoint, refuse):
    (tiny_checkpoint / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')
    refuse()


@pytest.mark.parametrize("values", [{"hidden_size": 10**9}, {"hidden_act": "no_such_function"}])
def test_commands_refuse_in_one_sentence(values, tiny_checkpoint, tmp_path, sample_images, refusal):
    change(tiny_checkpoint / "config.json", values)
    sample_images[0].save(tmp_path / "a.png")
    out = tmp_path / "codes.safetensors"
    refusal("encode", tmp_path / "a.png", "--out", out, "--model", tiny_checkpoint, "--device", "cpu")


@pytest.mark.parametrize("name", ["README.md", "metrics.json", "config.json", "model.safetensors", "notes.txt"])
def test_push_follows_no_link_out_of_the_checkpoint(name, tiny_checkpoint, tmp_path, refused):
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    (tiny_checkpoint / name).unlink(missing_ok=True)
    (tiny_checkpoint / name).symlink_to(secret)
    with refused(str(tiny_checkpoint / name), "is a link out of the checkpoint folder"):
        push_checkpoint(tiny_checkpoint, "someone/model", token="hf_none")
