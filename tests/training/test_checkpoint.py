from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from voxseg.errors import UserError
from voxseg.training.checkpoint import FORMAT, CheckpointStore, random_states, set_random_states


def _contents(step: int) -> dict[str, Any]:
    return {"format": FORMAT, "step": step, "weights": torch.full((1000,), float(step)), "random": random_states()}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(_contents(1))
    store.save(_contents(2))
    return store


def _draws() -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
        float(torch.rand(())),
    ]


def test_random_states_come_back_through_a_file(store: CheckpointStore) -> None:
    _draws()  # leaves half of a pair of normal numbers behind, in Python and in numpy
    store.save(_contents(3))
    expected = _draws()
    set_random_states(store.load()[0]["random"])
    assert _draws() == expected


def test_two_files_are_kept_and_no_others(store: CheckpointStore) -> None:
    assert sorted(path.name for path in store.folder.iterdir()) == ["last.pt", "previous.pt"]
    assert store.load()[0]["step"] == 2
    assert store.load()[1] is None


@pytest.mark.parametrize("left", [0, 100, 0.5, 0.99])
def test_truncated_file_falls_back_to_the_one_before(store: CheckpointStore, left: float) -> None:
    size = store.last.stat().st_size
    os.truncate(store.last, left if isinstance(left, int) else int(left * size))
    contents, warning = store.load()
    assert contents["step"] == 1
    assert warning is not None
    assert "going on from previous.pt at step 1" in warning
    # The next save must not put the broken file in the place of the good one.
    store.save(_contents(2))
    assert torch.load(store.previous, weights_only=True)["step"] == 1
    assert store.load()[0]["step"] == 2


def test_killed_between_the_two_renames(store: CheckpointStore) -> None:
    os.replace(store.last, store.previous)
    contents, warning = store.load()
    assert contents["step"] == 2
    assert warning is not None
    assert "missing" in warning


def test_failed_write_leaves_both_files(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(contents: object, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        store.save(_contents(3))
    assert store.load()[0]["step"] == 2
    assert sorted(path.name for path in store.folder.iterdir()) == ["last.pt", "previous.pt"]


def test_nothing_readable(store: CheckpointStore) -> None:
    store.last.write_bytes(b"nonsense")
    store.previous.write_bytes(b"")
    with pytest.raises(UserError, match="no readable checkpoint"):
        store.load()


def test_newer_format(store: CheckpointStore) -> None:
    store.save({**_contents(3), "format": FORMAT + 1})
    with pytest.raises(UserError, match=f"checkpoint format {FORMAT + 1}"):
        store.load()
