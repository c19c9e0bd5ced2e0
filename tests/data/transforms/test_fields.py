"""Windows with dense targets: exact under grid rotations and mirrors, bounded between, and reproducible."""

import numpy as np
import pytest
import torch
from field_cases import centred, phantom, six

from voxseg.data.config import AugmentationConfig, WindowConfig
from voxseg.data.field_kinds import FieldTarget
from voxseg.data.transforms import RandMirrorFieldd, RandTurnFieldd, field_transforms
from voxseg.testing import grid_rotations, rotate_field, rotation_matrix

MIRROR = torch.diag(torch.tensor([-1.0, 1, 1], dtype=torch.float64))
KINDS = [
    FieldTarget(kind="scalar"), FieldTarget(kind="vector"), FieldTarget(kind="axis"), FieldTarget(kind="tensor"),
    FieldTarget(kind="irreps", irreps="1x0o+1x1e+1x3o"),
]  # fmt: skip


def noise(target, size=9):
    random = torch.Generator().manual_seed(0)
    known = (torch.rand(1, size, size, size, generator=random) > 0.3).to(torch.uint8)
    fields = torch.randn(target.field.channels, size, size, size, generator=random) * known
    return {"image": torch.randn(2, size, size, size, generator=random), "label": known, "target": fields}


def ids(target):
    return target.irreps or target.kind


def turned(volume, rotation, field):
    return rotate_field(volume[None].double(), rotation, field)[0]


@pytest.mark.parametrize("target", KINDS, ids=ids)
def test_all_24_grid_rotations_are_exact(target):
    data, transform = noise(target), RandTurnFieldd(target, 180)
    for rotation in grid_rotations():
        found = transform.turned(data, rotation.numpy())
        assert torch.allclose(found["image"].double(), turned(data["image"], rotation, "2x0e"), atol=1e-4)
        assert torch.equal(found["label"], turned(data["label"], rotation, "1x0e").round().to(torch.uint8))
        assert torch.allclose(found["target"].double(), turned(data["target"], rotation, target.field), atol=1e-4)


@pytest.mark.parametrize("target", KINDS, ids=ids)
def test_a_mirrored_window_is_the_mirrored_patient(target):
    data = noise(target)
    found = RandMirrorFieldd(target, 1.0)(data)
    assert torch.equal(found["image"], data["image"].flip(1))
    assert torch.equal(found["label"], data["label"].flip(1))
    assert torch.allclose(found["target"].double(), turned(data["target"], MIRROR, target.field), atol=1e-5)


@pytest.mark.parametrize(("kind", "bound"), [("scalar", 0.06), ("vector", 0.08), ("tensor", 0.14)])
@pytest.mark.parametrize("degrees", [17, 45, 120])
def test_other_angles_keep_to_the_true_field(kind, bound, degrees):
    """Against the phantom computed in the turned pose; trilinear interpolation is all that lies between."""
    rotation, grid, target = rotation_matrix((1, -2, 2), degrees), centred((25, 25, 25)), FieldTarget(kind=kind)

    def window(turn):
        image, gradient, hessian = phantom(2, grid, turn)
        values = {"scalar": image[..., None], "vector": gradient, "tensor": six(hessian)}[kind]
        return {"image": torch.from_numpy(image)[None].float(), "target": torch.from_numpy(target.encode(values))}

    upright, expected = window(np.eye(3)), window(rotation.numpy())
    upright["label"] = torch.ones(1, 25, 25, 25, dtype=torch.uint8)
    found = RandTurnFieldd(target, 180).turned(upright, rotation.numpy())
    inside = found["label"][0].bool()
    error = (found["target"] - expected["target"])[:, inside].norm() / expected["target"][:, inside].norm()
    assert float(error) < bound
    if kind != "scalar":  # components left as they were would be far off
        assert float((upright["target"] - expected["target"]).norm() / expected["target"].norm()) > 0.5


def test_a_turned_window_keeps_its_target_at_the_edge_of_the_mask():
    target, data = FieldTarget(kind="scalar"), noise(FieldTarget(kind="scalar"), 15)
    data["target"] = 3.0 * data["label"]
    found = RandTurnFieldd(target, 180).turned(data, rotation_matrix((1, 1, 3), 28).numpy())
    inside = found["label"].bool()
    assert inside.any()
    assert torch.allclose(found["target"][inside], torch.tensor(3.0), atol=1e-4)
    assert not found["target"][~inside].any()


@pytest.mark.parametrize("size", [(8, 8, 8), "whole"])
def test_the_pipeline_gives_windows_and_follows_its_seed(size):
    target = FieldTarget(kind="vector")
    changes = AugmentationConfig(rotation_deg=30, mirror=0.5, scale=0, probability=0.9)
    pipeline = field_transforms(WindowConfig(size=size), changes, target, 1.0)
    data, results = noise(target, 14), []
    for seed in (1, 1, 2):
        pipeline.set_random_state(seed)
        results.append(pipeline(dict(data)))
    side = (8, 8, 8) if size != "whole" else (16, 16, 16)
    for result in results:
        assert result["image"].shape == (2, *side)
        assert result["target"].shape == (3, *side)
        assert result["label"].shape == (1, *side)
        assert not result["target"][:, result["label"][0] == 0].any()
    assert torch.equal(results[0]["target"], results[1]["target"])
    assert not torch.equal(results[0]["target"], results[2]["target"])
