"""What `voxseg predict` is to segment: scans, cases of several images, and whole data sets; imports nothing heavy."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from voxseg.data.datasets.case import Case, ImageFile
from voxseg.data.datasets.find import find_dataset
from voxseg.data.dicom.files import is_dicom
from voxseg.data.paths import check_scan_path, scan_name
from voxseg.errors import UserError
from voxseg.report.field_outputs import FIELD_OUTPUTS
from voxseg.report.outputs import OUTPUTS, PAGE

__all__ = ["Task", "find_tasks"]

TABLES = (".csv", ".tsv")
EXAMPLE = "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
EXAMPLE_NAME = "icbm152"


@dataclass(frozen=True)
class Task:
    """One segmentation to be made.

    Attributes:
        subject: what messages are about: the path of a scan, or the case and its data set.
        images: the files by the names of the model's images; some may be missing, or have names that it does not know.
        target: what the results' paths begin with, such as `FOLDER/NAME`.
        kept: files that must not be overwritten.
        problem: why it cannot be done, told when its turn comes.
    """

    subject: str
    images: Mapping[str, ImageFile]
    target: Path
    kept: frozenset[Path] = field(default_factory=frozenset)
    problem: UserError | None = None

    def files(self, names: Sequence[str]) -> list[ImageFile]:
        """The files of these images, in their order.

        Raises:
            UserError: if one is missing, or cannot be a scan.
        """
        if self.problem is not None:
            raise self.problem
        if any(name not in self.images for name in names):
            raise missing_image(self.subject, self.images, names)
        files = [self.images[name] for name in names]
        for file in files:
            if file.series is None:
                check_scan_path(file.path)
        return files


def missing_image(subject: object, found: Iterable[str], names: Sequence[str]) -> UserError:
    """What is said of a case, or of a data set, that lacks an image."""
    found = list(found)
    if len(names) == 1:
        problem = f"has the images {', '.join(found)}, and the model takes one ({names[0]})"
        return UserError(subject, problem, "give the files themselves")
    missing = next(name for name in names if name not in found)
    problem = f"has no image {missing} (it has {', '.join(found)})"
    return UserError(subject, problem, f"the model takes {', '.join(names)}; {by_name(names)}")


def find_tasks(
    given: Sequence[Path],
    named: Sequence[str],
    example: bool,
    output: Path | None,
    names: Sequence[str],
    series: Sequence[str] = (),
) -> list[Task]:
    """What the command line asks for.

    Args:
        given: scans, folders of cases or data sets, tables of paths, and whatever holds DICOM series.
        named: images of one case as `NAME=FILE`.
        example: whether the example scan is wanted.
        output: folder of the results; None for beside the scans.
        names: of the images that the model takes.
        series: which DICOM series to take; the only volume by default.

    Raises:
        UserError: if files or names do not fit the model, or two tasks would write the same files.
    """
    if named and (given or example):
        raise UserError("--image", "names the images of one case, and scans are given as well", "give one or the other")
    tasks = [task for path in given for task in _tasks_of(path, output, names, series)]
    if series and all(task.problem is None and not _has_series(task) for task in tasks):
        raise UserError("--series", "picks series of DICOM, and there is none in what is given", "leave it out")
    if named:
        tasks.append(_named_case(named, output, names))
    if example:
        tasks.append(_scan(_example_scan(), (output or Path.cwd()) / EXAMPLE_NAME, names))
    tasks = tasks if output is None else _told_apart(tasks)
    _check_targets(tasks)
    return tasks


def by_name(names: Sequence[str]) -> str:
    """How the images of a case are given one by one."""
    return "give " + " ".join(f"--image {name}=FILE" for name in names)


def _has_series(task: Task) -> bool:
    return any(image.series is not None for image in task.images.values())


def _tasks_of(path: Path, output: Path | None, names: Sequence[str], series: Sequence[str]) -> list[Task]:
    """The tasks of one argument."""
    if is_dicom(path):
        from voxseg.cli._dicom import dicom_tasks

        return dicom_tasks(path, output, names, series)
    if not path.is_dir() and not path.name.lower().endswith(TABLES):
        return [_scan(path, (output or path.parent) / scan_name(path), names)]
    try:
        dataset = find_dataset(path, labels=False)
    except UserError:
        if len(names) > 1 or not path.is_dir():
            raise
        # Told as what it is when its turn comes.
        return [_scan(path, (output or path.parent) / path.resolve().name, names)]
    if output is None:
        raise UserError(path, "is a data set, which results are not written into", "give a folder for them with -o")
    tasks = [_case(path, case, output, names) for case in dataset.cases]
    if not any(set(names) <= set(task.images) for task in tasks):
        raise missing_image(path, dataset.modalities, names)
    return tasks


def _scan(path: Path, target: Path, names: Sequence[str]) -> Task:
    """A scan for a model of one image."""
    if len(names) > 1:
        check_scan_path(path)
        remedy = f"give the folder of the case, or {by_name(names).removeprefix('give ')}"
        raise UserError(path, f"is one image, and the model takes {len(names)} of a case ({', '.join(names)})", remedy)
    return Task(str(path), {names[0]: ImageFile(path)}, target)


def _case(folder: Path, case: Case, output: Path, names: Sequence[str]) -> Task:
    """A case of a data set; the only image of a case is the one that a model of one image takes."""
    images = dict(case.images)
    if len(names) == 1 and len(images) == 1:
        images = dict(zip(names, images.values(), strict=True))
    kept = {image.path for image in case.images.values()} | ({case.label} if case.label else set())
    subject = str(folder) if folder.name == case.id else f"{folder}, {case.id}"
    return Task(subject, images, output / case.id, frozenset(kept))


def _named_case(named: Sequence[str], output: Path | None, names: Sequence[str]) -> Task:
    """The case whose images are given as `NAME=FILE`."""
    images: dict[str, ImageFile] = {}
    for text in named:
        name, separator, file = text.partition("=")
        if not separator or not file:
            raise UserError(f"--image {text}", "is not NAME=FILE", by_name(names))
        if name not in names:
            raise UserError(f"--image {text}", f"the model takes no image {name}", by_name(names))
        if name in images:
            raise UserError(f"--image {text}", f"{name} is given twice", by_name(names))
        images[name] = _image(Path(file))
    for name in names:
        if name not in images:
            raise UserError("--image", f"{name} is missing", by_name(names))
    first = images[names[0]].path
    return Task(str(first), images, (output or first.parent) / scan_name(first))


def _image(path: Path) -> ImageFile:
    """An image that was given by its path."""
    if not is_dicom(path):
        return ImageFile(path)
    from voxseg.cli._dicom import dicom_image

    return dicom_image(path)


def _told_apart(tasks: Sequence[Task]) -> list[Task]:
    """Scans of one name get those of their folders in front, as few as tell them apart: `sub-01_t1`, `sub-02_t1`."""
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        groups.setdefault(str(task.target).casefold(), []).append(task)
    renamed: dict[int, Task] = {}
    for group in groups.values():
        files = [image for task in group for image in task.images.values()]
        if len(group) < 2 or len(files) != len(group) or any(file.series is not None for file in files):
            continue
        folders = [file.path.absolute().parent.parts[1:] for file in files]
        for depth in range(1, max(map(len, folders)) + 1):
            names = ["_".join(parts[-depth:]) for parts in folders]
            if len({name.casefold() for name in names}) == len(group):
                targets = (
                    task.target.with_name(f"{name}_{task.target.name}") for name, task in zip(names, group, strict=True)
                )
                renamed |= {id(task): replace(task, target=target) for task, target in zip(group, targets, strict=True)}
                break
    return [renamed.get(id(task), task) for task in tasks]


def _check_targets(tasks: Sequence[Task]) -> None:
    """Refuse tasks that would write over each other, or over files of a data set."""
    first: dict[str, Task] = {}
    for task in tasks:
        # File systems of laptops take upper and lower case for the same.
        earlier = first.setdefault(str(task.target.absolute()).casefold(), task)
        if earlier is not task:
            problem = f"would write the same files as {earlier.subject} ({task.target}{OUTPUTS[0]})"
            raise UserError(task.subject, problem, "rename one, or segment them into different folders with -o")
        written = (task.target.with_name(task.target.name + suffix) for suffix in (*OUTPUTS, PAGE, *FIELD_OUTPUTS))
        results = {os.path.realpath(path) for path in written}  # Path.resolve does not get out of a loop of links
        for path in sorted(task.kept):
            if os.path.realpath(path) in results:
                raise UserError(path, "belongs to the data set and would be overwritten", "give another folder with -o")


def _example_scan() -> Path:
    """The template file in the installed nilearn, which is not imported: that takes seconds."""
    found = importlib.util.find_spec("nilearn")
    if found is None or found.origin is None:
        problem = "needs the package nilearn, which has the example scan"
        raise UserError("--example", problem, "install it with: pip install 'voxseg[example]'")
    scan = Path(found.origin).parents[1] / EXAMPLE
    if not scan.is_file():
        problem = f"this version of nilearn does not have the example scan ({scan.name})"
        raise UserError("--example", problem, "install another one with: pip install 'nilearn>=0.11,<0.15'")
    return scan
