"""Options that several commands have; imports nothing heavy."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

__all__ = [
    "AllowImport",
    "Device",
    "ImageFiles",
    "MaxMemory",
    "ModelName",
    "OnDevice",
    "PageToo",
    "SkipExisting",
    "Threads",
    "TrainingDevice",
    "Verbose",
    "bytes_of",
]


class Device(str, Enum):
    """Where the network runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


ModelName = Annotated[str, typer.Option(metavar="NAME|FOLDER", help="A packaged model or a model folder.")]
OnDevice = Annotated[Device, typer.Option(help="auto is a CUDA GPU if there is one, otherwise the CPU.")]
PageToo = Annotated[bool, typer.Option("--report", help="Write a page for each scan too, with an interactive viewer.")]
TrainingDevice = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Processor threads; one a core by default."),
]
MaxMemory = Annotated[
    float | None,
    typer.Option(
        min=1.0,
        metavar="GB",
        help="Memory to stay within on the CPU; by default 2.5, and more for a scan of over 256^3 voxels; "
        "4 for a worker of a cluster or a job of serve.",
    ),
]
ImageFiles = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=FILE", help="One image of a case, for a model of several; give each of them."),
]
SkipExisting = Annotated[
    bool,
    typer.Option(
        "--skip-existing", help="Skip scans whose results are all there, or that another process is working on."
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Tell how long each stage took.")]
AllowImport = Annotated[
    bool,
    typer.Option(
        "--allow-import",
        help="Import a network that is not voxseg's own, as the model folder names it: runs its code.",
    ),
]


def bytes_of(max_memory: float | None) -> int | None:
    """Bytes for `--max-memory`."""
    return None if max_memory is None else int(max_memory * 1e9)
