"""The script of the interactive viewer, NiiVue, which the nilearn package carries. Imports nothing heavy."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from voxseg.errors import UserError

__all__ = ["find_niivue"]

SCRIPT = "_assets/js/niivue.umd.js"


def find_niivue(subject: str = "--report") -> Path:
    """The script in the installed nilearn, which is not imported: that takes seconds.

    Args:
        subject: what asks for it, for the message.

    Raises:
        UserError: if nilearn is not installed, or its version does not carry the script.
    """
    remedy = "install it with: pip install 'voxseg[report]'"
    found = importlib.util.find_spec("nilearn")
    if found is None or found.origin is None:
        raise UserError(subject, "needs the package nilearn, which has the script of the viewer", remedy)
    script = Path(found.origin).parent / SCRIPT
    if not script.is_file():
        raise UserError(subject, f"this version of nilearn does not have the script of the viewer ({SCRIPT})", remedy)
    return script
