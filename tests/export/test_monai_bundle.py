"""An exported bundle, run and verified by MONAI's own functions; its command line is run by the README's test."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from models import TWO_IMAGES, write_model
from voxseg.cli.main import run

bundles = pytest.importorskip("monai.bundle", reason="MONAI is not installed")

# What MONAI's bundle specification asks for, as far as it says that a key has to be there. Its own schema is a file on
# the internet, which a test does not fetch.
SCHEMA = {
    "type": "object",
    "required": [
        *["version", "changelog", "monai_version", "pytorch_version", "numpy_version", "task", "description"],
        *["authors", "copyright", "network_data_format"],
    ],
    "properties": {
        "version": {"type": "string"},
        "changelog": {"type": "object", "additionalProperties": {"type": "string"}},
        "required_packages_version": {"type": "object", "additionalProperties": {"type": "string"}},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "additionalProperties": {
                "additionalProperties": {
                    "type": "object",
                    "required": [
                        *["type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data"],
                        "channel_def",
                    ],
                }
            },
        },
    },
}


def voxseg(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        run([*map(str, arguments)])
    return int(caught.value.code or 0)


def scan(path: Path, seed: int) -> Path:
    """A noisy ball, stored in an unusual order of axes and 2 x 2 x 3 mm."""
    x, y, z = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in (30, 28, 20)), indexing="ij")
    noise = np.random.default_rng(seed).integers(300, 900, x.shape)
    affine = np.array([[0, 0, 3.0, -20], [-2, 0, 0, 31], [0, 2, 0, -25], [0, 0, 0, 1]])
    data = (noise * (x**2 + y**2 + (1.5 * z) ** 2 < 11**2)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


@pytest.mark.parametrize("images", [1, 2])
def test_a_bundle_does_what_predict_does(tmp_path: Path, images: int) -> None:
    folder = write_model(tmp_path / "model", TWO_IMAGES if images == 2 else None, regions=images == 2)
    names = ["image"] if images == 1 else list(TWO_IMAGES)
    files = {name: scan(tmp_path / f"{name}.nii.gz", seed) for seed, name in enumerate(names)}
    assert voxseg("export", "--format", "monai-bundle", "--model", folder, "-o", tmp_path) == 0
    bundle = tmp_path / "tiny_bundle"
    metadata, config = bundle / "configs/metadata.json", bundle / "configs/inference.json"
    told = {f"images#{name}": str(path) for name, path in files.items()}
    given = {"meta_file": str(metadata), "config_file": str(config), "bundle_root": str(bundle)}
    bundles.run(**given, output_dir=str(bundle / "out"), logging_file=False, **told)
    (made,) = (bundle / "out").iterdir()
    case = [item for name, path in files.items() for item in ("--image", f"{name}={path}")]
    assert voxseg("predict", *case, "--model", folder, "-o", tmp_path / "predicted", "--device", "cpu") == 0
    expected = next((tmp_path / "predicted").glob("*_seg.nii.gz"))
    assert made.name == expected.name
    found = nib.load(made)
    assert found.header.binaryblock == nib.load(expected).header.binaryblock
    assert np.asanyarray(found.dataobj).any()
    np.testing.assert_array_equal(np.asanyarray(found.dataobj), np.asanyarray(nib.load(expected).dataobj))

    for size in (1, 13):
        bundles.verify_net_in_out("network", **given, device="cpu", any=size)
    wrong = {"_meta_#network_data_format#outputs#pred#num_channels": 9}
    with pytest.raises(ValueError, match="doesn't match"):
        bundles.verify_net_in_out("network", **given, device="cpu", any=5, **wrong)


def test_metadata_are_what_monai_asks_for(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = write_model(tmp_path / "model")
    arguments = ("export", "--format", "monai-bundle", "--model", folder, "-o", tmp_path)
    assert voxseg(*arguments) == 0
    metadata, schema = tmp_path / "tiny_bundle/configs/metadata.json", tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))  # what is there already is not fetched
    bundles.verify_metadata(str(metadata), str(schema))
    contents = json.loads(metadata.read_text())
    assert contents["network_data_format"]["outputs"]["pred"]["num_channels"] == 4
    del contents["monai_version"]
    metadata.write_text(json.dumps(contents))
    with pytest.raises(ValueError, match="Failed validating"):
        bundles.verify_metadata(str(metadata), str(schema))
    assert voxseg(*arguments) == 2
    assert "exists already" in capsys.readouterr().err
