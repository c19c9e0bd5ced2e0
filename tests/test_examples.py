"""The notebooks run from top to bottom as they are, and show what they say."""

import json
import re
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
LARGEST = 200_000  # bytes


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_small_and_without_outputs(path):
    """Outputs are the scan's: whoever opens the notebook runs it."""
    assert path.stat().st_size < LARGEST
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The outputs of `segment_a_scan.ipynb`, run in a kernel of its own: texts, and kinds of data."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("nilearn")
    notebook = nbformat.read(EXAMPLES / "segment_a_scan.ipynb", as_version=4)
    folder = tmp_path_factory.mktemp("notebook")
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    assert list(folder.iterdir()) == []
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def test_segment_a_scan(executed):
    outputs = [output for cell in executed for output in cell]
    assert [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"] == []
    pages = [o.data["text/html"] for o in outputs if "text/html" in o.get("data", {})]
    assert len(pages) == 2
    assert "data:image/png;base64," in pages[0]
    assert "<td style='text-align:left'>Left-Thalamus</td>" in pages[1]
    assert any("image/png" in o.data for o in outputs if o.output_type == "execute_result")
    printed = "".join(o.text for o in outputs if o.output_type == "stream")
    volume = float(re.search(r"hippocampus: ([\d.]+) ml", printed)[1])
    assert 2 < volume < 8
    overlap = {
        name.strip(): float(dice) for name, dice in re.findall(r"^(\S.{25}) (\d\.\d{3})$", printed, re.MULTILINE)
    }
    assert len(overlap) >= 17
    assert overlap["mean"] > 0.9
    assert min(overlap.values()) > 0.75
    assert "_seg.nii.gz" in printed
