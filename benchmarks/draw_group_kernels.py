"""Draw the kernels between scalars, and from scalars to vectors, that the solver finds for three groups.

    python benchmarks/draw_group_kernels.py -o docs/group_kernels.png

Each is a plane through the centre that holds x (to the right) and z (up).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch

from voxseg.baselines.any_group import GroupConv3d
from voxseg.baselines.groups import group

matplotlib.use("Agg")
from matplotlib import pyplot as plt

GROUPS = ("SO3", "O2_z", "SO2_z")
WIDTH = 3.0  # voxels: fine enough to look at


def planes(name: str, field_out: str) -> list[tuple[str, torch.Tensor]]:
    """Every component of every solved kernel from a scalar, ``[x, z]``."""
    layer = GroupConv3d(group(name), "1x0e", f"1x{field_out}", sigma=WIDTH)
    weight = layer.weights["0_0"]
    found = []
    for kernel in range(weight.shape[-1]):
        with torch.no_grad():
            weight.zero_()[..., kernel] = 1
            dense = layer.dense_kernel()  # [components, 1, x, y, z]
        dense = dense / dense.abs().max()  # a component that vanishes on the plane stays blank
        middle = dense.shape[3] // 2
        found += [(f"{kernel + 1}{'abc'[c] if len(dense) > 1 else ''}", k[0, :, middle]) for c, k in enumerate(dense)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    rows = [(name, field, planes(name, field)) for name in GROUPS for field in ("0e", "1e")]
    columns = max(len(found) for *_, found in rows)
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(1.1 * columns + 1.2, 1.25 * len(rows)), layout="constrained"
    )
    for line, (name, field, found) in zip(axes, rows, strict=True):
        for axis in line:
            axis.set_axis_off()
        for axis, (title, plane) in zip(line, found, strict=False):
            axis.imshow(plane.T, origin="lower", cmap="RdBu_r", vmin=-1, vmax=1)
            axis.set_title(title, fontsize=8)
        to = "scalar" if field == "0e" else "vector"
        line[0].text(-0.15, 0.5, f"{name}\nto {to}", transform=line[0].transAxes, ha="right", va="center", fontsize=9)
    figure.savefig(options.output, dpi=110)


if __name__ == "__main__":
    main()
