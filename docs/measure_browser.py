"""Measures the page of `make browser` in headless Chromium: times of its samples, bytes of its files."""

import argparse
import functools
import gzip
import http.server
import json
import re
import shutil
import threading
from pathlib import Path
from statistics import median

from playwright.sync_api import sync_playwright


PASSES = 4  # over all samples; the first is left out, in which the browser compiles


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def measure(folder: Path) -> dict:
    """Median milliseconds of encoding and decoding one picture, and bytes as they are and by gzip."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "samples"]
    handler = functools.partial(QuietHandler, directory=folder)
    times = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as engine:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = engine.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(240_000)
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.locator("main").wait_for()
        for number in range(PASSES):
            for button in page.locator("#samples button").all():
                page.evaluate("document.getElementById('codes').replaceChildren()")
                button.click()
                page.locator("#codes li").first.wait_for()
                if number > 0:
                    times.append([float(time) for time in re.findall(r"([\d.]+) ms", page.inner_text("#times"))])
        browser.close()
        server.shutdown()
    encode, decode = (median(column) for column in zip(*times))
    return {
        "pictures": len(times),
        "encode_milliseconds": encode,
        "decode_milliseconds": decode,
        "bytes": sum(path.stat().st_size for path in files),
        "gzip_bytes": sum(len(gzip.compress(path.read_bytes())) for path in files),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="what spaces/adatok-browser/build.py made")
    print(json.dumps(measure(parser.parse_args().folder)))
