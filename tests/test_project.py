"""What is written down about the project agrees with what is there."""

import re
from pathlib import Path

import pytest
import yaml

import voxseg

REPOSITORY = Path(__file__).resolve().parents[1]


def test_every_module_is_on_the_layout_page():
    page = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    parts = {}
    for table in page.split("\n\n"):
        folder = re.match(r"\| `(voxseg/[\w/]+)/` \|", table)
        if folder:
            parts[folder[1]] = set(re.findall(r"`(\w+\.py)`", table))
    for part in sorted(path.parent for path in (REPOSITORY / "voxseg").rglob("*/__init__.py")):
        there = {path.name for path in part.glob("*.py")} - {"__init__.py"}
        assert parts.get(part.relative_to(REPOSITORY).as_posix(), set()) == there, part.name
    for path in (*(REPOSITORY / "cli").glob("*.py"), *(REPOSITORY / "voxseg").glob("*.py")):
        if path.name != "__init__.py":
            assert f"`{path.relative_to(REPOSITORY).as_posix()}`" in page


def test_citation_has_the_version():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == voxseg.__version__


def test_files_that_are_no_modules_are_packed():
    """Tables, configs, weights, style and scripts of pages: an editable install has them anyway, a wheel only so."""
    tomllib = pytest.importorskip("tomllib")
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    moved = {name: settings["package-dir"].get(name, name.replace(".", "/")) for name in settings["packages"]}
    patterns = settings["package-data"].items()
    packed = {path for name, globs in patterns for glob in globs for path in (REPOSITORY / moved[name]).glob(glob)}
    folders = [REPOSITORY / part for part in ("voxseg", "cli", "configs", "pretrained")]
    there = {path for folder in folders for path in folder.rglob("*") if path.is_file() and ".py" not in path.suffix}
    assert REPOSITORY / "voxseg/report/assets/viewer.js" in there
    assert {str(path.relative_to(REPOSITORY)) for path in there - packed} == set()
