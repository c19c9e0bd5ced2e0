"""How time and memory of a prediction grow with voxels, classes and windows, and with what exponent.

    python benchmarks/predict_scaling.py [--threads 2] [--rounds 1] [--part voxels|classes|windows|ct ...]

Scans are made by code (a body with structures, int16, as CT has them), models have random weights. Each figure comes
from a process of its own (`measured_predict.py`), the fastest of the rounds counts. An exponent is the slope of a
least-squares line through the logarithms: 1 is linear, and less says that a constant part still counts. For memory it
is that of what lies above the process before the scan was read. The part `ct` is a scan of 512 x 512 x 800 voxels with
25 classes on grids of 3, 1.5 and 1 mm; it takes a while, and is run only if asked for.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from voxseg.data.labels import LabelTable
from voxseg.networks import NetworkConfig, build_network

SIDES = (96, 128, 160, 208, 256, 320)
CLASSES = (3, 6, 12, 25, 50)
WINDOWS = (48, 64, 96, 128)
CT = (512, 512, 800)
STAGES = ("reading", "preparing", "network", "restoring", "writing", "drawing")


def make_scan(path: Path, shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Path:
    """A body with smooth structures and noise in air, int16, slice by slice."""
    random = np.random.default_rng(0)
    x, y = np.linspace(-1, 1, shape[0])[:, None], np.linspace(-1, 1, shape[1])[None]
    body = (x / 0.85) ** 2 + (y / 0.6) ** 2 < 1
    noise = random.integers(-20, 20, shape[:2])
    data = np.empty(shape, dtype=np.int16, order="F")
    for k in range(shape[2]):
        z = k * spacing[2] / 40
        tissue = 40 + 100 * np.sin(9 * x + z) * np.cos(7 * y - z) + np.roll(noise, k)
        data[..., k] = np.where(body, tissue, -1000)
    nib.Nifti1Image(data, np.diag([*spacing, 1.0])).to_filename(path)
    return path


def make_model(folder: Path, classes: int, spacing: float, crop: bool = False) -> Path:
    """A small steerable network with random weights for so many classes, the background included."""
    folder.mkdir()
    table = LabelTable.freesurfer()
    table.select(list(table.ids)[: classes - 1]).write(folder / "labels.csv")
    network: dict[str, Any] = {
        "out_channels": classes,
        "levels": ["6x0e+2x1e", "12x0e+4x1e"],
        "encoder_convolutions": [1, 1],
        "decoder_convolutions": [1],
        "spacing": spacing,
    }
    torch.manual_seed(0)
    weights = build_network(NetworkConfig(**network)).state_dict()
    save_file({name: w.contiguous() for name, w in weights.items()}, folder / "model.safetensors")
    images = {"ct": {"scale": "window", "low": -1000, "high": 1000}}
    config = {
        "format": 1,
        "name": folder.name,
        "network": network,
        "preparation": {"spacing": spacing, "images": images, "crop": crop},
        "postprocessing": {"largest_component": crop},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def measure(scan: Path, model: Path, folder: Path, arguments: argparse.Namespace, *options: str) -> dict[str, Any]:
    """What `measured_predict.py` says, of the fastest round."""
    program = str(Path(__file__).with_name("measured_predict.py"))
    command = [sys.executable, program, str(scan), "-o", str(folder), "--model", str(model)]
    command += ["--threads", str(arguments.threads), *options]
    rounds = []
    for _ in range(arguments.rounds):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        rounds.append(json.loads(done.stdout.splitlines()[-1]))
    return min(rounds, key=lambda result: result["total"])


def exponent(sizes: list[float], values: list[float]) -> float:
    """Slope of the least-squares line through the logarithms."""
    if len(sizes) < 2 or min(values) <= 0:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def print_table(title: str, sizes: list[float], results: list[dict[str, Any]]) -> None:
    """A row for each size, and one of exponents."""
    print(f"\n{title:>12s} " + " ".join(f"{stage:>10s}" for stage in STAGES) + "      all  peak GB  planned  windows")
    columns: dict[str, list[float]] = {stage: [r["seconds"][stage] for r in results] for stage in STAGES}
    columns["all"] = [sum(r["seconds"][stage] for stage in STAGES) for r in results]
    above = [r["peak"] - r["peak_gb"]["loading"] for r in results]
    for k, (size, result) in enumerate(zip(sizes, results, strict=True)):
        seconds = " ".join(f"{columns[stage][k]:10.2f}" for stage in STAGES)
        memory = f"{result['peak']:8.2f} {result['planned_gb']:8.2f}"
        print(f"{size:12.4g} {seconds} {columns['all'][k]:8.2f} {memory} {result['windows']:8d}", flush=True)
    slopes = " ".join(f"{exponent(sizes, columns[stage]):10.2f}" for stage in STAGES)
    print(f"{'exponent':>12s} {slopes} {exponent(sizes, columns['all']):8.2f} {exponent(sizes, above):8.2f}")


def voxels(folder: Path, arguments: argparse.Namespace) -> None:
    """Cubes of 1 mm on a working grid of 2 mm, six classes."""
    model = make_model(folder / "six", 6, 2.0)
    results = []
    for side in SIDES:
        scan = make_scan(folder / f"cube_{side}.nii.gz", (side, side, side), (1.0, 1.0, 1.0))
        results.append(measure(scan, model, folder, arguments, "--max-memory", "8"))
    print_table("voxels", [side**3 for side in SIDES], results)


def classes(folder: Path, arguments: argparse.Namespace) -> None:
    """One cube, ever more classes, all of which are everywhere as the weights are random: the worst case."""
    scan = make_scan(folder / "cube.nii.gz", (160, 160, 160), (1.0, 1.0, 1.0))
    models = [make_model(folder / f"classes_{count}", count, 2.0) for count in CLASSES]
    results = [measure(scan, model, folder, arguments, "--max-memory", "8") for model in models]
    print_table("classes", list(CLASSES), results)


def windows(folder: Path, arguments: argparse.Namespace) -> None:
    """One cube on its own grid, in windows of several sizes: time against the voxels that go through the network."""
    scan = make_scan(folder / "windowed.nii.gz", (160, 160, 160), (1.0, 1.0, 1.0))
    model = make_model(folder / "fine", 6, 1.0)
    results = [measure(scan, model, folder, arguments, "--window", str(side)) for side in WINDOWS]
    work = [float(r["windows"] * side**3) for r, side in zip(results, WINDOWS, strict=True)]
    print_table("in windows", work, results)


def ct(folder: Path, arguments: argparse.Namespace) -> None:
    """The large scan."""
    scan = make_scan(folder / "ct.nii.gz", CT, (0.8, 0.8, 1.0))
    spacings = (3.0, 1.5, 1.0)
    models = [make_model(folder / f"ct_{spacing:g}", 25, spacing, arguments.crop) for spacing in spacings]
    results = []
    for model in models:
        results.append(measure(scan, model, folder, arguments, "--max-memory", str(arguments.max_memory)))
        print(f"{model.name}: {results[-1]['plan']}; peak {results[-1]['peak']:.2f} GB", flush=True)
    print_table("grid voxels", [1 / spacing**3 for spacing in spacings], results)


PARTS = {"voxels": voxels, "classes": classes, "windows": windows, "ct": ct}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--part", choices=list(PARTS), action="append")
    parser.add_argument("--max-memory", type=float, default=6.0, help="GB, of the part ct")
    parser.add_argument("--crop", action="store_true", help="cut the body out and keep one piece, in the part ct")
    arguments = parser.parse_args()
    print(f"{arguments.threads} threads, fastest of {arguments.rounds} rounds; seconds of each stage")
    for part in arguments.part or ["voxels", "classes", "windows"]:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[part](Path(folder), arguments)


if __name__ == "__main__":
    main()
