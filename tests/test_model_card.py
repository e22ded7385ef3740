"""What a model card says, and which metrics it refuses."""

import pytest

from adatok_hf.model_card import model_card


def test_card_says_what_was_not_measured(tiny_config):
    card = model_card(tiny_config, "someone/adatok")
    assert "## Quality\n\nNot measured." in card and "## Training\n\nNot recorded." in card


def test_card_refuses_a_row_without_budget(tiny_config):
    with pytest.raises(ValueError, match="Every row of the metrics must be like"):
        model_card(tiny_config, "someone/adatok", {"rows": [{"psnr": 20.0}]})


def test_card_refuses_metrics_of_another_form(tiny_config):
    with pytest.raises(ValueError, match="must hold a list of rows"):
        model_card(tiny_config, "someone/adatok", {"rows": 3})
