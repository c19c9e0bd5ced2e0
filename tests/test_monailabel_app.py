"""The app folder for MONAI Label, loaded and asked as its server does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from models import write_model
from small_cases import save_head

pytest.importorskip("monailabel", reason="MONAI Label is not installed")
APP = Path(__file__).resolve().parents[1] / "integrations" / "monailabel"


def test_the_app_segments_a_scan_of_its_studies(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("voxseg_monailabel_app", APP / "main.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model, scan = write_model(tmp_path / "model"), tmp_path / "studies/scan.nii.gz"
    save_head(scan)
    app = module.VoxsegApp(str(APP), str(scan.parent), {"models": str(model)})
    info = app.info()["models"]["tiny"]
    assert info["type"] == "segmentation"
    result = app.infer({"model": "tiny", "image": "scan", "device": "cpu"})
    names = result["params"]["label_names"]
    labels = nib.load(result["file"])
    assert labels.shape == nib.load(scan).shape
    assert set(np.unique(np.asanyarray(labels.dataobj))) - {0} <= set(names.values())
    assert set(names) == set(info["labels"])
