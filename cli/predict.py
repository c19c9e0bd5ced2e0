"""`voxseg predict`: segment scans."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxseg.cli._allocator import keep_freed_memory
from voxseg.cli._cases import Task, find_tasks
from voxseg.cli._errors import describe_bug, show_traceback
from voxseg.errors import UserError
from voxseg.inference.locate import image_names, locate_model
from voxseg.report.niivue import find_niivue
from voxseg.report.outputs import OUTPUTS, write_outputs

if TYPE_CHECKING:
    from voxseg.data.datasets.case import ImageFile
    from voxseg.data.volume import Volume
    from voxseg.inference.predictor import Predictor

# The share of the time that each stage takes, about, for the progress bar.
STAGES = {"reading": 5, "preparing": 5, "network": 65, "restoring": 10, "writing": 5, "drawing": 10}
REPORT_STAGE = {"page": 10}


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
            help="Scans: .nii, .nii.gz, .mgz, .nrrd or .mha. Folders of cases, or of a data set in a layout that "
            "'voxseg data check' knows.",
            readable=False,
        ),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="One image of a case, for a model of several; give each of them."),
    ] = None,
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
    allow_import: Annotated[
        bool,
        typer.Option(
            "--allow-import",
            help="Import a network that is not voxseg's own, as the model folder names it: runs its code.",
        ),
    ] = False,
) -> None:
    """Segment scans.

    For each SCAN writes NAME_seg.nii.gz (labels in the scan's own grid), NAME_volumes.tsv and NAME_qc.png; with
    --report also NAME_report.html. Several scans are done one after the other; one that fails does not stop the
    others. Nothing is sent or fetched.
    """
    if not scans and not image and not example:
        raise UserError("SCAN", "no scan is given", "give one or more scans, or --example")
    if output is not None and output.exists() and not output.is_dir():
        raise UserError(f"-o {output}", "is a file", "give a folder")
    if report:
        find_niivue()  # what is missing is told before anything is computed
    folder = locate_model(model)
    names = image_names(folder)
    tasks = find_tasks(scans or [], image or [], example, output, names)
    keep_freed_memory()
    previous = signal.signal(signal.SIGTERM, _terminated)
    limit = None if max_memory is None else int(max_memory * 1e9)
    batch = _Batch(_Settings(folder, device.value, threads, limit, allow_import, report), names, len(tasks))
    try:
        for task in tasks:
            batch.add(task)
    finally:
        signal.signal(signal.SIGTERM, previous)
    batch.finish()


def _terminated(number: int, frame: object) -> None:
    """Leave as an exception does, so that temporary files are removed."""
    raise SystemExit(128 + number)


@dataclass(frozen=True)
class _Settings:
    """How the model is loaded, and whether pages are written."""

    folder: Path
    device: str
    threads: int | None
    max_memory: int | None
    allow_import: bool
    report: bool


class _Batch:
    """Cases one after the other with one model, which is loaded when the first case turns out to be readable."""

    def __init__(self, settings: _Settings, names: list[str], count: int) -> None:
        self.settings, self.names, self.count = settings, names, count
        self.predictor: Predictor | None = None
        self.done = 0
        self.failures: list[tuple[str, str, bool]] = []  # subject, message, whether it is the user's to mend

    def add(self, task: Task) -> None:
        """Segment one case; a failure is told and remembered."""
        try:
            self._segment(task)
            self.done += 1
        except _ModelError as error:
            raise error.cause from None
        except UserError as error:
            show_traceback(error)
            self._fail(task, str(error), True)
        except MemoryError:
            self._fail(task, f"{task.subject}: ran out of memory; give --max-memory, or a smaller scan", True)
        except Exception as error:
            self._fail(task, f"{task.subject}: {describe_bug(error)}", False)

    def _fail(self, task: Task, message: str, by_user: bool) -> None:
        self.failures.append((task.subject, message, by_user))
        print(f"voxseg: {message}", file=sys.stderr)

    def finish(self) -> None:
        """List what failed, if there was more than one case, and exit with the code for it."""
        if not self.failures:
            return
        if self.count > 1:
            print(f"voxseg: {len(self.failures)} of {self.count} scans failed:", file=sys.stderr)
            for subject, _, _ in self.failures:
                print(f"  {subject}", file=sys.stderr)
        unusable = not self.done and all(by_user for _, _, by_user in self.failures)
        raise typer.Exit(2 if unusable else 1)

    def _segment(self, task: Task) -> None:
        start = time.perf_counter()
        files = task.files(self.names)
        _check_writable(task.target.parent)
        with _Progress(task.target.name, STAGES | (REPORT_STAGE if self.settings.report else {})) as progress:
            progress("reading", 0.0)
            volumes = [_read(file) for file in files]
            read = time.perf_counter() - start
            predictor = self._load()
            segmentation = predictor.segment(volumes if len(volumes) > 1 else volumes[0], progress)
            segmentation.seconds = {"reading": read, **segmentation.seconds}
            page = None
            if self.settings.report:
                from voxseg.report.scan_page import scan_page

                page = scan_page(task.target.name, volumes, segmentation, predictor, self.settings.folder)
            name = predictor.model.config.name
            written = write_outputs(volumes[0], segmentation, name, task.target, progress, page)
        seconds = time.perf_counter() - start
        if not any(segmentation.voxel_counts()):
            picture = written[OUTPUTS.index("_qc.png")]
            print(f"voxseg: {task.subject}: nothing was found in it; look at {picture}", file=sys.stderr)
        names = ", ".join(path.name for path in written)
        print(f"{task.subject}: wrote {names} to {task.target.parent} in {seconds:.0f} s")

    def _load(self) -> Predictor:
        """The model on its device; what is wrong with it concerns every case."""
        if self.predictor is None:
            try:
                self.predictor = _load_predictor(self.settings)
            except UserError as error:
                raise _ModelError(error) from error
        return self.predictor


class _ModelError(Exception):
    """A mistake that is not about one scan."""

    def __init__(self, cause: UserError) -> None:
        self.cause = cause


def _read(image: ImageFile) -> Volume:
    from voxseg.data.volume import read_volume  # 0.3 s

    volume = read_volume(image.path, image.volume)
    # The segmentation of one volume of several is 3D.
    return volume if image.volume is None else replace(volume, file_shape=volume.geometry.shape)


def _load_predictor(settings: _Settings) -> Predictor:
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


class _Progress:
    """A bar on standard error that names the stage; nothing where standard error is not a terminal."""

    def __init__(self, name: str, stages: dict[str, int]) -> None:
        self.name, self.stages = name, stages
        self.bar: Any = None

    def __enter__(self) -> _Progress:
        if sys.stderr.isatty():
            from tqdm import tqdm

            form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}"
            self.bar = tqdm(total=sum(self.stages.values()), bar_format=form, leave=False, desc=self.name)
        return self

    def __call__(self, stage: str, fraction: float) -> None:
        if self.bar is None:
            return
        before = sum(self.stages[s] for s in list(self.stages)[: list(self.stages).index(stage)])
        self.bar.n = before + fraction * self.stages[stage]
        self.bar.set_description_str(f"{self.name}: {stage}")

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()
