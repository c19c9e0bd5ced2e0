"""The tests of `voxseg robustness` by name; imports nothing heavy, so that a wrong name is told at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from voxseg.errors import UserError

__all__ = ["GROUPS", "TESTS", "RobustnessSettings", "choose_tests"]

TESTS = {
    "rotations": "the 24 rotations of the grid, voxels permuted",
    "angles": "turned about four axes, interpolated once",
    "mirror": "mirrored, sides of the labels swapped",
    "orientations": "the 48 orientations of the file, each with its right header",
    "headers": "headers that wrongly claim another orientation (24 proper ones)",
    "handedness": "headers that wrongly claim a mirrored patient (24)",
    "noise": "Rician noise, as a fraction of the intensity range",
    "bias": "a smooth gain, by its largest deviation from 1",
    "blur": "Gaussian blur, full width at half maximum",
    "slices": "thick slices along each axis",
    "resolution": "larger voxels",
    "inversion": "bright tissue dark and dark tissue bright",
    "gamma": "the intensity scale bent by an exponent",
    "cropping": "the field of view cut on one side, by a fraction of the tissue's length",
    "deformation": "smooth random deformations, root mean square displacement",
    "stability": "relative stability R_f to deformations and rotations, on the logits",
}
"""The tests and what they are, in the order in which they run."""

GROUPS = {
    "all": tuple(TESTS),
    "poses": ("rotations", "angles", "mirror"),
    "files": ("orientations", "headers", "handedness"),
    "disturbances": ("noise", "bias", "blur", "slices", "resolution", "inversion", "gamma", "cropping"),
    "deformations": ("deformation", "stability"),
}
"""Names for several tests."""


@dataclass(frozen=True)
class RobustnessSettings:
    """What is tried.

    Attributes:
        tests: names of `TESTS`.
        quick: fewer poses and levels, for a few minutes a scan.
        angle_step: degrees between the angles from 0 to 180; None for 30, or 60 if quick.
        seed: of noise, shading and deformations.
    """

    tests: tuple[str, ...] = tuple(TESTS)
    quick: bool = False
    angle_step: float | None = None
    seed: int = 0

    @property
    def step(self) -> float:
        """Degrees between angles."""
        return self.angle_step or (60.0 if self.quick else 30.0)


def choose_tests(names: Iterable[str]) -> tuple[str, ...]:
    """The tests of these names and groups, in the order in which they run.

    Raises:
        UserError: if a name is not known.
    """
    chosen: set[str] = set()
    for name in names:
        if name not in TESTS and name not in GROUPS:
            remedy = f"give some of {', '.join(GROUPS)}, or of {', '.join(TESTS)}"
            raise UserError(f"--tests {name}", "is no test", remedy)
        chosen.update(GROUPS.get(name, (name,)))
    if not chosen:
        raise UserError("--tests", "names no test", f"give some of {', '.join((*GROUPS, *TESTS))}")
    return tuple(name for name in TESTS if name in chosen)
