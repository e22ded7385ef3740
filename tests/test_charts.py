"""Charts are well-formed, say aloud what they show, and survive odd numbers."""

import io
import xml.etree.ElementTree as ElementTree
from base64 import b64decode

import pytest
from PIL import Image

from adatok_hf.charts import Placed, data_uri, picture_histogram, policy_chart, quality_chart


def texts(svg: str) -> list[str]:
    return [element.text for element in ElementTree.fromstring(svg).iter("text")]


def test_the_policy_chart_has_one_bar_a_budget_and_names_the_chosen_one():
    svg = policy_chart({4: 0.2, 8: 0.7, 16: 0.1}, chosen=8)
    bars = [float(bar.get("height")) for bar in ElementTree.fromstring(svg).iter("rect")]
    assert bars[1] > bars[0] > bars[2]
    assert texts(svg) == ["4", "70%", "8", "16", "tokens"]
    assert "8 tokens 70%" in ElementTree.fromstring(svg).get("aria-label")


def test_of_many_budgets_some_are_named_and_the_chosen_one_always():
    named = texts(policy_chart({budget: 1 / 64 for budget in range(1, 65)}, chosen=42))
    assert "42" in named and len(named) < 20


def test_a_policy_that_is_sure_is_drawn():
    assert "100%" in texts(policy_chart({4: 0.0, 8: 1.0}, chosen=8))


def test_the_quality_chart_marks_a_point_between_the_candidates():
    svg = quality_chart([(4, 18.0), (8, 20.0), (16, 21.0)], marked=(6, 19.0))
    assert "19.0 dB" in texts(svg) and "6" in texts(svg)
    heights = [float(circle.get("cy")) for circle in ElementTree.fromstring(svg).iter("circle")]
    assert heights[0] > heights[3] > heights[1] > heights[2]  # the larger, the higher up


@pytest.mark.parametrize(
    ("points", "marked"),
    [
        ([(4, float("inf"))], (4, float("inf"))),
        ([(4, 20.0), (8, float("inf"))], (8, float("inf"))),
        ([(4, 20.0)], (4, 20.0)),
        ([(4, 20.0), (8, 20.0)], (8, 20.0)),
    ],
)
def test_equal_and_perfect_qualities_are_drawn(points, marked):
    svg = quality_chart(points, marked)
    assert ElementTree.fromstring(svg) is not None and "nan" not in svg and "inf," not in svg


def test_the_histogram_puts_pictures_over_their_budgets_and_escapes_names():
    red, large = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (600, 600))
    html = picture_histogram([Placed("<b>", red, 4), Placed("large", large, 8), Placed("other", red, 8)], [4, 8, 16])
    columns = html.split("<div>")[1:]
    assert [column.count("<img") for column in columns] == [1, 2, 0]
    assert "<b>" not in html and "&lt;b&gt;: 4 tokens" in html
    assert len(html) < 20_000  # large pictures come as small ones


def test_a_data_uri_holds_the_picture():
    uri = data_uri(Image.new("RGB", (3, 2), "red"))
    picture = Image.open(io.BytesIO(b64decode(uri.removeprefix("data:image/png;base64,"))))
    assert picture.size == (3, 2) and picture.getpixel((0, 0)) == (255, 0, 0)
