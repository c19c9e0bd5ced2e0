"""Finding the files of a data set. Imports nothing heavy: a wrong folder has to be told at once."""

from __future__ import annotations

from pathlib import Path

from voxseg.errors import UserError

LABEL_TABLE = "labels.csv"
T1_PRIOR = "t1_intensity_prior.csv"


def find_label_maps(folder: Path) -> list[Path]:
    """The label maps in a folder of head label maps, sorted by name.

    Raises:
        UserError: if it is not a folder, or holds no map_*.nii.gz, or lacks one of the two tables.
    """
    if not folder.is_dir():
        raise UserError(folder, "is not a folder", "give a folder of head label maps (map_*.nii.gz, labels.csv)")
    paths = sorted([*folder.glob("map_*.nii.gz"), *folder.glob("map_*.nii")])
    if not paths:
        raise UserError(folder, "holds no map_*.nii.gz", "give a folder of head label maps")
    for table in (LABEL_TABLE, T1_PRIOR):
        if not (folder / table).is_file():
            raise UserError(folder / table, "does not exist", "a folder of head label maps needs it")
    return paths
