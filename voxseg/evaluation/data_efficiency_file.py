"""Finding the config of a benchmark. Imports nothing heavy: a wrong path has to be told at once."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from voxseg.errors import UserError

__all__ = ["CONFIG_FILE", "DEFAULT", "find_benchmark", "packaged_benchmarks"]

CONFIG_FILE = "benchmark.yaml"
"""The name of the config in the folder of a benchmark."""

DEFAULT = "data_efficiency"


def packaged_benchmarks() -> list[str]:
    """Names of the benchmark configs that come with voxseg."""
    folder = resources.files("voxseg.configs") / "benchmarks"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def find_benchmark(config: str | Path | None, folder: Path, default: str = DEFAULT) -> Path:
    """The file behind a command line argument.

    Args:
        config: a YAML file, the folder of a benchmark, or the name of a packaged config. None: that of the benchmark
            in `folder` if there is one, otherwise the packaged one named `default`.
        folder: of the benchmark to run.
        default: name of a packaged config.

    Raises:
        UserError: there is none of these.
    """
    if config is None:
        begun = folder / CONFIG_FILE
        config = begun if begun.is_file() else default
    path = Path(config)
    if path.is_dir() and (path / CONFIG_FILE).is_file():
        return path / CONFIG_FILE
    if path.is_file():
        return path
    names = packaged_benchmarks()
    if str(config) in names:
        return Path(str(resources.files("voxseg.configs") / "benchmarks" / f"{config}.yaml"))
    raise UserError(config, "no such file and no such packaged benchmark", f"packaged are: {', '.join(names)}")
