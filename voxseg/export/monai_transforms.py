"""MONAI dictionary transforms of an exported bundle: a scan prepared, and labels brought back to its grid and saved."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from voxseg.data.labels import LabelTable
from voxseg.data.paths import check_scan_path, scan_name
from voxseg.data.preparation import prepare
from voxseg.data.resample import memory_order
from voxseg.data.segmentation import write_segmentation
from voxseg.data.staging import write_complete
from voxseg.data.volume import read_volume
from voxseg.inference.model import read_model_config
from voxseg.inference.predictor import check_images
from voxseg.inference.restore import keep_largest, restore
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
        found = {self.image_key: prepared.image, self.grid_key: prepared.grid, self.scan_key: volumes[0]}
        return {**data, **found}


class RestoreLabelsd(MapTransform):
    """From probabilities `[K, X, Y, Z]` on the working grid to label ids `[X, Y, Z]` in the scan's stored axes.

    Args:
        keys: of the probabilities, which are replaced.
        model: folder with the model's `config.yaml` and `labels.csv`.
        grid_key: as `PrepareScand` has written it.
        scan_key: likewise.
    """

    def __init__(self, keys: KeysCollection, model: str, grid_key: str = "grid", scan_key: str = "scan") -> None:
        super().__init__(keys)
        self.config = read_model_config(Path(model) / "config.yaml")
        self.table = LabelTable.read(Path(model) / "labels.csv")
        self.painted = [1 + self.table.ids.index(region.label) for region in self.config.output.regions] or None
        self.grid_key, self.scan_key = grid_key, scan_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace probabilities by labels."""
        result, scan = dict(data), data[self.scan_key]
        for key in self.keys:
            probabilities = torch.as_tensor(data[key]).as_subclass(torch.Tensor).float().cpu().clone()
            if self.config.postprocessing.largest_component:
                keep_largest(probabilities, bool(self.painted))
            layout = memory_order(scan.data)
            classes = restore(probabilities, data[self.grid_key], scan.geometry, layout, painted=self.painted)
            result[key] = self.table.to_ids(classes)
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
            labels = data[key]
            write_complete(
                target, lambda path, ids=labels: write_segmentation(path, ids, self.table, scan, about(self.name))
            )
        return dict(data)
