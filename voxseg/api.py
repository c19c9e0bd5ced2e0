"""Segmenting from Python and in notebooks: `voxseg.predict` and `voxseg.load_model`."""

from __future__ import annotations

import base64
import html
import io
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from voxseg.data.in_memory import volume_in_memory
from voxseg.data.labels import LabelTable, Side
from voxseg.data.paths import NIFTI_SUFFIXES
from voxseg.data.segmentation import write_segmentation
from voxseg.data.staging import staged
from voxseg.data.volume import Volume, read_volume
from voxseg.errors import UserError
from voxseg.inference.memory import default_limit, resident_memory
from voxseg.inference.model import Model
from voxseg.inference.model import load_model as read_model
from voxseg.inference.predictor import Predictor, Segmentation
from voxseg.provenance import Origin, describe_image, now
from voxseg.report.outputs import about, make_folder, write_outputs
from voxseg.report.qc import qc_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Result", "SegmentationModel", "StructureVolume", "VolumeTable", "load_model", "predict"]

PREVIEW_DPI = 65
"""Of the picture that a notebook shows of a result."""


def predict(
    image: Any,
    model: str | Path = "brain",
    affine: NDArray[Any] | None = None,
    spacing: float | Sequence[float] | None = None,
    device: str = "auto",
    name: str | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Result:
    """Segment a scan: the same result as `voxseg predict`, without files.

        result = voxseg.predict("scan.nii.gz")
        result.volumes()
        result.save("results")

    Args:
        image: the scan: a path, an array `[X, Y, Z]` with its `affine` or `spacing`, or an image of nibabel or
            SimpleITK. For a model of several images a list of them in the order of `load_model(...).images`, or a dict
            by their names. It is not changed.
        model: a packaged name, a model folder, or the folder of a training run. For many scans load it once:
            `load_model(...).predict(...)`.
        affine: `[4, 4]`, of arrays alone: from voxel index to world millimetres, x to the right, y to the front, z up
            (nibabel's convention).
        spacing: of arrays, in place of an affine: mm between voxels along the three axes, which are then taken to run
            to the right, to the front and up. Left and right are right only if that is true.
        device: `auto` (a CUDA GPU if there is one, otherwise the CPU), `cpu`, `cuda` or `mps`.
        name: of the results; by default that of the file, or "scan".
        progress: called with the name of each stage and the fraction of it that is done.

    Raises:
        UserError: if the scan or the model cannot be used; one line says what is wrong and what to do.
        TypeError: if `image` is nothing that a scan can be.
    """
    return load_model(model, device).predict(image, affine, spacing, name, progress)


def load_model(
    model: str | Path = "brain", device: str = "auto", max_memory: float | None = None, allow_import: bool = False
) -> SegmentationModel:
    """Load a model for any number of scans.

    Args:
        model: a packaged name, a model folder, or the folder of a training run.
        device: `auto` (a CUDA GPU if there is one, otherwise the CPU), `cpu`, `cuda` or `mps`.
        max_memory: GB that segmenting may take on the CPU on top of what the process holds; 4 by default, or what is
            free if that is less.
        allow_import: whether a network may be imported that is not voxseg's own. That runs code which the folder
            chooses, so that the folder has to be trusted.

    Raises:
        UserError: if there is no such model, its files are damaged, or the device is not there.
    """
    with _python_words():
        return SegmentationModel(read_model(model, allow_import), device, max_memory)


class SegmentationModel:
    """A model on a device, ready for any number of scans; made by `load_model`.

    Attributes:
        model: config, labels and network.
        images: names of the images that it takes of a case, in their order.
        table: the labels that it finds.
    """

    def __init__(self, model: Model, device: str = "auto", max_memory: float | None = None) -> None:
        self.model = model
        self.images = list(model.config.preparation.images)
        self.table = model.table
        self._predictor = Predictor(model, device)
        self._bytes = None if max_memory is None else int(max_memory * 1e9)

    @property
    def name(self) -> str:
        """As its config says."""
        return self.model.config.name

    @property
    def device(self) -> str:
        """Where it runs."""
        return str(self._predictor.device)

    def __repr__(self) -> str:
        images = ", ".join(self.images)
        return f"<voxseg model {self.name}: {len(self.table)} labels, takes {images}, on {self.device}>"

    def predict(
        self,
        image: Any,
        affine: NDArray[Any] | None = None,
        spacing: float | Sequence[float] | None = None,
        name: str | None = None,
        progress: Callable[[str, float], None] | None = None,
    ) -> Result:
        """Segment a scan; arguments and errors are those of `voxseg.predict`."""
        with _python_words():
            started = now()
            volumes = [_volume(given, called, affine, spacing) for called, given in self._of_case(image, name)]
            inputs = [describe_image(volume, called) for volume, called in zip(volumes, self.images, strict=True)]
            # Notebooks hold data of their own: what they have taken already is no reason to work in small windows.
            usual = default_limit(volumes[0].data.size)
            self._predictor.max_memory = resident_memory() + (self._bytes or usual)
            segmentation = self._predictor.segment(
                volumes if len(volumes) > 1 else volumes[0], progress or (lambda stage, fraction: None)
            )
        warnings = [text for volume in volumes for text in volume.warnings]
        settings = {"device": self.device, "threads": torch.get_num_threads(), "max_memory": self._predictor.max_memory}
        origin = Origin(self.model.origin, inputs, settings, started, warnings)
        return Result(volumes[0], segmentation, self.name, name or volumes[0].name, origin)

    def _of_case(self, image: Any, name: str | None) -> list[tuple[str, Any]]:
        """The images of a case in the model's order, each with what messages call it."""
        takes = f"the model takes {', '.join(self.images)}"
        if isinstance(image, Mapping):
            wrong = [key for key in image if key not in self.images] or [k for k in self.images if k not in image]
            if wrong:
                problem = f"has the images {', '.join(map(str, image)) or '(none)'}"
                raise UserError(name or "scan", problem, f"{takes}: give each by its name")
            return [(key, image[key]) for key in self.images]
        if isinstance(image, (list, tuple)):
            if len(image) != len(self.images):
                problem = f"has {len(image)} images"
                raise UserError(name or "scan", problem, f"{takes}: give a list of that length, or a dict by name")
            return list(zip(self.images, image, strict=True))
        if len(self.images) > 1:
            raise UserError(name or "scan", "is one image", f"{takes}: give a list in that order, or a dict by name")
        return [(name or "scan", image)]


@dataclass(frozen=True)
class StructureVolume:
    """How large a structure is.

    Attributes:
        id: its label.
        name: for people.
        side: "left", "right" or "none".
        voxels: how many of the scan's.
        ml: millilitres.
    """

    id: int
    name: str
    side: Side
    voxels: int
    ml: float


class VolumeTable(Sequence[StructureVolume]):
    """Volumes of the structures, in the order of the label table.

    A sequence of `StructureVolume`, of which `pandas.DataFrame(...)` makes a table; `["Left-Hippocampus"]` is the
    volume of that structure in ml.

    Args:
        rows: one for each structure.
    """

    def __init__(self, rows: Sequence[StructureVolume]) -> None:
        self._rows = tuple(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, str):
            return self.as_dict()[item]
        return self._rows[item]

    def as_dict(self) -> dict[str, float]:
        """Millilitres by the name of the structure."""
        return {row.name: row.ml for row in self._rows}

    def __repr__(self) -> str:
        width = max((len(row.name) for row in self._rows), default=0)
        lines = [f"{'':>5}  {'':{width}}  {'ml':>9}"]
        lines += [f"{row.id:>5}  {row.name:{width}}  {_ml(row):>9}" for row in self._rows]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = "".join(
            f"<th style='text-align:{a}'>{c}</th>" for c, a in (("id", "right"), ("", "left"), ("ml", "right"))
        )
        rows = "".join(
            f"<tr><td style='text-align:right'>{row.id}</td><td style='text-align:left'>{html.escape(row.name)}</td>"
            f"<td style='text-align:right'>{_ml(row)}</td></tr>"
            for row in self._rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


@dataclass(eq=False, repr=False)
class Result:
    """A segmented scan.

    Attributes:
        volume: the scan.
        segmentation: what was found: dense classes, label table, seconds spent by stage.
        model: name of the model.
        name: what files are called: `NAME_seg.nii.gz`.
        origin: what it was made from, for `NAME_seg.json`.
    """

    volume: Volume
    segmentation: Segmentation
    model: str
    name: str
    origin: Origin

    @cached_property
    def labels(self) -> NDArray[Any]:
        """Label ids `[X, Y, Z]` in the scan's own grid and axis order; 0 is background."""
        return self.segmentation.labels

    @property
    def table(self) -> LabelTable:
        """Ids, names, colours and sides of the labels."""
        return self.segmentation.table

    @property
    def affine(self) -> NDArray[np.float64]:
        """`[4, 4]` from voxel index to world millimetres (RAS+); read-only."""
        return self.volume.geometry.affine

    @cached_property
    def _counts(self) -> list[int]:
        return self.segmentation.voxel_counts()

    def volumes(self) -> VolumeTable:
        """Volumes of all structures; those that were not found have 0."""
        one = self.volume.geometry.voxel_volume / 1000
        pairs = zip(self.table, self._counts, strict=True)
        return VolumeTable([StructureVolume(k.id, k.name, k.side, count, count * one) for k, count in pairs])

    def plot(self) -> Figure:
        """Three planes of the scan with the outlines of the structures, in radiological convention.

        Returns:
            A matplotlib figure that notebooks show; `figure.savefig(path)` writes it. pyplot does not hold on to it.
        """
        scan, found = self.volume, self.segmentation
        title = f"{self.name}  ({about(self.model)})"
        figure = qc_figure(scan.data, found.classes, scan.geometry, found.table, self._counts, title)
        # Notebooks know how to show figures only once pyplot was imported in them; this they find without.
        figure._repr_png_ = lambda: _png(figure, figure.dpi)  # type: ignore[attr-defined]
        return figure

    def save(self, path: str | Path) -> list[Path]:
        """Write the segmentation.

        Args:
            path: a name that ends in `.nii.gz` or `.nii` for the labels alone; otherwise a folder, which is made if
                need be and gets the files that `voxseg predict` writes: `NAME_seg.nii.gz`, `NAME_volumes.tsv`,
                `NAME_qc.png` and `NAME_seg.json`.

        Returns:
            What was written.

        Raises:
            UserError: if it cannot be written.
        """
        path = Path(path)
        with _python_words():
            if not path.name.lower().endswith(NIFTI_SUFFIXES) or path.is_dir():
                if path.exists() and not path.is_dir():
                    raise UserError(path, "is a file", "give a folder, or a name that ends in .nii.gz")
                return write_outputs(self.volume, self.segmentation, self.model, path / self.name, origin=self.origin)
            make_folder(path.parent)
            with staged(path) as (temporary,):
                write_segmentation(temporary, self.labels, self.table, self.volume, about(self.model))
        return [path]

    def to_nibabel(self) -> nib.Nifti1Image:
        """The image that `save` writes, in memory: the scan's grid, label names in an extension of the header."""
        with tempfile.TemporaryDirectory() as folder:
            path = self.save(Path(folder) / "labels.nii")[0]
            kind = nib.Nifti2Image if isinstance(self.volume.header, nib.Nifti2Header) else nib.Nifti1Image
            return kind.from_bytes(path.read_bytes())

    def __repr__(self) -> str:
        voxels = " x ".join(map(str, self.labels.shape))
        found = sum(count > 0 for count in self._counts)
        return f"<voxseg result {self.name}: {found} of {len(self.table)} structures of {self.model}, {voxels} voxels>"

    def _repr_html_(self) -> str:
        figure = self.plot()
        picture = base64.b64encode(_png(figure, PREVIEW_DPI)).decode("ascii")
        name = html.escape(self.name)
        volumes = self.volumes()._repr_html_()
        return (
            f"<p><b>{name}</b> &nbsp; {html.escape(about(self.model))}</p>"
            f"<img src='data:image/png;base64,{picture}' alt='three planes of {name} with outlines'>"
            f"<details><summary>volumes</summary>{volumes}</details>"
        )


def _volume(image: Any, called: str, affine: Any, spacing: Any) -> Volume:
    """One image of a case, from a file or from memory."""
    if not isinstance(image, (str, Path)):
        return volume_in_memory(image, called, affine, spacing)
    if affine is not None or spacing is not None:
        given = "affine" if affine is not None else "spacing"
        raise UserError(image, f"is a file, which has its place in space, and {given}= is given", "leave it out")
    return read_volume(image)


def _ml(row: StructureVolume) -> str:
    """A volume with three decimals, as far as they mean something."""
    return f"{row.ml:.3f}" if row.voxels else "not found"


def _png(figure: Figure, dpi: float) -> bytes:
    """A figure as the bytes of a PNG; neither the figure nor anything global is changed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer, before = io.BytesIO(), figure.dpi
    try:
        figure.dpi = dpi
        FigureCanvasAgg(figure).print_png(buffer)
    finally:
        figure.dpi = before
    return buffer.getvalue()


@contextmanager
def _python_words() -> Iterator[None]:
    """Tell of mistakes in terms of Python's arguments, where the parts below speak of the command's options."""
    try:
        yield
    except UserError as error:
        subject = re.sub(r"^--([a-z-]+) (.*)$", lambda m: f"{_argument(m)}={m[2]!r}", error.subject)
        problem, remedy = (re.sub(r"--([a-z-]+)", _argument, text) for text in (error.problem, error.remedy))
        raise UserError(subject, problem, remedy.replace(" with -o", "")) from None


def _argument(match: re.Match[str]) -> str:
    return match[1].replace("-", "_")
