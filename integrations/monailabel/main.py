"""An app for MONAI Label that segments with voxseg's models: copy this folder, no other file is needed.

    pip install monailabel voxseg "pydicom<3"
    monailabel start_server --app integrations/monailabel --studies FOLDER_OF_SCANS --conf models brain

`--conf models` takes packaged names and model folders of one image, with commas between them. The server then offers
them to 3D Slicer and to the other programs that MONAI Label knows.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from voxseg.data.labels import LabelTable
from voxseg.data.segmentation import write_segmentation
from voxseg.data.volume import read_volume
from voxseg.inference.locate import locate_model, model_name
from voxseg.inference.model import load_model
from voxseg.inference.predictor import Predictor
from voxseg.report.outputs import about


class Segmentation(InferTask):
    """Segments a scan with one model, which is loaded when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, model_name(folder)
        self.table = LabelTable.read(folder / "labels.csv")
        names = {label.name: label.id for label in self.table}
        super().__init__(InferType.SEGMENTATION, names, 3, f"voxseg: {self.name}")
        self.predictors: dict[str, Predictor] = {}

    def is_valid(self) -> bool:
        """Whether the model can be used; it was found when the app started."""
        return True

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The path of a label file in the grid of the scan, and what its labels mean."""
        device = "cuda" if str(request.get("device", "")).startswith("cuda") else "cpu"
        if device not in self.predictors:
            self.predictors[device] = Predictor(load_model(self.folder), device)
        scan = read_volume(Path(request["image"]))
        found = self.predictors[device].segment(scan)
        with tempfile.NamedTemporaryFile(suffix=".nii.gz", delete=False) as file:
            path = Path(file.name)
        write_segmentation(path, found.labels, self.table, scan, about(self.name))
        return str(path), {"label_names": dict(self.labels), "latencies": found.seconds}


class VoxsegApp(MONAILabelApp):
    """The app; MONAI Label finds it by its base class."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        names = [name.strip() for name in conf.get("models", "brain").split(",")]
        self.folders = [locate_model(name) for name in names]
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="voxseg",
            description="Segmentation with networks that turn with the scan",
        )

    def init_infers(self) -> dict[str, InferTask]:
        """One segmentation a model."""
        return {model_name(folder): Segmentation(folder) for folder in self.folders}
