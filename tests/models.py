"""Small model folders, for the tests of whatever loads and runs models."""

from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

from voxseg.data.labels import LabelTable
from voxseg.networks import NetworkConfig, build_network

IDS = [2, 3, 10]
SPACING = 4.0


def write_model(folder: Path, **changes) -> Path:
    """A steerable network with random weights, for three labels on a 4 mm grid; `changes` go into config.yaml."""
    folder.mkdir(parents=True)
    table = LabelTable.freesurfer().select(IDS)
    network = {
        "out_channels": len(IDS) + 1,
        "levels": ["4x0e+2x1e", "6x0e+2x1e"],
        "encoder_convolutions": [1, 1],
        "decoder_convolutions": [1],
        "spacing": SPACING,
    }
    config = {
        "format": 1,
        "name": "tiny",
        "network": network,
        "preparation": {"spacing": SPACING},
        "training": {"steps": 0},
    } | changes
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    table.write(folder / "labels.csv")
    torch.manual_seed(3)
    net = build_network(NetworkConfig(**network))
    with torch.no_grad():  # empty space is background
        bias = net.logits[0].bias
        bias -= net(torch.zeros(1, 1, 24, 24, 24))[0, :, 12, 12, 12]
        bias[0] += 0.02
    save_file({name: w.contiguous() for name, w in net.state_dict().items()}, folder / "model.safetensors")
    return folder
