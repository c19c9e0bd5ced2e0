"""How far the segmentations of two scans of one person agree: volumes, and Dice where the scans lie on each other.

    python benchmarks/repeated_scans.py VALIDATION/1003/t1.nii.gz VALIDATION/1023/t1.nii.gz
    python benchmarks/repeated_scans.py WHOLE_HEADS/t1.nii.gz WHOLE_HEADS/pd.nii.gz --register [--explain]
    python benchmarks/repeated_scans.py CASE_t1ce.nii.gz CASE_flair.nii.gz --aligned --without CASE_seg.nii.gz

With `--register` the second scan is laid on the first one: rigidly, by mutual information (SimpleITK), starting from
what the headers say; how far it had to move from there is printed. The second segmentation is then carried to the
first grid, and Dice is taken where both fields of view cover it. With `--aligned` both scans have one grid, as those of
BraTS. `--without` names labels in the grid of the first scan, of a tumour, where nothing is counted for Dice.
`--explain` parts what two registered scans disagree in: the first scan is brought to the second one's grid, averaged
over its voxels, and segmented there, so that what is lost to the grid alone is seen, and what to the contrast; and the
intensities of the second scan are told by structure, inside, where that segmentation of the first one finds them.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from real_scans import dice, merged
from scipy.ndimage import binary_erosion

from voxseg.data.geometry import Geometry
from voxseg.data.volume import Volume, read_volume
from voxseg.inference.model import load_model
from voxseg.inference.predictor import Predictor, Segmentation

Scores = NDArray[np.float64]
SAMPLES, SEED = 0.1, 1


def as_itk(data: NDArray[np.generic], geometry: Geometry) -> sitk.Image:
    """The image in ITK's world, whose first two axes point the other way."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.astype(np.float32).T))
    flip = np.diag([-1.0, -1.0, 1.0])
    image.SetSpacing([float(step) for step in geometry.spacing])
    image.SetOrigin((flip @ geometry.affine[:3, 3]).tolist())
    image.SetDirection((flip @ geometry.affine[:3, :3] / geometry.spacing).ravel().tolist())
    return image


def registered(still: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    """From points of the still image to those of the moving one, rigid."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(48)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(SAMPLES, SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 300)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4, 2, 1])
    middle = still.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in still.GetSize()])
    start = sitk.Euler3DTransform()
    start.SetCenter(middle)
    method.SetInitialTransform(start, inPlace=False)
    found = method.Execute(still, moving)
    moved = np.linalg.norm(np.subtract(found.TransformPoint(middle), middle))
    print(f"moved by {moved:.1f} mm at the middle of the first scan from where the headers put it")
    return found


def laid_on(first: Volume, second: Volume, transform: sitk.Transform, classes: NDArray[np.uint8]) -> NDArray[np.int16]:
    """A segmentation of the second scan on the grid of the first one, -1 where its field of view does not reach."""
    still, labels = as_itk(first.data, first.geometry), as_itk(classes, second.geometry)
    other = sitk.GetArrayFromImage(sitk.Resample(labels, still, transform, sitk.sitkNearestNeighbor, -1.0)).T
    return other.astype(np.int16)


def as_second(first: Volume, second: Volume, transform: sitk.Transform) -> Volume:
    """The first scan on the grid of the second one, averaged over its voxels where they are the larger ones."""
    image = as_itk(first.data, first.geometry)
    directions = np.linalg.inv(first.geometry.axes) @ second.geometry.axes
    steps = np.array(second.geometry.spacing)[np.abs(directions).argmax(1)]
    for axis, (step, own) in enumerate(zip(steps, first.geometry.spacing, strict=True)):
        if step > own:  # a Gaussian as wide as the box
            image = sitk.RecursiveGaussian(image, float(step) / np.sqrt(12), direction=axis)
    there = sitk.Resample(image, as_itk(second.data, second.geometry), transform.GetInverse(), sitk.sitkLinear, 0.0)
    return replace(second, data=sitk.GetArrayFromImage(there).T)


def agreement(here: NDArray[np.integer], other: NDArray[np.int16], classes: int) -> Scores:
    """Dice of each class where the other segmentation is not -1."""
    return dice(np.where(other >= 0, here, 0), np.where(other >= 0, other, 0).astype(np.uint8), classes)


def explain(
    predictor: Predictor, volumes: tuple[Volume, Volume], found: tuple[Segmentation, Segmentation], laid: sitk.Transform
) -> None:
    """Prints what the grid takes, what the contrast, and the contrast."""
    table = predictor.model.table
    first, second = volumes
    there = predictor.segment(as_second(first, second, laid)).classes
    grid_alone = agreement(found[0].classes, laid_on(first, second, laid, there), len(table))
    contrast_alone = agreement(found[1].classes, there.astype(np.int16), len(table))
    print(f"\nfirst scan on the second one's grid, against itself: mean Dice {np.nanmean(grid_alone):.3f}")
    print(f"second scan against it on that grid: mean Dice {np.nanmean(contrast_alone):.3f}")
    print(f"{'structure':30s} {'mean':>9s} {'deviation':>9s}   of the second scan, inside")
    structures = merged(predictor, there)
    for k, name in enumerate(predictor.model.structures.names, start=1):
        whole = structures == k
        inside = binary_erosion(whole)
        values = second.data[inside if inside.any() else whole]
        print(f"{name.removeprefix('Left-'):30s} {values.mean():9.1f} {values.std():9.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs=2, type=Path)
    laid = parser.add_mutually_exclusive_group()
    laid.add_argument("--register", action="store_true", help="lay them on each other, for Dice")
    parser.add_argument("--explain", action="store_true", help="what the grid takes and what the contrast")
    laid.add_argument("--aligned", action="store_true", help="they have one grid, for Dice")
    parser.add_argument("--without", type=Path, help="labels where nothing is counted for Dice")
    parser.add_argument("--model", default="brain")
    arguments = parser.parse_args()
    if arguments.without and not (arguments.register or arguments.aligned):
        parser.error("--without is for Dice: give --register or --aligned too")
    if arguments.explain and not arguments.register:
        parser.error("--explain needs --register")
    predictor = Predictor(load_model(arguments.model))
    table = predictor.model.table
    first, second = (read_volume(scan) for scan in arguments.scans)
    found = (predictor.segment(first), predictor.segment(second))
    sizes = np.array(
        [
            np.bincount(f.classes.ravel(), minlength=len(table) + 1)[1:] * np.prod(v.geometry.spacing) / 1000
            for f, v in zip(found, (first, second), strict=True)
        ]
    )
    change = 200 * np.abs(sizes[0] - sizes[1]) / np.maximum(sizes.sum(0), 1e-9)
    overlap: Scores = np.full(len(table), np.nan)
    transform: sitk.Transform | None = None
    if arguments.register or arguments.aligned:
        here, other = found[0].classes, found[1].classes.astype(np.int16)
        if arguments.register:
            transform = registered(*(as_itk(v.data, v.geometry) for v in (first, second)))
            other = laid_on(first, second, transform, found[1].classes)
            print(f"the second field of view covers {100 * (other >= 0)[here > 0].mean():.1f} % of the first's brain")
        if arguments.without:
            other[read_volume(arguments.without).data != 0] = -1
        overlap = agreement(here, other, len(table))
    print(f"quality {found[0].quality:.2f} and {found[1].quality:.2f}")
    print(f"{'structure':30s} {'first ml':>9s} {'second ml':>9s} {'differ %':>9s} {'Dice':>6s}")
    for k, name in enumerate(table.names):
        print(f"{name:30s} {sizes[0, k]:9.2f} {sizes[1, k]:9.2f} {change[k]:9.2f} {overlap[k]:6.3f}")
    print(f"median difference of volumes {np.median(change):.2f} %, largest {change.max():.2f} %")
    if not np.isnan(overlap).all():
        print(f"mean Dice {np.nanmean(overlap):.3f}")
    if arguments.explain and transform is not None:
        explain(predictor, (first, second), found, transform)


if __name__ == "__main__":
    main()
