"""How `voxseg predict` does one case, on this machine or on a worker of a cluster; imports nothing heavy."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxseg.cli._cases import Task
from voxseg.cli._errors import REPORT_IT, bug_in_a_line, describe_bug, show_traceback
from voxseg.cli._share import claimed
from voxseg.data.paths import printable
from voxseg.data.staging import temporary_name
from voxseg.errors import UserError
from voxseg.provenance import Origin, describe_image, now
from voxseg.report.outputs import DICOM_OUTPUTS, OUTPUTS, PAGE, PROBABILITIES, make_folder, write_outputs

if TYPE_CHECKING:
    from voxseg.data.datasets.case import ImageFile
    from voxseg.data.probabilities import ProbabilityFile
    from voxseg.data.volume import Volume
    from voxseg.inference.plan import Plan
    from voxseg.inference.predictor import Predictor, Segmentation

__all__ = [
    "NOTHING",
    "CaseWork",
    "Failure",
    "Loaded",
    "ModelError",
    "Settings",
    "SkippedError",
    "Written",
    "failure_of",
]


NOTHING = "nothing was found in it"


@dataclass(frozen=True)
class Settings:
    """How the model is loaded, and what is written.

    Attributes:
        folder: of the model.
        names: of the model's images.
        device: that the network runs on.
        threads: of the processor; None for what torch takes.
        max_memory: bytes that the process may take; None for the predictor's default.
        allow_import: whether the model may bring code of its own.
        report: whether a page is written too.
        probabilities: whether those are written too.
        skip_existing: whether cases that are done, or that another process has claimed, are skipped.
    """

    folder: Path
    names: tuple[str, ...]
    device: str
    threads: int | None
    max_memory: int | None
    allow_import: bool
    report: bool
    skip_existing: bool
    probabilities: bool = False


@dataclass
class Loaded:
    """A case in memory.

    Attributes:
        task: what is to be made.
        volumes: its images.
        seconds: that reading took.
        inputs: of each image what its provenance tells.
        started: when, as `voxseg.provenance.now` gives it.
    """

    task: Task
    volumes: list[Volume]
    seconds: float
    inputs: list[dict[str, Any]]
    started: str


@dataclass(frozen=True)
class Written:
    """A case that is done.

    Attributes:
        files: the results.
        seconds: by stage, from reading to writing.
        empty: whether nothing was found in it.
        doubt: why the result may be wrong; empty if nothing speaks against it.
        warnings: about its images.
        quality: of `Segmentation`; NaN for a field.
    """

    files: list[Path]
    seconds: dict[str, float]
    empty: bool
    doubt: str
    warnings: list[str]
    quality: float

    @property
    def told(self) -> list[str]:
        """All that should be looked at."""
        return [*self.warnings, *([NOTHING] if self.empty else [self.doubt] if self.doubt else [])]


@dataclass(frozen=True)
class Failure:
    """A case that could not be done.

    Attributes:
        subject: what the message is about.
        message: in one line.
        by_user: whether it is the user's to mend.
        what: it is about, more exactly, if that is known apart from the message.
        problem: what is wrong with it.
        remedy: what to do.
    """

    subject: str
    message: str
    by_user: bool
    what: str = ""
    problem: str = ""
    remedy: str = ""


class SkippedError(Exception):
    """A case that is done, or that another process is at."""


class ModelError(Exception):
    """A mistake that is not about one case."""

    def __init__(self, cause: UserError) -> None:
        super().__init__(cause)
        self.cause = cause


class CaseWork:
    """The steps of a case, with one model, which is loaded when the first case turns out to be readable."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.predictor: Predictor | None = None
        self.reserved = 0  # bytes of the memory allowed that the predictor leaves to others
        self.claims: dict[Path, ExitStack] = {}
        self.kept: set[Path] = set()  # probabilities under temporary names

    def read(self, task: Task) -> Loaded:
        """Claim a case if need be, and read its images.

        Raises:
            SkippedError: if it is not to be done.
            UserError: if it cannot be read, or its results could not be written.
        """
        start, started = time.perf_counter(), now()
        if self.settings.skip_existing:
            claim = ExitStack()
            if not claim.enter_context(claimed(task.target, self.outputs(task))):
                claim.close()
                raise SkippedError
            self.claims[task.target] = claim
        files = task.files(self.settings.names)
        _check_writable(task.target.parent)
        volumes = [_read(file) for file in files]
        inputs = [
            describe_image(volume, name, file.volume)
            for volume, name, file in zip(volumes, self.settings.names, files, strict=True)
        ]
        return Loaded(task, volumes, time.perf_counter() - start, inputs, started)

    def load(self) -> Predictor:
        """Load the model, unless that was done before.

        Raises:
            UserError: if it cannot be used.
        """
        if self.predictor is None:
            self.predictor = _load_predictor(self.settings)
        return self.predictor

    def plan(self, loaded: Loaded) -> Plan:
        """What segmenting a case will take.

        Raises:
            ModelError: if the model cannot be used.
        """
        try:
            predictor = self.load()
        except UserError as error:
            raise ModelError(error) from error
        predictor.reserved = self.reserved
        return predictor.plan(_images(loaded), self.settings.probabilities)

    def segment(self, loaded: Loaded, progress: Callable[[str, float], None]) -> Segmentation:
        """Segment a case, after `plan`."""
        assert self.predictor is not None
        progress("reading", 1.0)
        with self._probabilities(loaded) as sink:
            segmentation = self.predictor.segment(_images(loaded), progress, **sink)
        segmentation.seconds = {"reading": loaded.seconds, **segmentation.seconds}
        return segmentation

    def write(
        self, task: Task, loaded: Loaded, segmentation: Segmentation, progress: Callable[[str, float], None]
    ) -> Written:
        """Write the results of a case, all or none."""
        assert self.predictor is not None
        start, page = time.perf_counter(), None
        if self.settings.report:
            from voxseg.report.scan_page import scan_page

            page = scan_page(
                printable(task.target.name), loaded.volumes, segmentation, self.predictor, self.settings.folder
            )
        warnings = [text for volume in loaded.volumes for text in volume.warnings]
        least, quality = self.predictor.model.config.postprocessing.least_quality, segmentation.quality
        doubt = f"the result is doubtful (quality {quality:.2f})" if quality < least else ""
        empty = not any(segmentation.voxel_counts())
        result = Written([], {}, empty, doubt, warnings, quality)
        origin = Origin(self.predictor.model.origin, loaded.inputs, self._settings(), loaded.started, result.told)
        files = self.save(task, loaded, segmentation, progress, page, origin)
        return replace(result, files=files, seconds=segmentation.seconds | {"writing": time.perf_counter() - start})

    def outputs(self, task: Task) -> list[Path]:
        """The files that are written of a case."""
        suffixes = (*OUTPUTS, PAGE) if self.settings.report else OUTPUTS
        if self.settings.probabilities:
            suffixes = (*suffixes, *PROBABILITIES)
        if any(image.series is not None for image in task.images.values()):
            suffixes = (*suffixes, *DICOM_OUTPUTS)
        return files_of(task, suffixes)

    def probability_files(self, task: Task) -> list[Path]:
        """Where the probabilities of a case and the names of their classes go."""
        return files_of(task, PROBABILITIES)

    def save(
        self,
        task: Task,
        loaded: Loaded,
        segmentation: Segmentation,
        progress: Callable[[str, float], None],
        page: Callable[[Path, bytes], None] | None,
        origin: Origin,
    ) -> list[Path]:
        """Write the files of a case; returns their paths."""
        assert self.predictor is not None
        name, volume = self.predictor.model.config.name, loaded.volumes[0]
        probabilities = self.settings.probabilities
        return write_outputs(volume, segmentation, name, task.target, progress, page, origin, probabilities)

    @contextmanager
    def _probabilities(self, loaded: Loaded) -> Iterator[dict[str, ProbabilityFile]]:
        """What else `Predictor.segment` takes: where probabilities go, under the names that `write_outputs` expects."""
        if not self.settings.probabilities:
            yield {}
            return
        assert self.predictor is not None
        from voxseg.data.probabilities import fill_probabilities

        final, names = (temporary_name(path, os.getpid()) for path in self.probability_files(loaded.task))
        make_folder(final.parent)
        self.kept |= {final, names}
        try:
            with fill_probabilities(final, names, self.predictor.model.channels, loaded.volumes[0]) as file:
                yield {"probabilities": file}
        except OSError as error:
            problem = f"the results cannot be written ({error.strerror or error})"
            raise UserError(final.parent, problem, "choose another folder with -o") from error

    def _settings(self) -> dict[str, Any]:
        """What a record of provenance tells of them."""
        import torch

        assert self.predictor is not None
        names = ("max_memory", "allow_import", "report", "probabilities")
        chosen = {name: getattr(self.settings, name) for name in names}
        return {"device": str(self.predictor.device), "threads": torch.get_num_threads(), **chosen}

    def release(self, task: Task) -> None:
        """Give up the claim on a case, if there is one, and probabilities that were not written."""
        places = {temporary_name(path, os.getpid()) for path in self.probability_files(task)}
        self._remove(places & self.kept)
        claim = self.claims.pop(task.target, None)
        if claim is not None:
            claim.close()

    def _remove(self, places: set[Path]) -> None:
        for place in places:
            place.unlink(missing_ok=True)
        self.kept -= places

    def close(self) -> None:
        """Give up all claims, and probabilities that were not written."""
        self._remove(set(self.kept))
        for claim in self.claims.values():
            claim.close()
        self.claims.clear()


def files_of(task: Task, suffixes: Sequence[str]) -> list[Path]:
    """The files of a case whose names end so."""
    return [task.target.with_name(task.target.name + suffix) for suffix in suffixes]


def failure_of(task: Task, error: Exception) -> Failure:
    """How an error of a case is told; its traceback is shown first if that was asked for."""
    if isinstance(error, UserError):
        show_traceback(error)
        return Failure(task.subject, str(error), True, error.subject, error.problem, error.remedy)
    if isinstance(error, MemoryError):
        problem, remedy = "ran out of memory", "give --max-memory, or a smaller scan"
        return Failure(task.subject, f"{task.subject}: {problem}; {remedy}", True, task.subject, problem, remedy)
    message = f"{task.subject}: {describe_bug(error)}"
    return Failure(task.subject, message, False, task.subject, bug_in_a_line(error), REPORT_IT)


def _images(loaded: Loaded) -> Volume | list[Volume]:
    return loaded.volumes if len(loaded.volumes) > 1 else loaded.volumes[0]


def _read(image: ImageFile) -> Volume:
    from voxseg.data.volume import check_volume, read_volume  # 0.3 s

    if image.series is not None:
        from voxseg.data.dicom.read import read_series

        return check_volume(read_series(image.series))
    volume = read_volume(image.path, image.volume)
    # The segmentation of one volume of several is 3D.
    return volume if image.volume is None else replace(volume, file_shape=volume.geometry.shape)


def _load_predictor(settings: Settings) -> Predictor:
    import torch

    from voxseg.inference.model import load_model
    from voxseg.inference.predictor import Predictor

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    return Predictor(load_model(settings.folder, settings.allow_import), settings.device, settings.max_memory)


def _check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written to before anything is computed for it."""
    for place in (folder, *folder.parents):
        if place.is_symlink() and not place.exists():
            raise UserError(place, "is a link that leads nowhere", "mend it, or choose another folder with -o")
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir():
        raise UserError(existing, "is not a folder", "choose another folder with -o")
    if not os.access(existing, os.W_OK):
        raise UserError(existing, "may not be written to (no permission)", "choose another folder with -o")
