from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from voxseg.errors import UserError
from voxseg.training.tracking import RUN_FILE, MlflowLogger, open_mlflow

PARAMS = {"name": "tiny", "steps": 6, "optimiser": {"learning_rate": 0.01}, "labels": {"classes": [1, 2]}, "data": None}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection is an error."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError(f"a connection was opened: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.delenv(name, raising=False)


def client(folder: Path) -> Any:
    mlflow = pytest.importorskip("mlflow.tracking")
    address = f"sqlite:///{folder / 'mlflow.db'}"
    return mlflow.MlflowClient(tracking_uri=address, registry_uri=address)


def test_a_run_without_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("alembic")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    folder = tmp_path / "a run"
    folder.mkdir()
    logger = open_mlflow(folder, "tiny", PARAMS)
    logger.log({"step": 1, "loss": 0.5, "dice whole tumour": 0.25}, 1)
    logger.log({"step": 2, "loss": 0.4, "dice CA1 (left)": 0.5}, 2)
    logger.close()

    run_id = (folder / RUN_FILE).read_text().strip()
    store = client(folder)
    run = store.get_run(run_id)
    assert run.info.run_name == "tiny"
    assert run.info.status == "FINISHED"
    assert run.data.params["optimiser.learning_rate"] == "0.01"
    assert run.data.params["labels.classes"] == "[1, 2]"
    assert "data" not in run.data.params
    assert run.data.metrics["dice CA1 _left_"] == 0.5
    assert [(m.step, m.value) for m in store.get_metric_history(run_id, "loss")] == [(1, 0.5), (2, 0.4)]
    assert capfd.readouterr() == ("", "")
    assert list(elsewhere.iterdir()) == []  # nothing beside the run folder
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"

    # Resumed, with more steps planned: the same run goes on.
    logger = open_mlflow(folder, "tiny", {**PARAMS, "steps": 9})
    assert store.get_run(run_id).info.status == "RUNNING"
    logger.log({"loss": 0.3}, 3)
    logger.flush()
    assert len(store.get_metric_history(run_id, "loss")) == 3  # there before the end
    logger.close()
    run = store.get_run(run_id)
    assert run.data.params["steps"] == "6"
    assert run.data.tags["changed.steps"] == "9"
    assert len(store.search_runs([run.info.experiment_id])) == 1


def test_a_store_that_fails_is_told_once_and_ends_nothing() -> None:
    pytest.importorskip("mlflow")
    told: list[str] = []

    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError("server gone")

    logger = MlflowLogger(SimpleNamespace(log_batch=fail), "run", told.append)
    for step in range(3):
        logger.log({"loss": 1.0}, step)
        logger.flush()
    logger.close()
    assert len(told) == 1
    assert "server gone" in told[0]
    assert "metrics.csv" in told[0]


def test_wrong_address_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "carrier-pigeon://user:secret@roof")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI") as caught:
        open_mlflow(tmp_path, "tiny", {})
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_without_mlflow_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(UserError, match=r"pip install 'voxseg\[mlflow\]'"):
        open_mlflow(tmp_path, "tiny", {})
