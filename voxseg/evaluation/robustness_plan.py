"""Every condition that a scan is tried under, as a list: the plan of `voxseg robustness`."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxseg.data.geometry import Geometry
from voxseg.data.turning import turned_case, turned_grid
from voxseg.data.volume import Volume
from voxseg.errors import UserError
from voxseg.evaluation import disturbances as disturb
from voxseg.evaluation.deformation import draw_deformation
from voxseg.evaluation.poses import (
    describe_turn,
    move_header,
    permuted,
    signed_permutations,
    store_axes,
    turn_voxels,
)
from voxseg.evaluation.robustness_tests import RobustnessSettings
from voxseg.evaluation.subject import Levels, Shown, Subject, changed
from voxseg.inference.memory import free_memory
from voxseg.inference.model import Model
from voxseg.testing import rotation_matrix

__all__ = ["BASELINE_DEGREES", "ODD_AXIS", "Condition", "plan_conditions"]

BASELINE_DEGREES = 2.0
ODD_AXIS = (1.0, 2.0, 3.0)
"""Along no axis, plane or diagonal of the grid."""
TURN_AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0), "(1, 2, 3)": ODD_AXIS}
QUICK_TURNS = ("90° about x", "90° about y", "90° about z", "180° about x", "120° about (1, 1, 1)")
QUICK_STRIDE = 8  # of orientations of files
TURN_BYTES = 24  # a voxel of the turned grid, at the peak
SIDES_OF_AXES = ("left to right", "front to back", "top to bottom")
SLICE_NAMES = ("sagittal", "coronal", "axial")

Classes = NDArray[np.uint8]
Make = Callable[[Subject, Classes, Model], Shown]
Change = Callable[[Volume, Levels, np.random.Generator], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Condition:
    """One disturbance at one level.

    Attributes:
        test: one of `TESTS`.
        series: which curve of the test it belongs to, such as the axis.
        level: how much; NaN where there is no more and less.
        unit: of the level, as text to put behind it.
        name: for people; unique in a plan.
        make: the disturbed case.
        exact: no voxel was changed, only moved: an ideal model gives the very same segmentation.
        baseline: name of the condition that it is compared with; None for the scan as it is.
        extra: it was not asked for, and is there as a baseline only.
    """

    test: str
    series: str
    level: float
    unit: str
    name: str
    make: Make
    exact: bool = False
    baseline: str | None = None
    extra: bool = False


def plan_conditions(geometry: Geometry, settings: RobustnessSettings) -> list[Condition]:
    """The conditions for a scan, a baseline before what is compared with it.

    Args:
        geometry: of the first image. Slices and voxels that are no larger than the scan's own are left out.
        settings: what is tried.
    """
    planned = {
        "rotations": _rotations,
        "angles": _angles,
        "mirror": _mirrored,
        "orientations": _orientations,
        "headers": lambda g, s: _claims(g, s, improper=False),
        "handedness": lambda g, s: _claims(g, s, improper=True),
        "noise": _noise,
        "bias": _bias,
        "blur": _blurs,
        "slices": _slices,
        "resolution": _resolutions,
        "inversion": _inversion,
        "gamma": _gammas,
        "cropping": _crops,
        "deformation": _deformations,
    }
    result: list[Condition] = []
    for test in settings.tests:
        if test in planned:
            result += planned[test](geometry, settings)
    known = {condition.name for condition in result}
    if any(c.baseline is not None and c.baseline not in known for c in result):
        result.insert(0, replace(_turn("(1, 2, 3)", BASELINE_DEGREES), extra=True))
    return result


def _rotations(geometry: Geometry, settings: RobustnessSettings) -> Iterator[Condition]:
    for matrix in signed_permutations(improper=False)[1:]:
        words = describe_turn(matrix)
        if settings.quick and words not in QUICK_TURNS:
            continue
        degrees, _, axis = words.partition("° about ")
        make = _exactly_turned(matrix, swap=False)
        yield Condition("rotations", axis, float(degrees), "°", f"grid rotation by {words}", make, exact=True)


def _mirrored(geometry: Geometry, settings: RobustnessSettings) -> Iterator[Condition]:
    for axis, words in enumerate(SIDES_OF_AXES[: 1 if settings.quick else 3]):
        matrix = np.diag([-1.0 if a == axis else 1.0 for a in range(3)])
        make = _exactly_turned(matrix, swap=True)
        yield Condition("mirror", words, math.nan, "", f"mirrored {words}", make)


def _exactly_turned(matrix: NDArray[np.float64], swap: bool) -> Make:
    def make(subject: Subject, reference: Classes, model: Model) -> Shown:
        moved = [turn_voxels(v, subject.in_frame(matrix), subject.centre) for v in subject.volumes]
        permutation = moved[0][1]
        partner = model.table.mirrored() if swap else np.arange(256, dtype=np.uint8)

        def carry(classes: Classes) -> Classes:
            return partner[permuted(classes, permutation)]

        return Shown(tuple(volume for volume, _ in moved), carry(reference), carry)

    return make


def _angles(geometry: Geometry, settings: RobustnessSettings) -> Iterator[Condition]:
    axes = ("x", "(1, 2, 3)") if settings.quick else tuple(TURN_AXES)
    degrees = [BASELINE_DEGREES, *np.arange(settings.step, 180 + 1e-6, settings.step).tolist()]
    for axis in axes:
        for angle in degrees:
            yield _turn(axis, angle)


def _turn(axis: str, degrees: float) -> Condition:
    """A turn with interpolation; all but that by 2° are compared with that."""
    matrix = rotation_matrix(TURN_AXES[axis], degrees).numpy()

    def make(subject: Subject, reference: Classes, model: Model) -> Shown:
        world = subject.in_frame(matrix)
        _check_room(subject, world)
        images = [(volume.data, volume.geometry) for volume in subject.volumes]
        turned, labels = turned_case(images, reference, model.config.preparation, world)
        volumes = [changed(v, data, grid) for v, (data, grid) in zip(subject.volumes, turned, strict=True)]
        return Shown(tuple(volumes), labels)

    first = degrees == BASELINE_DEGREES
    return Condition(
        "angles", axis, degrees, "°", _turn_name(axis, degrees), make, baseline=None if first else _turn_name(axis)
    )


def _turn_name(axis: str, degrees: float = BASELINE_DEGREES) -> str:
    return f"turned by {degrees:g}° about {axis}"


def _check_room(subject: Subject, rotation: NDArray[np.float64]) -> None:
    """Refuse a turned grid that memory does not hold."""
    shape = turned_grid(subject.geometry, rotation, subject.centre).shape
    needed, free = math.prod(shape) * TURN_BYTES * len(subject.volumes), free_memory()
    if free is not None and needed > 0.8 * free:
        problem = f"would take {needed / 1e9:.1f} GB to turn, {free / 1e9:.1f} GB are free"
        raise UserError(subject.name, problem, "give a smaller scan")


def _orientations(geometry: Geometry, settings: RobustnessSettings) -> Iterator[Condition]:
    matrices = [*signed_permutations(improper=False), *signed_permutations(improper=True)][1:]
    for matrix in matrices[:: QUICK_STRIDE if settings.quick else 1]:
        letters = _orientation(geometry.affine[:3, :3] @ matrix.T)
        yield Condition("orientations", letters, math.nan, "", f"stored as {letters}", _stored(matrix), exact=True)


def _stored(matrix: NDArray[np.float64]) -> Make:
    def make(subject: Subject, reference: Classes, model: Model) -> Shown:
        def carry(classes: Classes) -> Classes:
            return permuted(classes, matrix)

        return Shown(tuple(store_axes(v, matrix) for v in subject.volumes), carry(reference), carry)

    return make


def _claims(geometry: Geometry, settings: RobustnessSettings, improper: bool) -> Iterator[Condition]:
    frame = geometry.canonical.rigid_axes
    matrices = signed_permutations(improper)[0 if improper else 1 :]
    for matrix in matrices[:: QUICK_STRIDE if settings.quick else 1]:
        letters = _orientation(frame @ matrix @ frame.T @ geometry.affine[:3, :3])
        name, note = ("handedness", ", mirrored") if improper else ("headers", "")
        said = f"stored as {geometry.orientation}, header says {letters}{note}"
        yield Condition(name, letters, math.nan, "", said, _claimed(matrix), exact=not improper)


def _claimed(matrix: NDArray[np.float64]) -> Make:
    def make(subject: Subject, reference: Classes, model: Model) -> Shown:
        world = subject.in_frame(matrix)
        volumes = tuple(move_header(volume, world, subject.centre) for volume in subject.volumes)
        return Shown(volumes, reference, lambda classes: classes)

    return make


def _orientation(axes: NDArray[np.float64]) -> str:
    affine = np.eye(4)
    affine[:3, :3] = axes
    return Geometry((1, 1, 1), affine).orientation


def _noise(geometry: Geometry, settings: RobustnessSettings) -> Iterator[Condition]:
    for level in _levels(settings, (0.02, 0.05, 0.1, 0.15, 0.2), (0.05, 0.1)):
        make = _intensities(_noise_of(level), settings, "noise")
        yield Condition("noise", "", level, "", f"noise of {level:.0%} of the range", make)


def _bias(geometry: Geometry, settings: RobustnessSettings) -> Iterator[Condition]:
    for level in _levels(settings, (0.2, 0.4, 0.6, 0.8), (0.4,)):
        make = _intensities(_bias_of(level), settings, "bias")
        yield Condition("bias", "", level, "", f"bias field up to {level:.0%}", make)


def _blurs(geometry: Geometry, settings: RobustnessSettings) -> Iterator[Condition]:
    for level in _levels(settings, (2.0, 3.0, 4.0, 6.0), (4.0,)):
        make = _intensities(_blur_of(level), settings, "blur")
        yield Condition("blur", "", level, " mm", f"blur of {level:g} mm", make)


def _inversion(geometry: Geometry, settings: RobustnessSettings) -> Iterator[Condition]:
    make = _intensities(lambda v, i, r: disturb.invert(v.data, i), settings, "inversion")
    yield Condition("inversion", "", math.nan, "", "contrast inverted", make)


def _gammas(geometry: Geometry, settings: RobustnessSettings) -> Iterator[Condition]:
    for level in _levels(settings, (0.5, 0.7, 1.4, 2.0), (0.7, 1.4)):
        make = _intensities(_gamma_of(level), settings, "gamma")
        yield Condition("gamma", "", level, "", f"gamma of {level:g}", make)


def _noise_of(level: float) -> Change:
    return lambda volume, levels, random: disturb.add_noise(volume.data, levels, level, random)


def _bias_of(level: float) -> Change:
    return lambda volume, levels, random: disturb.shade(volume.data, volume.geometry, levels, level, random)


def _blur_of(level: float) -> Change:
    return lambda volume, levels, random: disturb.blur(volume.data, volume.geometry, level)


def _gamma_of(level: float) -> Change:
    return lambda volume, levels, random: disturb.bend(volume.data, levels, level)


def _levels(settings: RobustnessSettings, full: tuple[float, ...], quick: tuple[float, ...]) -> tuple[float, ...]:
    return quick if settings.quick else full


def _intensities(change: Change, settings: RobustnessSettings, test: str) -> Make:
    """Other intensities in the same place. Every level of a test draws the same random numbers."""

    def make(subject: Subject, reference: Classes, model: Model) -> Shown:
        volumes = []
        for number, (volume, levels) in enumerate(zip(subject.volumes, subject.levels, strict=True)):
            volumes.append(changed(volume, change(volume, levels, _random(settings, test, number))))
        return Shown(tuple(volumes), reference, lambda classes: classes)

    return make


def _random(settings: RobustnessSettings, what: str, number: int = 0) -> np.random.Generator:
    return np.random.default_rng([settings.seed, zlib.crc32(what.encode()), number])


def _slices(geometry: Geometry, settings: RobustnessSettings) -> Iterator[Condition]:
    for axis, words in enumerate(SLICE_NAMES):
        own = geometry.spacing[geometry.permutation[axis]]
        for level in _levels(settings, (3.0, 5.0, 7.0), (5.0,)):
            if level > own:
                size = tuple(level if a == axis else 0.0 for a in range(3))
                name = f"{words} slices of {level:g} mm"
                yield Condition("slices", words, level, " mm", name, _coarse(size))


def _resolutions(geometry: Geometry, settings: RobustnessSettings) -> Iterator[Condition]:
    for level in _levels(settings, (2.0, 3.0, 4.0), (3.0,)):
        if level > max(geometry.spacing):
            yield Condition("resolution", "", level, " mm", f"voxels of {level:g} mm", _coarse((level,) * 3))


def _coarse(size: tuple[float, ...]) -> Make:
    """Larger voxels; sizes along the canonical axes."""

    def make(subject: Subject, reference: Classes, model: Model) -> Shown:
        volumes = []
        for volume in subject.volumes:
            wanted, grid = _along_stored(size, volume.geometry), volume.geometry
            data = disturb.coarsen_image(volume.data, grid, wanted)
            volumes.append(changed(volume, data, disturb.coarsen_grid(grid, wanted)))

        def carry(classes: Classes) -> Classes:
            return disturb.coarsen_labels(classes, subject.geometry, _along_stored(size, subject.geometry))

        return Shown(tuple(volumes), carry(reference), carry)

    return make


def _along_stored(size: tuple[float, ...], geometry: Geometry) -> tuple[float, float, float]:
    """Sizes along the canonical axes, in the order of the stored ones."""
    x, y, z = (size[geometry.permutation.index(stored)] for stored in range(3))
    return x, y, z


def _crops(geometry: Geometry, settings: RobustnessSettings) -> Iterator[Condition]:
    for side in ("left", "superior") if settings.quick else disturb.SIDES:
        for level in _levels(settings, (0.1, 0.2, 0.3), (0.2,)):
            yield Condition("cropping", side, level, "", f"{level:.0%} cut off on the {side} side", _cut(side, level))


def _cut(side: str, fraction: float) -> Make:
    def make(subject: Subject, reference: Classes, model: Model) -> Shown:
        box = subject.levels[0].box
        parts = [disturb.cut_box(v.geometry, subject.geometry, box, side, fraction) for v in subject.volumes]
        volumes = [
            changed(v, np.ascontiguousarray(v.data[part]), disturb.crop_grid(v.geometry, part))
            for v, part in zip(subject.volumes, parts, strict=True)
        ]

        def carry(classes: Classes) -> Classes:
            return np.ascontiguousarray(classes[parts[0]])

        return Shown(tuple(volumes), carry(reference), carry)

    return make


def _deformations(geometry: Geometry, settings: RobustnessSettings) -> Iterator[Condition]:
    for draw in range(1 if settings.quick else 2):
        for level in _levels(settings, (1.0, 2.0, 4.0), (2.0, 4.0)):
            name = f"deformed by {level:g} mm (draw {draw + 1})"
            make = _deformed(level, settings, draw)
            yield Condition(
                "deformation", f"draw {draw + 1}", level, " mm", name, make, baseline=_turn_name("(1, 2, 3)")
            )


def _deformed(rms: float, settings: RobustnessSettings, draw: int) -> Make:
    def make(subject: Subject, reference: Classes, model: Model) -> Shown:
        geometry = subject.geometry
        tissue = geometry.to_canonical(subject.levels[0].tissue)
        deformation = draw_deformation(geometry.canonical, tissue, rms, _random(settings, "deformation", draw))
        volumes = [changed(v, deformation.image(v.data, v.geometry)) for v in subject.volumes]
        return Shown(tuple(volumes), deformation.labels(reference, geometry))

    return make
