"""What is written down about the project agrees with what is there."""

import re
from pathlib import Path

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
