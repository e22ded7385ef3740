"""The notebook runs from top to bottom, and what is committed shows what came out of it."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient


NOTEBOOK = Path(__file__).parent.parent / "docs" / "quickstart.ipynb"
MAX_BYTES = 1_500_000


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.mark.slow
def test_every_cell_runs(notebook, tmp_path, weights_dir, monkeypatch):
    for name, value in {
        "ADATOK_WEIGHTS_DIR": str(weights_dir),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5
    printed = "".join(output.get("text", "") for output in outputs if output.get("name") == "stdout")
    before, after = map(float, re.search(r"before (\d+\.\d), after (\d+\.\d)", printed).groups())
    assert 8 <= before <= 64 and 8 <= after <= 64 and before != after
    assert "model.safetensors" in printed


def test_the_committed_notebook_shows_its_outputs_and_no_machine(notebook):
    assert NOTEBOOK.stat().st_size < MAX_BYTES
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)
    text = "".join(
        str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", "")) for output in outputs
    )
    assert os.sep + "tmp" not in text and "root" not in text
    assert not any(name in cell.source for cell in notebook.cells for name in ("OWNER", "colab"))
