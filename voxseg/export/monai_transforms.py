"""MONAI dictionary transforms of an exported bundle: a scan prepared, and labels brought back to its grid and saved."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import nn

from voxseg.data.labels import LabelTable
from voxseg.data.paths import check_scan_path, scan_name
from voxseg.data.preparation import Prepared, prepare
from voxseg.data.segmentation import write_segmentation
from voxseg.data.staging import staged
from voxseg.data.volume import read_volume
from voxseg.inference.checks import check_images
from voxseg.inference.model import Model, read_model_config
from voxseg.inference.predictor import Predictor
from voxseg.report.outputs import about, make_folder

__all__ = ["PrepareScand", "RestoreLabelsd", "SaveLabelsd"]


class PrepareScand(MapTransform):
    """Read the images of a case and prepare them for the network.

    Args:
        keys: of the images, in the order of the model's; their values are paths.
        model: folder with the model's `config.yaml`.
        image_key: of the prepared image, `[C, X, Y, Z]` float32.
        grid_key: of the grid that it lies on.
        scan_key: of the first image as it was read.

    Raises:
        UserError: if a file cannot be read, or the images do not belong together.
    """

    def __init__(
        self,
        keys: KeysCollection,
        model: str,
        image_key: str = "image",
        grid_key: str = "grid",
        scan_key: str = "scan",
    ) -> None:
        super().__init__(keys)
        self.config = read_model_config(Path(model) / "config.yaml").preparation
        self.image_key, self.grid_key, self.scan_key = image_key, grid_key, scan_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add image, grid and scan."""
        paths = [Path(data[key]) for key in self.keys]
        for path in paths:
            check_scan_path(path)
        volumes = [read_volume(path) for path in paths]
        check_images(volumes, list(self.config.images))
        prepared = prepare([(volume.data, volume.geometry) for volume in volumes], self.config)
        found: dict[Hashable, Any] = {
            self.image_key: prepared.image,
            self.grid_key: prepared.grid,
            self.scan_key: volumes[0],
        }
        return {**data, **found}


class RestoreLabelsd(MapTransform):
    """From probabilities `[K, X, Y, Z]` on the working grid to label ids `[X, Y, Z]` in the scan's stored axes.

    Args:
        keys: of the probabilities, which are replaced.
        model: folder with the model's `config.yaml` and `labels.csv`.
        image_key: as `PrepareScand` has written it.
        grid_key: likewise.
        scan_key: likewise.
    """

    def __init__(
        self,
        keys: KeysCollection,
        model: str,
        image_key: str = "image",
        grid_key: str = "grid",
        scan_key: str = "scan",
    ) -> None:
        super().__init__(keys)
        config, table = read_model_config(Path(model) / "config.yaml"), LabelTable.read(Path(model) / "labels.csv")
        # The network is the bundle's own; what comes after it is the same for all.
        self.predictor = Predictor(Model(config, table, nn.Identity()), "cpu")
        self.image_key, self.grid_key, self.scan_key = image_key, grid_key, scan_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace probabilities by labels."""
        result = dict(data)
        prepared = Prepared(data[self.image_key], data[self.grid_key])
        for key in self.keys:
            probabilities = torch.as_tensor(data[key]).as_subclass(torch.Tensor).cpu()
            result[key] = self.predictor.restore(probabilities, prepared, data[self.scan_key]).labels
        return result


class SaveLabelsd(MapTransform):
    """Write labels as `NAME_seg.nii.gz` in exactly the grid of the scan, with the names of the labels inside.

    Args:
        keys: of the labels.
        model: folder with the model's `config.yaml` and `labels.csv`.
        output_dir: where to; made if need be.
        scan_key: as `PrepareScand` has written it.

    Raises:
        UserError: if the folder cannot be written to.
    """

    def __init__(self, keys: KeysCollection, model: str, output_dir: str, scan_key: str = "scan") -> None:
        super().__init__(keys)
        self.name = read_model_config(Path(model) / "config.yaml").name
        self.table = LabelTable.read(Path(model) / "labels.csv")
        self.folder, self.scan_key = Path(output_dir), scan_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files; the data stay as they are."""
        scan = data[self.scan_key]
        make_folder(self.folder)
        for key in self.keys:
            target = self.folder / f"{scan_name(scan.path)}_seg.nii.gz"
            with staged(target) as (path,):
                write_segmentation(path, data[key], self.table, scan, about(self.name))
        return dict(data)
