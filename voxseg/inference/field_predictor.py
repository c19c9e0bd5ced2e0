"""The whole way from the scans of a case to a field in the grid of the first: scalars, vectors, tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from voxseg.data.field_kinds import FieldTarget
from voxseg.data.geometry import Geometry
from voxseg.data.preparation import covering_grid, preparation_bytes, prepare, sample
from voxseg.data.volume import Volume
from voxseg.inference.checks import check_images, check_memory
from voxseg.inference.device import choose_device, gpu_memory, on_device
from voxseg.inference.memory import held_memory, memory_left, network_bytes
from voxseg.inference.model import FieldModel
from voxseg.inference.plan import Plan, choose_run
from voxseg.inference.predictor import stage
from voxseg.inference.windows import in_windows

__all__ = ["FieldPrediction", "FieldPredictor"]

Progress = Callable[[str, float], None]


@dataclass(eq=False)
class FieldPrediction:
    """A field that was predicted for a scan.

    Attributes:
        fields: `[C, X, Y, Z]` float32 in the scan's stored order of voxels, components in world axes (RAS+), in units
            of `target.scale`; 0 outside of what the network was shown.
        target: what it is.
        windows: in how many windows the network ran.
        seconds: time spent, by stage.
        plan: what was planned.
    """

    fields: NDArray[np.float32]
    target: FieldTarget
    windows: int = 1
    seconds: dict[str, float] = field(default_factory=dict)
    plan: Plan | None = None


class FieldPredictor:
    """A model of fields on a device, ready for any number of scans.

    Args:
        model: as `load_field_model` gives it, or built in memory.
        device: as for `Predictor`.
        max_memory: bytes that the whole process may take on the CPU; as for `Predictor`.
        window: voxels of the sides of the windows that the network runs in; by default as large as fits into memory.

    Raises:
        UserError: if the device is not there.
    """

    def __init__(
        self, model: FieldModel, device: str = "auto", max_memory: int | None = None, window: int | None = None
    ) -> None:
        self.model, self.device = model, choose_device(device)
        self.max_memory, self.window, self.reserved = max_memory, window, 0
        self.network = on_device(model.network, self.device)
        self._held = held_memory()

    def plan(self, images: Volume | Sequence[Volume], probabilities: bool = False) -> Plan:
        """What predicting a case will take of memory, and in how many windows the network will run.

        Args:
            images: as `predict` takes them.
            probabilities: there are none.
        """
        del probabilities
        volumes = [images] if isinstance(images, Volume) else list(images)
        config, scan = self.model.config, volumes[0].geometry
        grid = covering_grid(scan, config.preparation.spacing)
        preparing = preparation_bytes([volume.data for volume in volumes], scan, config.preparation)
        channels, voxels = config.network.out_channels, math.prod(scan.shape)
        held = 4 * (len(volumes) + channels) * math.prod(grid.shape)
        scans = sum(volume.data.nbytes for volume in volumes)
        left = memory_left(self.max_memory, voxels, self._held, scans, self.reserved)
        measured: int | None = getattr(self.network, "bytes_per_voxel", None)
        voxel = measured or network_bytes(config.network)
        run = choose_run(
            grid.shape, channels, voxel, left - held, None, gpu_memory(self.device), self.window, pieces=False
        )
        # In the end the field is there twice, as it was sampled and as it is written, beside a channel at work.
        afterwards = held + 4 * voxels * (2 * channels + 2)
        used = held_memory()
        return Plan(
            grid.shape,
            config.preparation.spacing,
            run,
            used + max(preparing, held + run.bytes, afterwards),
            used + left,
        )

    @torch.no_grad()
    def predict(
        self, images: Volume | Sequence[Volume], progress: Progress = lambda stage, fraction: None
    ) -> FieldPrediction:
        """Predict the field of a case, in the grid of its first image.

        Args:
            images: as `Predictor.segment` takes them.
            progress: called with the name of a stage and the fraction of it that is done.

        Raises:
            UserError: if the images are not those that the model takes, do not fit together, or cannot be done within
                the memory allowed.
        """
        config, target = self.model.config, self.model.target
        volumes = [images] if isinstance(images, Volume) else list(images)
        check_images(volumes, list(config.preparation.images))
        plan, scan = self.plan(volumes), volumes[0].geometry
        check_memory(volumes[0], plan, "its field")
        seconds: dict[str, float] = {}
        with stage("preparing", seconds, progress):
            prepared = prepare([(volume.data, volume.geometry) for volume in volumes], config.preparation)
        window = plan.run.window or prepared.grid.shape
        with stage("network", seconds, progress):
            found = in_windows(
                self._run, prepared.image[None], window, config.network.out_channels,
                progress=lambda fraction: progress("network", fraction),
            )[0]  # fmt: skip
        with stage("restoring", seconds, progress):
            fields = self._restored(found, prepared.grid, scan)
        return FieldPrediction(fields, target, plan.run.count, seconds, plan)

    def _restored(self, found: Tensor, grid: Geometry, scan: Geometry) -> NDArray[np.float32]:
        """The field in world axes and in the grid of the scan, of one in the axes and voxels of the working grid."""
        world = self.model.target.turned(found.numpy(), grid.rigid_axes)
        result = np.empty((len(world), *scan.shape), dtype=np.float32)
        for channel, values in zip(result, world, strict=True):
            sampled, inside = sample(values, grid, scan)
            channel[:] = (sampled * inside).numpy()
        return result

    def _run(self, batch: Tensor) -> Tensor:
        output: Tensor = self.network(batch.to(self.device)).float()
        return output
