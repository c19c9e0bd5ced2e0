"""The packaged brain model on real scans."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from voxseg.data.geometry import Geometry
from voxseg.data.label_scheme import LabelScheme
from voxseg.data.volume import read_volume
from voxseg.inference.locate import packaged_models
from voxseg.inference.model import load_model
from voxseg.inference.predictor import Predictor

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
    return LabelScheme.brain().to_classes(np.asanyarray(labels.dataobj).astype(np.int32))


def mean_dice(one, other):
    scores = [2 * ((one == k) & (other == k)).sum() / ((one == k).sum() + (other == k).sum()) for k in range(1, 17)]
    return float(np.mean(scores))


def turned(volume, axes, flips):
    """The same volume with its array turned; the header still says what it said."""
    data = np.flip(volume.data.transpose(axes), flips)
    spacing = [volume.geometry.spacing[axis] for axis in axes]
    return replace(volume, data=data, geometry=Geometry(data.shape, np.diag([-spacing[0], *spacing[1:], 1.0])))


def test_agrees_with_people(upright, manual):
    assert mean_dice(upright, manual) > 0.7


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
