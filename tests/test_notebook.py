"""The notebook is run, and what it shows is looked at."""

from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from html_page import Page
from nbclient import NotebookClient
from shown_blocks import blocks_of, says

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "examples" / "pair_lab.ipynb"
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


def shown_cells():
    """The cells that the tutorial shows, and the text that it says they print, or None."""
    blocks = blocks_of((ROOT / "docs" / "tutorials" / "notebook.md").read_text(encoding="utf-8"))
    for block, following in pairwise([*blocks, None]):
        if block.mark == "cell":
            yield block.text.rstrip(), following.text.rstrip() if following and following.language == "text" else None


def printed_by(cell):
    """What a cell prints and shows, without what libraries say on standard error."""
    shown = [output for output in cell.outputs if output.get("name") != "stderr"]
    return "\n".join((output.get("text") or output["data"]["text/plain"]).rstrip() for output in shown)


@pytest.mark.slow
def test_the_notebook_runs_and_shows_suspects_with_pictures(tmp_path):
    pytest.importorskip("datasets")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(tmp_path)}}).execute()
    view = Page(outputs(notebook, "text/html")[0])
    assert view.open == []
    assert "script" not in view.tags
    assert len(view.images) >= 8
    assert all(source.startswith("data:image/webp") for source in view.loads)
    assert any("do not seem to match" in text for text in view.text)
    cells = {cell.source: cell for cell in notebook.cells}
    for source, printed in shown_cells():
        assert printed is None or says(printed, printed_by(cells[source])), (printed, printed_by(cells[source]))
    assert "600 pairs are no suspects" in "".join(outputs(notebook, "text/plain"))
    assert list(tmp_path.iterdir()) == []
