"""`voxseg predict`: segment scans."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voxseg.cli._allocator import keep_freed_memory
from voxseg.cli._cases import Task, find_tasks
from voxseg.cli._errors import describe_bug, show_traceback
from voxseg.cli._progress import Progress, say
from voxseg.cli._share import claimed, part_of
from voxseg.errors import UserError
from voxseg.inference.locate import image_names, locate_model
from voxseg.inference.pipeline import Outcome, run_pipeline
from voxseg.report.niivue import find_niivue
from voxseg.report.outputs import DICOM_OUTPUTS, OUTPUTS, PAGE, write_outputs

if TYPE_CHECKING:
    from voxseg.data.datasets.case import ImageFile
    from voxseg.data.volume import Volume
    from voxseg.inference.predictor import Predictor, Segmentation

# The share of the time that each stage takes, about, for the progress bar.
STAGES = {"reading": 5, "preparing": 5, "network": 65, "restoring": 10, "writing": 5, "drawing": 10}
REPORT_STAGE = {"page": 10}
# Of the memory allowed, what a scan may take to be read or written while another one is segmented.
BESIDE = 0.05


class Device(str, Enum):
    """Where the network runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


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
    image: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="One image of a case, for a model of several; give each of them."),
    ] = None,
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
    model: Annotated[str, typer.Option(metavar="NAME|FOLDER", help="A packaged model or a model folder.")] = "brain",
    device: Annotated[
        Device, typer.Option(help="auto is a CUDA GPU if there is one, otherwise the CPU.")
    ] = Device.auto,
    example: Annotated[
        bool, typer.Option("--example", help="Segment the ICBM152 template that comes with nilearn, into this folder.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processor threads; one a core by default.")
    ] = None,
    max_memory: Annotated[
        float | None,
        typer.Option(min=1.0, metavar="GB", help="Memory to stay within on the CPU; 4 or what is free by default."),
    ] = None,
    report: Annotated[
        bool,
        typer.Option(
            "--report",
            help="Write NAME_report.html too: pictures, an interactive viewer and the volumes in one file that opens "
            "offline. It shows the scan.",
        ),
    ] = False,
    part: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only every N-th scan from the I-th on, for N jobs that share a list."),
    ] = None,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing", help="Skip scans whose results are all there, or that another process is working on."
        ),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Tell how long each stage took.")] = False,
    allow_import: Annotated[
        bool,
        typer.Option(
            "--allow-import",
            help="Import a network that is not voxseg's own, as the model folder names it: runs its code.",
        ),
    ] = False,
) -> None:
    """Segment scans.

    For each SCAN writes NAME_seg.nii.gz (labels in the scan's own grid), NAME_volumes.tsv, NAME_qc.png and
    NAME_seg.json (model, memory planned, time of each stage); with --report also NAME_report.html; of DICOM also
    NAME_seg.dcm (DICOM-SEG) and NAME_qc.dcm. Of several scans the next one is read and the last one written while the
    network runs; one that fails does not stop the others. Nothing is sent or fetched.
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
    folder = locate_model(model)
    names = image_names(folder)
    tasks = part_of(find_tasks(scans or [], image or [], example, output, names, series or []), part)
    limit = None if max_memory is None else int(max_memory * 1e9)
    settings = Settings(folder, device.value, threads, limit, allow_import, report, skip_existing, verbose)
    run_batch(Batch(settings, names, len(tasks)), tasks)


def run_batch(batch: Batch, tasks: Sequence[Task]) -> None:
    """Segment cases as the command line does: leaves with the exit code for what failed.

    Raises:
        UserError: if the model cannot be used.
    """
    keep_freed_memory()
    previous = signal.signal(signal.SIGTERM, _terminated)
    try:
        batch.run(tasks)
    except ModelError as error:
        raise error.cause from None
    finally:
        signal.signal(signal.SIGTERM, previous)
    batch.finish()


def _terminated(number: int, frame: object) -> None:
    """Leave as an exception does, so that temporary files are removed."""
    raise SystemExit(128 + number)


@dataclass(frozen=True)
class Settings:
    """How the model is loaded, and what is written and told."""

    folder: Path
    device: str
    threads: int | None
    max_memory: int | None
    allow_import: bool
    report: bool
    skip_existing: bool
    verbose: bool


@dataclass
class Loaded:
    """A case in memory."""

    volumes: list[Volume]
    seconds: float


@dataclass
class Found:
    """A case that was segmented and is not yet written."""

    segmentation: Segmentation
    predictor: Predictor
    progress: Progress


class _SkippedError(Exception):
    """A case that is done, or that another process is at."""


class Batch:
    """Cases one after the other with one model, which is loaded when the first case turns out to be readable."""

    def __init__(self, settings: Settings, names: list[str], count: int) -> None:
        self.settings, self.names, self.count = settings, names, count
        self.predictor: Predictor | None = None
        self.done = self.skipped = self.reserved = 0
        self.failures: list[tuple[str, str, bool]] = []  # subject, message, whether it is the user's to mend
        self.claims: dict[Path, ExitStack] = {}
        self.plan: tuple[object, object] | None = None  # the grid and the run that were told last

    def run(self, tasks: Sequence[Task]) -> None:
        """Segment all cases; a failure is told and remembered.

        Raises:
            ModelError: if the model cannot be used.
        """
        try:
            throughput = run_pipeline(
                tasks, self._read, self._segment, self._write, self._tell, self._ahead, (ModelError,)
            )
        finally:
            for claim in self.claims.values():
                claim.close()
        if self.skipped:
            say(f"{self.skipped} of {self.count} scans were skipped: done, or in the hands of another process")
        if self.done > 1:
            say(throughput.line())

    def _outputs(self, task: Task) -> list[Path]:
        suffixes = (*OUTPUTS, PAGE) if self.settings.report else OUTPUTS
        if any(image.series is not None for image in task.images.values()):
            suffixes = (*suffixes, *DICOM_OUTPUTS)
        return [task.target.with_name(task.target.name + suffix) for suffix in suffixes]

    def _read(self, task: Task) -> Loaded:
        """Claim a case if need be, and read its images."""
        start = time.perf_counter()
        if self.settings.skip_existing:
            claim = ExitStack()
            if not claim.enter_context(claimed(task.target, self._outputs(task))):
                claim.close()
                raise _SkippedError
            self.claims[task.target] = claim
        files = task.files(self.names)
        _check_writable(task.target.parent)
        volumes = [_read(file) for file in files]
        for text in (text for volume in volumes for text in volume.warnings):
            say(f"voxseg: {task.subject}: {text}", error=True)
        return Loaded(volumes, time.perf_counter() - start)

    def _segment(self, task: Task, loaded: Loaded) -> Found:
        predictor = self._load()
        predictor.reserved = self.reserved
        images = loaded.volumes if len(loaded.volumes) > 1 else loaded.volumes[0]
        plan = predictor.plan(images)
        if (plan.grid, plan.run) != self.plan or self.settings.verbose:
            say(f"{task.target.name}: {plan.line()}")
            self.plan = plan.grid, plan.run
        progress = Progress(task.target.name, STAGES | (REPORT_STAGE if self.settings.report else {}))
        try:
            progress("reading", 1.0)
            segmentation = predictor.segment(images, progress)
        except BaseException:
            progress.close()
            raise
        if self.count > 1:  # the next one's bar is about to begin
            progress.close()
        segmentation.seconds = {"reading": loaded.seconds, **segmentation.seconds}
        return Found(segmentation, predictor, progress)

    def _write(self, task: Task, loaded: Loaded, found: Found) -> list[str]:
        """Write the results of a case; returns what is to be said of it."""
        start, segmentation = time.perf_counter(), found.segmentation
        before, page = sum(segmentation.seconds.values()), None
        if self.settings.report:
            from voxseg.report.scan_page import scan_page

            page = scan_page(task.target.name, loaded.volumes, segmentation, found.predictor, self.settings.folder)
        try:
            written = self._save(task, loaded, found, page)
        finally:
            found.progress.close()
        if not any(segmentation.voxel_counts()):
            picture = next(path for path in written if path.suffix == ".png")
            say(f"voxseg: {task.subject}: nothing was found in it; look at {picture}", error=True)
        elif segmentation.quality < found.predictor.model.config.postprocessing.least_quality:
            picture = next(path for path in written if path.suffix == ".png")
            told = f"the result is doubtful (quality {segmentation.quality:.2f})"
            say(f"voxseg: {task.subject}: {told}; look at {picture}", error=True)
        segmentation.seconds["writing"] = time.perf_counter() - start
        names = ", ".join(path.name for path in written)
        total = before + segmentation.seconds["writing"]
        lines = [f"{task.subject}: wrote {names} to {task.target.parent} in {total:.0f} s"]
        if self.settings.verbose:
            lines.append("  " + ", ".join(f"{stage} {took:.2f} s" for stage, took in segmentation.seconds.items()))
        return lines

    def _save(self, task: Task, loaded: Loaded, found: Found, page: Callable[[Path, bytes], None] | None) -> list[Path]:
        """Write the files of a case; returns their paths."""
        name = found.predictor.model.config.name
        return write_outputs(loaded.volumes[0], found.segmentation, name, task.target, found.progress, page)

    def _ahead(self, task: Task, following: Task) -> bool:
        """Whether three cases at a time (read, segmented, written) are few enough bytes."""
        from voxseg.inference.memory import DEFAULT_LIMIT

        share = BESIDE * (self.settings.max_memory or DEFAULT_LIMIT)
        beside = max(_bytes_of(task), _bytes_of(following)) <= share
        self.reserved = int(3 * share) if beside else 0  # the next one, and the last one with its labels
        return beside

    def _tell(self, outcome: Outcome[Task, list[str]]) -> None:
        """What came of a case."""
        task, error = outcome.task, outcome.error
        claim = self.claims.pop(task.target, None)
        if claim is not None:
            claim.close()
        if error is None:
            self.done += 1
            for line in outcome.written or []:
                say(line)
        elif isinstance(error, _SkippedError):
            self.skipped += 1
        elif isinstance(error, UserError):
            show_traceback(error)
            self._fail(task, str(error), True)
        elif isinstance(error, MemoryError):
            self._fail(task, f"{task.subject}: ran out of memory; give --max-memory, or a smaller scan", True)
        else:
            self._fail(task, f"{task.subject}: {describe_bug(error)}", False)

    def _fail(self, task: Task, message: str, by_user: bool) -> None:
        self.failures.append((task.subject, message, by_user))
        say(f"voxseg: {message}", error=True)

    def finish(self) -> None:
        """List what failed, if there was more than one case, and exit with the code for it."""
        if not self.failures:
            return
        if self.count > 1:
            print(f"voxseg: {len(self.failures)} of {self.count} scans failed:", file=sys.stderr)
            for subject, _, _ in self.failures:
                print(f"  {subject}", file=sys.stderr)
        unusable = not self.done and not self.skipped and all(by_user for _, _, by_user in self.failures)
        raise typer.Exit(2 if unusable else 1)

    def _load(self) -> Predictor:
        """The model on its device; what is wrong with it concerns every case."""
        if self.predictor is None:
            try:
                self.predictor = _load_predictor(self.settings)
            except UserError as error:
                raise ModelError(error) from error
        return self.predictor


class ModelError(Exception):
    """A mistake that is not about one scan."""

    def __init__(self, cause: UserError) -> None:
        self.cause = cause


def _read(image: ImageFile) -> Volume:
    from voxseg.data.volume import check_volume, read_volume  # 0.3 s

    if image.series is not None:
        from voxseg.data.dicom.read import read_series

        return check_volume(read_series(image.series))
    volume = read_volume(image.path, image.volume)
    # The segmentation of one volume of several is 3D.
    return volume if image.volume is None else replace(volume, file_shape=volume.geometry.shape)


def _bytes_of(task: Task) -> float:
    """Bytes of the voxels of a case, as its files announce them; what is unreadable takes none."""
    from voxseg.data.volume import read_header

    try:
        sizes = [
            read_header(image.path).size if image.series is None else image.series.bytes
            for image in task.images.values()
        ]
    except UserError:
        return 0.0
    return sum(math.inf if size is None else size for size in sizes)


def _load_predictor(settings: Settings) -> Predictor:
    import torch

    from voxseg.inference.model import load_model
    from voxseg.inference.predictor import Predictor

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    return Predictor(load_model(settings.folder, settings.allow_import), settings.device, settings.max_memory)


def _check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written to before anything is computed for it."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir():
        raise UserError(existing, "is not a folder", "choose another folder with -o")
    if not os.access(existing, os.W_OK):
        raise UserError(existing, "may not be written to (no permission)", "choose another folder with -o")
