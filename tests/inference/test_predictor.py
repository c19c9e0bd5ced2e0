import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from grids import ORIENTATIONS, make_affine
from models import write_model
from voxseg.data.geometry import Geometry
from voxseg.data.labels import LabelTable
from voxseg.data.volume import Volume
from voxseg.errors import UserError
from voxseg.inference import memory, predictor
from voxseg.inference.model import Model, ModelConfig, load_model
from voxseg.inference.predictor import Predictor, choose_device
from voxseg.networks import NetworkConfig

TABLE = LabelTable.freesurfer().select([2, 3])


class Thresholds(torch.nn.Module):
    """Calls dark voxels background, grey ones class 1 and bright ones class 2."""

    def forward(self, x):
        levels = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1, 1)
        return -40 * (x - levels) ** 2


def threshold_model(spacing=2.0):
    network = NetworkConfig(out_channels=3, levels=["1x0e"], encoder_convolutions=[1], decoder_convolutions=[])
    config = ModelConfig(format=1, name="thresholds", network=network, preparation={"spacing": spacing})
    return Model(config, TABLE, Thresholds())


def volume_of(data, geometry):
    return Volume(Path("scan.nii"), data, geometry, None, data.shape)


def two_balls(geometry, centre, noise=0.0):
    """A grey ball of 20 mm with a bright one of 9 mm inside it, off its centre, in the world."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij"), -1)
    world = geometry.to_world(index) - centre
    large = np.linalg.norm(world, axis=-1) < 20
    small = np.linalg.norm(world - [7, 3, -2], axis=-1) < 9
    data = np.where(small, 100.0, np.where(large, 50.0, 0.0))
    data += noise * large * np.random.default_rng(0).random(geometry.shape)
    return data.astype(np.float32), large, small


@pytest.mark.parametrize(
    ("orientation", "kind"),
    [
        *((o, "straight") for o in ORIENTATIONS),
        *((o, "oblique") for o in ORIENTATIONS[::3]),
        *((o, "sheared") for o in ORIENTATIONS[1::7]),
    ],
)
def test_structures_are_found_where_they_are(orientation, kind):
    shape = (70, 64, 60)
    turn = "straight" if kind == "straight" else "oblique"
    affine = make_affine(orientation, turn, shear=12 if kind == "sheared" else 0)
    geometry = Geometry(shape, affine)
    # Not on a voxel: thresholds on a symmetric grid would meet exact ties, which rounding decides.
    centre = geometry.to_world(np.array([36.3, 31.4, 28.2]))
    data, large, small = two_balls(geometry, centre)
    result = Predictor(threshold_model(), "cpu").segment(volume_of(data, geometry))
    assert result.classes.shape == shape
    assert dice(result.classes == 2, small) > 0.93
    assert dice(result.classes > 0, large | small) > 0.95
    index = np.argwhere(result.classes == 2).mean(axis=0)
    assert np.linalg.norm(geometry.to_world(index) - (centre + np.array([7, 3, -2]))) < 0.3
    assert result.voxel_counts() == [(result.classes == 1).sum(), (result.classes == 2).sum()]
    assert set(np.unique(result.labels)) == {0, 2, 3}
    assert result.labels.dtype == np.uint8
    assert list(result.seconds) == ["preparing", "network", "restoring"]


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def grid_rotations():
    """The 24 ways to turn an array without a mirror, as functions."""
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[range(3), axes] = [-1 if f else 1 for f in flips]
            if np.linalg.det(matrix) > 0:
                yield axes, [a for a, f in enumerate(flips) if f]


@pytest.mark.parametrize("shape", [(61, 70, 64), (48, 52, 56)])
@pytest.mark.parametrize("turn_the_header", [False, True])
def test_turned_scans_give_turned_segmentations(tmp_path, shape, turn_the_header):
    """With a steerable network, all 24 ways to turn the array, whatever the header says."""
    model = load_model(write_model(tmp_path / "tiny"))
    geometry = Geometry(shape, np.diag([1.0, 1.0, 1.0, 1.0]))
    data, _, _ = two_balls(geometry, np.array([28.0, 30.0, 25.0]), noise=25)
    runner = Predictor(model, "cpu")
    reference = runner.segment(volume_of(data, geometry)).classes
    assert len(np.unique(reference)) > 2
    rotations = list(grid_rotations())
    assert len(rotations) == 24
    for axes, flips in rotations:
        turned = np.flip(data.transpose(axes), flips)
        affine = np.eye(4)
        if turn_the_header:
            affine[:3, :3] = 0
            affine[list(axes), range(3)] = [-1 if a in flips else 1 for a in range(3)]
        result = runner.segment(volume_of(turned, Geometry(turned.shape, affine))).classes
        assert (result == np.flip(reference.transpose(axes), flips)).mean() > 0.9999


def test_empty_space_changes_nothing(tmp_path):
    model = load_model(write_model(tmp_path / "tiny"))
    geometry = Geometry((60, 64, 56), np.eye(4))
    data, _, _ = two_balls(geometry, np.array([28.0, 30.0, 25.0]), noise=25)
    reference = Predictor(model, "cpu").segment(volume_of(data, geometry)).classes
    width = ((16, 16), (8, 40), (0, 32))
    padded = np.pad(data, width)
    result = Predictor(model, "cpu").segment(volume_of(padded, Geometry(padded.shape, np.eye(4)))).classes
    inner = tuple(slice(a, n - b) for (a, b), n in zip(width, padded.shape, strict=True))
    assert (result[inner] == reference).mean() > 0.999


def test_windows_say_the_same_as_the_whole(monkeypatch):
    geometry = Geometry((120, 110, 100), np.eye(4))
    data, _, _ = two_balls(geometry, np.array([60.0, 50.0, 50.0]), noise=10)
    whole = Predictor(threshold_model(1.0), "cpu").segment(volume_of(data, geometry))
    monkeypatch.setattr(predictor, "network_bytes", lambda config: 10**9)
    calls = []
    runner = Predictor(threshold_model(1.0), "cpu")
    windowed = runner.segment(volume_of(data, geometry), lambda stage, fraction: calls.append((stage, fraction)))
    assert whole.windows == 1
    assert windowed.windows > 1
    assert np.array_equal(whole.classes, windowed.classes)
    assert len([c for c in calls if c[0] == "network"]) >= windowed.windows
    assert calls[-1] == ("restoring", 1.0)


def test_a_scan_that_cannot_fit_is_refused_before_work():
    geometry = Geometry((500, 500, 500), np.diag([4.0, 4, 4, 1]))
    data = np.broadcast_to(np.float32(1), geometry.shape)
    with pytest.raises(UserError, match=r"needs .* GB .* allowed"):
        Predictor(threshold_model(), "cpu", max_memory=10**9).segment(volume_of(data, geometry))


def test_devices():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UserError, match="no such device"):
        choose_device("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="has none"):
            choose_device("cuda")
    if not torch.backends.mps.is_available():
        with pytest.raises(UserError, match="has none"):
            choose_device("mps")


def test_window_sizes():
    assert memory.window_size(1000, 10**9) == 96
    assert memory.window_size(1000, 0) == memory.SMALLEST_WINDOW
    assert memory.window_size(1000, -5) == memory.SMALLEST_WINDOW
    free = memory.free_memory()
    assert free is None or free > 0
    assert memory.resident_memory() >= 0


MEASURE = r"""
import re, torch
from pathlib import Path
from voxseg.inference.memory import NETWORK_CONSTANT, network_bytes
from voxseg.networks import NetworkConfig, build_network
config = NetworkConfig(out_channels=17)
network = build_network(config).fold()
def peak():
    # getrusage's figure would start from that of the process which started this one.
    return int(re.search(r'VmHWM:\s+(\d+) kB', Path('/proc/self/status').read_text())[1]) * 1024
with torch.inference_mode():
    network(torch.zeros(1, 1, 16, 16, 16))
    before = peak()
    network(torch.randn(1, 1, 88, 80, 84)).softmax(1)
print((peak() - before) / (NETWORK_CONSTANT + network_bytes(config) * 88 * 80 * 84))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_networks_need_no_more_memory_than_is_counted_on():
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert 0.3 < float(done.stdout) < 1
