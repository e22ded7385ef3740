"""Lists and budgets as they are written on the command line."""

import pytest

from adatok_hf.cli.options import parse_budget, parse_budgets, parse_names, parse_numbers


@pytest.mark.parametrize("text", ["0", "1,,8", "8x", "-1", "", "\u00b2"])
def test_numbers_that_are_none_are_a_value_error(text, one_sentence):
    with one_sentence("--sweep", "whole numbers from 1", repr(text)):
        parse_numbers(text, "--sweep")


def test_numbers_keep_their_order():
    assert parse_numbers("8, 1,32,8", "--sweep") == [8, 1, 32, 8]


def test_names_count_once():
    assert parse_names("psnr, ssim,,psnr") == ["psnr", "ssim"]


def test_budgets_keep_their_order(tiny_config):
    assert parse_budgets("all,5,auto,4", tiny_config) == [4, 8, 16, 5, "auto"]
    assert parse_budgets("5", tiny_config) == [5]


@pytest.mark.parametrize("text", ["0", "17", "-4", "abc", "4.0", "", "4,", "4,99", "\u00b2"])
def test_what_is_no_budget_is_a_value_error(text, tiny_config, one_sentence):
    with one_sentence("--budgets", "1 to 16"):
        parse_budgets(text, tiny_config)


def test_one_budget_is_a_number_or_the_policys_choice(tiny_config, one_sentence):
    assert parse_budget("5", tiny_config) == 5 and parse_budget("auto", tiny_config) is None
    for text in ("all", "4,8", "auto,4"):
        with one_sentence("a single number here", repr(text)):
            parse_budget(text, tiny_config)
