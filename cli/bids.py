"""`voxseg bids`: segment a BIDS data set, as the BIDS Apps are called."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from voxseg.cli._batch import ended_by_signals, on_this_machine
from voxseg.cli._case import CaseWork, Loaded, Settings
from voxseg.cli._cases import Task
from voxseg.cli._options import (
    AllowImport,
    Device,
    MaxMemory,
    ModelName,
    OnDevice,
    PageToo,
    SkipExisting,
    Threads,
    Verbose,
    bytes_of,
)
from voxseg.cli._progress import say
from voxseg.cli._result import add_error, add_result, add_warning
from voxseg.cli._telling import Teller
from voxseg.data.datasets.bids_scans import BidsScan, find_scans, modality_of
from voxseg.data.datasets.case import ImageFile
from voxseg.errors import UserError
from voxseg.inference.locate import image_names, locate_model, model_name
from voxseg.report.bids_derivatives import Derivatives
from voxseg.report.niivue import find_niivue

if TYPE_CHECKING:
    from voxseg.inference.predictor import Segmentation
    from voxseg.provenance import Origin

LABELS = {
    "--participant-label": "--participant-label",
    "--participant_label": "--participant-label",
    "--session-label": "--session-label",
    "--session_label": "--session-label",
}


class Level(str, Enum):
    """What is analysed."""

    participant = "participant"
    group = "group"


class Command(TyperCommand):
    """The command, with options that take several values, as those of the BIDS Apps do."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Understand `--participant-label 01 02` as the option given twice."""
        return super().parse_args(ctx, repeated(args))


def repeated(arguments: Sequence[str]) -> list[str]:
    """Arguments in which every value of a label option has the option before it."""
    result: list[str] = []
    option = ""
    for place, argument in enumerate(arguments):
        if argument == "--":
            return [*result, *arguments[place:]]
        if argument.startswith("-"):
            name, equals, value = argument.partition("=")
            option = LABELS.get(name, "")
            result += [] if option and not equals else [option, value] if option else [argument]
            if option and equals:
                option = ""
            elif option and (place + 1 == len(arguments) or arguments[place + 1].startswith("-")):
                result.append(option)  # no value: told as such
        else:
            result += [option, argument] if option else [argument]
    return result


def bids(
    bids_dir: Annotated[Path, typer.Argument(metavar="BIDS_DIR", help="A BIDS data set.", readable=False)],
    out_dir: Annotated[
        Path,
        typer.Argument(metavar="OUT_DIR", help="Where the derivatives go; a folder of their own.", readable=False),
    ],
    level: Annotated[
        Level, typer.Argument(metavar="participant|group", help="Segment scans; or gather what was found in them.")
    ],
    participant_label: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL...", help="Only these participants, with or without sub-; all by default."),
    ] = None,
    session_label: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL...", help="Only these sessions, with or without ses-; all by default."),
    ] = None,
    work_dir: Annotated[
        Path | None,
        typer.Option(
            "-w",
            "--work-dir",
            metavar="FOLDER",
            help="For temporary files, where the usual place cannot be written to.",
        ),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SUFFIX",
            help="Which images of the data set an image of the model is, such as t2=T2w; T1w for a model of one image. "
            "With contrast agent: T1w_ce.",
        ),
    ] = None,
    model: ModelName = "brain",
    device: OnDevice = Device.auto,
    threads: Threads = None,
    max_memory: MaxMemory = None,
    report: PageToo = False,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities",
            help="Write *_probseg.nii.gz too: the probability of each class, in the scan's grid; its .json names them.",
        ),
    ] = False,
    skip_existing: SkipExisting = False,
    verbose: Verbose = False,
    allow_import: AllowImport = False,
) -> None:
    """Segment a BIDS data set (participant), then gather the volumes in a table and a page (group).

    Every run of every session is segmented. For each, OUT_DIR gets sub-LABEL/[ses-LABEL/]anat/*_dseg.nii.gz with its
    .json and .tsv, *_volumes.tsv, and sub-LABEL/figures/*_qc.png; the group level writes group_*_volumes.tsv and
    group_*.html. BIDS_DIR is never written to, unless OUT_DIR lies in its derivatives/. Nothing is sent or fetched.
    """
    folder = locate_model(model)
    derivatives = Derivatives(out_dir, bids_dir, model_name(folder))
    names = image_names(folder)
    modalities = _modalities(names, image or [])
    scans, lacking = find_scans(bids_dir, modalities, participant_label or (), session_label or ())
    derivatives.check()
    if work_dir is not None:
        _work_in(work_dir)
    if level is Level.group:
        _gather(derivatives, scans)
        return
    if report:
        find_niivue()  # what is missing is told before anything is computed
    for participant in lacking:
        problem = "has no image to segment; left out"
        say(f"voxseg: {participant}: {problem}", error=True)
        add_warning(participant, problem)
    for scan in scans:
        derivatives.check_source(scan)
    tasks = [_task(derivatives, scan, modalities) for scan in scans]
    limit = bytes_of(max_memory)
    settings = Settings(
        folder, tuple(names), device.value, threads, limit, allow_import, report, skip_existing, probabilities
    )
    derivatives.describe()
    by_target = {task.target: scan for task, scan in zip(tasks, scans, strict=True)}
    teller = Teller(len(tasks), verbose)
    with ended_by_signals():
        on_this_machine(_BidsWork(settings, derivatives, by_target), tasks, teller)
    teller.finish()


class _BidsWork(CaseWork):
    """Scans whose results are written as derivatives."""

    def __init__(self, settings: Settings, derivatives: Derivatives, scans: Mapping[Path, BidsScan]) -> None:
        super().__init__(settings)
        self.derivatives, self.scans = derivatives, scans

    def outputs(self, task: Task) -> list[Path]:
        files = self.derivatives.of(self.scans[task.target])
        paths = [files.labels, files.table, files.sidecar, files.volumes, files.picture]
        paths += [files.page] if self.settings.report else []
        return [*paths, *self.probability_files(task)] if self.settings.probabilities else paths

    def probability_files(self, task: Task) -> list[Path]:
        files = self.derivatives.of(self.scans[task.target])
        return [files.probabilities, files.classes]

    def save(
        self,
        task: Task,
        loaded: Loaded,
        segmentation: Segmentation,
        progress: Callable[[str, float], None],
        page: Callable[[Path, bytes], None] | None,
        origin: Origin,
    ) -> list[Path]:
        scan, volume = self.scans[task.target], loaded.volumes[0]
        probabilities = self.settings.probabilities
        return self.derivatives.write(scan, volume, segmentation, origin, progress, page, probabilities)


@dataclass(frozen=True)
class _ScanTask(Task):
    """A scan of the data set.

    Attributes:
        modalities: BIDS's suffix of each image of the model.
    """

    modalities: Mapping[str, str] = field(default_factory=dict)

    def files(self, names: Sequence[str]) -> list[ImageFile]:
        """As those of a task; what is missing is told in BIDS's words."""
        for name in names:
            if name not in self.images:
                problem = f"its session has no {self.modalities[name]} image that goes with it, or several"
                raise UserError(
                    self.subject, problem, f"the model needs one; or tell another with --image {name}=SUFFIX"
                )
        return super().files(names)


def _task(derivatives: Derivatives, scan: BidsScan, modalities: Mapping[str, str]) -> _ScanTask:
    labels = derivatives.of(scan).labels
    images = {name: ImageFile(path) for name, path in scan.images.items()}
    target = labels.with_name(labels.name.removesuffix("_dseg.nii.gz"))
    return _ScanTask(str(next(iter(scan.images.values()))), images, target, modalities=modalities)


def _modalities(names: Sequence[str], given: Sequence[str]) -> dict[str, str]:
    """BIDS's suffix of each image of the model.

    Raises:
        UserError: if one is not known, or an option makes no sense.
    """
    told = {}
    for text in given:
        name, _, suffix = text.partition("=")
        if name not in names or not suffix:
            remedy = "give " + " ".join(f"--image {known}=SUFFIX" for known in names)
            problem = f"is not NAME=SUFFIX with a name of the model's ({', '.join(names)})"
            raise UserError(f"--image {text}", problem, remedy)
        told[name] = suffix
    result = {}
    for name in names:
        modality = told.get(name) or modality_of(name)
        if modality is None:
            raise UserError(f"the model's image {name}", "has no known place in BIDS", f"give --image {name}=SUFFIX")
        result[name] = modality
    return result


def _work_in(folder: Path) -> None:
    """Let temporary files, and what matplotlib keeps of the fonts, be in this folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        problem = f"cannot be written to ({error.strerror})"
        raise UserError(f"-w {folder}", problem, "give another folder") from error
    tempfile.tempdir = str(folder)
    os.environ["TMPDIR"] = str(folder)
    os.environ.setdefault("MPLCONFIGDIR", str(folder))


def _gather(derivatives: Derivatives, scans: Sequence[BidsScan]) -> None:
    """The group level."""
    from voxseg.report.bids_group import write_group

    written, missing = write_group(derivatives, scans)
    for scan in missing:
        problem, remedy = "has no result yet", "run the participant level for it"
        say(f"voxseg: {scan.stem}: {problem}; {remedy}", error=True)
        add_error(scan.stem, problem, remedy)
    add_result(files=written, scans=len(scans) - len(missing))
    say(
        f"{len(scans) - len(missing)} of {len(scans)} scans: wrote {', '.join(path.name for path in written)} "
        f"to {derivatives.folder}"
    )
    if missing:
        raise typer.Exit(1)
