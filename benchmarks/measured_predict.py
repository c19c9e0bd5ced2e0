"""What `voxseg predict` does of one scan, with the time and the peak memory of each stage, as one line of JSON.

    python benchmarks/measured_predict.py SCAN -o FOLDER [--model brain] [--threads 2] [--max-memory GB] [--operators]

`predict_speed.py` and `predict_scaling.py` start it as a process of its own for each figure. The stages are those of
the command line; "starting" is Python and this program. `--operators` adds the seconds of each operator of the network,
taken in a second pass over the scan.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from measuring import forget_peak, resident


class Stages:
    """Seconds and peak memory of stages that follow one another."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak: dict[str, float] = {}
        self.name = "starting"
        # From the start of the process, which the clock of the kernel tells in hundredths.
        self.since = time.perf_counter() - _age()

    def __call__(self, name: str, fraction: float = 0.0) -> None:
        """A stage begins, or goes on: what `Predictor.segment` calls its progress."""
        del fraction
        if name != self.name:
            self.end()
            self.name = name

    def end(self) -> None:
        """The stage ends."""
        now = time.perf_counter()
        self.seconds[self.name] = self.seconds.get(self.name, 0.0) + now - self.since
        self.peak[self.name] = max(self.peak.get(self.name, 0.0), resident("VmHWM") / 1e9)
        forget_peak()
        self.since = now


def _age() -> float:
    """Seconds that this process has lived."""
    try:
        started = int(Path("/proc/self/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[19])
        return max(float(Path("/proc/uptime").read_text(encoding="ascii").split()[0]) - started / 100, 0.0)
    except (OSError, ValueError, IndexError):
        return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", default="brain")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-memory", type=float, help="GB; what voxseg predict allows by default")
    parser.add_argument("--window", type=int)
    parser.add_argument("--operators", action="store_true")
    parser.add_argument("--probabilities", action="store_true")
    arguments = parser.parse_args()
    stages = Stages()
    stages("importing")
    from voxseg.cli._allocator import keep_freed_memory

    keep_freed_memory()
    import torch

    from voxseg.data.volume import read_volume
    from voxseg.inference.model import load_model
    from voxseg.inference.predictor import Predictor
    from voxseg.report.outputs import write_outputs

    torch.set_num_threads(arguments.threads)
    stages("loading")
    limit = None if arguments.max_memory is None else int(arguments.max_memory * 1e9)
    predictor = Predictor(load_model(arguments.model), "cpu", limit, arguments.window)
    stages("reading")
    volume = read_volume(arguments.scan)
    plan = predictor.plan(volume, arguments.probabilities)
    if arguments.probabilities:
        segmentation = with_probabilities(predictor, volume, arguments.output, stages)
    else:
        segmentation = predictor.segment(volume, stages)
    # Restoring goes on while the network runs in windows: the two are told apart by the predictor.
    measured = dict(segmentation.seconds)
    write_outputs(volume, segmentation, predictor.model.config.name, arguments.output / volume.name, stages)
    stages.end()
    stages.seconds |= measured
    result: dict[str, Any] = {
        "seconds": stages.seconds,
        "peak_gb": stages.peak,
        "total": sum(stages.seconds.values()),
        "peak": max(stages.peak.values()),
        "planned_gb": plan.expected / 1e9,
        "plan": plan.line(),
        "windows": segmentation.windows,
        "run": str(segmentation.plan.run if segmentation.plan else None),
    }
    if arguments.operators:
        result["operators"] = operators(predictor, volume)
    print(json.dumps(result))


def with_probabilities(predictor: Any, volume: Any, folder: Path, stages: Stages) -> Any:
    """Segment a scan and write its probabilities too."""
    from voxseg.data.probabilities import write_probabilities

    names = ["background", *predictor.model.table.names]
    with write_probabilities(folder / f"{volume.name}_probabilities.nii.gz", names, volume) as sink:
        segmentation = predictor.segment(volume, stages, sink)
        stages("compressing")
    return segmentation


def operators(predictor: Any, volume: Any) -> list[tuple[str, float, int]]:
    """Name, own seconds and calls of each operator of the network, the longest first."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from voxseg.data.preparation import prepare

    prepared = prepare([(volume.data, volume.geometry)], predictor.model.config.preparation)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as profiler:
        predictor._probabilities(prepared.image, lambda done: None)
    rows = [(e.key, e.self_cpu_time_total / 1e6, e.count) for e in profiler.key_averages()]
    return sorted(rows, key=lambda row: -row[1])


if __name__ == "__main__":
    main()
