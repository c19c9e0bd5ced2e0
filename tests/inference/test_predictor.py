import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from grids import ORIENTATIONS, make_affine
from models import TWO_IMAGES, write_model
from voxseg.data.geometry import Geometry
from voxseg.data.labels import LabelTable
from voxseg.data.volume import Volume
from voxseg.errors import UserError
from voxseg.inference import memory
from voxseg.inference.device import choose_device
from voxseg.inference.model import Model, ModelConfig, load_model
from voxseg.inference.predictor import Predictor
from voxseg.networks import NetworkConfig, build_network

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


def test_windows_say_the_same_as_the_whole():
    geometry = Geometry((120, 110, 100), np.eye(4))
    data, _, _ = two_balls(geometry, np.array([60.0, 50.0, 50.0]), noise=10)
    whole = Predictor(threshold_model(1.0), "cpu").segment(volume_of(data, geometry))
    calls = []
    runner = Predictor(threshold_model(1.0), "cpu", window=32)
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


class Regions(torch.nn.Module):
    """Two overlapping regions: where either of two images is bright, and where the second is."""

    def forward(self, x):
        return torch.cat([x.amax(1, keepdim=True) - 0.5, x[:, 1:] - 0.5], 1) * 40


def region_model(largest_component=False, labels=(2, 3)):
    window = {"scale": "window", "low": 0, "high": 100}
    config = ModelConfig(
        format=1,
        name="regions",
        network=NetworkConfig(in_channels=2, out_channels=2),
        preparation={"spacing": 1.0, "images": {"a": window, "b": window}, "crop": False},
        output={"regions": [{"name": "all", "label": labels[0]}, {"name": "inner", "label": labels[1]}]},
        postprocessing={"largest_component": largest_component},
    )
    return Model(config, TABLE, Regions())


def ball(geometry, centre, radius):
    index = np.stack(np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij"), -1)
    return np.linalg.norm(geometry.to_world(index) - centre, axis=-1) < radius


def test_regions_of_two_images_on_grids_of_their_own():
    one = Geometry((50, 56, 60), make_affine("LPS", "straight"))
    centre = one.to_world(np.array([25.3, 27.1, 31.4]))
    inner_centre = centre + np.array([4, 0, 2])
    affine = np.diag([-2.0, 2.0, 1.5, 1.0])
    affine[:3, 3] = centre + np.array([48, -44, -30])
    other = Geometry((48, 45, 40), affine)
    large, small = ball(one, centre, 16), ball(one, inner_centre, 9)
    images = [
        volume_of(np.float32(100) * large, one),
        volume_of(np.float32(100) * ball(other, inner_centre, 9), other),
    ]
    result = Predictor(region_model(), "cpu").segment(images)
    assert result.classes.shape == one.shape
    assert dice(result.classes == 2, small) > 0.93
    assert dice(result.classes > 0, large) > 0.97
    swapped = Predictor(region_model(labels=(3, 2)), "cpu").segment(images)
    assert np.array_equal(swapped.classes, np.array([0, 2, 1], dtype=np.uint8)[result.classes])


def test_small_pieces_of_regions_go_if_that_is_wanted():
    geometry = Geometry((50, 50, 50), np.eye(4))
    large, far = ball(geometry, [16, 16, 16], 10), ball(geometry, [40, 40, 40], 5)
    images = [volume_of(np.float32(100) * (large | far), geometry), volume_of(np.float32(100) * far, geometry)]
    kept = Predictor(region_model(largest_component=False), "cpu").segment(images).classes
    assert kept[40, 40, 40] == 2
    one = Predictor(region_model(largest_component=True), "cpu").segment(images).classes
    assert one[16, 16, 16] == 1
    assert not one[30:].any()


def test_regions_in_windows():
    geometry = Geometry((70, 64, 60), np.eye(4))
    large, small = ball(geometry, [33, 31, 29], 22), ball(geometry, [36, 31, 29], 9)
    images = [volume_of(np.float32(100) * mask, geometry) for mask in (large, small)]
    whole = Predictor(region_model(), "cpu").segment(images)
    windowed = Predictor(region_model(), "cpu", window=32).segment(images)
    assert (whole.windows, windowed.windows > 1) == (1, True)
    assert np.array_equal(whole.classes, windowed.classes)


@pytest.mark.parametrize("regions", [False, True])
def test_turned_cases_of_two_images_give_turned_segmentations(tmp_path, regions):
    """All 24 ways to turn the arrays of a case without a mirror, the second on a coarser grid than the first."""
    folder = write_model(tmp_path / "tiny", TWO_IMAGES, regions, postprocessing={"largest_component": False})
    runner = Predictor(load_model(folder), "cpu")
    fine = Geometry((61, 70, 64), np.diag([1.0, 1, 1, 1]))
    coarse = Geometry((31, 35, 32), np.diag([2.0, 2, 2, 1]))
    one, _, _ = two_balls(fine, np.array([28.0, 30.0, 25.0]), noise=25)
    other, _, _ = two_balls(coarse, np.array([30.0, 28.0, 26.0]), noise=60)
    reference = runner.segment([volume_of(one, fine), volume_of(other, coarse)]).classes
    assert len(np.unique(reference)) > 2
    for axes, flips in grid_rotations():
        turned = []
        for data, geometry in ((one, fine), (other, coarse)):
            array = np.flip(data.transpose(axes), flips)
            # Both are turned about the middle of the first, as a patient would be.
            affine = np.diag([*geometry.spacing, 1.0])
            affine[:3, 3] = turned_origin(geometry, fine, axes, flips)
            turned.append(volume_of(array, Geometry(array.shape, affine)))
        result = runner.segment(turned).classes
        assert (result == np.flip(reference.transpose(axes), flips)).mean() > 0.9999


def turned_origin(geometry, first, axes, flips):
    """Where the first voxel of a turned array lies, if the lattice of `first` keeps the origin 0."""
    ends = (np.array(first.shape) - 1) * first.spacing - (np.array(geometry.shape) - 1) * geometry.spacing
    return [ends[axis] if k in flips else 0.0 for k, axis in enumerate(axes)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 1}, "a.nii: the model takes a, b, but 1 are given; give one file for each"),
        ({"shift": (1.4, 0, 0)}, "b.nii: lies up to 1.4 mm elsewhere than a.nii, which has as many voxels"),
        ({"shift": (500, 0, 0), "shape": (30, 31, 33)}, "b.nii: shows another place than a.nii: they do not overlap"),
    ],
)
def test_images_that_do_not_belong_together(change, message):
    affine = np.eye(4)
    affine[:3, 3] = change.get("shift", 0)
    one, other = Geometry((30, 31, 32), np.eye(4)), Geometry(change.get("shape", (30, 31, 32)), affine)
    images = [
        Volume(Path(name), np.zeros(geometry.shape, np.int16), geometry, None, geometry.shape)
        for name, geometry in (("a.nii", one), ("b.nii", other))
    ]
    with pytest.raises(UserError) as caught:
        Predictor(region_model(), "cpu").segment(images[: change.get("count", 2)])
    assert message in str(caught.value)


def test_images_stored_in_other_orders_or_nearly_alike_belong_together():
    geometry = Geometry((40, 42, 44), np.diag([1.0, 1, 1, 1]))
    data = np.float32(100) * ball(geometry, [18, 20, 22], 10)
    reference = Predictor(region_model(), "cpu").segment([volume_of(data, geometry)] * 2).classes
    affine = np.diag([-1.0, 1, 1, 1])
    affine[:3, 3] = [39, 0, 0.3]  # less than a voxel away
    mirrored = volume_of(data[::-1], Geometry(geometry.shape, affine))
    result = Predictor(region_model(), "cpu").segment([volume_of(data, geometry), mirrored]).classes
    assert dice(result == 2, reference == 2) > 0.93


def test_memory_is_counted_for_all_images():
    geometry = Geometry((400, 400, 400), np.diag([2.0, 2, 2, 1]))
    volume = volume_of(np.broadcast_to(np.float32(1), geometry.shape), geometry)
    model = region_model()
    runner = Predictor(model, "cpu", max_memory=10**9)
    one, two = (runner.plan([volume] * count) for count in (1, 2))
    voxels = 800**3
    assert one.grid == two.grid == (800, 800, 800)
    assert two.expected - one.expected > 3.9 * voxels
    with pytest.raises(UserError, match=f"needs {two.expected / 1e9:.1f}"):
        runner.segment([volume] * 2)


def test_a_network_in_memory_stays_as_it_is(monkeypatch):
    model = region_model()
    model.network.weight = torch.nn.Parameter(torch.ones(1))
    assert Predictor(model, "cpu").network is model.network
    elsewhere = Predictor(model, "meta").network  # a device that every machine has
    assert elsewhere.weight.device.type == "meta"
    assert model.network.weight.device.type == "cpu"


def test_training_goes_on_after_a_prediction():
    """What layers keep for later must not come from inference mode."""
    network = NetworkConfig(
        out_channels=3, levels=["3x0e+1x1e"], encoder_convolutions=[1], decoder_convolutions=[], sigma=0.83
    )
    config = ModelConfig(format=1, name="a", network=network, preparation={"spacing": network.spacing})
    trained = build_network(network)
    geometry = Geometry((40, 40, 40), np.diag([2.0, 2, 2, 1]))
    data, _, _ = two_balls(geometry, np.array([40.0, 41, 39]))
    Predictor(Model(config, TABLE, trained), "cpu").segment(volume_of(data, geometry))
    trained(torch.randn(1, 1, 9, 9, 9)).square().sum().backward()
    assert all(p.grad is not None for p in trained.parameters())


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


def test_memory_there_is():
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
    network(torch.randn(1, 1, 112, 104, 108)).softmax(1)
print((peak() - before) / (NETWORK_CONSTANT + network_bytes(config) * 112 * 104 * 108))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_networks_need_no_more_memory_than_is_counted_on():
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert 0.3 < float(done.stdout) < 1
