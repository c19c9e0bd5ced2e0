"""Time and peak memory of whole `voxseg` processes, as ratios to importing torch in the same run; where they go.

    python benchmarks/predict_speed.py SCAN [--rounds 3] [--threads 2]

The scan is first brought to 256 x 256 x 256 voxels of 1 mm. Rounds alternate between the commands and the fastest of
each counts. Then come the stages of `voxseg predict` with their share of the whole and their peak of memory, and the
operators of the network with their share of it (`measured_predict.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.processing import conform

OPERATORS = 12
"""Rows of the table of operators."""


def run(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds and peak resident memory in GB of a child process.

    Raises:
        RuntimeError: if it fails.
    """
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {output.read().decode()}")
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - started, usage.ru_maxrss * unit / 1e9


def print_profile(command: list[str], environment: dict[str, str]) -> None:
    """Stages of a prediction and operators of its network, as tables."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"\n{result['plan']}")
    print(f"{'stage':12s} {'seconds':>8s} {'share':>6s} {'peak GB':>8s}")
    for stage, seconds in result["seconds"].items():
        print(f"{stage:12s} {seconds:8.2f} {seconds / result['total']:6.0%} {result['peak_gb'][stage]:8.2f}")
    print(f"{'all':12s} {result['total']:8.2f} {1:6.0%} {result['peak']:8.2f}")
    total = sum(seconds for _, seconds, _ in result["operators"])
    print(f"\n{'operator of the network':40s} {'seconds':>8s} {'share':>6s} {'calls':>6s}")
    for name, seconds, calls in result["operators"][:OPERATORS]:
        print(f"{name[:40]:40s} {seconds:8.2f} {seconds / total:6.0%} {calls:6d}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
    voxseg = str(Path(sys.executable).with_name("voxseg"))
    with tempfile.TemporaryDirectory() as folder:
        head = conform(nib.load(arguments.scan), (256, 256, 256), (1.0, 1.0, 1.0))
        path = Path(folder, "head.nii.gz")
        nib.Nifti1Image(np.asarray(head.dataobj).astype(np.float32), head.affine).to_filename(path)
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "voxseg --help": [voxseg, "--help"],
            "voxseg predict": [voxseg, "predict", str(path), "--threads", str(arguments.threads)],
        }
        best = dict.fromkeys(commands, (float("inf"), float("inf")))
        for _ in range(arguments.rounds):
            for name, command in commands.items():
                best[name] = min(best[name], run(command, environment))
        profiled = [sys.executable, str(Path(__file__).with_name("measured_predict.py")), str(path), "-o", folder]
        profiled += ["--threads", str(arguments.threads), "--operators"]
        print_table(best, arguments)
        print_profile(profiled, environment)


def print_table(best: dict[str, tuple[float, float]], arguments: argparse.Namespace) -> None:
    """Seconds, ratio and memory of each process."""
    print(f"{arguments.threads} threads, fastest of {arguments.rounds} rounds, 256^3 voxels of 1 mm")
    print(f"{'process':16s} {'seconds':>8s} {'of import torch':>16s} {'peak GB':>8s}")
    for name, (seconds, memory) in best.items():
        print(f"{name:16s} {seconds:8.2f} {seconds / best['import torch'][0]:15.2f}x {memory:8.2f}")


if __name__ == "__main__":
    main()
