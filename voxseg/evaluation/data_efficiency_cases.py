"""The cases of a data-efficiency benchmark: a pool to train on, and others to test on, upright and turned."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from voxseg.data.datasets.case import Case, Dataset
from voxseg.data.datasets.find import find_dataset
from voxseg.data.datasets.read import read_image, read_labels
from voxseg.data.label_scheme import LabelScheme
from voxseg.data.preparation import PreparationConfig, prepare_labels
from voxseg.data.tumours import TumourConfig, TumourHead, write_case
from voxseg.data.turning import turned_case
from voxseg.data.volume import Volume
from voxseg.errors import UserError
from voxseg.evaluation.data_efficiency_config import DataEfficiencyConfig
from voxseg.testing import rotation_matrix
from voxseg.training.config import TrainingConfig
from voxseg.training.equivariance import AXIS

__all__ = ["UPRIGHT", "Cases", "Pose", "TestScan", "draw_cases", "open_cases"]

UPRIGHT = "upright"
TRAINING_STREAM, TEST_STREAM = 1, 2
"""First number of the seeds of generated heads, so that none is in both parts."""

ANY_POSE_MM, ANY_POSE_SKULL_MM = 210.0, 300.0
"""Edge of the cube that holds a generated head in any pose, without and with the skull."""


@dataclass(frozen=True)
class Pose:
    """How test cases lie.

    Attributes:
        name: of the pose, "upright" or such as "45 about (0, 0, 1)".
        axis: in world space.
        degrees: of the turn.
    """

    name: str
    axis: tuple[float, float, float]
    degrees: float

    @property
    def rotation(self) -> NDArray[np.float64]:
        """[3, 3]."""
        rotation: NDArray[np.float64] = rotation_matrix(self.axis, self.degrees).numpy()
        return rotation


@dataclass(frozen=True, eq=False)
class TestScan:
    """A test case in a pose.

    Attributes:
        case: its id.
        pose: how it lies.
        images: in the order of the network's channels.
        truth: dense class indices in the grid of the first image, [X, Y, Z] uint8.
    """

    __test__ = False

    case: str
    pose: Pose
    images: list[Volume]
    truth: NDArray[np.uint8]


@dataclass(frozen=True)
class Cases:
    """What a benchmark trains and tests on.

    Attributes:
        folder: of the data set that all of them are in.
        pool: to draw training cases from.
        test: held out.
        poses: of the test, the upright one first.
        turned: for generated heads the test cases by pose, made anew in it; empty where scans are turned instead.
    """

    folder: Path
    pool: tuple[Case, ...]
    test: tuple[Case, ...]
    poses: tuple[Pose, ...]
    turned: dict[str, tuple[Case, ...]]

    def scans(self, preparation: PreparationConfig, labels: LabelScheme) -> Iterator[TestScan]:
        """Every test case in every pose, read and turned one at a time.

        Raises:
            UserError: a file cannot be read any more.
        """
        if self.turned:
            for pose in self.poses:
                for case in self.turned[pose.name]:
                    yield TestScan(case.id, pose, *_read(case, preparation, labels))
            return
        for case in self.test:
            images, truth = _read(case, preparation, labels)
            for pose in self.poses:
                if pose.degrees == 0:
                    yield TestScan(case.id, pose, images, truth)
                    continue
                grids = [(image.data, image.geometry) for image in images]
                scans, turned = turned_case(grids, truth, preparation, pose.rotation)
                pairs = zip(images, scans, strict=True)
                volumes = [Volume(image.path, data, grid, None, grid.shape) for image, (data, grid) in pairs]
                yield TestScan(case.id, pose, volumes, turned)


def open_cases(config: DataEfficiencyConfig, training: TrainingConfig, folder: Path) -> Cases:
    """Finds the cases of the data set, or makes those that are generated as far as they are not there yet.

    Args:
        config: the benchmark.
        training: config of any of its arms; it says how the data set lies.
        folder: of the benchmark; generated cases are kept in `data`.

    Raises:
        UserError: there are too few cases, or they cannot be read or written.
    """
    poses = [Pose(UPRIGHT, AXIS, config.upright_deg)]
    for pose in config.test.poses:
        poses.append(Pose(pose.name, pose.axis, pose.degrees))
    if config.data is None:
        return _generated(config, folder / "data", tuple(poses))
    assert training.dataset is not None
    dataset = find_dataset(config.data, training.dataset.layout, training.dataset.patterns)
    pool, test = _divided(dataset, config)
    return Cases(config.data.resolve(), pool, test, tuple(poses), {})


def draw_cases(pool: Sequence[Case], size: int, seed: int) -> list[str]:
    """Ids of the training cases of a run, sorted.

    Drawn anew for each size, so that runs are independent of each other, as the intervals of the curves suppose. First
    one scan of each subject, then a second one of those that have more.

    Args:
        pool: to draw from.
        size: how many.
        seed: which ones; a hash of seed, size and subject decides, the same on every machine.
    """
    subjects: dict[str, list[str]] = {}
    for case in sorted(pool, key=lambda case: _digest(seed, size, case.id)):
        subjects.setdefault(case.subject, []).append(case.id)
    order = [
        (scan, _digest(seed, size, subject), name)
        for subject, names in subjects.items()
        for scan, name in enumerate(names)
    ]
    return sorted(name for _, _, name in sorted(order)[:size])


def _divided(dataset: Dataset, config: DataEfficiencyConfig) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Pool and test cases of a data set; no subject is in both."""
    cases = [case for case in dataset.cases if case.label is not None]
    subjects = sorted({case.subject for case in cases}, key=lambda name: _digest("test", config.test.seed, name))
    held_out: set[str] = set()
    for subject in subjects:
        if sum(case.subject in held_out for case in cases) >= config.test.cases:
            break
        held_out.add(subject)
    pool = tuple(case for case in cases if case.subject not in held_out)
    test = tuple(case for case in cases if case.subject in held_out)
    if len(pool) < max(config.sizes):
        problem = (
            f"has {len(cases)} cases: {len(test)} to test on leave {len(pool)}, not {max(config.sizes)}, to train on"
        )
        raise UserError(dataset.folder, problem, "lower sizes or test.cases")
    return pool, test


def _generated(config: DataEfficiencyConfig, folder: Path, poses: tuple[Pose, ...]) -> Cases:
    """The generated heads; those that are there stay as they are."""
    heads = config.heads
    edge = ANY_POSE_SKULL_MM if heads.skull else ANY_POSE_MM
    x, y, z = (max(edge, extent) for extent in heads.field_mm)
    anywhere = heads.model_copy(update={"field_mm": (x, y, z)})
    places = {pose.name: folder / ("heads" if k == 0 else f"turned_{k}") for k, pose in enumerate(poses)}
    wanted: list[tuple[Path, TumourConfig, tuple[int, ...], NDArray[np.float64]]] = []
    for k in range(config.pool):
        wanted.append((folder / "heads" / f"Train_{k:03d}", heads, (TRAINING_STREAM, k), np.eye(3)))
    for pose in poses:
        for k in range(config.test.cases):
            place = places[pose.name] / f"Test_{k:03d}"
            wanted.append((place, anywhere, (TEST_STREAM, config.test.seed, k), pose.rotation))
    missing = [entry for entry in wanted if not (entry[0] / f"{entry[0].name}_seg.nii.gz").is_file()]
    shown = sys.stderr.isatty()
    for path, how, seed, rotation in tqdm(missing, "generating heads", disable=not shown, leave=False, unit="head"):
        _write(path, how, seed, rotation)
    found = {name: find_dataset(place, "brats").cases for name, place in places.items()}
    turned = {name: tuple(case for case in cases if case.id.startswith("Test_")) for name, cases in found.items()}
    pool = tuple(case for case in found[UPRIGHT] if case.id.startswith("Train_"))
    return Cases((folder / "heads").resolve(), pool, turned[UPRIGHT], poses, turned)


def _write(path: Path, heads: TumourConfig, seed: tuple[int, ...], rotation: NDArray[np.float64]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_case(path, TumourHead(heads, seed).scan(rotation))


def _read(case: Case, preparation: PreparationConfig, labels: LabelScheme) -> tuple[list[Volume], NDArray[np.uint8]]:
    """The images of a case in the order of the network's channels, and the truth in the grid of the first."""
    images = []
    for name in preparation.images:
        data, geometry = read_image(case.images[name])
        images.append(Volume(case.images[name].path, data, geometry, None, geometry.shape))
    assert case.label is not None
    ids, geometry = read_labels(case.label)
    return images, prepare_labels(labels.to_classes(ids), geometry, images[0].geometry)


def _digest(*parts: object) -> bytes:
    return hashlib.sha256(":".join(map(str, parts)).encode()).digest()
