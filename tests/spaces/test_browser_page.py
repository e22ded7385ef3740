"""The page that runs in a browser alone: what is in it, and in Chromium the same codes and pixels as in Python."""

import functools
import http.server
import re
import runpy
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import adatok_hf
from adatok_hf import AdaTokImageProcessorPil
from adatok_hf.checkpoint import load_checkpoint
from adatok_hf.data import load_image


playwright = pytest.importorskip("playwright.sync_api")
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "spaces" / "adatok-browser"
PICTURES = Path(adatok_hf.__file__).parent / "samples"
PATIENCE = 240_000  # milliseconds
PIXELS = "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"


@pytest.fixture(scope="module")
def builder() -> dict:
    return runpy.run_path(str(FOLDER / "build.py"))


def test_the_front_matter_is_that_of_a_static_space():
    front = yaml.safe_load((FOLDER / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert (front["sdk"], front["app_file"]) == ("static", "index.html") and len(front["short_description"]) <= 60


def test_the_page_names_no_address_but_the_paper(builder):
    for name in builder["SOURCES"]:
        if not name.endswith(".md"):
            found = set(re.findall(r"https?://[^\"'\s)]+", (FOLDER / name).read_text(encoding="utf-8")))
            assert found <= {"https://huggingface.co/papers/2606.07185"}, name


def test_what_the_page_asks_for_is_put_beside_it(builder):
    script = (FOLDER / "app.js").read_text(encoding="utf-8")
    assert set(re.findall(r"\"(\d\d_[^\"]+)\"", script)) == set(builder["SAMPLES"])
    model = (FOLDER / "model.js").read_text(encoding="utf-8")
    assert set(re.findall(r"\./runtime/([^\"]+)", model)) == set(builder["RUNTIME_FILES"])
    links = re.findall(r"(?:src|href)=\"([\w.]+)\"", (FOLDER / "index.html").read_text(encoding="utf-8"))
    links += re.findall(r"from \"\./(\w+\.js)\"", script)
    assert set(links) < set(builder["SOURCES"]) and all((FOLDER / name).is_file() for name in builder["SOURCES"])


def test_without_npm_one_sentence_says_so_and_nothing_is_left(builder, tmp_path, monkeypatch, one_sentence):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with one_sentence("npm is missing"):
        builder["build"](tmp_path / "page")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def address(builder, tmp_path_factory):
    """Where the page is served."""
    if shutil.which("npm") is None:
        pytest.skip("There is no npm on this machine, by which onnxruntime-web comes.")
    folder = tmp_path_factory.mktemp("page") / "page"
    try:
        builder["build"](folder)
    except ValueError as error:
        if "npm cannot fetch" not in str(error):
            raise
        pytest.skip(str(error))
    handler = functools.partial(QuietHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def page(chromium, address):
    """The page with its first sample, and after the test the proof that it asked nobody else and raised no error."""
    asked, errors = set(), []
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: asked.add(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.locator("main").wait_for()
        yield page
        browser.close()
    assert not errors and all(url.startswith((address, "data:", "blob:")) for url in asked)


def offer(page, file: Path):
    """Chooses a file and waits until the page shows it."""
    page.evaluate("document.getElementById('codes').replaceChildren()")
    page.locator("#file").set_input_files(file)
    page.locator("#codes li").first.wait_for()


@pytest.mark.slow
def test_a_picture_gets_the_codes_the_budget_and_the_pixels_of_python(page, tmp_path):
    checkpoint = adatok_hf.default_checkpoint()
    model, processor = load_checkpoint(checkpoint)[0], AdaTokImageProcessorPil.from_pretrained(checkpoint)
    for name in ("03_lemon.png", "08_text.png", "11_coffee.webp", "22_motorcycle.webp"):
        picture = load_image(PICTURES / name).convert("RGB")
        file = tmp_path / f"{Path(name).stem}.png"
        picture.save(file)
        offer(page, file)
        with torch.inference_mode():
            inputs = processor(picture, return_tensors="pt")
            full, chosen = model.encode(**inputs, budgets=64), model.encode(**inputs)
            rebuilt = processor.post_process(model.decode(chosen).pixel_values)[0]
        seen = np.array(page.locator("#original").evaluate(PIXELS)).reshape(64, 64, 4)[..., :3]
        assert (seen == np.asarray(processor.post_process(inputs.pixel_values)[0])).all(), name
        codes = page.locator("#codes li").all_inner_texts()
        assert list(map(int, codes)) == full.image_codes[0].tolist(), name
        assert f"The model keeps {chosen.budgets.item()} of 64" in page.locator("#verdict").inner_text()
        shown = np.array(page.locator("#rebuilt").evaluate(PIXELS)).reshape(64, 64, 4)[..., :3]
        assert np.abs(shown - np.asarray(rebuilt).astype(int)).max() <= 1, name


@pytest.mark.slow
def test_a_visitor_drags_the_budget_and_lets_the_model_choose_again(page):
    chosen = int(page.locator("#shown").inner_text())
    before = page.locator("#rebuilt").evaluate(PIXELS)
    box = page.locator("#budget").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.5, middle)
    page.mouse.down()
    for place in (0.6, 0.8, 0.9, 0.999):
        page.mouse.move(box["x"] + box["width"] * place, middle)
    page.mouse.up()
    expected = f"You keep 64 of 64 tokens. The model would keep {chosen}."
    playwright.expect(page.locator("#verdict")).to_have_text(expected, timeout=PATIENCE)
    assert page.locator("#rebuilt").evaluate(PIXELS) != before and page.locator("#codes .dropped").count() == 0
    page.locator("#policy button").first.click()
    playwright.expect(page.locator("#verdict")).to_contain_text("You keep 8 of 64", timeout=PATIENCE)
    assert page.locator("#bytes").inner_text() == "13 bytes"  # 8 codes of 12 bits and one of 8 budgets
    page.locator("#follow").click()
    playwright.expect(page.locator("#verdict")).to_have_text(
        f"The model keeps {chosen} of 64 tokens.", timeout=PATIENCE
    )
    assert page.locator("#rebuilt").evaluate(PIXELS) == before


@pytest.mark.slow
def test_transparency_is_laid_over_white_and_what_is_no_picture_is_said(page, tmp_path):
    Image.new("RGBA", (70, 70), (0, 0, 0, 0)).save(tmp_path / "nothing.png")
    offer(page, tmp_path / "nothing.png")
    assert set(page.locator("#original").evaluate(PIXELS)) == {255}
    (tmp_path / "words.png").write_text("no picture", encoding="utf-8")
    page.locator("#file").set_input_files(tmp_path / "words.png")
    playwright.expect(page.locator("#status")).to_contain_text("cannot be read as a picture", timeout=PATIENCE)
    assert set(page.locator("#original").evaluate(PIXELS)) == {255}


@pytest.mark.slow
def test_the_page_fits_a_phone(page):
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
