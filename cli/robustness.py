"""`voxseg robustness`: whether a turned, disturbed or deformed scan changes the segmentation."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxseg.cli._allocator import keep_freed_memory
from voxseg.cli._errors import describe_bug, show_traceback
from voxseg.cli._options import AllowImport, Device, ImageFiles, MaxMemory, OnDevice, Threads, bytes_of
from voxseg.cli._result import FAILED, USAGE, add_error, add_result
from voxseg.cli._robustness_cases import RobustnessCase, find_cases, locate_models
from voxseg.cli._run_bar import RunBar
from voxseg.errors import UserError
from voxseg.evaluation.robustness_tests import GROUPS, RobustnessSettings, choose_tests
from voxseg.inference.locate import image_names

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from voxseg.data.geometry import Geometry
    from voxseg.data.label_scheme import LabelScheme
    from voxseg.evaluation.robustness import Robustness
    from voxseg.evaluation.robustness_plan import Condition
    from voxseg.evaluation.subject import Subject
    from voxseg.inference.predictor import Predictor

CSV, JSON, PICTURE = "robustness.csv", "robustness.json", "robustness.png"
GRID_TOLERANCE = 0.1  # voxels by which labels may miss their scan


def robustness(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A packaged model or a model folder.")],
    scans: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SCAN", help="Scans, folders of cases or of a data set, as 'voxseg predict' takes them."
        ),
    ] = None,
    image: ImageFiles = None,
    compare: Annotated[
        list[str] | None,
        typer.Option("--compare", metavar="MODEL", help="Another model, drawn into the same picture. Repeat for more."),
    ] = None,
    references: Annotated[
        list[Path] | None,
        typer.Option(
            "--references",
            metavar="FILE|FOLDER",
            help="True labels: a file for each SCAN in order, or a folder with a file NAME, NAME_seg or the like for "
            "each, or with NAME/labels. Without: the labels of a data set, else the upright prediction.",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where to write; made if need be.")
    ] = Path("robustness"),
    tests: Annotated[
        str, typer.Option(metavar="A,B", help=f"What is tried: {', '.join(GROUPS)}, or single tests (see below).")
    ] = "all",
    quick: Annotated[bool, typer.Option("--quick", help="Few poses and levels: a few minutes a scan.")] = False,
    angle_step: Annotated[
        float | None,
        typer.Option(min=5.0, max=180.0, metavar="DEGREES", help="Between angles.", show_default="30, quick 60"),
    ] = None,
    against_upright: Annotated[
        bool, typer.Option("--against-upright", help="Compare with the upright prediction although there are labels.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Decides noise, shading and deformations.")] = 0,
    device: OnDevice = Device.auto,
    threads: Threads = None,
    max_memory: MaxMemory = None,
    allow_import: AllowImport = False,
) -> None:
    """Say what a turned or disturbed scan changes.

    Turns, mirrors, disturbs and deforms scans, segments each, and says by how much that changes the segmentation.

    Writes robustness.csv (Dice of each structure under each condition, as it goes), robustness.json (the worst of each
    test, R_f) and robustness.png. Ctrl-C keeps what is done.

    Tests: rotations, angles, mirror (together: poses); orientations, headers, handedness (files); noise, bias, blur,
    slices, resolution, inversion, gamma, cropping (disturbances); deformation, stability (deformations).

    What is interpolated (angles, deformation) is compared with a turn by 2 degrees, which is interpolated too; all else
    with the scan as it is. Mirrored patients are to get mirrored labels with sides swapped. A header that claims a
    mirrored patient cannot be seen through: labels with sides come out swapped, and are counted as wrong.
    """
    settings = RobustnessSettings(
        choose_tests([name.strip() for name in tests.split(",") if name.strip()]), quick, angle_step, seed
    )
    if not scans and not image:
        raise UserError("SCAN", "no scan is given", "give one or more scans, or folders of cases")
    if output.exists() and not output.is_dir():
        raise UserError(f"-o {output}", "is a file", "give a folder")
    folders = locate_models([model, *(compare or [])])
    cases = find_cases(scans or [], image or [], references or [], folders, output, against_upright)
    keep_freed_memory()
    session = _Session(settings, cases, output)
    previous = signal.signal(signal.SIGTERM, _terminated)
    try:
        session.load(folders, device.value, threads, bytes_of(max_memory), allow_import)
        session.run()
    finally:
        signal.signal(signal.SIGTERM, previous)
        session.close()
    session.finish()


def _terminated(number: int, frame: object) -> None:
    """Leave as an exception does, so that what is done is written."""
    raise SystemExit(128 + number)


class _Session:
    """All models on all scans, one condition after the other, with results that are kept as they come."""

    def __init__(self, settings: RobustnessSettings, cases: list[RobustnessCase], output: Path) -> None:
        self.settings, self.cases, self.output = settings, cases, output
        self.predictors: dict[str, Predictor] = {}
        self.schemes: dict[str, LabelScheme] = {}
        self.names: dict[str, list[str]] = {}
        self.failures: list[tuple[str, bool]] = []  # scan, whether it is the user's to mend
        self.result: Robustness | None = None
        self.bar = RunBar()
        self._read: tuple[tuple[Any, ...], Subject] | None = None

    def load(
        self, folders: dict[str, Path], device: str, threads: int | None, limit: int | None, allow_import: bool
    ) -> None:
        """Load the models, and begin the table."""
        import torch

        from voxseg.evaluation.robustness import Robustness, structures_of_model
        from voxseg.evaluation.robustness_tables import start_csv
        from voxseg.inference.model import load_model
        from voxseg.inference.predictor import Predictor

        if threads is not None:
            torch.set_num_threads(threads)
        result = Robustness(self.settings, tuple(folders), tuple(case.name for case in self.cases))
        for name, folder in folders.items():
            model = load_model(folder, allow_import)
            self.predictors[name] = Predictor(model, device, limit)
            self.schemes[name], result.structures[name] = structures_of_model(folder, model.table)
            self.names[name] = image_names(folder)
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            for old in (JSON, PICTURE):  # a picture of an earlier run beside the table of this one would mislead
                (self.output / old).unlink(missing_ok=True)
            start_csv(self.output / CSV)
        except OSError as error:
            problem = f"cannot be written to ({error.strerror})"
            raise UserError(self.output, problem, "choose another folder with -o") from error
        self.result = result

    def run(self) -> None:
        """Everything; a scan that fails is told, and the others are done."""
        assert self.result is not None
        self.bar.announce(self._count(), len(self.predictors), len(self.cases))
        for case in self.cases:
            for model in self.predictors:
                try:
                    self._scan(case, model)
                except UserError as error:
                    show_traceback(error)
                    self._fail(case, str(error), True)
                    break
                except MemoryError:
                    self._fail(case, f"{case.name}: ran out of memory; give --max-memory, or a smaller scan", True)
                    break
                except Exception as error:
                    self._fail(case, f"{case.name}: {describe_bug(error)}", False)
                    break
            self._read = None
        self.result.complete = not self.failures

    def _fail(self, case: RobustnessCase, message: str, by_user: bool) -> None:
        self.failures.append((case.name, by_user))
        add_error(case.name, message, exit_code=USAGE if by_user else FAILED)
        self.bar.close()
        print(f"voxseg: {message}", file=sys.stderr)

    def close(self) -> None:
        """Write what there is: after an interruption too."""
        self.bar.close()
        if self.result is None or not self.result.scores:
            return
        import json

        from voxseg.data.staging import write_complete, write_text
        from voxseg.evaluation.robustness_tables import summarise, text_lines
        from voxseg.report.robustness_curves import draw_robustness

        result = self.result
        summary = summarise(result)
        write_text(self.output / JSON, json.dumps(summary, indent=1, allow_nan=False) + "\n")
        write_complete(self.output / PICTURE, lambda path: draw_robustness(path, result))
        add_result(files=[self.output / name for name in (CSV, JSON, PICTURE)], robustness=summary)
        print("\n".join(text_lines(result)))
        done = "" if result.complete else " (not all of it was done)"
        print(f"\nwrote {CSV}, {JSON} and {PICTURE} to {self.output}{done}")

    def finish(self) -> None:
        """List what failed, and exit with the code for it."""
        if not self.failures:
            return
        if len(self.cases) > 1:
            print(f"voxseg: {len(self.failures)} of {len(self.cases)} scans failed:", file=sys.stderr)
            for name, _ in self.failures:
                print(f"  {name}", file=sys.stderr)
        nothing = len(self.failures) == len(self.cases) and all(by_user for _, by_user in self.failures)
        raise typer.Exit(2 if nothing else 1)

    def _count(self) -> int:
        """Runs of a network that are planned; a scan whose header cannot be read is told when its turn comes."""
        from voxseg.data.volume import read_header

        total = 0
        for case in self.cases:
            for model, task in case.tasks.items():
                try:
                    header = read_header(task.files(self.names[model])[0].path)
                except UserError:
                    continue
                total += self._runs(self._plan(header.geometry))
        return total

    def _plan(self, geometry: Geometry) -> list[Condition]:
        from voxseg.evaluation.robustness_plan import plan_conditions

        return plan_conditions(geometry, self.settings)

    def _runs(self, conditions: Sequence[Condition]) -> int:
        return 1 + len(conditions) + self._stability_runs()

    def _stability_runs(self) -> int:
        from voxseg.evaluation.robustness import stability_draws

        return 2 * stability_draws(self.settings) + 4 if "stability" in self.settings.tests else 0

    def _scan(self, case: RobustnessCase, model: str) -> None:
        """One model on one scan."""
        from voxseg.evaluation.robustness import Skipped, measure_stability, run_conditions
        from voxseg.evaluation.robustness_tables import append_rows

        assert self.result is not None
        result, predictor, structures = self.result, self.predictors[model], self.result.structures[model]
        subject = self._subject(case, model)
        labels = _read_labels(case.labels, self.schemes[model], subject) if case.labels is not None else None
        conditions = self._plan(subject.geometry)
        upcoming = iter([condition.name for condition in conditions] + [""])
        self.bar.show(f"{model}, {case.name}: as scanned")
        for found in run_conditions(predictor, structures, subject, labels, conditions, model):
            self.bar.advance(1)
            self.bar.show(f"{model}, {case.name}: {next(upcoming)}")
            if isinstance(found, Skipped):
                result.skipped.append(found)
            else:
                result.scores.append(found)
                append_rows(self.output / CSV, found, structures)
        if "stability" in self.settings.tests:
            self.bar.show(f"{model}, {case.name}: relative stability")
            try:
                for draw in measure_stability(predictor, subject, self.settings, model):
                    result.stability.append(draw)
                    self.bar.advance(2)
            except (UserError, MemoryError) as error:
                reason = error.problem if isinstance(error, UserError) else "ran out of memory"
                result.skipped.append(Skipped(model, case.name, "relative stability", reason))
            self.bar.advance(2)

    def _subject(self, case: RobustnessCase, model: str) -> Subject:
        """The images of a case; those that were read for the model before are not read again."""
        from voxseg.data.volume import read_volume
        from voxseg.evaluation.subject import Subject

        files = tuple(case.tasks[model].files(self.names[model]))
        if self._read is None or self._read[0] != files:
            volumes = [read_volume(file.path, file.volume) for file in files]
            volumes = [replace(volume, file_shape=volume.geometry.shape) for volume in volumes]
            self._read = files, Subject(case.name, tuple(volumes))
        return self._read[1]


def _read_labels(path: Path, scheme: LabelScheme, subject: Subject) -> NDArray[np.uint8]:
    """Dense class indices of a label file on the grid of the scan."""
    from voxseg.data.datasets.read import read_labels
    from voxseg.data.preparation import prepare_labels

    ids, geometry = read_labels(path)
    scan = subject.geometry
    moved = geometry.canonical.displacement(scan.canonical)
    if moved > GRID_TOLERANCE * min(scan.spacing):
        problem = f"lies on another grid than the scan ({geometry} and {scan})"
        raise UserError(path, problem, "resample the labels to the scan's grid with nearest neighbours")
    classes = scheme.to_classes(ids)
    if not classes.any():
        raise UserError(path, "holds none of the labels of the model", "give labels with the ids of the model's table")
    return classes if geometry.shape == scan.shape and geometry == scan else prepare_labels(classes, geometry, scan)
