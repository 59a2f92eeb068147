"""The notebook is run, and what it shows is looked at."""

from pathlib import Path

import nbformat
import pytest
from html_page import Page
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "examples" / "pair_lab.ipynb"
# What the kernel's own libraries warn of is not ours.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def outputs(notebook, kind):
    return [
        output["data"][kind]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if kind in output.get("data", {})
    ]


def test_the_notebook_is_stored_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


@pytest.mark.slow
def test_the_notebook_runs_and_shows_suspects_with_pictures(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(tmp_path)}}).execute()
    view = Page(outputs(notebook, "text/html")[0])
    assert view.open == []
    assert "script" not in view.tags
    assert len(view.images) >= 8
    assert all(source.startswith("data:image/webp") for source in view.loads)
    assert any("do not seem to match" in text for text in view.text)
    assert "600 pairs are no suspects" in "".join(outputs(notebook, "text/plain"))
    assert list(tmp_path.iterdir()) == []
