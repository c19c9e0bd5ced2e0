"""Mutated NIfTI, MGH, NRRD and MetaImage files give a clear error or a right answer, and never a crash or a hang."""

import gzip

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from strict import no_warnings
from voxseg.data.volume import read_header, read_volume
from voxseg.errors import UserError

SHAPE = (9, 10, 11)
FEW, MANY = 120, 1000  # mutations of each format: 600 and 5,000 in all
HEADERS = {".nii": 352, ".nii.gz": 352, ".mgz": 284, ".nrrd": 300, ".mha": 300}
"""Bytes of the header, about; of the uncompressed file."""


def original(folder, suffix):
    """The bytes of a scan."""
    path = folder / f"original{suffix}"
    data = np.random.default_rng(0).integers(1, 900, SHAPE).astype(np.int16)
    affine = np.array([[-1.0, 0.2, 0, 8], [0.2, 1.0, 0, -9], [0, 0, 1.5, 3], [0, 0, 0, 1]])
    if suffix in (".nrrd", ".mha"):
        sitk.WriteImage(sitk.GetImageFromArray(data), str(path))
    else:
        nib.save((nib.MGHImage if suffix == ".mgz" else nib.Nifti1Image)(data, affine), path)
    return path.read_bytes()


def mutated(data, length, random):
    """Bytes of the header changed, put in, taken out or made extreme, or the file cut."""
    place = int(random.integers(0, min(length, len(data) - 8)))
    kind = int(random.integers(5))
    if kind == 0:
        changed = bytearray(data)
        for where in random.integers(0, min(length, len(data)), random.integers(1, 6)):
            changed[where] = random.integers(0, 256)
        return bytes(changed)
    if kind == 1:
        return data[: random.integers(1, len(data))]
    if kind == 2:
        return data[:place] + random.bytes(int(random.integers(1, 20))) + data[place:]
    if kind == 3:
        return data[:place] + data[place + int(random.integers(1, 20)) :]
    width = int(random.choice([2, 4, 8]))
    return data[:place] + random.choice([b"\xff", b"\x7f", b"\x00", b"9", b"-"]) * width + data[place + width :]


def outcome(reader, path):
    """What is read, or None where there is a clear error; anything else is raised."""
    try:
        return reader(path)
    except UserError as caught:
        error = caught
    assert "\n" not in str(error)
    assert error.subject == str(path)
    return None


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("suffix", HEADERS)
def test_mutated_files(tmp_path, suffix, count, capfd):
    data = original(tmp_path, suffix)
    random = np.random.default_rng([count, *map(ord, suffix)])
    packed = suffix in (".nii.gz", ".mgz")
    path, read = tmp_path / f"scan{suffix}", 0
    with no_warnings():
        for number in range(count):
            if packed and number % 4:  # three in four under the compression
                path.write_bytes(gzip.compress(mutated(gzip.decompress(data), HEADERS[suffix], random), 1))
            else:
                path.write_bytes(mutated(data, HEADERS[suffix], random))
            outcome(read_header, path)
            volume = outcome(read_volume, path)
            if volume is not None:
                read += 1
                assert volume.data.shape == volume.geometry.shape
                assert np.isfinite(volume.data).all()
                assert np.isfinite(volume.geometry.affine).all()
    assert 0 < read < count
    assert capfd.readouterr().err == ""
