"""Generated pairs of scan and labels as files that a person can open."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from voxseg.data.geometry import Geometry
from voxseg.data.labels import LabelScheme, LabelTable
from voxseg.data.segmentation import write_segmentation
from voxseg.data.staging import staged
from voxseg.data.synthesis import GeneratorConfig, LabelMaps, ScanGenerator
from voxseg.data.volume import Volume
from voxseg.errors import UserError
from voxseg.report.contact_sheet import contact_sheet, save_figure

SHEET_ROWS = 12
"""No more pairs than this are drawn; all are written."""


def write_samples(
    config: GeneratorConfig, scheme: LabelScheme, maps: Path, output: Path, number: int, seed: int
) -> None:
    """Write generated pairs, their label table and a contact sheet.

    Pair k is the first of the batch of ``ScanGenerator.sample((seed, k))``. Files of an earlier run with the same
    names are replaced.

    Args:
        config: how scans are generated.
        scheme: which labels they get.
        maps: folder of head label maps.
        output: folder for scan_000.nii.gz, labels_000.nii.gz, ..., labels.csv and contact_sheet.png.
        number: how many pairs.
        seed: decides everything.

    Raises:
        UserError: if the maps cannot be used, or the folder cannot be written to.
    """
    generator = ScanGenerator(LabelMaps.read(maps, scheme), config)
    table = generator.maps.table
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(output, f"cannot be made ({error.strerror})", "choose another folder with -o") from None
    scans, classes = [], []
    for k in range(number):
        scan, target = (tensor.squeeze().numpy() for tensor in generator.sample((seed, k)))
        _write_pair(output, k, scan, target, table, config.spacing)
        if k < SHEET_ROWS:
            scans.append(scan)
            classes.append(target)
    titles = [f"{k:03d}" for k in range(len(scans))]
    table.write(output / "labels.csv")
    with staged(output / "contact_sheet.png") as (path,):
        save_figure(contact_sheet(scans, classes, table, titles), path)


def _write_pair(
    output: Path, number: int, scan: NDArray[np.float32], classes: NDArray[np.int64], table: LabelTable, spacing: float
) -> None:
    """One pair, with the middle of the window at the origin of the world."""
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = [-spacing * (n - 1) / 2 for n in scan.shape]
    image = nib.Nifti1Image(scan, affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    volume = Volume(output / f"scan_{number:03d}.nii.gz", scan, Geometry(scan.shape, affine), image.header, scan.shape)
    with staged(volume.path, output / f"labels_{number:03d}.nii.gz") as (scan_path, labels_path):
        nib.save(image, scan_path)
        write_segmentation(labels_path, table.to_ids(classes), table, volume, description="voxseg synthesize")
