"""Data sets in no layout of the field, found by patterns of paths with `*` in place of what tells the cases apart."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from voxseg.data.datasets.case import Case, Dataset, Finding, ImageFile, in_order
from voxseg.errors import UserError

__all__ = ["find_patterns"]

LABEL = "label"


def find_patterns(folder: Path, patterns: Mapping[str, str], labels: bool) -> Dataset | None:
    """The cases whose files match patterns; None if no image does.

    The id of a case is what the wildcards stand for, joined by `_` where there are several; the same text twice
    (`sub-*/sub-*_T1w.nii.gz`) counts once. The files of a case are those with the same id.

    Args:
        folder: that the patterns start from.
        patterns: for each image by name and for "label", a path with `*`, which stands for anything but `/`.
        labels: whether labels are wanted.

    Raises:
        UserError: if a pattern has no `*` or leads out of the folder, or there is none for the label or for an image.
    """
    for name, pattern in patterns.items():
        if "*" not in pattern or "**" in pattern:
            remedy = "put one * in place of each part that tells the cases apart, such as */t1.nii.gz"
            raise UserError(f"dataset.patterns: {name}: {pattern}", "has no * or a double one", remedy)
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise UserError(
                f"dataset.patterns: {name}: {pattern}", "leads out of the folder", "start within the folder"
            )
    images = [name for name in patterns if name != LABEL]
    if not images or (labels and LABEL not in patterns):
        what = "label" if images else "image"
        remedy = "give one for each image by name and one for label"
        raise UserError("dataset.patterns", f"has no pattern for a{'n' * (what == 'image')} {what}", remedy)
    found: dict[str, dict[str, Path]] = {}
    findings = []
    for name, pattern in patterns.items():
        for case, paths in _matches(folder, pattern).items():
            found.setdefault(case, {})[name] = paths[0]
            if len(paths) > 1:
                findings.append(_ambiguous(case, name, pattern, [str(p.relative_to(folder)) for p in paths]))
    cases = [
        Case(case, {n: ImageFile(files[n]) for n in images if n in files}, files.get(LABEL), case)
        for case, files in found.items()
        if labels or any(n in files for n in images)
    ]
    if not any(case.images for case in cases):
        return None
    return Dataset(
        folder,
        "patterns",
        in_order(cases),
        findings=tuple(findings),
        title="patterns of paths",
        declared=tuple(images),
    )


def _matches(folder: Path, pattern: str) -> dict[str, list[Path]]:
    """Paths that match, by the id of their case; hidden files do not."""
    plain = Path(pattern).as_posix()
    expression = re.compile("/".join(_part(part) for part in plain.split("/")))
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob(plain)):
        match = expression.fullmatch(path.relative_to(folder).as_posix())
        if match and path.is_file():
            case = "_".join(dict.fromkeys(text for text in match.groups() if text))
            found.setdefault(case, []).append(path)
    return found


def _part(part: str) -> str:
    """One name of a path as a regular expression, its wildcards captured."""
    hidden = "" if part.startswith(".") else r"(?!\.)"
    return hidden + r"([^/]*)".join(re.escape(piece) for piece in part.split("*"))


def _ambiguous(case: str, name: str, pattern: str, paths: list[str]) -> Finding:
    text = f"has {len(paths)} files for {name} ({pattern}): {', '.join(paths[:3])}; make the pattern tell them apart"
    return Finding("error", case, text, f"several {name}")
