"""Transforms of the user's own, given in a config by their import path."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable, Transform

from voxseg.data.config import TransformConfig
from voxseg.errors import UserError
from voxseg.imports import make_imported, told

__all__ = ["UserTransform"]

MAX_SEED = 2**32


class UserTransform(Randomizable, Transform):
    """A dictionary transform imported by its path.

    It is seeded with each window: by `set_random_state` if it is one of MONAI's `Randomizable`, and in any case
    through the global random states of Python, numpy and torch, which are put back afterwards. After its first window
    what it gives is checked.

    Args:
        config: where it is, and the arguments of its constructor.

    Raises:
        UserError: it cannot be imported or made, or is nothing that can be called.
    """

    def __init__(self, config: TransformConfig) -> None:
        self.subject = f"augmentation.transforms: {config.path}"
        self.transform = make_imported(config.path, config.arguments, self.subject)
        if not callable(self.transform):
            raise UserError(self.subject, "cannot be called", "give a class with __call__(data)")
        self._checked = False

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Applies it.

        Raises:
            UserError: it fails, or gives something else than windows of the same size.
        """
        seed = int(self.R.randint(MAX_SEED, dtype="uint32"))
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(seed)
        before = {key: tuple(data[key].shape) for key in ("image", "label")}
        try:
            with _seeded(seed):
                result = self.transform(dict(data))
        except Exception as error:  # whatever their code raises
            raise UserError(self.subject, f"fails ({told(error)})", "correct the transform") from error
        if not self._checked:
            self._check(result, before)
            self._checked = True
        return dict(result)

    def _check(self, result: object, before: Mapping[str, tuple[int, ...]]) -> None:
        """Refuses what the network could not be trained on."""
        if not isinstance(result, Mapping):
            raise UserError(self.subject, f"gives {type(result).__name__}", "return the dictionary")
        for key, shape in before.items():
            value = result.get(key)
            if not isinstance(value, (torch.Tensor, np.ndarray)) or tuple(value.shape) != shape:
                found = type(value).__name__ if value is None else list(getattr(value, "shape", ()))
                raise UserError(self.subject, f"makes {found} of '{key}' {list(shape)}", "keep its shape")
        image = torch.as_tensor(result["image"])
        if not image.is_floating_point() or not bool(torch.isfinite(image).all()):
            what = f"of {image.dtype}" if not image.is_floating_point() else "with values that are not finite"
            raise UserError(self.subject, f"makes 'image' {what}", "give finite floating-point numbers")
        label = torch.as_tensor(result["label"])
        if label.is_floating_point() and not torch.equal(label, label.round()):
            remedy = "interpolate labels with mode='nearest'"
            raise UserError(self.subject, "makes 'label' with fractions", remedy)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds the global random states for a while."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.random.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
