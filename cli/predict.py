"""`voxseg predict`: segment scans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxseg.cli._batch import ended_by_signals, on_this_machine
from voxseg.cli._case import CaseWork, Settings
from voxseg.cli._cases import find_tasks
from voxseg.cli._cluster import on_workers
from voxseg.cli._field import FieldWork, check_field_options
from voxseg.cli._options import (
    AllowImport,
    Device,
    ImageFiles,
    MaxMemory,
    ModelName,
    OnDevice,
    SkipExisting,
    Threads,
    Verbose,
    bytes_of,
)
from voxseg.cli._share import part_of
from voxseg.cli._telling import Teller
from voxseg.errors import UserError
from voxseg.inference.locate import image_names, locate_model, predicts_field
from voxseg.report.niivue import find_niivue


def predict(
    scans: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SCAN",
            help="Scans: .nii, .nii.gz, .mgz, .nrrd or .mha; DICOM as a folder, a zip archive, a DICOMDIR or a "
            "multi-frame file. Folders of cases, or of a data set in a layout that 'voxseg data check' knows.",
            readable=False,
        ),
    ] = None,
    image: ImageFiles = None,
    series: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SERIES",
            help="Which DICOM series to segment, where there are several: a number, a UID, a pattern of descriptions "
            "such as '*mprage*', or all. For a model of several images NAME=SERIES for each.",
        ),
    ] = None,
    list_series: Annotated[
        bool, typer.Option("--list-series", help="Print the DICOM series in each SCAN, and end.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER",
            help="Where to write; beside each scan by default, needed for data sets.",
            readable=False,
        ),
    ] = None,
    model: ModelName = "brain",
    device: OnDevice = Device.auto,
    example: Annotated[
        bool, typer.Option("--example", help="Segment the ICBM152 template that comes with nilearn, into this folder.")
    ] = False,
    threads: Threads = None,
    max_memory: MaxMemory = None,
    report: Annotated[
        bool,
        typer.Option(
            "--report",
            help="Write NAME_report.html too: pictures, an interactive viewer and the volumes in one file that opens "
            "offline. It shows the scan.",
        ),
    ] = False,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities",
            help="Write NAME_probabilities.nii.gz too: the probability of each class, in the scan's grid, and "
            "NAME_probabilities.json with their names.",
        ),
    ] = False,
    part: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only every N-th scan from the I-th on, for N jobs that share a list."),
    ] = None,
    skip_existing: SkipExisting = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS|local|slurm",
            help="Do the scans on the workers of a Dask cluster: one that runs at ADDRESS, processes on this machine, "
            "or jobs of Slurm. They need the same folders; --max-memory and --threads are for each.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Workers that --cluster local or slurm starts; by default what suits."),
    ] = None,
    verbose: Verbose = False,
    allow_import: AllowImport = False,
) -> None:
    """Segment scans.

    For each SCAN writes NAME_seg.nii.gz (labels in the scan's own grid), NAME_volumes.tsv, NAME_qc.png and
    NAME_seg.json (how it came about: versions, hashes, settings, times); with --report also NAME_report.html; of DICOM
    also NAME_seg.dcm (DICOM-SEG) and NAME_qc.dcm. A model that was trained with targets writes NAME_field.nii.gz,
    NAME_field.png and NAME_field.json instead. Of several scans the next one is read and the last one written while
    the network runs; one that fails does not stop the others. Nothing is sent or fetched, except among the machines of
    a cluster.
    """
    if not scans and not image and not example:
        raise UserError("SCAN", "no scan is given", "give one or more scans, or --example")
    if list_series:
        from voxseg.cli._dicom import list_series as print_series

        return print_series(scans or [])
    if output is not None and output.exists() and not output.is_dir():
        raise UserError(f"-o {output}", "is a file", "give a folder")
    if report:
        find_niivue()  # what is missing is told before anything is computed
    if workers is not None and cluster is None:
        raise UserError("--workers", "is about clusters, and none is given", "give --cluster local or --cluster slurm")
    folder = locate_model(model)
    field = predicts_field(folder)
    if field:
        check_field_options(report, probabilities, cluster)
    names = image_names(folder)
    tasks = part_of(find_tasks(scans or [], image or [], example, output, names, series or []), part)
    limit, images = bytes_of(max_memory), tuple(names)
    settings = Settings(
        folder, images, device.value, threads, limit, allow_import, report, skip_existing, probabilities
    )
    teller = Teller(len(tasks), verbose)
    with ended_by_signals():
        if cluster is None:
            on_this_machine(FieldWork(settings) if field else CaseWork(settings), tasks, teller)
        elif tasks:
            on_workers(settings, tasks, teller, cluster, workers)
    teller.finish()
