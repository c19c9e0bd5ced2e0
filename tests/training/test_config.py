from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tiny_training import CLASSES, tiny_config
from voxseg.data.label_scheme import LabelScheme
from voxseg.errors import UserError
from voxseg.training.config import TrainingConfig, changed_keys, load_config
from voxseg.training.config_file import find_config, packaged_configs

MINIMAL = """
name: small
steps: 10
labels:
  classes: [10, 11]
generator: {}
network: {}
"""


def _load(folder: Path, text: str, *overrides: str) -> TrainingConfig:
    path = folder / "brain.yaml"
    path.write_text(text)
    return load_config(path, overrides)


def _error(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        _load(folder, text, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_and_what_the_network_takes_from_other_blocks(tmp_path: Path) -> None:
    config = _load(tmp_path, MINIMAL.replace("generator: {}", "generator: {spacing: 1.5}"))
    assert config.network.out_channels == 3
    assert config.network.spacing == 1.5
    assert config.optimiser.learning_rate == 1e-2
    assert config.loss.deep_supervision == [1.0, 0.4, 0.16]


def test_a_config_survives_writing_and_reading(tmp_path: Path) -> None:
    config = tiny_config(data="maps")
    assert _load(tmp_path, yaml.safe_dump(config.model_dump(mode="json"))) == config


def test_brain() -> None:
    config = load_config(find_config("brain"))
    assert config.labels == LabelScheme.brain()
    assert config.network.out_channels == 17
    assert "brain" in packaged_configs()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer: {}\n", "brain.yaml: optimizer: unknown key; did you mean 'optimiser'?"),
        (
            "optimiser: {learning_rat: 1}\n",
            "brain.yaml: optimiser.learning_rat: unknown key; did you mean 'learning_rate'?",
        ),
        ("learning_rate: 0.1\n", "brain.yaml: learning_rate: unknown key; did you mean 'optimiser.learning_rate'?"),
        ("checkpoint: {zzz: 1}\n", "brain.yaml: checkpoint.zzz: unknown key; allowed are: steps, minutes"),
        ("windows: {sise: 3}\n", "brain.yaml: windows.sise: unknown key; did you mean 'size'?"),
        ("batch: many\n", "brain.yaml: batch: 'many' is not allowed; it should be a valid integer"),
        ("batch: 0\n", "brain.yaml: batch: 0 is not allowed; it should be greater than or equal to 1"),
        ("precision: half\n", "brain.yaml: precision: 'half' is not allowed; it should be 'float32', 'bfloat16' or"),
        ("optimiser: 3\n", "brain.yaml: optimiser: 3 is not allowed; it should be a valid dictionary"),
        (
            "optimiser: {learning_rate: -1}\n",
            "brain.yaml: optimiser.learning_rate: -1 is not allowed; it should be greater",
        ),
        ("optimiser: {betas: [0.9, 2]}\n", "brain.yaml: optimiser.betas.1: 2 is not allowed; it should be less than 1"),
        ("loss: {deep_supervision: []}\n", "brain.yaml: loss.deep_supervision: "),
        ("batch: 0\nprecision: half\n", "(and 1 more)"),
        ("batch: 2\nbatch: 3\n", "brain.yaml: line 9, column 1: not valid YAML ('batch' is given twice)"),
        ("batch: [1\nseed: 2\n", "brain.yaml: line 9, column 5: not valid YAML"),
        ("\tbatch: 1\n", "brain.yaml: line 8, column 1: not valid YAML"),
    ],
)
def test_errors_name_the_key_and_what_is_allowed(tmp_path: Path, text: str, message: str) -> None:
    assert message in _error(tmp_path, MINIMAL + text)


def test_missing_and_contradicting_keys(tmp_path: Path) -> None:
    assert _error(tmp_path, MINIMAL.replace("steps: 10\n", "")) == "brain.yaml: steps: is missing; add it"
    text = MINIMAL.replace("network: {}", "network: {out_channels: 9}")
    assert "network.out_channels is 9, but labels makes it 3" in _error(tmp_path, text)
    text = MINIMAL.replace("network: {}", "network: {spacing: 1.0}")
    assert "network.spacing is 1.0, but preparation.spacing makes it 2.0" in _error(tmp_path, text)
    assert "brain.yaml: is not a mapping" in _error(tmp_path, "- a\n- b\n")
    assert "brain.yaml: name: 'a b/c' is not allowed" in _error(tmp_path, MINIMAL.replace("small", "a b/c"))


def test_a_misspelt_block_is_told_before_what_is_missing_for_it(tmp_path: Path) -> None:
    message = _error(tmp_path, MINIMAL.replace("labels:", "label:"))
    assert message.startswith("brain.yaml: label: unknown key; did you mean 'labels'?")


def test_overrides_are_yaml(tmp_path: Path) -> None:
    config = _load(
        tmp_path,
        MINIMAL,
        "optimiser.learning_rate=3e-3",
        "generator.window=[32, 32, 48]",
        "steps=20",
        "data=maps=a",
    )
    assert config.optimiser.learning_rate == 0.003
    assert config.generator.window == (32, 32, 48)
    assert config.steps == 20
    assert config.data == Path("maps=a")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", "--set steps: is not key=value"),
        ("steps=[1", "--set steps=[1: the value is not valid YAML"),
        ("optimiser.rate=1", "--set optimiser.rate: unknown key; did you mean 'learning_rate'?"),
        ("optimizer.clip=1", "brain.yaml: optimizer: unknown key; did you mean 'optimiser'?"),
        ("steps=0", "--set steps: 0 is not allowed"),
        ("steps.more=1", "--set steps.more: steps has no keys of its own"),
    ],
)
def test_wrong_overrides(tmp_path: Path, override: str, message: str) -> None:
    assert message in _error(tmp_path, MINIMAL, override)


def test_find_config(tmp_path: Path) -> None:
    assert find_config("brain").name == "brain.yaml"
    (tmp_path / "config.yaml").write_text(MINIMAL)
    assert find_config(tmp_path) == tmp_path / "config.yaml"
    assert find_config(str(tmp_path / "config.yaml")) == tmp_path / "config.yaml"
    with pytest.raises(UserError, match=r"brian: no such file and no such packaged config; packaged are: .*brain"):
        find_config("brian")


def test_not_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UserError, match="not a text file"):
        load_config(tmp_path / "a.yaml")


def test_changed_keys() -> None:
    old, new = tiny_config().model_dump(mode="json"), tiny_config(steps=9, seed=2).model_dump(mode="json")
    assert changed_keys(old, new) == {"steps": (6, 9), "seed": (0, 2)}
    new["labels"]["classes"] = CLASSES[:2]
    assert "labels.classes" in changed_keys(old, new)
