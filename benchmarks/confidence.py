"""Whether the quality that `predict` tells ranks scans by how well they were segmented.

    python benchmarks/confidence.py ../shared/data/oasis_manual/validation [--model brain] [--cases 3]

Each real scan is segmented as it is and spoilt in many ways: noise, blur, motion between the lines of k-space, a field
of view that ends early, inverted contrast; and what is no head at all: a box and smooth noise. Printed are quality and
true mean Dice of each, Spearman's rank correlation between them over all scans, and over all structures of all scans.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from real_scans import dice
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from voxseg.data.label_scheme import LabelScheme
from voxseg.data.volume import read_volume
from voxseg.inference.locate import locate_model
from voxseg.inference.model import load_model
from voxseg.inference.predictor import Predictor

Image = NDArray[np.float32]


def moved(scan: Image, most_mm: float, random: np.random.Generator) -> Image:
    """A head that jumped a few times while the lines of k-space along the second axis were measured."""
    lines = scan.shape[1]
    place = np.zeros(lines)
    for _ in range(4):
        place[random.integers(lines) :] += random.normal() * most_mm
    phase = np.exp(-2j * np.pi * np.fft.fftfreq(lines)[:, None] * place[:, None])
    return np.abs(np.fft.ifftn(np.fft.fftn(scan) * phase)).astype(np.float32)


def spoilt(scan: Image, random: np.random.Generator) -> Iterator[tuple[str, Image, bool]]:
    """What happens to scans: name, image, and whether it still shows the head."""
    bright = float(np.percentile(scan[scan > 0], 98))
    yield "as it is", scan, True
    for share in (0.05, 0.1, 0.2, 0.4):
        noise = share * bright * random.standard_normal(scan.shape, dtype=np.float32)
        yield f"noise {share:g}", np.abs(scan + noise), True
    for sigma in (1.5, 3.0, 5.0):
        yield f"blur {sigma:g} voxels", gaussian_filter(scan, sigma), True
    for most in (2.0, 5.0, 12.0):
        yield f"motion {most:g} voxels", moved(scan, most, random), True
    for axis, share in ((1, 0.3), (2, 0.5)):
        cut = scan.copy()
        cut[tuple(slice(0, int(share * n)) if a == axis else slice(None) for a, n in enumerate(scan.shape))] = 0
        yield f"{share:.0%} of axis {axis} cut off", cut, True
    yield "inverted", np.where(scan > 0, np.maximum(1.1 * bright - scan, 0), 0).astype(np.float32), True
    box = np.zeros_like(scan)
    box[tuple(slice(n // 5, -n // 5) for n in scan.shape)] = bright
    yield "a box", box + 0.02 * bright * random.standard_normal(scan.shape, dtype=np.float32), False
    yield (
        "smooth noise",
        bright * np.abs(gaussian_filter(random.standard_normal(scan.shape), 4)).astype(np.float32),
        False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="brain")
    parser.add_argument("--cases", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    predictor = Predictor(load_model(arguments.model))
    model = predictor.model
    scheme = LabelScheme(**yaml.safe_load((locate_model(arguments.model) / "config.yaml").read_text())["labels"])
    scans, qualities, sure, true = [], [], [], []
    print("| scan | what | quality | mean Dice |\n|---|---|---|---|")
    for case in sorted(p for p in arguments.folder.iterdir() if p.is_dir())[: arguments.cases]:
        volume, manual = read_volume(case / "t1.nii.gz"), read_volume(case / "labels.nii.gz")
        truth = scheme.to_classes(manual.data.astype(np.int64))
        for what, data, head in spoilt(volume.data.astype(np.float32), np.random.default_rng(0)):
            found = predictor.segment(replace(volume, data=data))
            classes = found.classes if model.sides is None else model.sides.structure[found.classes]
            scores = np.nan_to_num(dice(classes, truth, len(model.structures))) * head
            scans.append(scores.mean())
            qualities.append(found.quality)
            assert found.confidence is not None
            sure += list(np.nan_to_num(found.confidence[: len(model.structures)]))
            true += list(scores)
            print(f"| {case.name} | {what} | {found.quality:.3f} | {scores.mean():.3f} |", flush=True)
    print(f"\nrank correlation over {len(scans)} scans: {spearmanr(qualities, scans).statistic:.3f}")
    print(f"over their {len(true)} structures: {spearmanr(sure, true).statistic:.3f}")


if __name__ == "__main__":
    main()
