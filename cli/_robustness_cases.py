"""What `voxseg robustness` is to test: models by name, cases and their true labels; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from voxseg.cli._cases import TABLES, Task, find_tasks
from voxseg.data.datasets.find import find_dataset
from voxseg.data.paths import SUFFIXES, check_scan_path
from voxseg.errors import UserError
from voxseg.inference.locate import OF_RUN, image_names, locate_model

__all__ = ["RobustnessCase", "find_cases", "locate_models"]

BEHIND_NAMES = ("", "_seg", "-seg", "_labels", "_label", "_dseg", "_mask")
LABEL_NAMES = ("labels", "label", "seg", "segmentation", "aseg", "mask")


@dataclass(frozen=True)
class RobustnessCase:
    """A scan of the command line.

    Attributes:
        name: in tables; unique.
        tasks: what is read, for each model.
        labels: the file of the true labels, or None.
    """

    name: str
    tasks: dict[str, Task]
    labels: Path | None


def locate_models(models: Sequence[str]) -> dict[str, Path]:
    """The folders of the models by the names that tables have for them."""
    result: dict[str, Path] = {}
    for text in models:
        folder = locate_model(text)
        path = Path(text)
        name = path.resolve().parent.name if path.name == OF_RUN else path.name or text
        name = text if name in result else name
        if name in result:
            raise UserError(f"--compare {text}", "is given twice", "give each model once")
        result[name] = folder
    return result


def find_cases(
    scans: Sequence[Path],
    named: Sequence[str],
    references: Sequence[Path],
    models: dict[str, Path],
    output: Path,
    against_upright: bool,
) -> list[RobustnessCase]:
    """What is tested, with its labels."""
    if against_upright and references:
        raise UserError("--against-upright", "goes without --references", "leave out one of them")
    by_model = {name: _tasks(scans, named, output, image_names(folder)) for name, folder in models.items()}
    first = next(iter(by_model.values()))
    names = _distinct_names(first)
    labels = _labels_of(first, names, references, scans)
    if against_upright:
        labels = [None] * len(first)
    if any(labels) and not all(labels):
        lacking = next(name for name, path in zip(names, labels, strict=True) if path is None)
        raise UserError(lacking, "has no labels, and others have", "leave it out, or give --against-upright")
    return [
        RobustnessCase(name, {model: tasks[k] for model, tasks in by_model.items()}, label)
        for k, (name, label) in enumerate(zip(names, labels, strict=True))
    ]


def _tasks(scans: Sequence[Path], named: Sequence[str], output: Path, names: Sequence[str]) -> list[Task]:
    """As `voxseg predict` finds them; scans of the same name in several folders are welcome, as nothing is written."""
    if named:
        return find_tasks(scans, named, False, output, names)
    tasks = [task for scan in scans for task in find_tasks([scan], [], False, output, names)]
    for task in tasks:
        if len(scans) == len(tasks):
            task.files(names)
    return tasks


def _distinct_names(tasks: Sequence[Task]) -> list[str]:
    """Names of the cases; those of files that are called alike have the name of their folder before it."""
    short = [task.target.name for task in tasks]
    long = [f"{_folder(task).name}/{task.target.name}" for task in tasks]
    names = [two if short.count(one) > 1 else one for one, two in zip(short, long, strict=True)]
    return [task.subject if names.count(name) > 1 else name for name, task in zip(names, tasks, strict=True)]


def _folder(task: Task) -> Path:
    return next(iter(task.images.values())).path.resolve().parent


def _labels_of(
    tasks: Sequence[Task], names: Sequence[str], references: Sequence[Path], scans: Sequence[Path]
) -> list[Path | None]:
    """The file of the true labels of each task."""
    if not references:
        return _labels_of_datasets(tasks, scans)
    if len(references) == 1 and references[0].is_dir():
        return [_in_folder(references[0], task, name) for task, name in zip(tasks, names, strict=True)]
    if len(references) != len(tasks):
        problem = f"{len(references)} given for {len(tasks)} scan{'s' * (len(tasks) != 1)}"
        raise UserError("--references", problem, "give one file for each scan in their order, or one folder")
    for path in references:
        check_scan_path(path)
    return list(references)


def _in_folder(folder: Path, task: Task, name: str) -> Path:
    """The labels of a case in a folder of labels."""
    case, parent = task.target.name, _folder(task).name
    stems = [f"{name}{end}" for name in (case, f"{parent}/{case}", parent) for end in BEHIND_NAMES]
    stems += [f"{within}/{name}" for within in (parent, case) for name in LABEL_NAMES]
    scans = {image.path.resolve() for image in task.images.values()}
    for stem in stems:
        for suffix in SUFFIXES:
            path = folder / f"{stem}{suffix}"
            if path.is_file() and path.resolve() not in scans:
                return path
    problem = f"has no labels for {name} (looked for {case}_seg.nii.gz, {parent}/labels.nii.gz and the like)"
    raise UserError(f"--references {folder}", problem, "give the label files one by one, in the order of the scans")


def _labels_of_datasets(tasks: Sequence[Task], scans: Sequence[Path]) -> list[Path | None]:
    """The labels that data sets among the arguments have for their cases."""
    found: dict[frozenset[Path], Path | None] = {}
    for path in scans:
        if not path.is_dir() and not path.name.lower().endswith(TABLES):
            continue
        try:
            dataset = find_dataset(path, labels=False)
        except UserError:
            continue
        for case in dataset.cases:
            found[frozenset(image.path for image in case.images.values())] = case.label
    return [found.get(frozenset(image.path for image in task.images.values())) for task in tasks]
