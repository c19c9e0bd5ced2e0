"""Segmentations as BIDS derivatives: names, sidecars and what describes the data set; imports nothing heavy.

Source of the names and keys: the BIDS specification 1.10, "Derivatives: segmentations" and "dataset_description.json".
What it has no names for (volumes, pictures, pages) is listed in `.bidsignore`.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxseg import __version__
from voxseg.data.datasets.bids_scans import BidsScan
from voxseg.data.datasets.listing import read_json
from voxseg.data.staging import staged, write_text
from voxseg.errors import UserError
from voxseg.provenance import Origin, plain
from voxseg.report.outputs import fill_outputs, make_folder, segmentation_record

if TYPE_CHECKING:
    from voxseg.data.labels import LabelTable
    from voxseg.data.volume import Volume
    from voxseg.inference.predictor import Segmentation

__all__ = ["Derivative", "Derivatives", "segmentation_entity"]

BIDS_VERSION = "1.10.0"
DESCRIPTION = "dataset_description.json"
IGNORED = ("*_volumes.tsv", "*_volumes.json", "group_*", "figures")
SCHEMES = ("http://", "https://", "doi:", "ftp://")
README = """# Segmentations by voxseg

Made by `voxseg bids`, version {version}, with the model {model}. For research, not a medical device: look at every
result.

- `sub-*/**/anat/*_dseg.nii.gz`: labels in the grid of the image that `Sources` of the JSON file names; what they mean
  is in the `_dseg.tsv` beside it.
- `sub-*/**/anat/*_probseg.nii.gz`, if asked for: the probability of each class; which is which is in the `.json`.
- `sub-*/**/anat/*_volumes.tsv`: voxels and mm3 of each structure.
- `sub-*/figures/*_qc.png`: a picture to check each result by.
- `group_*`: all volumes in one table, and a page to look at, by `voxseg bids ... group`.
"""


@dataclass(frozen=True)
class Derivative:
    """The files of one segmentation.

    Attributes:
        labels: `_dseg.nii.gz`.
        table: `_dseg.tsv`, what the labels mean.
        sidecar: `_dseg.json`.
        volumes: `_volumes.tsv`.
        picture: `_qc.png`.
        page: `_report.html`.
        probabilities: `_probseg.nii.gz`, one volume a class.
        classes: `_probseg.json`, what the volumes are.
    """

    labels: Path
    table: Path
    sidecar: Path
    volumes: Path
    picture: Path
    page: Path
    probabilities: Path
    classes: Path


@dataclass(frozen=True)
class Derivatives:
    """A data set of segmentations.

    Attributes:
        folder: where it is.
        source: the BIDS data set whose scans were segmented.
        model: its name.
    """

    folder: Path
    source: Path
    model: str

    def of(self, scan: BidsScan) -> Derivative:
        """Where the files of a scan go."""
        stem = f"{scan.stem}_{segmentation_entity(self.model)}"
        labels = self.folder / scan.folder / f"{stem}_dseg.nii.gz"
        picture = self.folder / scan.folder.parts[0] / "figures" / f"{stem}_qc.png"
        beside = labels.with_name
        page = picture.with_name(f"{stem}_report.html")
        tsv, sidecar, volumes = (beside(stem + end) for end in ("_dseg.tsv", "_dseg.json", "_volumes.tsv"))
        probabilities, classes = (beside(stem + end) for end in ("_probseg.nii.gz", "_probseg.json"))
        return Derivative(labels, tsv, sidecar, volumes, picture, page, probabilities, classes)

    def check(self) -> None:
        """Refuse a folder that is the source itself, lies in its raw data, or is another pipeline's.

        Raises:
            UserError: which.
        """
        out, source = self.folder.resolve(), self.source.resolve()
        remedy = f"give a folder of its own, such as {self.source / 'derivatives' / 'voxseg'}"
        if out == source or (source in out.parents and out.relative_to(source).parts[0].startswith("sub-")):
            raise UserError(self.folder, "lies among the raw data, which are never written to", remedy)
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(self.folder, "is a file", remedy)
        description = self.folder / DESCRIPTION
        if description.is_file():
            pipelines = [entry.get("Name") for entry in _described(description).get("GeneratedBy") or [{}]]
            if "voxseg" not in pipelines:
                made = f"holds the results of {pipelines[0]}" if pipelines[0] else "holds another data set"
                raise UserError(self.folder, made, remedy)

    def check_source(self, scan: BidsScan) -> None:
        """Refuse a scan whose derivatives would take the place of another image's.

        Raises:
            UserError: if there are derivatives of that name and they were made of other images.
        """
        sidecar = self.of(scan).sidecar
        if sidecar.is_file() and _described(sidecar).get("Sources") != self.sources(scan):
            problem = "is of another image (see its Sources)"
            raise UserError(sidecar, problem, "give another OUT_DIR for this one")

    def sources(self, scan: BidsScan) -> list[str]:
        """BIDS URIs of the images of a scan."""
        return [f"bids:raw:{path.relative_to(self.source).as_posix()}" for path in scan.images.values()]

    def describe(self) -> None:
        """Write what says what the data set is: description, readme, and the names that BIDS does not have.

        Raises:
            UserError: if the folder cannot be written to.
        """
        make_folder(self.folder)
        raw = _described(self.source / DESCRIPTION) if (self.source / DESCRIPTION).is_file() else {}
        inside = self.source.resolve() in self.folder.resolve().parents
        link = os.path.relpath(self.source.resolve(), self.folder.resolve()) if inside else _uri(self.source)
        origin = {"URL": _origin(raw) or link}
        if raw.get("DatasetDOI"):
            origin["DOI"] = str(raw["DatasetDOI"])
        if raw.get("Version"):
            origin["Version"] = str(raw["Version"])
        name = raw.get("Name") or self.source.resolve().name
        generated: dict[str, Any] = {"Name": "voxseg", "Version": __version__, "Description": f"model {self.model}"}
        if os.environ.get("VOXSEG_CONTAINER"):  # set by the image that the program runs in: "docker voxseg:0.1.0"
            kind, _, tag = os.environ["VOXSEG_CONTAINER"].partition(" ")
            generated["Container"] = {"Type": kind, "Tag": tag}
        description = {
            "Name": f"voxseg: segmentations of {name}",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [generated],
            "SourceDatasets": [origin],
            "DatasetLinks": {"raw": link},
        }
        for key in ("License", "Authors", "EthicsApprovals"):  # what was agreed on for the scans holds for these too
            if raw.get(key):
                description[key] = raw[key]
        _write_json(self.folder / DESCRIPTION, description)
        write_text(self.folder / "README.md", README.format(version=__version__, model=self.model))
        write_text(self.folder / ".bidsignore", "\n".join(IGNORED) + "\n")

    def write(
        self,
        scan: BidsScan,
        volume: Volume,
        segmentation: Segmentation,
        origin: Origin,
        progress: Callable[[str, float], None],
        page: Callable[[Path, bytes], None] | None,
        probabilities: bool = False,
    ) -> list[Path]:
        """Write the files of a segmentation, all or none.

        Args:
            scan: whose they are.
            volume: its first image.
            segmentation: what was found.
            origin: what they were made from.
            progress: as `write_outputs` takes it.
            page: likewise.
            probabilities: likewise: whether they already lie under their temporary names.

        Returns:
            Their paths.

        Raises:
            UserError: if they cannot be written.
        """
        started, files = time.perf_counter(), self.of(scan)
        paths = [files.labels, files.volumes, files.picture, files.table, files.sidecar]
        paths += [files.page] if page else []
        drawn = len(paths)
        paths += [files.probabilities, files.classes] if probabilities else []
        for path in paths:
            make_folder(path.parent)
        with staged(*paths) as places:
            labels, volumes, picture, table, sidecar, *more = places[:drawn]
            fill_outputs([labels, volumes, picture, *more], scan.stem, volume, segmentation, self.model, progress, page)
            table.write_text(lookup_table(segmentation.table), encoding="utf-8", newline="\n")
            if probabilities:
                self._describe_probabilities(scan, places[-1])
            written = dict(zip(paths, places, strict=True))
            seconds = segmentation.seconds | {"writing": time.perf_counter() - started}
            others = {path: place for path, place in written.items() if place != sidecar}
            record = segmentation_record(segmentation, origin, seconds, others)
            sidecar.write_text(_json(self._sidecar(scan, record)), encoding="utf-8", newline="\n")
        return paths

    def _describe_probabilities(self, scan: BidsScan, classes: Path) -> None:
        """Add to the names of the classes what BIDS wants to know of derivatives."""
        sources = self.sources(scan)
        about = {
            "Description": f"Probabilities by voxseg {__version__} with the model {self.model}",
            "Sources": sources,
            "SpatialReference": sources[0],
        }
        named = json.loads(classes.read_text(encoding="utf-8"))
        classes.write_text(_json({**about, "Manual": False, **named}), encoding="utf-8", newline="\n")

    def _sidecar(self, scan: BidsScan, record: dict[str, Any]) -> dict[str, object]:
        sources = self.sources(scan)
        return {
            "Description": f"Structures found by voxseg {__version__} with the model {self.model}",
            "Sources": sources,
            "SpatialReference": sources[0],
            "Manual": False,
            "Provenance": record,
            "side": {
                "Description": "Side of the body",
                "Levels": {"left": "left", "right": "right", "none": "neither or both"},
            },
        }


def segmentation_entity(model: str) -> str:
    """The entity that tells the segmentations of models apart: `seg-brain`."""
    return f"seg-{re.sub('[^A-Za-z0-9]', '', model) or 'model'}"


def lookup_table(table: LabelTable) -> str:
    """The label table as a BIDS `dseg.tsv`: index, name, color, side."""
    rows = [f"{label.id}\t{label.name}\t{label.colour}\t{label.side}" for label in table]
    return "\n".join(["index\tname\tcolor\tside", *rows]) + "\n"


def _described(path: Path) -> dict[str, Any]:
    contents = read_json(path)
    if not isinstance(contents, dict):
        raise UserError(path, "is not a JSON object", "mend the file")
    return contents


def _origin(raw: dict[str, Any]) -> str | None:
    """Where a data set can be got, if its description says so."""
    doi = str(raw.get("DatasetDOI") or "")
    if doi and not doi.startswith(SCHEMES):
        doi = f"doi:{doi}"
    return doi or None


def _uri(folder: Path) -> str:
    return folder.resolve().as_uri()


def _json(contents: object) -> str:
    return json.dumps(plain(contents), indent=2, ensure_ascii=False) + "\n"


def _write_json(path: Path, contents: object) -> None:
    write_text(path, _json(contents))
