"""The comparison with other implementations runs, at toy size, and says of what is missing that it is."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[1] / "benchmarks" / "peers.py"
ROWS = ["voxseg", "published form", "escnn R3Conv", "Conv3d, 3 voxels"]


def table_of(*arguments: str) -> dict[str, list[str]]:
    """Cells of each row by its first one."""
    command = [sys.executable, str(PROGRAM), "--threads", "1", "--rounds", "1", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if "|" in line]
    header, _, *rows = lines
    assert all(len(row) == len(header) for row in rows)
    return {row[0]: row[1:] for row in rows}


@pytest.mark.slow
def test_layers_side_by_side() -> None:
    rows = table_of("--size", "12", "--part", "layers", "--rows", *ROWS)
    assert list(rows) == ROWS
    installed = importlib.util.find_spec("escnn") is not None
    assert installed or rows["escnn R3Conv"][0].startswith("not here: No module named")
    steerable, published, plain = rows["voxseg"], rows["published form"], rows["Conv3d, 3 voxels"]
    assert steerable[2] == steerable[4] == "1.0"
    # Five radial functions and a self-connection, against two for degree 0 and one for the others.
    assert int(plain[0].replace(",", "")) == 30 * 30 * 27 + 30
    assert int(published[0].replace(",", "")) > 3 * int(steerable[0].replace(",", ""))
    for row in (steerable, published):
        assert float(row[-2]) < 1e-5
    assert float(plain[-2]) > 0.1
    assert all(float(row[k]) > 0 for row in (steerable, published, plain) for k in (1, 3))
