"""The example notebooks run as they stand, and their results are shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks need the extra 'notebooks'")
nbclient = pytest.importorskip("nbclient", reason="notebooks need the extra 'notebooks'")
pytest.importorskip("ipykernel", reason="notebooks need the extra 'notebooks'")

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.ipynb"))


def kinds(cell):
    """What a cell shows, but for the bar, of which nothing stays."""
    found = [output.get("data", {"text": ""}).keys() for output in cell.get("outputs", [])]
    shown = [kind for keys in found for kind in ("image/png", "text/markdown", "text") if kind in keys]
    return sorted(shown)


def texts(cell):
    return [output["text"] for output in cell.get("outputs", []) if output.get("name") == "stdout"]


def test_there_are_two():
    assert [path.name for path in NOTEBOOKS] == ["solver.ipynb", "texture.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs_are_those_of_a_run(path, tmp_path, monkeypatch):
    """Executed anew each cell shows what it shows in the repository; what is marked deterministic, to the letter."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    committed = [(kinds(cell), texts(cell)) for cell in notebook.cells]
    assert not any(output.get("name") == "stderr" for cell in notebook.cells for output in cell.get("outputs", []))
    client = nbclient.NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    for cell, (kind, text) in zip(notebook.cells, committed, strict=True):
        assert kinds(cell) == kind, cell.source
        if "deterministic" in cell.metadata.get("tags", []):
            assert texts(cell) == text, cell.source
    assert sum(kind.count("image/png") for kind, _ in committed) >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_are_small_and_of_nobody(path):
    assert path.stat().st_size < 500_000
    text = path.read_text("utf-8")
    for trace in ("/tmp/", "/home/", os.path.expanduser("~") + "/", "widget-view", "shared/data"):
        assert trace not in text
