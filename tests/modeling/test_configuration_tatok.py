import math

import pytest

from adatok_hf import TaTokConfig


def test_defaults_are_the_paper_scale():
    config = TaTokConfig()
    assert (config.num_patches, config.pad_code_id, config.num_latent_tokens) == (256, 4096, 272)
    assert config.budgets == [16, 48, 80, 112, 144, 176, 208, 240, 272]


def test_saving_and_loading_keeps_every_field(tmp_path, tatok_config):
    tatok_config.threshold, tatok_config.threshold_rule, tatok_config.entropy = 7.5, "absolute", "residual"
    tatok_config.save_pretrained(tmp_path)
    assert TaTokConfig.from_pretrained(tmp_path).to_dict() == tatok_config.to_dict()


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"image_size": 250}, "image_size=250.*patch_size=16"),
        ({"num_global_tokens": 0}, "num_global_tokens must be at least 1; got 0"),
        ({"num_attention_heads": 5}, "768 and 5 heads"),
        ({"prior_num_attention_heads": 3}, "prior_hidden_size.*=3; got 256"),
        ({"entropy": "surprise"}, "prior, surprisal, residual; got 'surprise'"),
        ({"threshold_rule": "mean"}, "relative or absolute; got 'mean'"),
        ({"threshold": 1.5}, "from 0 to 1; got 1.5"),
        ({"threshold": -0.1, "threshold_rule": "absolute"}, "from 0; got -0.1"),
        ({"threshold": float("nan")}, "got nan"),
        ({"threshold": float("inf"), "threshold_rule": "absolute"}, "got inf"),
    ],
)
def test_an_impossible_configuration_is_a_value_error(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        TaTokConfig(**change)


def test_bits_are_those_of_the_codes_and_of_the_cheaper_way_to_name_the_places(tatok_config):
    # 4 codes of 6 bits, 5 bits for each patch, 16 places.
    number = math.log2(17)
    assert tatok_config.count_bits(4) == pytest.approx(24 + number)
    assert tatok_config.count_bits(5) == pytest.approx(24 + 5 + number + 4)
    assert tatok_config.count_bits(12) == pytest.approx(24 + 40 + 16)  # one bit for each place is less
    assert tatok_config.count_place_bits(8) == 16 < number + math.log2(math.comb(16, 8))


@pytest.mark.parametrize("num_tokens", [3, 21])
def test_bits_of_an_impossible_number_of_tokens_are_refused(tatok_config, num_tokens):
    with pytest.raises(ValueError, match=f"between 4 and 20; got {num_tokens}"):
        tatok_config.count_bits(num_tokens)
