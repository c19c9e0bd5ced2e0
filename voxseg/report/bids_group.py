"""The group level of a BIDS data set: all volumes in one table with its description, and a page to look at."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from voxseg.data.datasets.bids_scans import BidsScan
from voxseg.data.staging import staged
from voxseg.errors import UserError
from voxseg.report.bids_derivatives import Derivatives, segmentation_entity

__all__ = ["ScanVolumes", "outliers", "write_group"]

FEWEST = 8  # scans from which it is told what is out of line
OUT_OF_LINE = 3.5  # modified z-score, the bound that Iglewicz and Hoaglin 1993 recommend
CONSISTENCY = 0.6745  # makes the median absolute deviation that of a normal distribution


@dataclass(frozen=True)
class ScanVolumes:
    """What was found in a scan.

    Attributes:
        scan: which one.
        volumes: mm³ by the name of the structure.
    """

    scan: BidsScan
    volumes: Mapping[str, float]

    @property
    def session(self) -> str:
        """The session's name, `n/a` where there are none."""
        return self.scan.folder.parts[1] if len(self.scan.folder.parts) == 3 else "n/a"


def write_group(derivatives: Derivatives, scans: Sequence[BidsScan]) -> tuple[list[Path], list[BidsScan]]:
    """Write `group_seg-MODEL_volumes.tsv`, its `.json`, and `group_seg-MODEL.html`; all or none.

    Args:
        derivatives: where the results of the participant level are.
        scans: whose results are gathered.

    Returns:
        What was written, and the scans that have no result.

    Raises:
        UserError: if there is no result at all, one cannot be read, or the folder cannot be written to.
    """
    from voxseg.report.bids_group_page import group_page

    found = [scan for scan in scans if derivatives.of(scan).volumes.is_file()]
    if not found:
        remedy = "run 'voxseg bids BIDS_DIR OUT_DIR participant' with the same model first"
        raise UserError(derivatives.folder, f"has no segmentations by the model {derivatives.model}", remedy)
    rows = [ScanVolumes(scan, read_volumes(derivatives.of(scan).volumes)) for scan in found]
    missing = [scan for scan in scans if scan not in found]
    structures = list(dict.fromkeys(name for row in rows for name in row.volumes))
    stem = f"group_{segmentation_entity(derivatives.model)}"
    paths = [derivatives.folder / (stem + end) for end in ("_volumes.tsv", "_volumes.json", ".html")]
    page = group_page(derivatives, rows, structures, missing)
    with staged(*paths) as (table, columns, html):
        table.write_text(_table(rows, structures), encoding="utf-8", newline="\n")
        columns.write_text(_columns(structures, derivatives.model), encoding="utf-8", newline="\n")
        html.write_text(page, encoding="utf-8", newline="\n")
    return paths, missing


def read_volumes(path: Path) -> dict[str, float]:
    """mm³ by the name of the structure, of a table that `voxseg.report.volumes` has written.

    Raises:
        UserError: if it is not one.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            volumes = {row["name"]: float(row["mm3"]) for row in csv.DictReader(file, delimiter="\t")}
    except (OSError, UnicodeDecodeError, KeyError, ValueError, TypeError):
        raise UserError(path, "is not a table of volumes", "run the participant level again for it") from None
    if not volumes:
        raise UserError(path, "is empty", "run the participant level again for it")
    return volumes


def outliers(rows: Sequence[ScanVolumes], structures: Sequence[str]) -> list[tuple[ScanVolumes, str, float]]:
    """Volumes far from the others', the farthest first, with their modified z-scores.

    The score is 0.6745 (x - median) / MAD; beyond 3.5 it is out of line (Iglewicz and Hoaglin, How to Detect and
    Handle Outliers, 1993). Of fewer than eight scans nothing is said.
    """
    result = []
    for name in structures:
        known = [row for row in rows if name in row.volumes]
        if len(known) < FEWEST:
            continue
        middle = statistics.median(row.volumes[name] for row in known)
        spread = statistics.median(abs(row.volumes[name] - middle) for row in known)
        for row in known:
            off = row.volumes[name] - middle
            score = CONSISTENCY * off / spread if spread else math.copysign(math.inf, off) if off else 0.0
            if abs(score) > OUT_OF_LINE:
                result.append((row, name, score))
    return sorted(result, key=lambda entry: -abs(entry[2]))


def _table(rows: Sequence[ScanVolumes], structures: Sequence[str]) -> str:
    lines = ["\t".join(["participant_id", "session_id", "scan", *structures])]
    for row in rows:
        cells = [f"{row.volumes[name]:.2f}" if name in row.volumes else "n/a" for name in structures]
        lines.append("\t".join([row.scan.folder.parts[0], row.session, row.scan.stem, *cells]))
    return "\n".join(lines) + "\n"


def _columns(structures: Sequence[str], model: str) -> str:
    """The description of the columns, as BIDS wants it."""
    columns: dict[str, dict[str, str]] = {
        "participant_id": {"Description": "Participant"},
        "session_id": {"Description": "Session; n/a where the data set has none"},
        "scan": {"Description": "What the names of the scan's files begin with"},
    }
    for name in structures:
        columns[name] = {"Description": f"Volume of {name}, found by the model {model}", "Units": "mm^3"}
    return json.dumps(columns, indent=2, ensure_ascii=False) + "\n"
