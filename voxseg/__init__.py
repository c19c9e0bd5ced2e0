"""Segmentation of 3D medical images with SO(3)-steerable networks: a turned scan gives the turned segmentation.

`voxseg.predict` and `voxseg.load_model` are imported when they are asked for: `import voxseg` alone loads no torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voxseg.api import Result, SegmentationModel, load_model, predict

__all__ = ["Result", "SegmentationModel", "__version__", "load_model", "predict"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        from voxseg import api

        return getattr(api, name)
    raise AttributeError(f"module 'voxseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
