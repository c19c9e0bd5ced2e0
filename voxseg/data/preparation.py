"""From a scan to what the network sees: intensities, and a working grid locked to the head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy import ndimage
from torch import Tensor

from voxseg.data.geometry import Geometry
from voxseg.data.normalise import Levels, foreground_threshold, intensity_levels, rescale, rescale_window, zscore
from voxseg.data.resample import affine_points, apply_axes, axis_matrix, axis_positions, interpolate_at

__all__ = [
    "ImageConfig",
    "PreparationConfig",
    "Prepared",
    "covering_grid",
    "head_grid",
    "preparation_bytes",
    "prepare",
    "prepare_labels",
    "sample",
]

SLAB_VOXELS = 2**20
GRID_TOLERANCE = 0.01
"""Voxels by which grids may miss each other and still coincide: rounding in the headers."""
ROUNDING = 1e-5
"""Z-scores below this are 0."""
SHARE_TOLERANCE = 1e-4
"""Shares of a voxel that differ by less are equal: rounding must not decide between two classes."""
SLABS = 10**8
"""Bytes of the slabs in which images are resampled."""
MULTIPLE = 8
"""Voxels from the centre of the head to each side of its grid are a multiple of this: what four levels halve evenly."""


class ImageConfig(BaseModel):
    """One entry of `preparation.images`: how the intensities of an image reach the network.

    Attributes:
        scale: "tissue": empty space is 0 and bright tissue 1 (`voxseg.data.normalise`), for whole heads and anything
            else with air around it. "zscore": mean 0 and deviation 1 within the foreground, 0 outside, for images
            whose background was set to one value; where there is air with noise instead, the deviation of the tissue is
            1 and air is 0 (`normalise.zscore`). Scans are best of one kind: air with noise that was padded with one
            value counts as foreground. "window": clipped to `low`..`high`, which become 0 and 1, for CT and other
            images in absolute units.
        low: of the window.
        high: of the window.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: Literal["tissue", "zscore", "window"] = "tissue"
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _window(self) -> ImageConfig:
        given = self.low is not None and self.high is not None
        if self.scale == "window" and not (given and self.low < self.high):  # type: ignore[operator]
            raise ValueError("scale: window needs low and high, low < high")
        if self.scale != "window" and (self.low is not None or self.high is not None):
            raise ValueError(f"low and high mean nothing with scale: {self.scale}")
        return self


class PreparationConfig(BaseModel):
    """The `preparation` block of a training config and of a model: from scans to what the network sees.

    Attributes:
        spacing: mm of the isotropic working grid, the one that the network is trained on.
        images: the images of a case by name, in the order of the network's channels. The first one's grid is the one
            in which a case is segmented.
        crop: whether only the box around the head is segmented (`preparation.head_grid`), or the whole volume.
        margin: mm of that box around the head, at least.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    spacing: Annotated[float, Field(gt=0)]
    images: Annotated[dict[str, ImageConfig], Field(min_length=1)] = Field(
        default_factory=lambda: {"image": ImageConfig()}
    )
    crop: bool = True
    margin: Annotated[float, Field(ge=0)] = 8.0


@dataclass(frozen=True, eq=False)
class Prepared:
    """The images of a case on the working grid.

    Attributes:
        image: `[C, X, Y, Z]` float32, normalised, canonical axes; 0 where the grid reaches beyond the scan.
        grid: where its voxels lie.
    """

    image: Tensor
    grid: Geometry


def prepare(images: Sequence[tuple[NDArray[Any], Geometry]], config: PreparationConfig) -> Prepared:
    """Resample the images of a case to the working grid and normalise them.

    The first image decides on the grid; the others may have grids of their own and are sampled there through world
    space. Each image is scaled by its own levels, which are those of the whole image, whatever is cropped. Empty space,
    a background set to one value, and what lies outside an image are 0 with every scale.

    Args:
        images: for each of `config.images`, in their order, the voxels `[X, Y, Z]` of any real type in the stored axes,
            and their geometry.
        config: of the model.
    """
    if len(images) != len(config.images):
        raise ValueError(f"{len(images)} images were given, the configuration has {len(config.images)}")
    sampled = [_Sampled(data, scan, config.spacing) for data, scan in images]
    grid = _working_grid(sampled[0], config)
    result = torch.empty(0)
    for channel, image in enumerate(config.images.values()):
        values, inside = _scaled(sampled[channel], image, grid)
        sampled[channel].forget()
        values.masked_fill_(inside.logical_not_(), 0)
        if len(images) == 1:
            return Prepared(values[None], grid)
        result = result if channel else torch.empty(len(images), *grid.shape)
        result[channel] = values
    return Prepared(result, grid)


def preparation_bytes(images: Sequence[NDArray[Any]], scan: Geometry, config: PreparationConfig) -> int:
    """Bytes that `prepare` takes at its peak, besides the images themselves; what it leaves included.

    Args:
        images: as they were read.
        scan: the grid of the first.
        config: of the model.
    """
    voxels = math.prod(covering_grid(scan, config.spacing).shape)
    # Samples and whether they lie inside; all channels, where there are several.
    needed = 5 + (4 * len(images) if len(images) > 1 else 0)
    scales = {image.scale for image in config.images.values()}
    if config.crop:
        needed += 15  # pieces of the head and their mass; of samples on two grids there is less
    elif "tissue" in scales:
        needed += 5  # the voxels above the minimum, for their order statistics
    # Float copies of an image, sorted and scaled.
    return voxels * needed + SLABS + (13 * max(data.size for data in images) if "zscore" in scales else 0)


class _Sampled:
    """An image and its samples on its own covering grid, which its levels and the box around the head come from."""

    def __init__(self, data: NDArray[Any], scan: Geometry, spacing: float) -> None:
        self.data, self.scan, self.grid = data, scan, covering_grid(scan, spacing)
        self._whole: tuple[Tensor, Tensor] | None = None
        self._levels: Levels | None = None

    @property
    def whole(self) -> Tensor:
        """Intensities on `grid`, `[X, Y, Z]`."""
        if self._whole is None:
            self._whole = sample(self.data, self.scan, self.grid)
        return self._whole[0]

    @property
    def levels(self) -> Levels:
        """Levels of the whole image."""
        if self._levels is None:
            self._levels = intensity_levels(self.whole)
        return self._levels

    def on(self, grid: Geometry) -> tuple[Tensor, Tensor]:
        """As `sample` gives it."""
        if self._whole is not None and grid == self.grid:
            return self._whole
        return sample(self.data, self.scan, grid)

    def forget(self) -> None:
        """Frees the samples."""
        self._whole = None


def _working_grid(first: _Sampled, config: PreparationConfig) -> Geometry:
    """The grid that a case is segmented on, given its first image."""
    if not config.crop:
        return first.grid
    levels, margin = first.levels, math.ceil(config.margin / config.spacing)
    return head_grid(first.whole, levels.low, first.grid, margin, levels.threshold)


def _scaled(sampled: _Sampled, image: ImageConfig, grid: Geometry) -> tuple[Tensor, Tensor]:
    """Normalised intensities at the voxels of a grid, and whether they lie inside the image; both may be overwritten.

    Z-scores are computed before sampling: only there is a background of one value told apart exactly. A sample at its
    edge so becomes the mixture of z-scores and zeros that linear interpolation makes of it, and one beyond is 0.
    """
    if image.scale == "zscore":
        values, inside = sample(zscore(sampled.data), sampled.scan, grid)
        values[values.abs() < ROUNDING] = 0  # what sampling leaves of the zeros of the background
        return values, inside
    if image.scale == "window":
        values, inside = sampled.on(grid)
        low, high = float(image.low), float(image.high)  # type: ignore[arg-type]
        return rescale_window(values, low, high, in_place=True), inside
    levels = sampled.levels
    values, inside = sampled.on(grid)
    return rescale(values, levels.low, levels.high, in_place=True), inside


def prepare_labels(classes: NDArray[np.uint8], geometry: Geometry, grid: Geometry) -> NDArray[np.uint8]:
    """Class indices on the working grid.

    Where the voxels of both grids coincide, in any order of the stored axes, they are copied. Otherwise each voxel gets
    the class with the largest linearly interpolated share; of equal ones that with the lowest index.

    Args:
        classes: dense class indices `[X, Y, Z]` in the stored axes, 0 the background.
        geometry: their grid.
        grid: the working grid.

    Returns:
        `[X, Y, Z]` uint8 on `grid`, 0 beyond the labels.
    """
    index = _coinciding(geometry, grid)
    if index is not None:
        return _copy(classes, index)
    present = np.flatnonzero(np.bincount(classes.ravel(order="K"), minlength=1)[1:]) + 1
    result = torch.zeros(grid.shape, dtype=torch.uint8)
    best, total = torch.zeros(grid.shape), torch.zeros(grid.shape)
    for k in present.tolist():
        share, inside = sample(classes == k, geometry, grid)
        share *= inside
        total += share
        larger = share > best + SHARE_TOLERANCE
        best[larger] = share[larger]
        result[larger] = k
    result[best <= 1 - total + SHARE_TOLERANCE] = 0
    return result.numpy()


def _coinciding(source: Geometry, target: Geometry) -> list[tuple[int, NDArray[np.int64]]] | None:
    """For each axis of `target` the axis of `source` along it and the source voxels that its voxels are; or None."""
    places = axis_positions(source, target)
    if places is None:
        return None
    if any(float((positions - positions.round()).abs().max()) > GRID_TOLERANCE for _, positions in places):
        return None
    # Neighbours in the target have to be neighbours in the source: a coarser grid may hit voxels too.
    if any(len(p) > 1 and abs(abs(float(p[1] - p[0])) - 1) > GRID_TOLERANCE for _, p in places):
        return None
    return [(along, positions.round().long().numpy()) for along, positions in places]


def _copy(classes: NDArray[np.uint8], index: list[tuple[int, NDArray[np.int64]]]) -> NDArray[np.uint8]:
    """The voxels at the index of each axis; 0 where there is none."""
    turned = classes.transpose([along for along, _ in index])
    positions = [position for _, position in index]
    within = [(p >= 0) & (p < n) for p, n in zip(positions, turned.shape, strict=True)]
    result = np.zeros([len(p) for p in positions], dtype=np.uint8)
    result[np.ix_(*within)] = turned[np.ix_(*(p[w] for p, w in zip(positions, within, strict=True)))]
    return result


def covering_grid(scan: Geometry, spacing: float) -> Geometry:
    """The isotropic grid about the centre of a scan that covers it, along the scan's own axes in canonical order.

    It is symmetric about the scan's centre: turning the scan by right angles, or flipping an axis of its storage, turns
    the grid with it, sample for sample. Its axes are at right angles even where the scan's are not.
    """
    canonical = scan.canonical
    # How far the scan reaches along its rigid axes, which are its own unless it is sheared.
    turned = np.abs(canonical.rigid_axes.T @ canonical.axes)
    lengths = turned @ (np.asarray(canonical.shape) * np.asarray(canonical.spacing))
    # A hundredth of a voxel is forgiven, or rounding of the spacing in a header would decide on the size.
    shape = np.array([max(1, math.ceil(length / spacing - 0.01)) for length in lengths])
    centre = canonical.to_world((np.asarray(canonical.shape) - 1) / 2)
    return _grid(canonical.rigid_axes * spacing, centre, (shape - 1) / 2, shape)


def head_grid(values: Tensor, low: float, whole: Geometry, margin: int, threshold: float | None = None) -> Geometry:
    """The part of space that the network is shown: around the largest connected piece of tissue.

    The voxels are laid from the piece's centre of mass outwards, in steps of `MULTIPLE` to each side. Empty space
    around a scan therefore changes neither where samples lie in the head nor which of them the network's coarser levels
    keep; and the grid turns with the scan, as the centre of mass does.

    Args:
        values: `[X, Y, Z]` intensities on `whole`.
        low: intensity of empty space.
        whole: grid over the scan.
        margin: voxels of `whole` that are taken at least on every side of the piece.
        threshold: `foreground_threshold` of the values, if it is known.
    """
    threshold = foreground_threshold(values) if threshold is None else threshold
    pieces, count = ndimage.label((values > threshold).numpy())
    if count == 0:
        return whole
    sizes = torch.bincount(torch.from_numpy(pieces).flatten(), minlength=count + 1)
    sizes[0] = 0
    largest = int(sizes.argmax())
    box = ndimage.find_objects(pieces)[largest - 1]
    around = tuple(slice(max(place.start - 1, 0), place.stop + 1) for place in box)
    mass = _mass(values[around], low, threshold, pieces[around] == largest)
    before, after, centre = [], [], []
    for axis, place in enumerate(box):
        profile = mass.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64)
        middle = around[axis].start + float(profile @ np.arange(len(profile))) / float(profile.sum())
        before.append(_steps(middle - place.start + margin))
        after.append(_steps(place.stop - 1 - middle + margin))
        centre.append(middle)
    # The centre of mass lies between two voxels of the new grid, 'before' of them on one side.
    offset, shape = np.array(before) - 0.5, np.array(before) + np.array(after)
    return _grid(whole.affine[:3, :3], whole.to_world(np.array(centre)), offset, shape)


def _mass(values: Tensor, low: float, threshold: float, piece: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How much of each voxel is tissue: all within the piece, less in the voxels around it that it fills in part.

    With a sharp edge instead, the centre of mass would move by up to half a voxel with where the voxels lie.
    """
    filled: NDArray[np.float32] = (values - low).div_(max(threshold - low, 1e-12)).clamp_(0, 1).numpy()
    filled[~ndimage.binary_dilation(piece, structure=np.ones((3, 3, 3), dtype=bool))] = 0
    return filled


def _steps(voxels: float) -> int:
    """Voxels to one side of the centre, at least so many."""
    return math.ceil((voxels + 0.5) / MULTIPLE) * MULTIPLE


def _grid(axes: NDArray[Any], point: NDArray[Any], index: NDArray[Any], shape: NDArray[Any]) -> Geometry:
    """The grid with these axes `[3, 3]` (mm a voxel) on which `index` lies at the world's `point`."""
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = point - axes @ index
    x, y, z = (int(n) for n in shape)
    return Geometry((x, y, z), affine)


def sample(data: NDArray[Any], scan: Geometry, grid: Geometry) -> tuple[Tensor, Tensor]:
    """Intensities at the voxels of a grid.

    Args:
        data: `[X, Y, Z]` in the scan's stored axes.
        scan: where they lie.
        grid: where they are wanted, with axes along those of the scan or, if it is sheared, along its rigid ones.

    Returns:
        `[X, Y, Z]` float32, and whether the voxel lies inside the scan (bool).
    """
    places = axis_positions(scan, grid)
    if places is None:
        return _sample_points(data, scan, grid)
    matrices: list[Tensor] = [torch.empty(0)] * 3
    inside = torch.ones((), dtype=torch.bool)
    for along, positions in places:
        matrices[along] = axis_matrix(positions, data.shape[along], beyond=True)
        inside = inside[..., None] & (matrices[along].sum(1) > 0)
    return apply_axes(data, matrices, [along for along, _ in places]), inside


def _sample_points(data: NDArray[Any], scan: Geometry, grid: Geometry) -> tuple[Tensor, Tensor]:
    """`sample` for a scan whose axes are not at right angles: blurred along them, then interpolated point by point."""
    matrices = []
    for count, spacing in zip(data.shape, scan.spacing, strict=True):
        positions = torch.arange(count, dtype=torch.float64)
        matrices.append(axis_matrix(positions, count, beyond=True, step=grid.spacing[0] / spacing))
    blurred = apply_axes(data, matrices)
    lowest = blurred.min()
    source = torch.stack([blurred - lowest, torch.ones_like(blurred)])[None]
    to_scan = np.linalg.inv(scan.affine) @ grid.affine
    result, inside = torch.empty(grid.shape), torch.empty(grid.shape, dtype=torch.bool)
    slab = max(1, SLAB_VOXELS // (grid.shape[1] * grid.shape[2]))
    for start in range(0, grid.shape[0], slab):
        stop = min(start + slab, grid.shape[0])
        points = affine_points(to_scan, (range(start, stop), range(grid.shape[1]), range(grid.shape[2])))
        value, weight = interpolate_at(source, points)
        inside[start:stop] = weight >= 0.125  # half a voxel beyond the centres at a corner
        result[start:stop] = value / weight.clamp(min=0.125) + lowest
    return result, inside
