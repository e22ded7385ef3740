"""The page of the Space in a real browser: what a visitor sees, moves and is told."""

import io
import re
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
from PIL import Image

import adatok_hf
from adatok_hf.data import find_images


playwright = pytest.importorskip("playwright.sync_api")
SAMPLES = Path(adatok_hf.__file__).parent / "samples"
PATIENCE = 120_000  # milliseconds


@pytest.fixture(scope="module")
def browser(chromium):
    with playwright.sync_playwright() as engine:
        running = engine.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def addresses() -> set[str]:
    """Of all that the pages have asked for."""
    return set()


@pytest.fixture
def visit(space, browser, addresses):
    """Opens the page and waits for the sample that it begins with."""
    contexts = []

    def open_page(width: int = 1280, height: int = 900, scheme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: addresses.add(request.url))
        page.goto(space.url)
        page.locator("#strip img").first.wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()


def verdict(page) -> str:
    return page.locator("#verdict p").inner_text()


def wait_for_verdict(page, pattern: str):
    playwright.expect(page.locator("#verdict p")).to_have_text(re.compile(pattern), timeout=PATIENCE)


def pixels(page) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"), float)


def test_a_visitor_uploads_a_picture_and_drags_the_budget(visit, picture_file):
    page = visit()
    assert re.search(r"The model keeps \d+ of 64 tokens: \d+ bytes, 0\.\d+ bits per pixel\.", verdict(page))
    before = page.locator("#pair img").first.get_attribute("src")
    page.locator("#picture input[type=file]").set_input_files(picture_file)
    playwright.expect(page.locator("#pair img").first).not_to_have_attribute("src", before, timeout=PATIENCE)
    before = page.locator("#pair img").nth(1).get_attribute("src")
    slider = page.locator("#budget input[type=range]")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.1, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, middle, steps=5)
    page.mouse.move(box["x"] + box["width"] * 0.97, middle, steps=5)
    page.mouse.up()
    wait_for_verdict(page, r"You keep (5[89]|6[0-4]) of 64 tokens: \d+ bytes.*The model would keep \d+")
    playwright.expect(page.locator("#pair img").nth(1)).not_to_have_attribute("src", before)
    page.locator("#strip button").nth(1).click()
    wait_for_verdict(page, "keeps? 16 of 64 tokens")


def test_sliders_move_by_keys(visit):
    page = visit()
    slider = page.locator("#budget input[type=range]")
    budget = int(slider.input_value())
    slider.focus()
    page.keyboard.press("ArrowRight")
    wait_for_verdict(page, f"You keep {budget + 1} of 64 tokens")


def test_what_is_no_picture_is_said_in_the_page_and_the_page_goes_on(visit, picture_file, tmp_path):
    page = visit()
    (tmp_path / "letter.png").write_text("Dear reader")
    page.locator("#picture input[type=file]").set_input_files(tmp_path / "letter.png")
    playwright.expect(page.get_by_text("letter.png is not an image file")).to_be_visible(timeout=PATIENCE)
    before = verdict(page)
    page.get_by_role("button", name="Take the sample plaid").click()
    playwright.expect(page.locator("#verdict p")).not_to_have_text(before, timeout=PATIENCE)


def test_samples_are_compared_by_budget(visit):
    page = visit()
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("button", name=re.compile(r"Take our \d+ samples")).click()
    page.locator("#histogram img").first.wait_for()
    assert page.locator("#histogram img").count() == len(find_images([SAMPLES]))
    assert all(
        re.search(r": \d+ tokens$", image.get_attribute("alt")) for image in page.locator("#histogram img").all()
    )


def test_codes_are_saved_and_read_again(visit, tmp_path):
    page = visit()
    page.get_by_role("tab", name="Codes").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Save as .json").click()
    download.value.save_as(tmp_path / "codes.json")
    page.locator("#codes-file input[type=file]").set_input_files(tmp_path / "codes.json")
    page.locator(".decoded img").first.wait_for()
    page.get_by_role("button", name="Play it").click()
    page.locator("#movie img").wait_for()
    assert "one after the other" in page.locator("#movie img").get_attribute("alt")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_cut_off(visit, scheme):
    page = visit(390, 844, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    shown = pixels(page)
    assert (np.median(shown) < 80) if scheme == "dark" else (np.median(shown) > 200)
    assert shown.std() > 20
    for image in page.locator("#pair img, #strip img").all():
        image.scroll_into_view_if_needed()
        box = image.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["width"] >= 40
        assert "pixelated" == image.evaluate("element => getComputedStyle(element).imageRendering")


def test_nothing_is_fetched_from_elsewhere(visit, space, addresses):
    visit()
    assert {urlparse(address).netloc for address in addresses} - {""} == {urlparse(space.url).netloc}
