import pytest

from adatok_hf import AdaTokConfig
from adatok_hf.checkpoint import architecture


TINY = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_attention_heads": 2, "num_latent_tokens": 16}


def test_defaults_are_the_paper_scale():
    config = AdaTokConfig()
    assert config.budgets == [32, 64, 96, 128, 160, 192, 224, 256]
    assert (config.num_patches, config.pad_code_id) == (256, 4096)


def test_decoder_follows_the_encoder_unless_told_otherwise():
    config = AdaTokConfig(**TINY, budgets=[16], num_hidden_layers=3, intermediate_size=64)
    assert (config.decoder_hidden_size, config.decoder_num_hidden_layers) == (32, 3)
    assert (config.decoder_num_attention_heads, config.decoder_intermediate_size) == (2, 64)
    assert AdaTokConfig(**TINY, budgets=[16], decoder_hidden_size=64).decoder_hidden_size == 64


def test_saving_and_loading_keeps_every_field(tmp_path):
    config = AdaTokConfig(**TINY, budgets=(4, 16), decoder_hidden_size=64, lora_rank=3, is_policy_trained=True)
    config.cost_bias = -2.5
    config.save_pretrained(tmp_path)
    assert AdaTokConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_a_whole_number_is_a_cost_bias_too():
    assert AdaTokConfig().cost_bias == 0.0
    assert isinstance(AdaTokConfig(cost_bias=4).cost_bias, float)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_cost_bias_that_is_not_finite_is_a_value_error(value):
    with pytest.raises(ValueError, match=f"cost_bias must be a finite number.*{value}"):
        AdaTokConfig(cost_bias=value)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"budgets": [8, 4, 16]}, r"ascend.*\[8, 4, 16\]"),
        ({"budgets": [4, 4, 16]}, r"ascend.*\[4, 4, 16\]"),
        ({"budgets": [0, 16]}, r"positive.*\[0, 16\]"),
        ({"budgets": []}, r"got \[\]"),
        ({"budgets": [4, 8]}, r"num_latent_tokens=16.*\[4, 8\]"),
        ({"budgets": [4, 32]}, r"num_latent_tokens=16.*\[4, 32\]"),
        ({"image_size": 30}, r"image_size=30.*patch_size=8"),
        ({"num_attention_heads": 3}, r"32 and 3 heads"),
        ({"decoder_hidden_size": 36, "decoder_num_attention_heads": 8}, r"36 and 8 heads"),
    ],
)
def test_an_impossible_architecture_is_a_value_error(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        AdaTokConfig(**{**TINY, "budgets": [4, 8, 16], **change})


@pytest.mark.parametrize(
    "name",
    [
        "image_size",
        "patch_size",
        "num_channels",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "num_latent_tokens",
        "codebook_size",
        "codebook_dim",
        "lora_rank",
        "policy_hidden_size",
    ],
)
@pytest.mark.parametrize("value", [0, -8])
def test_a_size_below_one_is_a_value_error_that_names_it(name, value):
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        AdaTokConfig(**{**TINY, "budgets": [4, 8, 16], name: value})


@pytest.mark.parametrize(
    "name",
    [
        "decoder_hidden_size",
        "decoder_num_hidden_layers",
        "decoder_num_attention_heads",
        "decoder_intermediate_size",
    ],
)
@pytest.mark.parametrize("value", [0, -4])
def test_an_optional_size_below_one_is_a_value_error_that_names_it(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, or None; got {value}"):
        AdaTokConfig(**{**TINY, "budgets": [4, 8, 16], name: value})


class WiderConfig(AdaTokConfig):
    model_type = "wider_adatok"

    margin: int = 0


@pytest.mark.parametrize("name", ["hidden_size", "lora_rank", "decoder_num_hidden_layers"])
def test_a_subclass_checks_the_sizes_it_inherits(name):
    assert WiderConfig(**TINY, budgets=[16]).margin == 0
    with pytest.raises(ValueError, match=f"{name} must be at least 1"):
        WiderConfig(**{**TINY, "budgets": [16], name: -4})


def test_the_fingerprint_of_a_subclass_counts_inherited_and_own_fields():
    facts = architecture(WiderConfig(**TINY, budgets=[16], margin=2))
    assert facts == {**architecture(AdaTokConfig(**TINY, budgets=[16])), "margin": 2}
    assert facts["hidden_size"] == 32


def test_what_holds_for_the_attention_of_a_model_holds_for_its_pixel_decoder():
    config = AdaTokConfig(pixel_decoder_config={"hidden_sizes": [64, 32]})
    config._attn_implementation = "eager"
    assert config.pixel_decoder_config._attn_implementation == "eager"


def test_the_pixel_decoder_is_read_from_the_file_of_the_whole(tmp_path):
    config = AdaTokConfig(pixel_decoder_config={"hidden_sizes": [64, 32]})
    config.save_pretrained(tmp_path)
    kind = AdaTokConfig.sub_configs["pixel_decoder_config"]
    assert kind.from_pretrained(tmp_path).hidden_sizes == [64, 32]
