"""What images look like: changes of each on its own, thick slices, a missing image."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable, RandomizableTransform
from torch import Tensor

from voxseg.data._intensity import low_resolution

__all__ = ["EachImaged", "RandDropImaged", "RandThickSlices"]

Data = dict[Hashable, Any]
MAX_SEED = 2**32


class EachImaged(Randomizable, MapTransform):
    """Applies an array transform to each channel on its own, with random changes of its own.

    MONAI's transforms take the channels of a tensor for parts of one image; here they are scans with different
    contrasts, measured one after the other. Voxels that are exactly 0 stay so: they are outside the scan or outside a
    stripped brain, where there is neither noise nor shading.

    Args:
        keys: of the tensors `[C, X, Y, Z]`.
        transform: takes and gives `[1, X, Y, Z]`, such as a MONAI transform or a `Compose` of them.
    """

    def __init__(self, keys: Sequence[str], transform: Callable[[Tensor], Tensor]) -> None:
        MapTransform.__init__(self, keys)
        self.transform = transform

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> EachImaged:
        """As all of MONAI's; the inner transform is seeded with it."""
        super().set_random_state(seed, state)
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(int(self.R.randint(MAX_SEED, dtype="uint32")))
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Changes each channel."""
        result = dict(data)
        for key in self.key_iterator(result):
            volume = result[key]
            plain = volume.as_tensor() if isinstance(volume, MetaTensor) else volume
            changed = [torch.as_tensor(self.transform(channel[None].clone()), dtype=plain.dtype) for channel in plain]
            images = torch.cat([c.as_tensor() if isinstance(c, MetaTensor) else c for c in changed])
            images[plain == 0] = 0
            result[key] = MetaTensor(images, meta=volume.meta) if isinstance(volume, MetaTensor) else images
        return result


class RandThickSlices(RandomizableTransform):
    """An image as if measured in thick slices along a random axis, interpolated back linearly.

    Args:
        prob: how often.
        factors: least and largest thickness of a slice, in voxels.
    """

    def __init__(self, prob: float = 0.1, factors: tuple[float, float] = (1.5, 4.0)) -> None:
        super().__init__(prob)
        self.factors = factors

    def __call__(self, image: Tensor) -> Tensor:
        """Changes `[1, X, Y, Z]`."""
        self.randomize(None)
        if not self._do_transform:
            return image
        axis, factor = int(self.R.randint(3)), float(self.R.uniform(*self.factors))
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        return low_resolution(plain[0], axis, factor)[None]


class RandDropImaged(RandomizableTransform, MapTransform):
    """Makes one of several images blank, so that the network learns to do without. A single image stays.

    Args:
        keys: of the tensors `[C, X, Y, Z]`.
        prob: how often.
    """

    def __init__(self, keys: Sequence[str], prob: float = 0.1) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Sets one channel to 0."""
        result = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return result
        for key in self.key_iterator(result):
            channels = result[key].shape[0]
            if channels > 1:
                result[key] = result[key].clone()
                result[key][int(self.R.randint(channels))] = 0
        return result
