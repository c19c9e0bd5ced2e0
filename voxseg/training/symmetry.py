"""Labels that a network's symmetry cannot tell apart, said before hours of training are spent on them."""

from __future__ import annotations

from voxseg.networks import NetworkConfig
from voxseg.training.config import TrainingConfig

__all__ = ["broken_symmetry"]


def broken_symmetry(config: TrainingConfig) -> str | None:
    """What is wrong if the labels break the symmetry of the network, and what to do; None if they do not.

    A network of O(3) turns mirrored input into mirrored output. What is left of a mirror-symmetric head has the same
    logits as what is right of it, and its cross-entropy cannot fall below ln 2 (Smidt et al. 2021, arXiv:2007.02005).

    Args:
        config: of a training.
    """
    table = config.labels.predicted()
    if not table.has_sides or not _mirrors(config.network):
        return None
    sided = [label.name for label in table if label.side != "none"]
    several = f" and {len(sided) - 1} more" if len(sided) > 1 else ""
    return (
        f"labels have sides ({sided[0]}{several}), and a network of group O3 cannot tell left from right: use group "
        "SO3, merge the sides (labels.merge_sides) and let postprocessing.sides find them, or give the network what it "
        "lacks with --network order_parameters"
    )


def _mirrors(network: NetworkConfig) -> bool:
    """Whether a network commutes with reflections."""
    if network.architecture == "steerable_unet":
        return network.group == "O3"
    return network.architecture in ("e3nn_gates", "se3cnn") and network.arguments.get("group") == "O3"
