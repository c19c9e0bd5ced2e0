"""Equivariance errors of layers and of the default network with random weights.

    python benchmarks/equivariance.py

Grid rotations: largest difference over all 24 relative to the largest output, on noise. Other angles: relative L2 error
within a ball, on smooth inputs.
"""

from __future__ import annotations

import torch
from torch import nn

from voxseg.networks import NetworkConfig, build_network
from voxseg.steerable import FieldType, KernelBasis, ShellBasis, SolidHarmonicBasis, SteerableConv3d
from voxseg.testing import exact_error, grid_rotations, interpolated_error, rotation_matrix

FIELD = "8x0e+4x1e+2x2e"
ANGLES = (15.0, 30.0, 45.0, 77.0)
AXIS = (1.0, 2.0, 3.0)


def report(
    name: str, module: nn.Module, field_in: str, field_out: str, size: int, smooth_size: int, width: float
) -> None:
    x = torch.randn(2, FieldType(field_in).channels, size, size, size)
    exact = max(exact_error(module, x, rotation, field_in, field_out) for rotation in grid_rotations())
    errors = [
        interpolated_error(
            module, rotation_matrix(AXIS, angle), field_in, field_out, (smooth_size,) * 3, blob_width=width
        )
        for angle in ANGLES
    ]
    print(f"{name:44s} {size:3d}^3 {exact:9.1e}  " + "  ".join(f"{error:6.3f}" for error in errors), flush=True)


def main() -> None:
    print(f"{'module':44s} {'grid':>5s} {'24 turns':>9s}  " + "  ".join(f"{angle:5.0f}°" for angle in ANGLES))
    bases: list[tuple[str, int, KernelBasis]] = [
        ("solid harmonics, 5 taps", 1, SolidHarmonicBasis(0.8, 1.0)),
        ("solid harmonics, stride 2", 2, SolidHarmonicBasis(1.1, 1.0)),
        ("shells of diameter 5", 1, ShellBasis(5.0, 1.0)),
    ]
    for name, stride, basis in bases:
        torch.manual_seed(0)
        layer = SteerableConv3d(FIELD, FIELD, basis, stride=(stride,) * 3)
        for size in (24, 23):
            report(f"{name}, blobs of 1.5 voxels", layer, FIELD, FIELD, size, 24, 1.5)
    torch.manual_seed(0)
    channels = FieldType(FIELD).channels
    report(
        "plain 5^3 convolution, same channels", nn.Conv3d(channels, channels, 5, padding=2), FIELD, FIELD, 24, 24, 1.5
    )
    for architecture in ("steerable_unet", "plain_unet"):
        torch.manual_seed(0)
        network = build_network(NetworkConfig(architecture=architecture))
        for size in (24, 23):
            report(f"{architecture}, 4 levels, blobs of 4 voxels", network, "1x0e", "2x0e", size, 40, 4.0)


if __name__ == "__main__":
    with torch.no_grad():
        main()
