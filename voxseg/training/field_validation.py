"""What a network of fields is worth on whole cases that it was never trained on, upright and turned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from voxseg.data.datasets.case import Case
from voxseg.data.field_colours import field_colours, field_strength
from voxseg.data.field_kinds import FieldTarget
from voxseg.data.geometry import Geometry
from voxseg.data.preparation import prepare
from voxseg.data.prepared_field import read_target, resample_field
from voxseg.data.turning import turned_case
from voxseg.data.views import VIEWS
from voxseg.data.volume import Volume
from voxseg.inference.field_predictor import FieldPredictor
from voxseg.inference.memory import DEFAULT_LIMIT, resident_memory
from voxseg.inference.model import FieldModel, ModelConfig
from voxseg.testing import rotation_matrix
from voxseg.training.config import TrainingConfig
from voxseg.training.equivariance import AXIS, equivariance_error
from voxseg.training.field_scores import Errors, FieldCase, FieldResult, FieldView, field_errors, merge_fields
from voxseg.training.model_config import model_config
from voxseg.training.validation import SHOWN, evaluating, read_images, spread

__all__ = ["FieldValidation"]

Truth = tuple[NDArray[np.float32], NDArray[np.bool_]]


class FieldValidation:
    """Whole cases, predicted in their own grids as `voxseg predict` would, one at a time and read anew each time.

    Args:
        cases: all that are held out, with targets.
        config: of the run; `validation.cases` of them are taken, evenly spread.
        rank: number of this process, which takes every `world`-th of those.
        world: how many processes there are.
    """

    def __init__(self, cases: Sequence[Case], config: TrainingConfig, rank: int = 0, world: int = 1) -> None:
        assert config.targets is not None
        self.config, self.target = config, config.targets
        chosen = spread(len(cases), config.validation.cases)
        self.cases = [(number, cases[index]) for number, index in enumerate(chosen)][rank::world]

    def run(self, network: nn.Module, device: torch.device) -> FieldResult:
        """Predicts this process's cases, upright and turned.

        Turned is the patient: scan and truth are turned by `validation.turned_deg` about an odd axis (`AXIS`), the
        components of the truth with them. Interpolating both adds an error of its own.

        Raises:
            UserError: a file has changed and cannot be read any more, or does not fit its case.
        """
        if device.type == "cuda":
            torch.cuda.empty_cache()
        degrees, result = self.config.validation.turned_deg, FieldResult([])
        with evaluating(network, device) as predict:
            settings = ModelConfig.model_validate(model_config(self.config))
            model = FieldModel(settings, self.target, network)
            predictor = FieldPredictor(model, str(device), max_memory=resident_memory() + DEFAULT_LIMIT)
            for number, case in self.cases:
                images = read_images(case, self.config)
                if number == 0 and degrees:
                    prepared = prepare([(image.data, image.geometry) for image in images], self.config.preparation)
                    error = equivariance_error(predict, prepared.image, degrees, self.target.field)
                    result.equivariance.append(error)
                fields, mask, geometry = read_target(case, self.target)
                truth = resample_field(fields, mask, geometry, images[0].geometry)
                errors, views = self._measured(predictor, images, truth, number < SHOWN)
                scores = FieldCase(number, case.id, errors, views=views)
                if degrees:
                    scores.turned, _ = self._measured(predictor, *self._turned(images, fields, mask, geometry), False)
                result.cases.append(scores)
        return result

    def merge(self, results: Sequence[FieldResult]) -> FieldResult:
        """One result of those of all processes."""
        return merge_fields(results)

    def _turned(
        self, images: Sequence[Volume], fields: NDArray[np.float32], mask: NDArray[np.bool_] | None, geometry: Geometry
    ) -> tuple[list[Volume], Truth]:
        """The case with the patient turned about the middle of the first image."""
        rotation = rotation_matrix(AXIS, self.config.validation.turned_deg).numpy()
        first = images[0].geometry
        nowhere = np.zeros(first.shape, dtype=np.uint8)
        scans, _ = turned_case([(v.data, v.geometry) for v in images], nowhere, self.config.preparation, rotation)
        turned = [Volume(v.path, data, grid, None, grid.shape) for v, (data, grid) in zip(images, scans, strict=True)]
        centre = first.to_world((np.array(first.shape) - 1) / 2)
        motion = np.eye(4)
        motion[:3, :3], motion[:3, 3] = rotation, centre - rotation @ centre
        moved = Geometry(geometry.shape, motion @ geometry.affine)
        return turned, resample_field(self.target.turned(fields, rotation), mask, moved, turned[0].geometry)

    def _measured(
        self, predictor: FieldPredictor, images: Sequence[Volume], truth: Truth, shown: bool
    ) -> tuple[Errors, list[FieldView]]:
        """The errors of a case in one pose, and the planes to look at if it is shown."""
        fields, known = truth
        prediction = predictor.predict(list(images)).fields
        errors = field_errors(prediction, fields, known, self.target)
        views = field_views(prediction * known, fields, self.target, images[0].geometry) if shown else []
        return errors, views


def field_views(
    prediction: NDArray[np.float32], truth: NDArray[np.float32], target: FieldTarget, geometry: Geometry
) -> list[FieldView]:
    """An axial, a coronal and a sagittal plane, each where the true field is strongest, both in the same brightness."""
    spacing = geometry.canonical.spacing
    true, found = (geometry.to_canonical(np.moveaxis(f, 0, -1)) for f in (truth, prediction))
    strength = field_strength(np.moveaxis(true, -1, 0), target)
    there = strength[strength != 0]
    window = (min(0.0, float(strength.min())), float(np.quantile(there, 0.99)) if there.size else 1.0)
    views = []
    for view in VIEWS:
        others = tuple(axis for axis in range(3) if axis != view.cut)
        index = int(np.abs(strength).sum(axis=others).argmax())
        planes = [field_colours(np.moveaxis(np.take(f, index, view.cut), -1, 0), target, window) for f in (true, found)]
        views.append(FieldView(view.name, planes[0], planes[1], (spacing[view.across], spacing[view.up])))
    return views
