"""DICOM for commands: what `predict` is to segment of a folder, archive or DICOMDIR, and the list of its series."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from voxseg.cli._cases import Task
from voxseg.cli._result import add_result
from voxseg.data.datasets.case import ImageFile
from voxseg.data.paths import scan_name
from voxseg.errors import UserError

if TYPE_CHECKING:
    from voxseg.data.dicom.series import Series

__all__ = ["dicom_image", "dicom_tasks", "list_series", "series_of"]


def dicom_tasks(path: Path, output: Path | None, names: Sequence[str], wanted: Sequence[str]) -> list[Task]:
    """The series that are to be segmented, each a task; what is wrong is told when its turn comes.

    Args:
        path: whatever `is_dicom` says yes to.
        output: folder of the results; None for beside `path`.
        names: of the images that the model takes.
        wanted: what `--series` was given: series, or for a model of several images NAME=SERIES for each of them.
    """
    base = (output or path.parent) / scan_name(path)
    try:
        found = _find(path)
        if len(names) > 1:
            return [_case(path, found, base, names, wanted)]
        return _named_apart(path, found, base, names[0], wanted)
    except UserError as error:
        return [Task(str(path), {}, base, problem=error)]


def _named_apart(path: Path, found: list[Series], base: Path, name: str, wanted: Sequence[str]) -> list[Task]:
    """Tasks of single series; with the number behind the name if one of several volumes was asked for."""
    from voxseg.data.dicom.series import choose_series

    chosen = choose_series(path, found, wanted)
    several = sum(not series.problem for series in found) > 1
    tasks, used = [], set()
    for series in chosen:
        study = f"_study-{series.study}" if series.study else ""
        target = base.with_name(f"{base.name}{study}_series-{series.label}") if several else base
        count = 1
        while target in used:  # a study may use a number twice
            count += 1
            target = base.with_name(f"{base.name}{study}_series-{series.label}-{count}")
        used.add(target)
        subject = series.subject if len(found) > 1 else str(path)
        tasks.append(Task(subject, {name: ImageFile(path, series=series)}, target))
    return tasks


def _case(path: Path, found: list[Series], base: Path, names: Sequence[str], wanted: Sequence[str]) -> Task:
    """The case of a study whose series are given as NAME=SERIES."""
    from voxseg.data.dicom.series import choose_series

    call = "give " + " ".join(f"--series {name}=NUMBER" for name in names) + "; --list-series tells the numbers"
    given = dict(text.partition("=")[::2] for text in wanted)
    if set(given) != set(names):
        raise UserError(path, f"the model takes {', '.join(names)}, and --series has to say which is which", call)
    images = {}
    for name, text in given.items():
        chosen = choose_series(path, found, [text])
        if len(chosen) > 1:
            raise UserError(f"--series {name}={text}", f"fits {len(chosen)} series", "name one of them")
        images[name] = ImageFile(path, series=chosen[0])
    return Task(str(path), images, base)


def dicom_image(path: Path) -> ImageFile:
    """The only volume of a folder, archive, DICOMDIR or multi-frame file.

    Raises:
        UserError: if there is none, or there are several.
    """
    from voxseg.data.dicom.series import choose_series

    return ImageFile(path, series=choose_series(path, _find(path))[0])


def list_series(paths: Sequence[Path]) -> None:
    """Print the series of each path: number, modality, size, and why one is no volume.

    Raises:
        UserError: if a path has no DICOM images.
    """
    from voxseg.data.dicom.files import is_dicom

    for path in paths:
        if not is_dicom(path):
            raise UserError(path, "has no DICOM images" if path.exists() else "does not exist", "check the path")
        print(f"{path}:")
        rows = [("series", "modality", "size and spacing", "description", "")]
        listed = _find(path)
        add_result(scan=path, series=[_facts(series) for series in listed])
        for series in listed:
            label = f"{series.label} (study {series.study})" if series.study else series.label
            description = ", ".join(filter(None, (series.header.description, series.note)))
            remark = f"no volume: {series.problem}" if series.problem else ""
            rows.append((label, series.header.modality, series.layout, description, remark))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def series_of(path: Path) -> list[dict[str, object]]:
    """What is told of each series of a path to who asks for it; nothing in it identifies the patient but free text.

    Raises:
        UserError: if a path has no DICOM images.
    """
    return [_facts(series) for series in _find(path)]


def _facts(series: Series) -> dict[str, object]:
    return {
        "series": series.label,
        "study": series.study or None,
        "modality": series.header.modality,
        "layout": series.layout,
        "description": series.header.description,
        "note": series.note,
        "problem": series.problem,
    }


def _find(path: Path) -> list[Series]:
    """The series of a path, with a bar where there are many files."""
    from voxseg.data.dicom.series import find_series

    if not sys.stderr.isatty():
        return find_series(path)
    from tqdm import tqdm

    with tqdm(desc=f"{path.name}: looking through files", unit=" files", delay=1, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return find_series(path, progress)
