"""The page of an evaluation: tables, pictures and a viewer of the cases, in one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from voxseg.data.label_scheme import LabelScheme
from voxseg.evaluation.result import Evaluation

__all__ = ["write_evaluation_page"]


def write_evaluation_page(
    path: Path,
    evaluation: Evaluation,
    scans: Mapping[str, Path],
    scheme: LabelScheme,
) -> None:
    """Write the page of an evaluation.

    Args:
        path: of the `.html` file; not complete until this returns, so give a temporary name (`staged`).
        evaluation: what was found.
        scans: the scan to draw behind the outlines, by the name of the case; the labels themselves are drawn where
            there is none.
        scheme: of the evaluation, by which label files become classes.

    Raises:
        UserError: if the script of the viewer is not installed. Call `voxseg.report.niivue.find_niivue` to know before
            anything is computed.
    """
    raise NotImplementedError
