"""Draws docs/space.png and docs/space-phone.png from a Space that runs: `python docs/draw_space.py http://127.0.0.1:7860`."""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright


DOCS = Path(__file__).parent
VIEWS = {"space.png": (1280, 900, 1), "space-phone.png": (390, 844, 2)}
PATIENCE = 180_000  # milliseconds
LEVEL = 5  # of 255: a difference that nobody sees, for files of two thirds the size


def main(url: str):
    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (width, height, scale) in VIEWS.items():
            context = browser.new_context(viewport={"width": width, "height": height}, device_scale_factor=scale)
            page = context.new_page()
            page.set_default_timeout(PATIENCE)
            page.goto(url)
            page.locator("#strip img").first.wait_for()
            page.mouse.wheel(0, 9999)  # pictures below the fold are loaded when they are near
            page.wait_for_function("[...document.querySelectorAll('#strip img')].every(image => image.naturalWidth)")
            if scale > 1:
                page.locator("#pair").scroll_into_view_if_needed()
                page.evaluate("document.querySelector('#pair').scrollIntoView()")
            else:
                page.evaluate("window.scrollTo(0, 0)")
            page.wait_for_timeout(1000)
            picture = Image.open(io.BytesIO(page.screenshot(full_page=scale == 1))).convert("RGB")
            picture.point(lambda level: round(level / LEVEL) * LEVEL).save(DOCS / name, optimize=True)
            context.close()
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
