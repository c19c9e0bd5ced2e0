"""Generated scans and their labels as files that a person can open, with a picture of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from voxseg.data.geometry import Geometry
from voxseg.data.label_scheme import LabelScheme
from voxseg.data.labels import LabelTable
from voxseg.data.layout import LABEL_TABLE, T1_PRIOR, find_label_maps
from voxseg.data.segmentation import write_segmentation
from voxseg.data.staging import staged, write_text
from voxseg.data.synthesis import GeneratorConfig, LabelMaps, ScanGenerator
from voxseg.data.tumours import TABLE, GeneratedCase, TumourConfig, generate_case, write_case
from voxseg.data.volume import Volume
from voxseg.errors import UserError
from voxseg.provenance import describe_files, now, record, to_json
from voxseg.report.case_sheet import case_sheet
from voxseg.report.contact_sheet import contact_sheet, save_figure

RECORD = "provenance.json"
SHEET_ROWS = 12
"""No more pairs than this are drawn; all are written."""


def write_samples(
    config: GeneratorConfig, scheme: LabelScheme, maps: Path, output: Path, number: int, seed: int
) -> None:
    """Write generated pairs, their label table, a contact sheet and how they were made.

    Pair k is the first of the batch of ``ScanGenerator.sample((seed, k))``. Files of an earlier run with the same
    names are replaced.

    Args:
        config: how scans are generated.
        scheme: which labels they get.
        maps: folder of head label maps.
        output: folder for scan_000.nii.gz, labels_000.nii.gz, ..., labels.csv, contact_sheet.png, provenance.json.
        number: how many pairs.
        seed: decides everything.

    Raises:
        UserError: if the maps cannot be used, or the folder cannot be written to.
    """
    started = now()
    generator = ScanGenerator(LabelMaps.read(maps, scheme), config)
    table = generator.maps.table
    _make(output)
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
    settings = {"generator": config.model_dump(mode="json"), "labels": scheme.model_dump(mode="json")}
    inputs = [*find_label_maps(maps), maps / LABEL_TABLE, maps / T1_PRIOR]
    written = [output / f"{kind}_{k:03d}.nii.gz" for k in range(number) for kind in ("scan", "labels")]
    _write_record(output, started, settings | {"seed": seed, "number": number}, inputs, written)


def write_tumours(config: TumourConfig, output: Path, number: int, seed: int) -> None:
    """Write generated heads with tumours as a data set in the layout of BraTS 2020, and a contact sheet.

    Case k, counted from 1, is ``generate_case(config, (seed, k))``: more cases leave the first ones as they are. Files
    of an earlier run with the same names are replaced.

    Args:
        config: how they are generated.
        output: folder for Generated_001/Generated_001_flair.nii.gz, ..., contact_sheet.png and provenance.json.
        number: how many cases.
        seed: decides everything.

    Raises:
        UserError: if the folder cannot be written to.
    """
    _make(output)
    started = now()
    shown: dict[str, GeneratedCase] = {}
    for k in range(1, number + 1):
        case = generate_case(config, (seed, k))
        write_case(output / f"Generated_{k:03d}", case)
        if k <= SHEET_ROWS:
            shown[f"{k:03d}"] = case
    cases = [(title, case.images, TABLE.to_classes(case.labels)) for title, case in shown.items()]
    with staged(output / "contact_sheet.png") as (path,):
        save_figure(case_sheet(cases, TABLE), path)
    names = [f"Generated_{k:03d}" for k in range(1, number + 1)]
    written = [path for name in names for path in sorted((output / name).glob(f"{name}_*.nii.gz"))]
    settings = {"tumours": config.model_dump(mode="json"), "seed": seed, "number": number}
    _write_record(output, started, settings, [], written)


def _write_record(
    output: Path, started: str, settings: dict[str, Any], inputs: Sequence[Path], written: Sequence[Path]
) -> None:
    """`provenance.json`: how the scans were made, of what, and what they are."""
    parts = {"settings": settings, "inputs": describe_files(inputs), "outputs": describe_files(written)}
    write_text(output / RECORD, to_json(record("generated scans", started, **parts)))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(folder, f"cannot be made ({error.strerror})", "choose another folder with -o") from None


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
