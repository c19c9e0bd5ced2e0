"""The memory estimate against what torch itself keeps for the backward pass, and against the memory of the process."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from voxseg.networks import NetworkConfig, build_network
from voxseg.planning.memory_estimate import saved_bytes, training_bytes
from voxseg.training.environment import bfloat16_in_software

IN_SOFTWARE = bfloat16_in_software(torch.device("cpu"))

THIN = ("4x0e+2x1e", "8x0e+4x1e+2x2e", "12x0e+4x1e+2x2e")
BRAIN = ("6x0e+3x1e+1x2e", "16x0e+6x1e+2x2e", "32x0e+12x1e+4x2e", "32x0e+12x1e+4x2e")


def network_config(levels, **changes):
    return NetworkConfig(
        levels=levels,
        encoder_convolutions=(1,) + (2,) * (len(levels) - 1),
        decoder_convolutions=(1,) * (len(levels) - 1),
        **changes,
    )


def measured_saved(config, size, batch, precision):
    """Bytes of all volumes that torch keeps in a forward pass, each storage counted once."""
    torch.manual_seed(0)
    network = build_network(config).to(memory_format=torch.channels_last_3d)
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.dim() != 3:  # those are kernels, [moments, C_in, C_out]
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    image = torch.randn(batch, config.in_channels, *size)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        outputs = network(image, deep_supervision=True)
    del outputs
    return sum(kept.values())


@pytest.mark.parametrize(
    ("config", "size", "batch", "precision"),
    [
        (network_config(THIN, in_channels=4, out_channels=3), (24, 32, 16), 1, "float32"),
        (network_config(BRAIN, out_channels=17), (48, 48, 48), 1, "float32"),
        (network_config(BRAIN, out_channels=17), (48, 48, 48), 1, "bfloat16"),
        (network_config(THIN, out_channels=3), (24, 24, 24), 2, "float32"),
        (network_config(BRAIN, out_channels=17, checkpointing=True), (48, 48, 48), 1, "float32"),
        (network_config(BRAIN, out_channels=2, architecture="plain_unet"), (48, 48, 48), 1, "float32"),
    ],
)
def test_what_is_kept_for_the_backward_pass(config, size, batch, precision):
    estimate = saved_bytes(config, size, batch, precision)
    assert estimate == pytest.approx(measured_saved(config, size, batch, precision), rel=0.1)


# A process of its own, whose memory grows with nothing else. It prints the growth within one step at the given size.
STEP = """
import sys, threading
import torch
from voxseg.networks import NetworkConfig, build_network
torch.set_num_threads(1)
config, size, precision = NetworkConfig.model_validate_json(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
network = build_network(config).to(memory_format=torch.channels_last_3d)

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def step(size):
    image = torch.randn(1, config.in_channels, size, size, size)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        outputs = network(image, deep_supervision=True)
    sum(output.float().square().mean() for output in outputs).backward()

step(8)
before, peak, done = resident(), 0, threading.Event()
def watch():
    global peak
    while not done.wait(0.001):
        peak = max(peak, resident())
watcher = threading.Thread(target=watch)
watcher.start()
step(size)
done.set()
watcher.join()
print(peak - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from /proc")
@pytest.mark.parametrize(
    ("changes", "precision"),
    [
        ({}, "float32"),
        pytest.param({}, "bfloat16", marks=pytest.mark.skipif(IN_SOFTWARE, reason="takes minutes on this processor")),
        ({"checkpointing": True}, "float32"),
    ],
)
def test_the_peak_of_a_whole_step(changes, precision):
    config, size = network_config(BRAIN[:3], in_channels=2, out_channels=4, **changes), 40
    command = [sys.executable, "-c", STEP, config.model_dump_json(), str(size), precision]
    environment = {"MALLOC_MMAP_THRESHOLD_": "100000", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=environment)
    ratio = training_bytes(config, (size,) * 3, precision=precision) / int(done.stdout)
    assert 1 / 1.4 < ratio < 1.4
