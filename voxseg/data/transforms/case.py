"""From the files of a case to its images and labels on the working grid, as MONAI transforms."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Transform

from voxseg.data.datasets.case import Case
from voxseg.data.datasets.read import read_image, read_labels
from voxseg.data.geometry import Geometry
from voxseg.data.label_scheme import LabelScheme
from voxseg.data.preparation import PreparationConfig, prepare, prepare_labels
from voxseg.data.prepared_case import image_files, label_classes, label_file

__all__ = ["PrepareCased", "ReadCased", "case_transforms"]

Data = dict[Hashable, Any]


def case_transforms(preparation: PreparationConfig, labels: LabelScheme | None) -> Compose:
    """What training does to each case once: `{"case": Case}` becomes "image" and "label" on the working grid.

    A transform of your own that needs the scans as they are goes between the two:
    ``Compose([ReadCased(preparation, labels), Mine(keys=["t1", "flair"]), PrepareCased(preparation, labels)])``.

    Args:
        preparation: from scans to what the network sees.
        labels: what the ids of the label file mean; None for cases without labels.
    """
    return Compose([ReadCased(preparation, labels is not None), PrepareCased(preparation, labels)])


class ReadCased(Transform):
    """Reads the files of ``data["case"]``, a `voxseg.data.datasets.case.Case`.

    Adds one `MetaTensor` `[1, X, Y, Z]` an image under the image's name, and "label" `[1, X, Y, Z]` with the ids of the
    file, all in the stored axes with their RAS+ affines.

    Args:
        preparation: whose images are read.
        label: whether the label file is read.
    """

    def __init__(self, preparation: PreparationConfig, label: bool = True) -> None:
        self.preparation, self.label = preparation, label

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Reads.

        Raises:
            UserError: a file is missing or cannot be read.
        """
        case: Case = data["case"]
        result = dict(data)
        for name, file in image_files(case, self.preparation).items():
            result[name] = _tensor(*read_image(file))
        if self.label:
            result["label"] = _tensor(*read_labels(label_file(case)))
        return result


class PrepareCased(Transform):
    """Brings images and labels onto the working grid.

    Takes one tensor `[1, X, Y, Z]` an image under its name and, with `labels`, "label" (ids); gives "image"
    `[C, X, Y, Z]` float32 and "label" `[1, X, Y, Z]` uint8, dense class indices. The images themselves are dropped.

    Args:
        preparation: from scans to what the network sees.
        labels: what the ids mean; None leaves "label" alone.
    """

    def __init__(self, preparation: PreparationConfig, labels: LabelScheme | None) -> None:
        self.preparation, self.labels = preparation, labels

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Resamples and normalises.

        Raises:
            UserError: the labels have an id that the scheme refuses.
        """
        result = dict(data)
        images = [_array(result.pop(name)) for name in self.preparation.images]
        prepared = prepare(images, self.preparation)
        result["image"] = MetaTensor(prepared.image, affine=torch.from_numpy(prepared.grid.affine.copy()))
        if self.labels is not None:
            ids, geometry = _array(result["label"])
            case = result.get("case")
            classes = label_classes(ids, self.labels, case.label if isinstance(case, Case) else "label")
            result["label"] = _tensor(prepare_labels(classes, geometry, prepared.grid), prepared.grid)
        return result


def _tensor(array: Any, geometry: Geometry) -> MetaTensor:
    """An array [X, Y, Z] with its grid as MONAI has it."""
    return MetaTensor(torch.as_tensor(array.copy())[None], affine=torch.from_numpy(geometry.affine.copy()))


def _array(tensor: MetaTensor) -> tuple[Any, Geometry]:
    """The opposite of `_tensor`."""
    x, y, z = tensor.shape[1:]
    return tensor.as_tensor()[0].numpy(), Geometry((x, y, z), tensor.affine.numpy())
