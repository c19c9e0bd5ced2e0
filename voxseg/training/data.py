"""From a config to what the loop needs of the data: samples, and what is validated on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from voxseg.data.label_maps import LabelMaps
from voxseg.data.synthesis import ScanGenerator
from voxseg.errors import UserError
from voxseg.training.config import TrainingConfig
from voxseg.training.config_file import read_yaml
from voxseg.training.distributed import Processes
from voxseg.training.initial_weights import resolve_model
from voxseg.training.run import Run
from voxseg.training.samples import GeneratedSource, SampleSource
from voxseg.training.validation import Validation, WindowValidation


@dataclass
class TrainingData:
    """What a run trains and validates on.

    Attributes:
        source: of the samples.
        validation: None where every case is trained on.
        facts: as in `Run`.
    """

    source: SampleSource
    validation: Validation | None
    facts: dict[str, Any] = field(default_factory=dict)


def resolve_paths(config: TrainingConfig, folder: Path, resume: bool) -> TrainingConfig:
    """The config with the absolute paths of its data and of the model that it starts from.

    Where it does not name them, they are those of the run that is resumed.

    Raises:
        UserError: neither names any data.
    """
    earlier = folder / "config.yaml"
    saved = read_yaml(earlier) if resume and earlier.is_file() else {}
    data, initial = config.data or saved.get("data"), config.initial_weights or saved.get("initial_weights")
    if data is None:
        what = "the label maps" if config.generator else "the data set"
        raise UserError("data", "is not set", f"give the folder of {what} with --data FOLDER")
    started_from = resolve_model(initial) if initial else None
    return config.model_copy(update={"data": Path(data).resolve(), "initial_weights": started_from})


def open_data(run: Run, processes: Processes) -> TrainingData:
    """Opens what the config names; prepares and caches the cases of a data set.

    Raises:
        UserError: the data do not fit the config; the message names the file.
    """
    config = run.config
    assert config.data is not None
    if config.generator is not None:
        maps, held_out = LabelMaps.read(config.data, config.labels, run.device).parted(config.generator.held_out)
        generator = ScanGenerator(maps, config.generator, run.device)
        unseen = ScanGenerator(held_out, config.generator, run.device) if held_out.heads else generator
        scans = GeneratedSource(generator, config.seed, config.batch, config.accumulate, processes.rank)
        return TrainingData(scans, WindowValidation(unseen, config, processes.rank, processes.world))
    try:
        from voxseg.training.dataset_run import open_dataset  # with MONAI, which takes seconds
    except ModuleNotFoundError as error:
        problem = f"needs the package {error.name}, which is not installed"
        raise UserError("training on a data set", problem, "pip install 'voxseg[train]'") from error
    return TrainingData(*open_dataset(run, processes))
