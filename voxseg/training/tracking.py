"""Metrics to MLflow, into a database in the run folder that needs no server, or to the server that the user names."""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from voxseg.data.staging import write_text
from voxseg.errors import UserError

__all__ = ["MetricLogger", "MlflowLogger", "open_mlflow"]

EXPERIMENT = "voxseg"
RUN_FILE = "mlflow_run"
LONGEST_VALUE = 500  # characters of a parameter: what the oldest servers take
BATCH = 900  # metrics a request: MLflow takes 1000
SECONDS = 10.0


class MetricLogger(Protocol):
    """Where the figures of a run go besides `metrics.csv`."""

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Takes the figures of a step; none is NaN."""
        ...

    def flush(self) -> None:
        """Writes what was taken so far: called with each checkpoint."""
        ...

    def close(self) -> None:
        """Writes the rest and ends."""
        ...


def open_mlflow(
    folder: Path, name: str, params: Mapping[str, Any], report: Callable[[str], None] = lambda text: None
) -> MetricLogger:
    """A run in MLflow, or more of the run that this folder has there already.

    `MLFLOW_TRACKING_URI` names a server or a store; by default `mlflow.db` in the run folder is one (`mlflow ui
    --backend-store-uri sqlite:///RUN/mlflow.db` shows it). `MLFLOW_EXPERIMENT_NAME` names the experiment. MLflow's own
    reports on its use are switched off.

    Args:
        folder: of the run, which is there; it keeps the id of the run in MLflow.
        name: of the run.
        params: the config, in nested dictionaries.
        report: told once if metrics cannot be written any more; training goes on without them.

    Raises:
        UserError: MLflow is not installed, or the store cannot be opened.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    try:
        from mlflow.tracking import MlflowClient
    except ImportError:
        raise UserError("loggers", "mlflow is not installed", "pip install 'voxseg[mlflow]'") from None
    for library in ("mlflow", "alembic"):  # after the import, which sets them
        logging.getLogger(library).setLevel(logging.ERROR)  # tables being made are nothing to tell
    local = f"sqlite:///{folder.resolve() / 'mlflow.db'}"
    address = os.environ.get("MLFLOW_TRACKING_URI") or local
    try:
        client = MlflowClient(tracking_uri=address, registry_uri=address)
        experiment = _experiment(client, (folder.resolve() / "mlflow_files").as_uri() if address == local else None)
        run = _known_run(client, folder)
        if run is None:
            run = client.create_run(experiment, run_name=name)
            write_text(folder / RUN_FILE, run.info.run_id + "\n")
        else:
            client.update_run(run.info.run_id, status="RUNNING")
        _log_params(client, run, params)
    except UserError:
        raise
    except Exception as error:  # of MLflow, of its database library, of the network
        problem = f"MLflow cannot write to {_without_password(address)} ({_reason(error)})"
        remedy = "correct MLFLOW_TRACKING_URI" if address != local else "pip install -U 'voxseg[mlflow]'"
        raise UserError("loggers", problem, f"{remedy}, or leave mlflow out") from error
    return MlflowLogger(client, run.info.run_id, report)


class MlflowLogger:
    """A `MetricLogger` that sends several steps at once: each request costs a write to the disk or a journey.

    Args:
        client: MLflow's.
        run_id: of the run in MLflow.
        report: told once if metrics cannot be written any more.
    """

    def __init__(self, client: Any, run_id: str, report: Callable[[str], None]) -> None:
        self.client, self.run_id, self.report = client, run_id, report
        self.waiting: list[Any] = []
        self.sent = time.monotonic()
        self.failed = False

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Takes the figures of a step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for name, value in row.items():
            if name != "step" and not math.isnan(value):
                self.waiting.append(Metric(_allowed(name), float(value), now, step))
        if len(self.waiting) >= BATCH or time.monotonic() - self.sent > SECONDS:
            self.flush()

    def flush(self) -> None:
        """Sends what was taken so far."""
        try:
            while self.waiting and not self.failed:
                self.client.log_batch(self.run_id, metrics=self.waiting[:BATCH])
                del self.waiting[:BATCH]
        except Exception as error:  # a server that goes away must not end a training of days
            self.failed = True
            self.report(f"warning: no more metrics go to MLflow ({_reason(error)}); metrics.csv has them all")
        if self.failed:
            self.waiting.clear()
        self.sent = time.monotonic()

    def close(self) -> None:
        """Sends the rest and marks the run as finished."""
        self.flush()
        if not self.failed:
            try:
                self.client.set_terminated(self.run_id)
            except Exception as error:
                self.report(f"warning: the run in MLflow stays open ({_reason(error)})")


def _experiment(client: Any, files: str | None) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    found = client.get_experiment_by_name(name)
    identity: str = found.experiment_id if found else client.create_experiment(name, artifact_location=files)
    return identity


def _known_run(client: Any, folder: Path) -> Any | None:
    """The run in MLflow that this folder had before; None if there is none, or none in this store."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run((folder / RUN_FILE).read_text(encoding="utf-8").strip())
    except FileNotFoundError:
        return None
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _log_params(client: Any, run: Any, params: Mapping[str, Any]) -> None:
    """The config as parameters. They cannot be changed: what another part of the run has changed becomes a tag."""
    from mlflow.entities import Param, RunTag

    flat = {_allowed(key): str(value)[:LONGEST_VALUE] for key, value in _flat(params)}
    before = run.data.params
    new = [Param(key, value) for key, value in flat.items() if key not in before]
    for start in range(0, len(new), 100):  # as many as a request may have
        client.log_batch(run.info.run_id, params=new[start : start + 100])
    changed = [RunTag(f"changed.{key}", value) for key, value in flat.items() if before.get(key, value) != value]
    if changed:
        client.log_batch(run.info.run_id, tags=changed[:100])


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        elif value is not None:
            rows.append((f"{prefix}{key}", value))
    return rows


def _allowed(name: str) -> str:
    """The name with an underscore for each character that MLflow refuses."""
    return re.sub(r"[^A-Za-z0-9_\-. /]", "_", name)


def _without_password(address: str) -> str:
    return re.sub(r"//[^/@]*@", "//", address)


def _reason(error: Exception) -> str:
    return _without_password((str(error).splitlines() or [type(error).__name__])[0])[:160]
