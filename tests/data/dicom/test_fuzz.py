"""Mutated DICOM files give a clear error or a right answer, and never a crash, a hang, or a message with a name."""

import io

import numpy as np
import pydicom
import pytest

from dicom_files import SECRETS, enhanced, head, slices
from strict import no_warnings
from voxseg.data.dicom.read import read_dicom
from voxseg.data.volume import check_volume
from voxseg.errors import UserError

SHAPE = (9, 10, 8)
FEW, MANY = 12, 100  # mutations of each kind and encoding: 240 and 2,000 in all


def stored(ds, compressed=None):
    """The bytes of a file."""
    if compressed is not None:
        ds.compress(compressed)
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def header_length(data):
    """Bytes in front of the voxels."""
    return max(data.rfind(b"\xe0\x7f\x10\x00"), 400)


def flip(data, random):
    """A few bytes of the header changed."""
    changed = bytearray(data)
    for place in random.integers(128, header_length(data), random.integers(1, 6)):
        changed[place] = random.integers(0, 256)
    return bytes(changed)


def cut(data, random):
    return data[: random.integers(1, len(data))]


def insert(data, random):
    place = random.integers(128, header_length(data))
    return data[:place] + random.bytes(int(random.integers(1, 40))) + data[place:]


def extremes(data, random):
    """A length or number of the header made as large as it can be."""
    place = int(random.integers(132, header_length(data)))
    width = int(random.choice([2, 4]))
    return data[:place] + random.choice([b"\xff", b"\x7f", b"\x00", b"9"]) * width + data[place + width :]


def voxels(data, random):
    """Bytes of the voxels, or of the codec's stream, changed."""
    changed = bytearray(data)
    for place in random.integers(header_length(data), len(data), 8):
        changed[place] = random.integers(0, 256)
    return bytes(changed)


def series(kind):
    data = head(SHAPE)
    if kind == "classic":
        return [stored(ds) for ds in slices(data)]
    if kind == "enhanced":
        return [stored(enhanced(data))]
    return [stored(ds, pydicom.uid.RLELossless if kind == "rle" else pydicom.uid.JPEGLSLossless) for ds in slices(data)]


def problem_with(folder):
    """What is said of a folder, None if it is read; anything but a clear error goes on as it is."""
    try:
        volume = check_volume(read_dicom(folder))
    except UserError as error:
        text = str(error)
        assert "\n" not in text
        assert not [secret for secret in SECRETS if secret in text.casefold()], text
        return text
    assert volume.data.shape == volume.geometry.shape
    # What is cut off at an end is told.
    assert volume.warnings or volume.geometry.shape[2] == SHAPE[2]
    assert np.isfinite(volume.geometry.affine).all()
    return None


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["classic", "enhanced", "rle", "jpeg-ls"])
@pytest.mark.parametrize("mutate", [flip, cut, insert, extremes, voxels], ids=lambda f: f.__name__)
def test_mutated_files(tmp_path, kind, mutate, count):
    originals = series(kind)
    random = np.random.default_rng([count, *map(ord, kind + mutate.__name__)])
    for index, data in enumerate(originals):
        (tmp_path / f"{index}.dcm").write_bytes(data)
    with no_warnings():
        for _ in range(count):
            index = int(random.integers(len(originals)))
            (tmp_path / f"{index}.dcm").write_bytes(mutate(originals[index], random))
            problem_with(tmp_path)
            (tmp_path / f"{index}.dcm").write_bytes(originals[index])
    assert problem_with(tmp_path) is None
