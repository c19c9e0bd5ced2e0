"""Prepared cases on disk: what training reads again and again, as plain arrays that are mapped instead of read.

A cache is a folder with one folder a case. The name of a case's folder ends in a hash of everything that its contents
depend on, so that a changed config or a changed file leads to a new entry, and several configs can share a cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxseg.data.datasets.case import Case
from voxseg.data.field_kinds import FieldTarget
from voxseg.data.geometry import Geometry
from voxseg.data.label_scheme import LabelScheme
from voxseg.data.preparation import PreparationConfig, covering_grid
from voxseg.data.prepared_case import POINTS, image_files, label_file, prepare_case, sample_points
from voxseg.data.prepared_field import MASK, TARGET, prepare_field_case
from voxseg.data.volume import read_header
from voxseg.errors import UserError

__all__ = ["CacheEstimate", "CachedCase", "CaseCache"]

FORMAT = 1
MARGIN = 4
"""Voxels of empty space that are kept around a case."""
ABANDONED = 24 * 3600
"""Seconds after which a folder that nobody finished is removed."""


@dataclass(frozen=True)
class CachedCase:
    """An entry of the cache. Its arrays are mapped when they are asked for, so that it can be sent to other processes.

    Attributes:
        id: of the case.
        folder: of the entry.
        grid: where its voxels lie, a box of the working grid.
        channels: images.
        voxels: of each class, from 0.
        boxes: for each class from 1 its bounding box, first and last voxel `(x0, y0, z0, x1, y1, z1)`; None if absent.
    """

    id: str
    folder: Path
    grid: Geometry
    channels: int
    voxels: tuple[int, ...]
    boxes: tuple[tuple[int, ...] | None, ...]

    @property
    def image(self) -> NDArray[np.float16]:
        """`[C, X, Y, Z]`; pages that are written to are this process's own."""
        image: NDArray[np.float16] = np.load(self.folder / "image.npy", mmap_mode="c")
        return image

    @property
    def label(self) -> NDArray[np.uint8]:
        """Dense class indices `[X, Y, Z]`."""
        label: NDArray[np.uint8] = np.load(self.folder / "label.npy", mmap_mode="c")
        return label

    @property
    def target(self) -> NDArray[np.float32]:
        """The field `[K, X, Y, Z]`, components in the axes of the grid, of a case that has one."""
        target: NDArray[np.float32] = np.load(self.folder / "target.npy", mmap_mode="c")
        return target

    @property
    def points(self) -> list[NDArray[np.int32]]:
        """`sample_points` of the label."""
        points = np.load(self.folder / "points.npy", mmap_mode="r")
        ends = np.cumsum([min(count, POINTS) for count in self.voxels[1:]])
        return np.split(points, ends[:-1])


@dataclass(frozen=True)
class CacheEstimate:
    """What a cache will take.

    Attributes:
        folder: of the cache.
        cases: in all.
        missing: how many have to be prepared.
        disk: bytes that those take at most; with `preparation.crop`, and where there is much empty space, far fewer.
        free: bytes free on the disk.
    """

    folder: Path
    cases: int
    missing: int
    disk: int
    free: int

    def line(self, window_bytes: int = 0) -> str:
        """One line to print. `window_bytes`: of the windows that wait for the network."""
        if not self.missing:
            what = f"all {self.cases} cases are there"
        else:
            what = (
                f"{self.missing} of {self.cases} cases to prepare, at most {_size(self.disk)} of disk "
                f"({_size(self.free)} free), of which free memory keeps what it can"
            )
        memory = f"; memory: {_size(window_bytes)} for windows" if window_bytes else ""
        return f"cache {self.folder}: {what}{memory}"


class CaseCache:
    """Prepared cases in a folder.

    Args:
        folder: made if it is not there.
        preparation: from scans to what the network sees.
        labels: what the ids of the label files mean.
        targets: what the target files hold, where a field is learned. `label` then is 1 where it is known.
    """

    def __init__(
        self, folder: Path, preparation: PreparationConfig, labels: LabelScheme, targets: FieldTarget | None = None
    ) -> None:
        self.folder, self.preparation, self.labels, self.targets = folder, preparation, labels, targets

    def entry(self, case: Case) -> Path:
        """The folder of a case, whether it is there or not.

        Raises:
            UserError: a file of the case is missing.
        """
        # Names and colours change nothing.
        meaning: dict[str, Any] = dict.fromkeys(("classes", "merge_sides", "merge", "unlisted"), True)
        meaning["table"] = {"__all__": {"id", "side", "partner"}}
        files: dict[str, Any] = {
            name: (*_identity(file.path), file.volume) for name, file in image_files(case, self.preparation).items()
        }
        contents = {
            "format": FORMAT,
            "preparation": self.preparation.model_dump(mode="json"),
            "order": list(self.preparation.images),
            "labels": self.labels.model_dump(mode="json", include=meaning),
            "files": files,
        }
        if self.targets is None:
            contents["label"] = _identity(label_file(case))
        else:
            contents["targets"] = self.targets.model_dump(mode="json", exclude={"name"})
            contents |= {name: _identity(case.images[name].path) for name in (TARGET, MASK) if name in case.images}
        key = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', case.id)}-{key[:16]}"

    def estimate(self, cases: Sequence[Case]) -> CacheEstimate:
        """What it takes to prepare the cases that are not there yet, from the headers of their files.

        Raises:
            UserError: a file of a case is missing, or its header cannot be read.
        """
        missing = [case for case in cases if self._read(case) is None]
        disk = sum(self._largest(case) for case in missing)
        return CacheEstimate(self.folder, len(cases), len(missing), disk, self._free())

    def build(
        self, cases: Sequence[Case], progress: Callable[[int, int], None] = lambda done, total: None
    ) -> list[CachedCase]:
        """Prepare the cases that are not there yet. Several processes may do so with cases of their own.

        Args:
            cases: those wanted.
            progress: called with how many of how many are there.

        Returns:
            the cases, in their order.

        Raises:
            UserError: a case cannot be prepared, or the disk lacks the room or the permission.
        """
        result = [self._read(case) for case in cases]
        missing = [k for k, entry in enumerate(result) if entry is None]
        largest = {k: self._largest(cases[k]) for k in missing}
        ratio = 0.0
        for done, k in enumerate(missing):
            progress(len(cases) - len(missing) + done, len(cases))
            # The headers only give a bound; what the cases so far took of theirs says what the others will take.
            wanted = largest[k] + ratio * sum(largest[later] for later in missing[done + 1 :])
            self._check_room(wanted, len(missing) - done)
            result[k] = entry = self._prepare(cases[k])
            size = sum(file.stat().st_size for file in entry.folder.iterdir())
            ratio += (size / max(largest[k], 1) - ratio) / (done + 1)
        progress(len(cases), len(cases))
        return [entry for entry in result if entry is not None]

    def open(self, case: Case) -> CachedCase:
        """The prepared case.

        Raises:
            UserError: it is not there, or damaged.
        """
        entry = self._read(case)
        if entry is None:
            raise UserError(self.folder, f"does not hold the case {case.id}", "start again: it is then prepared")
        return entry

    def _prepare(self, case: Case) -> CachedCase:
        """Prepares a case and writes its entry, complete or not at all."""
        final = self.entry(case)
        fields: NDArray[np.float32] | None = None
        if self.targets is None:
            image, label, grid = prepare_case(case, self.preparation, self.labels)
        else:
            image, fields, label, grid = prepare_field_case(case, self.preparation, self.targets)
        box = _box((image != 0).any(0).numpy() | (label > 0), MARGIN)
        values, label = image[:, box[0], box[1], box[2]].numpy().astype(np.float16), np.ascontiguousarray(label[box])
        affine = grid.affine.copy()
        affine[:3, 3] = grid.to_world(np.array([along.start for along in box]))
        classes = len(self.labels.classes)
        points = sample_points(label, classes)
        meta = {
            "format": FORMAT,
            "case": case.id,
            "images": list(self.preparation.images),
            "shape": list(label.shape),
            "affine": affine.tolist(),
            "voxels": np.bincount(label.ravel(), minlength=classes + 1).tolist(),
            "boxes": [_ends(label == k) for k in range(1, classes + 1)],
        }
        temporary = final.with_name(f".{uuid.uuid4().hex}.{final.name}")
        try:
            self._sweep(final.name)
            temporary.mkdir(parents=True)
            arrays: dict[str, NDArray[Any]] = {"image": values, "label": label, "points": np.concatenate(points)}
            if fields is not None:
                arrays["target"] = np.ascontiguousarray(fields[:, box[0], box[1], box[2]])
            for name, array in arrays.items():
                with open(temporary / f"{name}.npy", "wb") as file:
                    np.save(file, array)
                    file.flush()
                    os.fsync(file.fileno())
            (temporary / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
            self._replace(temporary, final, case)
        except OSError as error:
            remedy = "make room, or choose another folder with dataset.cache"
            raise UserError(self.folder, f"cannot be written to ({error.strerror or error})", remedy) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return self.open(case)

    def _replace(self, temporary: Path, final: Path, case: Case) -> None:
        """Gives the entry its name; a sound one that another process has finished meanwhile stays."""
        try:
            os.replace(temporary, final)  # fails if there is an entry, so that no sound one is ever taken away
        except OSError:
            if self._read(case) is not None:
                return
            damaged = final.with_name(f"{temporary.name}.damaged")
            with contextlib.suppress(FileNotFoundError):  # another process may have moved it
                os.replace(final, damaged)
            shutil.rmtree(damaged, ignore_errors=True)
            try:
                os.replace(temporary, final)
            except OSError:
                if self._read(case) is None:
                    raise

    def _sweep(self, name: str) -> None:
        """Removes what a process that was killed left of this entry."""
        for folder in self.folder.glob(f".*.{name}*"):
            with contextlib.suppress(FileNotFoundError):  # another process has given it its name since
                if time.time() - folder.stat().st_mtime > ABANDONED:
                    shutil.rmtree(folder, ignore_errors=True)

    def _read(self, case: Case) -> CachedCase | None:
        """The entry of a case, None if it is not there or damaged."""
        folder = self.entry(case)
        try:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            shape = tuple(meta["shape"])
            boxes = tuple(None if box is None else tuple(box) for box in meta["boxes"])
            grid = Geometry(shape, np.array(meta["affine"]))
            entry = CachedCase(case.id, folder, grid, len(meta["images"]), tuple(meta["voxels"]), boxes)
            # Mapping checks that the files are as long as their headers say.
            sound = entry.image.shape == (entry.channels, *shape) and entry.label.shape == shape
            sound = sound and sum(map(len, entry.points)) == sum(min(n, POINTS) for n in entry.voxels[1:])
            sound = sound and len(entry.voxels) == len(self.labels.classes) + 1
            if self.targets is not None:
                sound = sound and entry.target.shape == (self.targets.field.channels, *shape)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return entry if sound else None

    def _largest(self, case: Case) -> int:
        """Bytes that a case takes at most."""
        first = next(iter(image_files(case, self.preparation).values()))
        grid = covering_grid(read_header(first.path).geometry, self.preparation.spacing)
        voxel = 2 * len(self.preparation.images) + 1 + (4 * self.targets.field.channels if self.targets else 0)
        return int(np.prod(grid.shape)) * voxel + 12 * POINTS * len(self.labels.classes)

    def _free(self) -> int:
        """Bytes free on the disk of the cache."""
        place = self.folder.absolute()
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free

    def _check_room(self, wanted: float, cases: int) -> None:
        free = self._free()
        if wanted > free:
            problem = f"{cases} cases need {_size(wanted)}, {_size(free)} are free"
            raise UserError(self.folder, problem, "make room, or choose another folder with dataset.cache")


def _identity(path: Path) -> tuple[str, int, int]:
    """What a file is recognised by: a changed one has another size or time."""
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror or error})", "check the data set") from None
    return str(path.resolve()), status.st_size, status.st_mtime_ns


def _ends(mask: NDArray[np.bool_]) -> list[int] | None:
    """First and last voxel of what is set, `[x0, y0, z0, x1, y1, z1]`."""
    lines = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    if not len(lines[0]):
        return None
    return [int(line[0]) for line in lines] + [int(line[-1]) for line in lines]


def _box(mask: NDArray[np.bool_], margin: int) -> tuple[slice, slice, slice]:
    """The bounding box of what is set, with a margin; everything if nothing is set."""
    ends = _ends(mask)
    if ends is None:
        return slice(0, mask.shape[0]), slice(0, mask.shape[1]), slice(0, mask.shape[2])
    x, y, z = (slice(max(0, ends[a] - margin), min(mask.shape[a], ends[a + 3] + 1 + margin)) for a in range(3))
    return x, y, z


def _size(count: float) -> str:
    """A number of bytes for people: "0.3 MB", "12 MB", "3.4 GB"."""
    unit, name = (1e9, "GB") if count >= 1e9 else (1e6, "MB")
    return f"{count / unit:.{0 if count / unit >= 100 else 1}f} {name}"
