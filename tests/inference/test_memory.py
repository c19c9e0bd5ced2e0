"""Peak memory of whole predictions, measured on processes of their own."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from voxseg.data.labels import LabelTable
from voxseg.inference.memory import resident_memory, reusable_memory
from voxseg.inference.plan import choose_run, network_stage_bytes
from voxseg.inference.windows import window_count
from voxseg.networks import NetworkConfig, build_network

CLASSES = 30
SHAPE = (96, 92, 128)

linux = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A scan and a model of many classes at its resolution: all of it at once takes half a gigabyte."""
    folder = tmp_path_factory.mktemp("case")
    axes = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in SHAPE), indexing="ij")
    inside = sum(a**2 for a in axes) < 1
    data = (inside * (500 + 300 * np.sin(7 * axes[0]) * np.cos(5 * axes[1]))).astype(np.int16)
    nib.save(nib.Nifti1Image(data, np.eye(4)), folder / "scan.nii.gz")
    network = {
        "out_channels": CLASSES,
        "levels": ["4x0e+1x1e"],
        "encoder_convolutions": [1],
        "decoder_convolutions": [],
        "spacing": 1.0,
    }
    config = {
        "format": 1,
        "name": "many",
        "network": network,
        "preparation": {"spacing": 1.0, "crop": False, "images": {"image": {"scale": "window", "low": 0, "high": 800}}},
    }
    (folder / "model").mkdir()
    (folder / "model" / "config.yaml").write_text(yaml.safe_dump(config))
    table = LabelTable.freesurfer()
    table.select(list(table.ids)[: CLASSES - 1]).write(folder / "model" / "labels.csv")
    torch.manual_seed(0)
    weights = build_network(NetworkConfig(**network)).state_dict()
    save_file({name: w.contiguous() for name, w in weights.items()}, folder / "model" / "model.safetensors")
    return folder


PREDICTED = """
import atexit, re, sys
from pathlib import Path

def tell():  # unlike the kernel's maximum over a process's life, it leaves out what the parent had at the fork
    peak = re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1]
    Path(sys.argv[1]).write_text(peak)

atexit.register(tell)
from voxseg.cli.main import run
run(sys.argv[2:])
"""


def output_of(command):
    """What a child process prints."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


def peak_of(folder, arguments):
    """Output and peak resident bytes of the program in a child process."""
    file = folder / "peak"
    text = output_of([sys.executable, "-c", PREDICTED, str(file), *arguments])
    return text, int(file.read_text()) * 1024


@linux
def test_the_memory_allowed_is_not_exceeded_and_changes_nothing(case):
    """The command line, with less memory than the whole volume at once would take."""
    results, peaks, told = [], [], []
    for limit in ("1", "4"):
        folder = case / limit
        command = ["predict", str(case / "scan.nii.gz"), "--model", str(case / "model"), "-o", str(folder)]
        text, peak = peak_of(case, [*command, "--max-memory", limit, "--threads", "1"])
        peaks.append(peak)
        told.append(text)
        results.append(np.asarray(nib.load(folder / "scan_seg.nii.gz").dataobj))
    assert peaks[0] < 1e9
    assert peaks[1] < 4e9
    assert "windows" in told[0]  # the small one was not a matter of course
    assert "at once" in told[1]
    assert len(np.unique(results[1])) > 1
    assert (results[0] == results[1]).mean() > 0.999


PLANNED = """
import json, re, sys
from pathlib import Path
from voxseg.cli._allocator import keep_freed_memory
keep_freed_memory()
from voxseg.data.volume import read_volume
from voxseg.inference.model import load_model
from voxseg.inference.predictor import Predictor
folder, limit = Path(sys.argv[1]), int(sys.argv[2])
predictor = Predictor(load_model(folder / "model"), "cpu", limit)
volume = read_volume(folder / "scan.nii.gz")
told = []
for _ in range(2):
    plan = predictor.plan(volume)
    result = predictor.segment(volume)
    peak = int(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1]) * 1024
    told.append([plan.expected, peak, result.windows, plan.allowed, plan.line()])
print(json.dumps(told))
"""


@linux
@pytest.mark.parametrize("limit", [0.98e9, 4.0e9])  # away from where the number of windows changes
def test_the_plan_says_what_is_taken(case, limit):
    told = output_of([sys.executable, "-c", PLANNED, str(case), str(int(limit))])
    first, second = json.loads(told)
    for expected, peak, windows, allowed, line in (first, second):
        assert allowed <= limit + 1e6
        assert 0.5 * expected < peak < 1.05 * expected
        assert peak < limit
        assert (windows == 1) == (limit > 2e9)
        assert f"up to {expected / 1e9:.1f} GB of the {allowed / 1e9:.1f} GB allowed" in line
        assert "96 x 92 x 128 voxels of 1 mm" in line
        assert ("at once" in line) == (windows == 1)
    # What the first scan has left in the heap serves the second: it gets no smaller windows.
    assert second[2] == first[2]


def test_large_windows_where_they_fit():
    shape, classes, voxel = (128, 128, 128), 17, 700
    whole = choose_run(shape, classes, voxel, 10**10)
    assert (whole.window, whole.count) == (None, 1)
    parts = choose_run(shape, classes, voxel, 10**9)
    assert parts.window is not None
    assert parts.count == window_count(shape, parts.window) > 1
    assert parts.bytes <= 10**9
    least = choose_run(shape, classes, voxel, 0)
    assert least.window == (32, 32, 32)  # what is refused then
    given = choose_run(shape, classes, voxel, 10**10, side=40)
    assert given.window == (40, 40, 40)


@pytest.mark.parametrize("shape", [(410, 410, 800), (137, 180, 160), (40, 300, 300), (33, 500, 20)])
@pytest.mark.parametrize("allowed", [8 * 10**8, 2 * 10**9, 4 * 10**9])
def test_windows_turn_with_the_grid_and_fit(shape, allowed):
    run = choose_run(shape, 25, 800, allowed)
    turned = choose_run(shape[::-1], 25, 800, allowed)
    assert (run.window or shape) == (turned.window or shape[::-1])[::-1]
    assert run.bytes == turned.bytes
    assert run.bytes <= allowed or run.window == tuple(min(n, 32) for n in shape)
    if run.window:
        assert run.bytes == network_stage_bytes(shape, run.window, run.axis, 25, 800)
        assert shape[run.axis] == max(shape)


def test_the_device_has_memory_of_its_own():
    shape = (256, 256, 256)
    assert choose_run(shape, 25, 800, 3 * 10**9, on_device=80 * 10**9).window is None
    small = choose_run(shape, 25, 800, 3 * 10**9, on_device=10**9)
    assert small.window is not None
    assert np.prod(small.window) * 800 < 10**9


@linux
def test_freed_memory_counts_as_free():
    assert 0 <= reusable_memory() < resident_memory()
