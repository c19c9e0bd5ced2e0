"""`voxseg predict` as an interface of Nipype.

from voxseg.export.nipype_interface import Predict

Predict(scan="sub-01_T1w.nii.gz", output_folder="results").run().outputs.segmentation
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import CommandLine, CommandLineInputSpec, Directory, File, TraitedSpec, isdefined, traits

from voxseg.data.paths import scan_name
from voxseg.report.outputs import OUTPUTS, PAGE

__all__ = ["Predict"]


class PredictInputSpec(CommandLineInputSpec):
    """What `voxseg predict` takes, for one scan."""

    scan = File(exists=True, mandatory=True, position=0, argstr="%s", desc="the scan")
    model = traits.Str(argstr="--model %s", desc="a packaged model or a model folder")
    output_folder = Directory(".", usedefault=True, argstr="-o %s", desc="where to write; the node's folder by default")
    device = traits.Enum("auto", "cpu", "cuda", "mps", argstr="--device %s", desc="where the network runs")
    num_threads = traits.Range(low=1, argstr="--threads %d", nohash=True, desc="processor threads")
    max_memory = traits.Float(argstr="--max-memory %g", nohash=True, desc="GB to stay within on the CPU")
    report = traits.Bool(argstr="--report", desc="write a page with an interactive viewer too")


class PredictOutputSpec(TraitedSpec):
    """What it writes."""

    segmentation = File(exists=True, desc="labels in the grid of the scan")
    volumes = File(exists=True, desc="table of the volumes")
    picture = File(exists=True, desc="picture to check the result by")
    record = File(exists=True, desc="how it came about (docs/provenance.md), as JSON")
    report = File(desc="page with an interactive viewer")


class Predict(CommandLine):
    """Segment a scan."""

    _cmd = "voxseg predict"
    input_spec = PredictInputSpec
    output_spec = PredictOutputSpec

    def _list_outputs(self) -> dict[str, Any]:
        outputs: dict[str, Any] = self.output_spec().get()
        folder, name = Path(self.inputs.output_folder).absolute(), scan_name(Path(self.inputs.scan))
        for key, ending in zip(("segmentation", "volumes", "picture", "record"), OUTPUTS, strict=True):
            outputs[key] = str(folder / (name + ending))
        if isdefined(self.inputs.report) and self.inputs.report:
            outputs["report"] = str(folder / (name + PAGE))
        return outputs
