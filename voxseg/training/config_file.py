"""Finding and reading the YAML file of a run. Imports nothing heavy: a wrong path has to be told at once."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from voxseg.errors import UserError


def packaged_configs() -> list[str]:
    """Names of the configs that come with voxseg."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in resources.files("voxseg.configs").iterdir()
        if entry.name.endswith(".yaml")
    )


def find_config(config: str | Path) -> Path:
    """The file behind a command line argument.

    Args:
        config: a YAML file, a folder of a run (its own config is taken), or the name of a packaged config.

    Raises:
        UserError: there is none of these.
    """
    path = Path(config)
    if path.is_dir() and (path / "config.yaml").is_file():
        return path / "config.yaml"
    if path.is_file():
        return path
    names = packaged_configs()
    if str(config) in names:
        return Path(str(resources.files("voxseg.configs") / f"{config}.yaml"))
    raise UserError(config, "no such file and no such packaged config", f"packaged are: {', '.join(names)}")


def packaged_baselines() -> list[str]:
    """Names of the baselines whose networks come as files."""
    folder = resources.files("voxseg.configs") / "baselines"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def find_network(network: str | Path) -> Path:
    """The file with a network that takes the place of a config's.

    Args:
        network: a YAML file, or the name of a baseline.

    Raises:
        UserError: there is none of these.
    """
    names = packaged_baselines()
    if str(network) in names:
        return Path(str(resources.files("voxseg.configs") / "baselines" / f"{network}.yaml"))
    if Path(network).is_file():
        return Path(network)
    raise UserError(network, "no such file and no such baseline", f"there are: {', '.join(names)}")


def with_network(values: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config with the network of another file.

    The block `network` is replaced as a whole, and with it `loss.deep_supervision`, which belongs to it; other keys of
    the file are laid over those of the config.

    Args:
        values: of the config.
        other: of the file.
    """
    result = {key: value for key, value in values.items() if key != "network"}
    loss = result.get("loss")
    if isinstance(loss, dict):
        result["loss"] = {key: value for key, value in loss.items() if key != "deep_supervision"}
    return merged(result, other)


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with the changes in place, block by block."""
    result = copy.deepcopy(dict(values))
    for key, value in changes.items():
        inner = result.get(key)
        if isinstance(inner, dict) and isinstance(value, Mapping):
            result[key] = merged(inner, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key given twice, which plain YAML settles silently in favour of the later one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Builds one mapping."""
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose top level is a mapping.

    Raises:
        UserError: it cannot be read or is not such a file; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.load(text, _StrictLoader)
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror})", "check the path") from None
    except UnicodeDecodeError:
        raise UserError(path, "is not a text file", "give a YAML file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(path.name, f"{place}not valid YAML ({problem})", "mend that line") from None
    if not isinstance(values, dict):
        raise UserError(path.name, "is not a mapping of keys to values", "see configs/brain.yaml for an example")
    return values


def split_override(override: str) -> tuple[str, Any]:
    """The dotted key and the value of `key=value`.

    Raises:
        UserError: it is not of that form.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(
            f"--set {override}", "is not key=value", "write for example --set optimiser.learning_rate=0.003"
        )
    try:
        return key.strip(), yaml.load(text, _StrictLoader)
    except yaml.YAMLError:
        raise UserError(f"--set {override}", "the value is not valid YAML", "quote it as in a YAML file") from None


def assign(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key in nested blocks, making those that are not there.

    Raises:
        UserError: a part of the key before the last is no block.
    """
    *blocks, name = key.split(".")
    for depth, block in enumerate(blocks):
        inner = values.setdefault(block, {})
        if not isinstance(inner, dict):
            raise UserError(f"--set {key}", f"{'.'.join(blocks[: depth + 1])} has no keys of its own", "check the key")
        values = inner
    values[name] = value
