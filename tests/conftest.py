"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# `python -m pytest` puts the checkout first on the path. There voxseg/ lacks the parts that lie beside it (cli,
# configs, pretrained), and it may differ from what was installed: only the installed package is tested.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != REPOSITORY]


# Tests run beside each other, a core each: more threads would only wait for one another. Children inherit it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def _away_from_the_checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Child processes look into the working folder first, so that it must not be the checkout either."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("working_folder"))
    yield
    os.chdir(before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real scans that is not part of the repository; tests that need it are skipped without it."""
    folder = Path(os.environ.get("VOXSEG_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real scans are not on this machine ({folder} does not exist)")
    return folder
