"""Labels that the symmetry of a network cannot tell apart."""

from __future__ import annotations

import pytest

from voxseg.training.config import load_config
from voxseg.training.config_file import find_config, find_network
from voxseg.training.symmetry import broken_symmetry

SIDES = "labels.merge_sides=false"


@pytest.mark.parametrize(
    ("network", "changes", "broken"),
    [
        (None, [SIDES], False),
        (None, [SIDES, "network.group=O3"], True),
        (None, ["network.group=O3"], False),  # sides merged
        (None, [SIDES, "network.group=O3", "network.architecture=plain_unet"], False),
        ("se3cnn", [SIDES], False),
        ("se3cnn", [SIDES, "network.arguments.group=O3"], True),
        ("e3nn_gates", [SIDES, "network.arguments.group=O3"], True),
        ("order_parameters", [SIDES], False),
    ],
)
def test_sides_and_mirrors(network: str | None, changes: list[str], broken: bool) -> None:
    changes = ["postprocessing.sides=false", *changes]
    config = load_config(find_config("brain"), changes, network=find_network(network) if network else None)
    text = broken_symmetry(config)
    assert (text is not None) == broken
    if text:
        assert text.startswith("labels have sides (Left-Cerebral-White-Matter and 12 more), and a network of group O3")
        assert "use group SO3" in text
        assert "--network order_parameters" in text
