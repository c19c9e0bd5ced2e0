"""How well a brain model segments scans of other contrasts and slice thicknesses, whole and skull-stripped.

    python benchmarks/generated_contrasts.py ../shared/data/head_label_maps --maps map_05 map_15 [--model brain]
    python benchmarks/generated_contrasts.py ../shared/data/head_label_maps --maps map_05 map_15 --errors T1

Scans are painted from label maps of whole heads with textbook intensities for T1, T2, FLAIR and proton density, then
shaded, blurred, made noisy, and averaged into thick slices. The label maps named by `--maps` should be ones that the
model was not trained on (`generator.held_out` of its config). Truth is the label map on the same slices. The table is
the mean Dice of the model's structures, without their sides, over the maps. With `--errors` it is told structure by
structure in one contrast at 1 mm: the Dice, the volume against the true one, and what lost voxels are called.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from real_scans import error_rows, joint_dice, merged
from scipy.ndimage import gaussian_filter

from voxseg.data.geometry import Geometry
from voxseg.data.label_scheme import LabelScheme
from voxseg.data.layout import LABEL_TABLE
from voxseg.data.overlap import joint_counts
from voxseg.data.volume import Volume
from voxseg.data.written_table import read_written_table
from voxseg.evaluation.disturbances import coarsen_grid, coarsen_image, coarsen_labels
from voxseg.inference.locate import locate_model
from voxseg.inference.model import load_model
from voxseg.inference.predictor import Predictor

TISSUES = {
    "white": (2, 41, 7, 46, 16, 28, 60, 251, 252, 253, 254, 255),
    "cortex": (3, 42, 8, 47, 17, 18, 53, 54),
    "deep": (10, 11, 12, 26, 49, 50, 51, 58),
    "pallidum": (13, 52),
    "fluid": (4, 5, 14, 15, 24, 43, 44, 72, 136, 137, 163, 164),
    "lesion": (77, 78, 79, 25, 57),
    "fat": (516, 530),  # scalp, and soft tissue of the face
    "bone": (502, 506, 507, 515),
}
CONTRASTS = {  # of 100, in the order of TISSUES, and last muscle, which is what is in no tissue
    "T1": (80, 55, 64, 74, 20, 60, 95, 15, 45),
    "T2": (35, 52, 42, 32, 95, 70, 60, 8, 25),
    "FLAIR": (50, 65, 58, 48, 15, 85, 60, 10, 40),
    "PD": (60, 78, 70, 58, 82, 85, 70, 12, 55),
}
THICKNESSES = (1.0, 3.0, 6.0)
NOISE, SHADE, BLUR_MM = 2.5, 0.2, 0.5


def painted(labels: NDArray[np.int64], contrast: tuple[int, ...], stripped: bool, seed: int) -> NDArray[np.float32]:
    """A scan of a label map at its own resolution."""
    random = np.random.default_rng(seed)
    value = np.full(int(labels.max()) + 1, contrast[-1], dtype=np.float32)
    value[0] = 0
    for intensity, ids in zip(contrast[:-1], TISSUES.values(), strict=True):
        value[[i for i in ids if i < len(value)]] = intensity
    scan = value[labels]
    scan *= 1 + 0.04 * gaussian_filter(random.standard_normal(labels.shape).astype(np.float32), 1.5) / 0.07
    if stripped:
        scan[(labels == 0) | (labels >= 500)] = 0
    scan = gaussian_filter(scan, BLUR_MM)
    ramps = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in labels.shape), indexing="ij", sparse=True)
    direction = random.standard_normal(3) / 2
    scan *= np.exp(SHADE * sum(float(d) * ramp for d, ramp in zip(direction, ramps, strict=True)))
    return scan.astype(np.float32)


def noisy(scan: NDArray[np.float32], stripped: bool, seed: int) -> NDArray[np.float32]:
    """Rician noise, which a stripped background does not have."""
    random = np.random.default_rng(seed)
    first, second = (NOISE * random.standard_normal(scan.shape, dtype=np.float32) for _ in range(2))
    result = np.hypot(scan + first, second)
    return np.where(scan > 0.5, result, 0) if stripped else result


@dataclass(frozen=True)
class Trial:
    """Label maps with their classes and grids, and a model that is tried on scans painted from them."""

    heads: list[tuple[NDArray[np.int64], NDArray[np.uint8], Geometry]]
    names: list[str]
    predictor: Predictor

    def joint(self, contrast: str, stripped: bool, thickness: float) -> Iterator[NDArray[np.int64]]:
        """Of each head the voxels by the class found and the true class, background first."""
        count = len(self.predictor.model.structures)
        for seed, (labels, classes, geometry) in enumerate(self.heads):
            size = (*geometry.spacing[:2], max(thickness, geometry.spacing[2]))
            grid = coarsen_grid(geometry, size)
            scan = coarsen_image(painted(labels, CONTRASTS[contrast], stripped, seed), geometry, size)
            truth = coarsen_labels(classes, geometry, size)
            volume = Volume(Path("scan.nii"), noisy(scan, stripped, seed), grid, None, scan.shape)
            found = merged(self.predictor, self.predictor.segment(volume).classes)
            yield joint_counts(found, truth, count + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--maps", nargs="+", required=True, help="names of label maps, such as map_05")
    parser.add_argument("--model", default="brain")
    parser.add_argument("--errors", choices=CONTRASTS, help="structure by structure in this contrast, not the table")
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    scheme = LabelScheme(**yaml.safe_load((locate_model(arguments.model) / "config.yaml").read_text())["labels"])
    meaning = read_meaning(arguments.folder / LABEL_TABLE)
    heads = [read_head(arguments.folder / f"{name}.nii.gz", meaning, scheme) for name in arguments.maps]
    trial = Trial(heads, scheme.predicted().names, Predictor(load_model(arguments.model)))
    if arguments.errors:
        print_errors(trial, arguments.errors)
    else:
        print_table(trial)


def read_head(
    path: Path, meaning: NDArray[np.int64], scheme: LabelScheme
) -> tuple[NDArray[np.int64], NDArray[np.uint8], Geometry]:
    """A label map, the classes that its labels stand for, and its grid."""
    image = nib.as_closest_canonical(nib.load(path))
    labels = np.asanyarray(image.dataobj).astype(np.int64)
    return labels, scheme.to_classes(meaning[labels]).astype(np.uint8), Geometry(image.shape, image.affine)


def read_meaning(path: Path) -> NDArray[np.int64]:
    """For each label of the maps the id that it is learned as: of a lesion that of white matter."""
    rows = [row for _, row in read_written_table(path)[1]]
    labels, learned = (np.array([int(row[key]) for row in rows]) for key in ("map_label", "segmentation_label"))
    meaning = np.zeros(labels.max() + 1, dtype=np.int64)
    meaning[labels] = learned
    return meaning


def print_table(trial: Trial) -> None:
    """Contrast by slice thickness, whole and stripped."""
    print("| contrast | " + " | ".join(f"{how}, {t:g} mm" for how in ("whole", "stripped") for t in THICKNESSES) + " |")
    print("|---" * (1 + 2 * len(THICKNESSES)) + "|")
    for contrast in CONTRASTS:
        cells = []
        for stripped in (False, True):
            for thickness in THICKNESSES:
                scores = [np.nanmean(joint_dice(joint)) for joint in trial.joint(contrast, stripped, thickness)]
                cells.append(f"{np.mean(scores):.3f}")
        print(f"| {contrast} | {' | '.join(cells)} |", flush=True)


def print_errors(trial: Trial, contrast: str) -> None:
    """Structure by structure at 1 mm, whole and stripped."""
    for stripped in (False, True):
        joints = list(trial.joint(contrast, stripped, THICKNESSES[0]))
        scores = np.nanmean([joint_dice(joint) for joint in joints], axis=0)
        print(f"{contrast}, {'stripped' if stripped else 'whole'}: mean Dice {scores.mean():.4f}\n")
        print("structure                      Dice  volume  its other voxels are called")
        for name, score, row in zip(trial.names, scores, error_rows(np.sum(joints, axis=0), trial.names), strict=True):
            print(f"{name:28s} {score:6.3f}  {row}")
        print(flush=True)


if __name__ == "__main__":
    main()
