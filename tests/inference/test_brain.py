"""The packaged brain model on real scans."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from safetensors.torch import load_file

from voxseg.cli._cases import EXAMPLE
from voxseg.data.geometry import Geometry
from voxseg.data.label_scheme import LabelScheme
from voxseg.data.sides import SideClasses
from voxseg.data.volume import read_volume
from voxseg.inference.locate import locate_model, packaged_models
from voxseg.inference.model import load_model
from voxseg.inference.predictor import Predictor
from voxseg.networks import build_network
from voxseg.networks.layers import Block
from voxseg.steerable import beside_upsampled
from voxseg.testing import grid_rotations

SIDES = SideClasses.of(LabelScheme.brain().with_sides())
pytestmark = pytest.mark.skipif("brain" not in packaged_models(), reason="no brain model is packaged")


@pytest.fixture(scope="module")
def runner():
    return Predictor(load_model("brain"), "cpu")


@pytest.fixture(scope="module")
def scan(shared_data):
    return read_volume(shared_data / "oasis_manual" / "validation" / "1003" / "t1.nii.gz")


@pytest.fixture(scope="module")
def upright(runner, scan):
    return runner.segment(scan).classes


@pytest.fixture(scope="module")
def manual(shared_data):
    labels = nib.load(shared_data / "oasis_manual" / "validation" / "1003" / "labels.nii.gz")
    return LabelScheme.brain().apart().to_classes(np.asanyarray(labels.dataobj).astype(np.int32))


def mean_dice(one, other):
    """Of structures, both sides of which count as one."""
    one, other = SIDES.structure[one], SIDES.structure[other]
    scores = [2 * ((one == k) & (other == k)).sum() / ((one == k).sum() + (other == k).sum()) for k in range(1, 17)]
    return float(np.mean(scores))


def right_sides(found, manual):
    """Share of the voxels that have a side in both, and the same one."""
    one, other = SIDES.side[found], SIDES.side[manual]
    both = (one > 0) & (other > 0)
    return (one == other)[both].mean()


def turned(volume, axes, flips):
    """The same volume with its array turned; the header still says what it said."""
    data = np.flip(volume.data.transpose(axes), flips)
    spacing = [volume.geometry.spacing[axis] for axis in axes]
    return replace(volume, data=data, geometry=Geometry(data.shape, np.diag([-spacing[0], *spacing[1:], 1.0])))


def test_agrees_with_people(upright, manual):
    assert mean_dice(upright, manual) > 0.75


def test_the_weights_of_real_scans_agree_better(scan, manual):
    found = Predictor(load_model("brain-nc"), "cpu").segment(scan).classes
    assert mean_dice(found, manual) > 0.83
    assert right_sides(found, manual) > 0.995


def test_sides_are_told_whatever_the_header_says(runner, scan, upright, manual):
    assert right_sides(upright, manual) > 0.995
    for rotation in grid_rotations()[1::6]:
        affine = np.eye(4)
        affine[:3, :3] = rotation.numpy() @ scan.geometry.affine[:3, :3]
        other = replace(scan, geometry=Geometry(scan.geometry.shape, affine))
        assert right_sides(runner.segment(other).classes, manual) > 0.995


@pytest.mark.parametrize(("axes", "flips"), [((0, 1, 2), (1, 2)), ((1, 2, 0), ()), ((2, 1, 0), (0, 1, 2))])
def test_a_turned_scan_gives_the_turned_segmentation(runner, scan, upright, axes, flips):
    result = runner.segment(turned(scan, axes, flips)).classes
    expected = np.flip(upright.transpose(axes), flips)
    assert (result == expected).mean() > 0.9999
    assert (result == expected)[expected > 0].mean() > 0.999


def test_empty_space_changes_nothing(runner, scan, upright, manual):
    width = [(n // 4 + 1, n // 4) for n in scan.data.shape]
    data = np.pad(scan.data, width)
    padded = replace(scan, data=data, geometry=Geometry(data.shape, scan.geometry.affine))
    result = runner.segment(padded).classes
    inner = tuple(slice(before, -after) for before, after in width)
    assert result.astype(bool).sum() == result[inner].astype(bool).sum()
    assert mean_dice(result[inner], manual) == pytest.approx(mean_dice(upright, manual), abs=0.001)


class SlowBlock(Block):
    """Upsampling, convolution without centring, norm and gate one after the other, by autograd's own operators."""

    def forward(self, x, coarse=None, head=None):
        convolution, norm, gate = self
        y = gate(norm(convolution(beside_upsampled(x, coarse))))
        return y if head is None else head(y)


def test_the_fast_path_agrees_with_the_slow_reference(runner):
    """Separable, fused and folded, against dense kernels run step by step, on the middle of the template."""
    path = Path(importlib.util.find_spec("nilearn").origin).parents[1] / EXAMPLE
    whole = read_volume(path)
    inner = tuple(slice(n // 2 - 48, n // 2 + 48) for n in whole.data.shape)
    affine = whole.geometry.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [part.start for part in inner]
    data = np.ascontiguousarray(whole.data[inner])
    scan = replace(whole, data=data, geometry=Geometry(data.shape, affine))
    network = build_network(runner.model.config.network.model_copy(update={"dense": True}))
    network.load_state_dict(load_file(locate_model("brain") / "model.safetensors"))
    for module in network.modules():
        if isinstance(module, Block):
            module.__class__ = SlowBlock
    reference = Predictor(replace(runner.model, network=network.eval()), "cpu").segment(scan).classes
    result = runner.segment(scan).classes
    present = [k for k in range(1, 17) if (reference == k).sum() > 500]
    assert len(present) > 10
    for k in present:
        both = ((result == k) & (reference == k)).sum()
        assert 2 * both / ((result == k).sum() + (reference == k).sum()) > 0.999, k
