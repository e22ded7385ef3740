"""The README's Python runs as it stands, and so does every example in a docstring."""

import doctest
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import adatok_hf


ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "AGENTS.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = sorted(
    ".".join((package, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
    for package, folder in (
        ("adatok_hf", ROOT / "adatok_hf"),
        ("adatok_hf.modeling", ROOT / "modeling"),
        ("adatok_hf.conversion", ROOT / "conversion"),
    )
    for path in folder.rglob("*.py")
    if "checkpoints" not in path.parts  # code that an installation put there, which is that of modeling
)


def test_the_quickstart_of_the_readme_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    script = tmp_path / "script" / "quickstart.py"
    folder = tmp_path / "folder"
    script.parent.mkdir()
    folder.mkdir()
    (folder / "adatok_hf").symlink_to(ROOT / "adatok_hf")  # the README names pictures by their path in the repository
    script.write_text("\n".join(blocks), encoding="utf-8")
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, script], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert list(folder.glob("*.png"))


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples_run(module):
    results = doctest.testmod(importlib.import_module(module))
    assert results.failed == 0


def test_doctests_are_found():
    finder = doctest.DocTestFinder()
    assert any(test.examples for test in finder.find(adatok_hf.AdaTokModel, module=False))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_local_links_lead_somewhere(page):
    for target, _, anchor in re.findall(r"\]\((?!https?://)([^)#]*)(#([^)]+))?\)", page.read_text(encoding="utf-8")):
        path = page.parent / target if target else page
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], anchor


def test_make_targets_named_by_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"`make (\w+)`|^make (\w+)$", README, flags=re.MULTILINE))
    for target in {name for pair in targets for name in pair if name}:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_the_citation_is_valid_yaml():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "title", "authors", "license"} <= set(citation)
