"""
Measures the Space of `make space` and writes docs/space.json: seconds from an upload and from a click on Generate to
the pictures in headless Chromium, ten users at once, memory, and what axe-core finds in every tab.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import psutil
from gradio_client import Client, handle_file
from playwright.sync_api import Page, sync_playwright

from adatok_hf.files import write_json
from blocks.pictures import sample_files
from blocks.sources import ROOT, SPACE


PATIENCE = 180  # seconds
USERS, PICTURES = 10, 5
UPLOADS = ("03", "06", "07", "10", "11", "13", "20", "21", "23")
SCRIPT = "axe.run().then(found => found.violations.map(each => [each.id, each.impact, each.nodes.length]))"


@contextmanager
def running_space():
    """Address and process of the Space, with the embedded checkpoints."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": cache, "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(
            [sys.executable, ROOT / "spaces" / "adatok" / "app.py"], env=environment, stdout=subprocess.DEVNULL
        )
        try:
            end = time.monotonic() + PATIENCE
            while not answers(url):
                if time.monotonic() > end or process.poll() is not None:
                    raise SystemExit("The Space does not start; see what `make space` says.")
                time.sleep(0.2)
            yield url, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(PATIENCE)


def answers(url: str) -> bool:
    """Whether the page is there."""
    try:
        return urllib.request.urlopen(url).status == 200
    except OSError:
        return False


def seconds_until_new(page: Page, picture: str, act) -> float:
    """From an act to another picture that has been loaded."""
    image = page.locator(picture).first
    before = image.get_attribute("src") if image.count() else None
    start = time.monotonic()
    act()
    page.wait_for_function(
        "([picture, before]) => { const image = document.querySelector(picture);"
        " return image && image.src !== before && image.naturalWidth > 0 }",
        arg=[picture, before],
        polling=20,
    )
    return time.monotonic() - start


def measure_times(page: Page) -> dict:
    """Medians of uploads and of generations, eight pictures each."""
    files = page.locator("#picture input[type=file]")
    uploads = [
        seconds_until_new(page, "#pair img", lambda name=name: files.set_input_files(ROOT / name))
        for name in sample_files(UPLOADS)
    ]
    page.get_by_role("tab", name="Generate").click()
    button = page.get_by_role("button", name="Generate", exact=True)
    generations = [seconds_until_new(page, "#generated img", button.click) for _ in range(4)]
    return {"upload_seconds": median(uploads[1:]), "generate_seconds": median(generations[1:])}


def find_violations(page: Page, axe: Path) -> list[dict]:
    """What axe-core finds in each tab."""
    page.evaluate(axe.read_text(encoding="utf-8"))
    found = []
    for tab in page.get_by_role("tab").all():
        tab.click()
        page.wait_for_timeout(500)
        name = tab.inner_text()
        found += [
            {"tab": name, "rule": rule, "impact": impact, "places": places}
            for rule, impact, places in page.evaluate(SCRIPT)
        ]
    return found


def measure_crowd(url: str, process: psutil.Process) -> dict:
    """Ten users at once: errors, seconds of a request, and resident bytes before, at most and after."""
    names, peak = sample_files(UPLOADS[:PICTURES]), [before := process.memory_info().rss]

    def use(_) -> list[float]:
        client, seconds = Client(url, verbose=False), []
        for name in names:
            start = time.monotonic()
            client.predict(handle_file(ROOT / name), api_name="/reconstruct")
            seconds.append(time.monotonic() - start)
        client.predict(api_name="/generate", label="emoji", count=4)
        peak.append(process.memory_info().rss)
        return seconds

    with ThreadPoolExecutor(USERS) as pool:
        users = [pool.submit(use, number) for number in range(USERS)]
        while not all(user.done() for user in users):
            peak.append(process.memory_info().rss)
            time.sleep(0.05)
    failures = [user.exception() for user in users if user.exception() is not None]
    seconds = [value for user in users if user.exception() is None for value in user.result()]
    return {
        "users": USERS,
        "pictures_each": PICTURES,
        "errors": len(failures),
        "request_seconds": median(seconds),
        "bytes_before": before,
        "bytes_peak": max(peak),
        "bytes_after": process.memory_info().rss,
    }


def main():
    """Writes docs/space.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("axe", type=Path, help="axe.min.js, which `npm pack axe-core` brings")
    axe = parser.parse_args().axe
    with running_space() as (url, process), sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        violations = []
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
            page.set_default_timeout(1000 * PATIENCE)
            page.goto(url)
            page.locator("#strip img").first.wait_for()
            times = measure_times(page)
            violations += [{"scheme": scheme, **each} for each in find_violations(page, axe)]
            page.close()
        browser.close()
        crowd = measure_crowd(url, process)
    write_json(SPACE, {"threads": os.cpu_count(), **times, "crowd": crowd, "violations": violations})


if __name__ == "__main__":
    main()
