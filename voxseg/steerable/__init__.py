"""Steerable maths on tensors: field types, kernel bases, convolution, norms, gates and exact resampling.

Volumes are ``[B, C, X, Y, Z]``, lengths are mm, field types are e3nn irreps strings. Nothing here knows of images,
files or networks.
"""

from .bases import KernelBasis, Lattice, ShellBasis, SolidHarmonicBasis
from .convolution import FoldedConv3d, SteerableConv3d
from .fields import FieldType, Irrep
from .harmonics import solid_harmonics, wigner_3j, wigner_d
from .linear import FieldLinear, PointwiseConv3d
from .nonlinearity import FieldNorm, Gate, GatedNorm, gated_norm
from .resampling import add_upsampled, beside_upsampled, strides_for, upsample
from .tensors import (
    contract,
    expand,
    fractional_anisotropy,
    main_axis,
    representation,
    symmetric_from_fields,
    symmetric_to_fields,
)

__all__ = [
    "FieldLinear",
    "FieldNorm",
    "FieldType",
    "FoldedConv3d",
    "Gate",
    "GatedNorm",
    "Irrep",
    "KernelBasis",
    "Lattice",
    "PointwiseConv3d",
    "ShellBasis",
    "SolidHarmonicBasis",
    "SteerableConv3d",
    "add_upsampled",
    "beside_upsampled",
    "contract",
    "expand",
    "fractional_anisotropy",
    "gated_norm",
    "main_axis",
    "representation",
    "solid_harmonics",
    "strides_for",
    "symmetric_from_fields",
    "symmetric_to_fields",
    "upsample",
    "wigner_3j",
    "wigner_d",
]
