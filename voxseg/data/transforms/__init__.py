"""MONAI dictionary transforms of ours, and the pipelines that training composes of them and of MONAI's own.

They can be used in any MONAI pipeline: they take and give dictionaries of `[C, X, Y, Z]` tensors (`MetaTensor` with its
affine where there is one), and everything random in them comes from `set_random_state`.

Importing this takes seconds, because MONAI does.
"""

from voxseg.data.transforms.case import PrepareCased, ReadCased, case_transforms
from voxseg.data.transforms.fields import RandMirrorFieldd, RandTurnFieldd, field_transforms
from voxseg.data.transforms.intensity import EachImaged, RandDropImaged, RandThickSlices
from voxseg.data.transforms.pipeline import whole_transforms, window_transforms
from voxseg.data.transforms.spatial import RandMirrord, RandWindowd
from voxseg.data.transforms.user import UserTransform

__all__ = [
    "EachImaged",
    "PrepareCased",
    "RandDropImaged",
    "RandMirrorFieldd",
    "RandMirrord",
    "RandThickSlices",
    "RandTurnFieldd",
    "RandWindowd",
    "ReadCased",
    "UserTransform",
    "case_transforms",
    "field_transforms",
    "whole_transforms",
    "window_transforms",
]
