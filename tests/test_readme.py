"""The README says what is true: its code runs, its links and pictures are there."""

import re
from pathlib import Path

import pytest
import yaml

README = Path(__file__).resolve().parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"))
def test_code_runs(code: str) -> None:
    namespace: dict[str, object] = {}
    exec(compile(code, str(README), "exec"), namespace)
    assert namespace


def test_linked_files_are_there() -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (README.parent / link).is_file()] == []


def test_commands_are_those_of_the_program() -> None:
    from typer.main import get_command

    from voxseg.cli.main import app

    commands = set(re.findall(r"^voxseg (\w+)", "\n".join(blocks("")), flags=re.MULTILINE))
    assert commands
    group = get_command(app)
    assert commands <= set(group.list_commands(None))  # type: ignore[attr-defined, arg-type]


@pytest.mark.parametrize("text", blocks("yaml"))
def test_parts_of_configs_are_understood(text: str) -> None:
    from voxseg.training.config import TrainingConfig
    from voxseg.training.config_file import find_config, read_yaml

    config = TrainingConfig.model_validate({**read_yaml(find_config("brats2020")), "loss": {}, **yaml.safe_load(text)})
    assert config.network.architecture.startswith("monai.")
    assert config.augmentation.transforms[0].arguments == {"keys": ["image"]}
