"""Draws what turning the input does to a random steerable network and to a plain one of the same size.

    pip install '.[example]'
    python benchmarks/draw_equivariance.py [-o docs/equivariance.png]

The ICBM152 brain at 2 mm is turned by 30 degrees about the vertical axis, sent through two layers with random weights,
and the output is turned back: it should be the output of the upright brain.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from nilearn.datasets import load_mni152_template
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, gaussian_filter
from torch import nn

from voxseg.steerable import FieldNorm, Gate, SolidHarmonicBasis, SteerableConv3d
from voxseg.testing import rotation_matrix

Volume = NDArray[np.float32]

ANGLE = 30.0
SIZE = 112
SLICE = 58
HIDDEN = "8x0e+4x1e+2x2e"
KERNEL = 5


def brain() -> Volume:
    """The template at 2 mm in the middle of a cube, ``[SIZE, SIZE, SIZE]``, about 0 to 1."""
    image = np.asarray(load_mni152_template(resolution=2).dataobj, dtype=np.float32)
    cube = np.zeros((SIZE,) * 3, dtype=np.float32)
    image = image[:, 2:-3]
    start = [(SIZE - n) // 2 for n in image.shape]
    cube[tuple(slice(s, s + n) for s, n in zip(start, image.shape, strict=True))] = image
    return gaussian_filter(cube, 0.8)


def turned(volume: Volume, degrees: float) -> Volume:
    """The volume turned about its centre by cubic splines."""
    rotation = rotation_matrix((0, 0, 1), degrees).numpy()
    centre = (np.array(volume.shape) - 1) / 2
    return affine_transform(volume, rotation.T, centre - rotation.T @ centre, order=3)


def networks() -> dict[str, nn.Module]:
    """A steerable and a plain network of two layers, random weights, as many channels and voxels a kernel in both."""
    torch.manual_seed(0)
    basis, gate = SolidHarmonicBasis(0.8, 1.0), Gate(HIDDEN)
    first = SteerableConv3d("1x0e", gate.field_in, basis)
    steerable = nn.Sequential(first, FieldNorm(gate.field_in), gate, SteerableConv3d(gate.field, "1x0e", basis))
    channels, half = gate.field.channels, KERNEL // 2
    plain = nn.Sequential(
        nn.Conv3d(1, channels, KERNEL, padding=half, bias=False),
        FieldNorm(f"{channels}x0e"),
        nn.SiLU(),
        nn.Conv3d(channels, 1, KERNEL, padding=half, bias=False),
    )
    return {"steerable": steerable, "plain": plain}


def run(network: nn.Module, volume: Volume) -> Volume:
    """Output of the network for a volume, same shape."""
    with torch.inference_mode():
        output: Volume = network(torch.from_numpy(volume)[None, None])[0, 0].numpy()
    return output


def draw() -> Figure:
    """One row a network: outputs upright, turned, turned back, and the difference; the inputs on the left."""
    upright = brain()
    inputs = {"input": upright, f"input, turned {ANGLE:g}°": turned(upright, ANGLE)}
    figure = Figure(figsize=(10, 4.5), facecolor="white")
    grid = figure.add_gridspec(2, 5, left=0.03, right=0.99, top=0.9, bottom=0.01, wspace=0.04, hspace=0.22)
    for row, (title, volume) in enumerate(inputs.items()):
        axes = figure.add_subplot(grid[row, 0])
        axes.imshow(volume[:, :, SLICE].T, cmap="gray", origin="lower")
        axes.set_title(title, fontsize=14)
        axes.set_axis_off()
    for row, (name, network) in enumerate(networks().items()):
        output, of_turned = (run(network, volume) for volume in inputs.values())
        back = turned(of_turned, -ANGLE)
        error = np.linalg.norm(back - output) / np.linalg.norm(output)
        pictures = {
            f"{name}: output": output,
            "of the turned": of_turned,
            "turned back": back,
            f"difference: {100 * error:.1f} %": back - output,
        }
        limit = np.percentile(np.abs(output[:, :, SLICE]), 99.5)
        for column, (title, volume) in enumerate(pictures.items(), 1):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(volume[:, :, SLICE].T, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower")
            axes.set_title(title, fontsize=14)
            axes.set_axis_off()
        print(f"{name}: relative difference {error:.4f}")
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/equivariance.png"))
    output = parser.parse_args().output
    output.parent.mkdir(parents=True, exist_ok=True)
    draw().savefig(output, dpi=160)
    print(f"wrote {output}")
