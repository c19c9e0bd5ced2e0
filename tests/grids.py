"""Affines of every kind, for the tests of whatever reads or writes volumes."""

import itertools
import math

import numpy as np
from scipy.spatial.transform import Rotation

SHAPE = (9, 10, 12)
ORIENTATIONS = ["".join(p) for axes in itertools.permutations(["RL", "AP", "SI"]) for p in itertools.product(*axes)]
TURNS = {"straight": (0, 0, 0), "oblique": (12, -20, 9), "steep": (30, 25, -20)}
SPACINGS = {"isotropic": (1.0, 1.0, 1.0), "anisotropic": (0.7, 1.3, 4.0)}


def make_affine(orientation="RAS", turn="straight", spacing="isotropic", shear=0.0):
    """A world affine of the given kind with its origin off zero."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for stored, letter in enumerate(orientation):
        affine["RAS".find(letter) if letter in "RAS" else "LPI".find(letter), stored] = 1 if letter in "RAS" else -1
    affine[:3, :3] = affine[:3, :3] @ np.diag(SPACINGS[spacing])
    affine[:3, :3] = Rotation.from_euler("xyz", TURNS[turn], degrees=True).as_matrix() @ affine[:3, :3]
    affine[:3, 1] += math.tan(math.radians(shear)) * affine[:3, 2] / np.linalg.norm(affine[:3, 2])
    affine[:3, 3] = [-31.5, 17.25, 4.0]
    return affine
