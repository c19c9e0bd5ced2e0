"""The interface of Nipype: the line that it makes, and that it finds what the program wrote."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from models import write_model
from small_cases import save_head

pytest.importorskip("nipype", reason="Nipype is not installed")


def test_predict_runs_and_finds_its_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from voxseg.export.nipype_interface import Predict

    scan, model = tmp_path / "scan.nii.gz", write_model(tmp_path / "model")
    save_head(scan)
    out = tmp_path / "out"
    out.mkdir()
    predict = Predict(scan=str(scan), model=str(model), output_folder=str(out), device="cpu", num_threads=1)
    line = predict.cmdline.split()
    assert line[:3] == ["voxseg", "predict", str(scan)]
    options = dict(zip(line[3::2], line[4::2], strict=True))
    assert options == {"--model": str(model), "-o": str(out), "--device": "cpu", "--threads": "1"}
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    outputs = predict.run().outputs
    found = {Path(path).name for path in (outputs.segmentation, outputs.volumes, outputs.picture, outputs.record)}
    assert found == {"scan_seg.nii.gz", "scan_volumes.tsv", "scan_qc.png", "scan_seg.json"}


def test_what_the_program_refuses_is_refused_before() -> None:
    from nipype.interfaces.base import traits

    from voxseg.export.nipype_interface import Predict

    with pytest.raises(traits.TraitError):
        Predict(device="tpu")
    with pytest.raises(traits.TraitError):
        Predict(num_threads=0)
