"""The page of the group level: what to look at first, the volumes, and a small picture of each scan."""

from __future__ import annotations

import io
import logging
import math
import statistics
from collections.abc import Sequence
from html import escape as quote
from pathlib import Path

from voxseg.data.datasets.bids_scans import BidsScan
from voxseg.report.bids_derivatives import Derivatives
from voxseg.report.bids_group import OUT_OF_LINE, ScanVolumes, outliers
from voxseg.report.page import Column, Html, escape, figure, number, page, section, table
from voxseg.report.scan_page import warning_box

__all__ = ["group_page"]

MOST_TOLD = 20  # lines in the box at the top; the table of scans has all
WIDTH = 560  # pixels of a small picture


def group_page(
    derivatives: Derivatives, rows: Sequence[ScanVolumes], structures: Sequence[str], missing: Sequence[BidsScan]
) -> str:
    """The page, complete in itself; links lead to the pictures and pages beside it.

    Args:
        derivatives: where the results are.
        rows: what was found.
        structures: names, in the order of the label table.
        missing: scans without a result.
    """
    far = outliers(rows, structures)
    parts = [
        warning_box(_warnings(rows, structures, missing, far)),
        section("Structures", _summary(rows, structures), anchor="structures"),
        section("Scans", _scans(derivatives, rows, structures, far), anchor="scans"),
        section("Pictures", _pictures(derivatives, rows), anchor="pictures"),
    ]
    participants = len({row.scan.folder.parts[0] for row in rows})
    lead = (
        f"{len(rows)} scan{'s' * (len(rows) != 1)} of {participants} participant{'s' * (participants != 1)}, "
        f"segmented with the model {derivatives.model}."
    )
    return page(f"{derivatives.source.resolve().name}: volumes of the group", lead, parts)


def _warnings(
    rows: Sequence[ScanVolumes],
    structures: Sequence[str],
    missing: Sequence[BidsScan],
    far: Sequence[tuple[ScanVolumes, str, float]],
) -> list[str]:
    told = [f"{scan.stem} has no result." for scan in missing]
    for row in rows:
        absent = [name for name in structures if not row.volumes.get(name)]
        if absent:
            what = "nothing was found" if len(absent) == len(structures) else f"not found: {', '.join(absent)}"
            told.append(f"{row.scan.stem}: {what}.")
    for row, name, score in far:
        if row.volumes[name]:
            side = "larger" if score > 0 else "smaller"
            told.append(
                f"{row.scan.stem}: {name} is much {side} than in the others ({row.volumes[name] / 1000:.2f} ml)."
            )
    more = len(told) - MOST_TOLD
    return told if more <= 0 else [*told[:MOST_TOLD], f"And {more} more: see the marked volumes below."]


def _summary(rows: Sequence[ScanVolumes], structures: Sequence[str]) -> Html:
    """Spread of each volume over the scans."""
    columns = [Column("structure")]
    columns += [Column(name, number=True) for name in ("scans", "mean, ml", "SD", "lowest", "median", "highest")]
    cells: list[list[object]] = []
    for name in structures:
        values = [row.volumes[name] / 1000 for row in rows if row.volumes.get(name)]
        if not values:
            cells.append([name, "0", *["–"] * 5])
            continue
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        shown = [statistics.mean(values), spread, min(values), statistics.median(values), max(values)]
        cells.append([name, str(len(values)), *((number(v), "" if math.isnan(v) else v) for v in shown)])
    return table(columns, cells, caption="Scans in which nothing was found of a structure are left out of its row.")


def _scans(
    derivatives: Derivatives,
    rows: Sequence[ScanVolumes],
    structures: Sequence[str],
    far: Sequence[tuple[ScanVolumes, str, float]],
) -> Html:
    """A row a scan, linked to its picture and page; what is out of line is marked."""
    marked = {(row.scan.stem, name) for row, name, _ in far}
    columns = [Column("scan"), *(Column(f"{name}, ml", number=True) for name in structures)]
    cells = []
    for row in rows:
        files = derivatives.of(row.scan)
        target = files.page if files.page.is_file() else files.picture
        line: list[object] = [(_link(derivatives.folder, target, row.scan.stem), row.scan.stem)]
        for name in structures:
            value = row.volumes.get(name, math.nan) / 1000
            shown: object = number(value)
            if (row.scan.stem, name) in marked:
                shown = Html(f'<span class="bad" title="modified z-score beyond {OUT_OF_LINE}">{shown}</span>')
            line.append((shown, "" if math.isnan(value) else value))
        cells.append(line)
    return table(columns, cells, sortable=True)


def _link(folder: Path, target: Path, text: str) -> Html:
    return Html(f'<a href="{quote(target.relative_to(folder).as_posix())}">{escape(text)}</a>')


def _pictures(derivatives: Derivatives, rows: Sequence[ScanVolumes]) -> Html:
    """All pictures, as many side by side as there is room for."""
    pictures = "\n".join(_picture(derivatives, row.scan) for row in rows)
    return Html(f'<div style="display: flex; flex-wrap: wrap; gap: 0 1rem">{pictures}</div>')


def _picture(derivatives: Derivatives, scan: BidsScan) -> Html:
    """The picture of a scan, small."""
    path = derivatives.of(scan).picture
    if not path.is_file():
        return Html(f"<p>{escape(scan.stem)}: the picture is missing.</p>")
    caption = _link(derivatives.folder, path, scan.stem)
    return figure(_small(path), f"Planes of {scan.stem} with the outlines of what was found", caption, "image/jpeg")


def _small(path: Path) -> bytes:
    """A picture as a JPEG file of `WIDTH` pixels."""
    logging.getLogger("PIL").setLevel(logging.ERROR)
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((WIDTH, WIDTH))
    packed = io.BytesIO()
    small.save(packed, "JPEG", quality=75)
    return packed.getvalue()
