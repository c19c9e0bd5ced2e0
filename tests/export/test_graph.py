"""Exported networks against the original, at sizes that they were not made with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models import TWO_IMAGES, write_model
from voxseg.cli.main import run
from voxseg.export.plain import PlainUNet
from voxseg.inference.model import load_model
from voxseg.networks import NetworkConfig, build_network

SIZES = ((16, 12, 20), (15, 13, 11), (9, 14, 7), (1, 2, 5))
CONFIGS = {
    "steerable": {},
    "plain": {"architecture": "plain_unet"},
    "plain, even kernel": {"architecture": "plain_unet", "plain_kernel": 4},
    "shells": {"basis": "shells"},
    "anisotropic": {"spacing": 2.0},
    "coarse logits": {"coarse_logits": True},
    "coarse logits, plain": {"coarse_logits": True, "architecture": "plain_unet"},
    "one level": {"levels": ["4x0e+2x1e"], "encoder_convolutions": [2], "decoder_convolutions": []},
}


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        run(["export", *map(str, arguments)])
    return int(caught.value.code or 0)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_the_plain_form_computes_the_same_at_every_size(name: str) -> None:
    torch.manual_seed(0)
    known = {
        "in_channels": 2,
        "out_channels": 3,
        "levels": ["4x0e+2x1e+1x2e", "6x0e+2x1e+1x2e", "4x0e+1x1e+1x2e"],
        "encoder_convolutions": [1, 2, 1],
        "decoder_convolutions": [1, 2],
    }
    spacing = (2.0, 2.0, 5.0) if name == "anisotropic" else None
    network = build_network(NetworkConfig(**(known | CONFIGS[name])), spacing)
    if network.coarse_logits is not None:
        for parameter in network.coarse_logits.parameters():  # which are zero at first
            torch.nn.init.normal_(parameter)
    network = network.fold()
    plain = PlainUNet(network)  # type: ignore[arg-type]
    scripted = torch.jit.script(plain)
    for size in SIZES:
        x = torch.randn(2, 2, *size)
        expected = network(x).softmax(1)
        torch.testing.assert_close(plain(x), expected, atol=2e-5, rtol=0)
        torch.testing.assert_close(scripted(x), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("regions", [False, True])
def test_onnxruntime_agrees_with_torch(tmp_path: Path, regions: bool, capsys: pytest.CaptureFixture) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    folder = write_model(tmp_path / "model", TWO_IMAGES if regions else None, regions=regions)
    assert call("--format", "onnx", "--model", folder, "-o", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["tiny.onnx", "tiny.onnx.json"]
    printed = capsys.readouterr()
    assert printed.out.startswith("wrote ")
    assert printed.err == ""
    session = onnxruntime.InferenceSession(tmp_path / "out/tiny.onnx", providers=["CPUExecutionProvider"])
    model = load_model(folder)
    with torch.no_grad():
        for size in SIZES[:3]:
            x = torch.rand(1, 1 + regions, *size)
            logits = model.network(x)
            expected = logits.sigmoid() if regions else logits.softmax(1)
            (found,) = session.run(["probabilities"], {"image": x.numpy()})
            np.testing.assert_allclose(found, expected.numpy(), atol=1e-4, rtol=0)
            if not regions:
                np.testing.assert_array_equal(found.argmax(1), expected.numpy().argmax(1))
    # What the file says of itself is what is beside it.
    beside = json.loads((tmp_path / "out/tiny.onnx.json").read_text())
    assert json.loads(session.get_modelmeta().custom_metadata_map["voxseg"]) == beside
    assert beside["input"]["spacing_mm"] == [4.0] * 3
    ids = [channel["id"] for channel in beside["output"]["channels"]]
    assert ids == ([3, 2] if regions else [0, *model.table.ids])
    assert [label["name"] for label in beside["labels"]] == model.table.names


def test_torchscript_needs_nothing_of_voxseg(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    assert call("--format", "torchscript", "--model", folder, "-o", tmp_path) == 0
    extra = {"voxseg.json": ""}
    script = torch.jit.load(tmp_path / "tiny.ts", _extra_files=extra)
    assert json.loads(extra["voxseg.json"]) == json.loads((tmp_path / "tiny.ts.json").read_text())
    x = torch.rand(1, 1, 13, 16, 18)
    with torch.no_grad():
        torch.testing.assert_close(script(x), load_model(folder).network(x).softmax(1), atol=2e-5, rtol=0)


def test_a_file_that_computes_something_else_gets_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "model")
    monkeypatch.setattr("voxseg.export.graph.TOLERANCE", -1.0)
    assert call("--format", "torchscript", "--model", folder, "-o", tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_missing_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert call("--format", "onnx", "-o", tmp_path) == 2
    assert "pip install 'voxseg[export]'" in capsys.readouterr().err
