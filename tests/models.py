"""Small model folders, for the tests of whatever loads and runs models."""

from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

from voxseg.data.labels import LabelTable
from voxseg.networks import NetworkConfig, build_network

IDS = [2, 3, 10]
SPACING = 4.0


REGIONS = [{"name": "all", "label": 3}, {"name": "inner", "label": 2}]
TWO_IMAGES = {"flair": {"scale": "zscore"}, "t1": {"scale": "tissue"}}


def write_model(folder: Path, images: dict | None = None, regions: bool = False, **changes) -> Path:
    """A steerable network with random weights, for three labels on a 4 mm grid.

    Args:
        folder: new.
        images: of its `preparation`; one by default.
        regions: whether it has two overlapping regions in place of exclusive labels.
        changes: blocks of config.yaml.
    """
    folder.mkdir(parents=True)
    table = LabelTable.freesurfer().select(IDS)
    images = images or {"image": {}}
    network = {
        "in_channels": len(images),
        "out_channels": len(REGIONS) if regions else len(IDS) + 1,
        "levels": ["4x0e+2x1e", "6x0e+2x1e"],
        "encoder_convolutions": [1, 1],
        "decoder_convolutions": [1],
        "spacing": SPACING,
    }
    config = {
        "format": 1,
        "name": "tiny",
        "network": network,
        "preparation": {"spacing": SPACING, "images": images},
        "output": {"regions": REGIONS if regions else []},
        "training": {"steps": 0},
    } | changes
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    table.write(folder / "labels.csv")
    torch.manual_seed(3)
    net = build_network(NetworkConfig(**network))
    with torch.no_grad():  # empty space is background
        bias = net.logits[0].bias
        bias -= net(torch.zeros(1, len(images), 24, 24, 24))[0, :, 12, 12, 12]
        if regions:
            bias -= 0.02
        else:
            bias[0] += 0.02
    save_file({name: w.contiguous() for name, w in net.state_dict().items()}, folder / "model.safetensors")
    return folder
