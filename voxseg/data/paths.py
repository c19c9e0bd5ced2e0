"""Names of scan files; imports nothing heavy, so that a wrong path is told at once."""

from __future__ import annotations

from pathlib import Path

from voxseg.errors import UserError

__all__ = ["SUFFIXES", "check_scan_path", "printable", "scan_name"]

NIFTI_SUFFIXES = (".nii.gz", ".nii")
NIBABEL_SUFFIXES = (*NIFTI_SUFFIXES, ".mgz", ".mgh")
ITK_SUFFIXES = (".nrrd", ".mha")
SUFFIXES = (*NIBABEL_SUFFIXES, *ITK_SUFFIXES)


def scan_name(path: Path) -> str:
    """The name of a scan without its folder and suffix: `a/b.nii.gz` is `b`; a DICOMDIR is called as its folder."""
    if path.is_dir():
        return path.resolve().name
    if path.name.upper() == "DICOMDIR":
        return path.resolve().parent.name
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def printable(name: str) -> str:
    """A name for pictures and pages: question marks in the place of what is no Unicode."""
    return name.encode("utf-8", "replace").decode("utf-8")


def check_scan_path(path: Path) -> None:
    """Refuse, without opening it, a path that cannot be a scan.

    Raises:
        UserError: if it does not exist, is a folder, is empty, or has a suffix that is not read.
    """
    formats = ", ".join(SUFFIXES)
    if path.is_dir():
        raise UserError(path, "is a folder", f"give the scan files in it ({formats})")
    if path.is_symlink() and not path.exists():
        raise UserError(path, "is a link that leads nowhere", "mend it, or give the file itself")
    if not path.is_file():
        raise UserError(path, "does not exist" if not path.exists() else "is not a file", "check the path")
    if not path.name.lower().endswith(SUFFIXES):
        remedy = f"convert it to one of {formats} or give DICOM"
        raise UserError(path, "is not in a format that is read", remedy)
    if path.stat().st_size == 0:
        raise UserError(path, "is an empty file", "copy or export the scan again")
