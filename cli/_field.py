"""How `voxseg predict` does one case with a model that predicts a field; imports nothing heavy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxseg.cli._case import CaseWork, Loaded, Written, files_of
from voxseg.cli._cases import Task
from voxseg.errors import UserError
from voxseg.provenance import Origin
from voxseg.report.field_outputs import FIELD_OUTPUTS, write_field_outputs

if TYPE_CHECKING:
    from voxseg.inference.field_predictor import FieldPrediction, FieldPredictor

__all__ = ["FieldWork", "check_field_options"]


def check_field_options(report: bool, probabilities: bool, cluster: str | None) -> None:
    """Refuse what there is for labels alone.

    Raises:
        UserError: one of them is given.
    """
    for given, option in ((report, "--report"), (probabilities, "--probabilities"), (cluster is not None, "--cluster")):
        if given:
            raise UserError(option, "is for models of labels, and this one predicts a field", f"leave out {option}")


class FieldWork(CaseWork):
    """A `CaseWork` whose result is a field."""

    predictor: FieldPredictor | None  # type: ignore[assignment]

    def load(self) -> FieldPredictor:  # type: ignore[override]
        """Load the model, unless that was done before."""
        if self.predictor is None:
            import torch

            from voxseg.inference.field_predictor import FieldPredictor
            from voxseg.inference.model import load_field_model

            settings = self.settings
            if settings.threads is not None:
                torch.set_num_threads(settings.threads)
            model = load_field_model(settings.folder, settings.allow_import)
            self.predictor = FieldPredictor(model, settings.device, settings.max_memory)
        return self.predictor

    def segment(self, loaded: Loaded, progress: Callable[[str, float], None]) -> FieldPrediction:  # type: ignore[override]
        """Predict the field of a case, after `plan`."""
        assert self.predictor is not None
        progress("reading", 1.0)
        prediction = self.predictor.predict(loaded.volumes, progress)
        prediction.seconds = {"reading": loaded.seconds, **prediction.seconds}
        return prediction

    def write(  # type: ignore[override]
        self, task: Task, loaded: Loaded, prediction: FieldPrediction, progress: Callable[[str, float], None]
    ) -> Written:
        """Write the results of a case, all or none."""
        assert self.predictor is not None
        started, model = time.perf_counter(), self.predictor.model
        warnings = [text for volume in loaded.volumes for text in volume.warnings]
        result = Written([], {}, not prediction.fields.any(), "", warnings, math.nan)
        origin = Origin(model.origin, loaded.inputs, self._settings(), loaded.started, result.told)
        files = write_field_outputs(loaded.volumes[0], prediction, model.config.name, task.target, origin, progress)
        return replace(result, files=files, seconds=prediction.seconds | {"writing": time.perf_counter() - started})

    def outputs(self, task: Task) -> list[Path]:
        """The files that are written of a case."""
        return files_of(task, FIELD_OUTPUTS)

    def _settings(self) -> dict[str, Any]:
        settings = super()._settings()
        return {name: value for name, value in settings.items() if name not in ("report", "probabilities")}
