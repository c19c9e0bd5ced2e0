"""The benchmarks of single baselines run, at toy size, and print their tables."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "options", "rows"),
    [
        ("spherical_digits.py", ["--epochs", "1", "--limit", "80"], ["spherical CNN", "planar CNN"]),
        ("diffusion_fractions.py", ["--steps", "5"], ["MLP of measured values", "spherical CNN"]),
        ("thick_slices.py", ["--steps", "2", "--size", "12", "--networks", "SO3", "O2_z"], ["SO3", "O2_z"]),
    ],
)
def test_the_table(program: str, options: list[str], rows: list[str]) -> None:
    command = [sys.executable, str(FOLDER / program), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if "|" in line]
    assert all(len(line) == len(lines[0]) for line in lines)
    for row in rows:
        cells = [line for line in lines if line[0] == row]
        assert cells
        assert all(0 <= float(cell) <= 1 for line in cells for cell in line[-3:])
