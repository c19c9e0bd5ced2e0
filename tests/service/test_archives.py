"""Zip archives that are made to do harm, and those that are not."""

import io
import os
import stat
import struct
import zipfile

import pytest

from voxseg.errors import UserError
from voxseg.service.archives import ArchiveLimits, unpack

LIMITS = ArchiveLimits(10**8)


def pack(path, files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return path


@pytest.fixture
def place(tmp_path):
    """An archive's path, and an empty folder."""
    (tmp_path / "out").mkdir()
    return tmp_path / "a.zip", tmp_path / "out"


def refused(place, limits=LIMITS):
    """The message; nothing lies anywhere but in the folder."""
    before = sorted(place[0].parent.iterdir())
    with pytest.raises(UserError) as caught:
        unpack(*place, limits)
    assert sorted(place[0].parent.iterdir()) == before
    assert str(caught.value).startswith("a.zip: ")
    return str(caught.value)


def test_files_get_numbers_in_the_order_of_their_names(place):
    left_out = ["DICOMDIR", ".hidden", "__MACOSX/x/1", "a/.DS_Store"]
    pack(place[0], [("b/2", b"two"), ("a/", b""), ("a/1", b"one"), ("c\\3", b"three"), *((n, b"x") for n in left_out)])
    assert unpack(*place, LIMITS) == 3
    assert {path.name: path.read_bytes() for path in place[1].iterdir()} == {
        "000001": b"one",
        "000002": b"two",
        "000003": b"three",
    }


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "a/../../evil",
        "/evil",
        "..\\evil.nii.gz",
        "a\\..\\..\\evil",
        "\\evil",
        "C:\\evil",
        "c:evil",
        "\\\\host\\x",
    ],
)
def test_names_that_lead_out(place, name):
    pack(place[0], [("good", b"x"), (name, b"x")])
    assert "a name that leads out of it" in refused(place)
    assert list(place[1].iterdir()) == []


def test_a_name_with_a_zero_byte(place):
    pack(place[0], [("goodXevil", b"x")])
    place[0].write_bytes(place[0].read_bytes().replace(b"goodXevil", b"good\0evil"))
    refused(place)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices(place, kind):
    info = zipfile.ZipInfo("link")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    pack(place[0], [(info, b"/etc/passwd")])
    assert "holds a link or a device" in refused(place)


def test_encrypted(place):
    pack(place[0], [("a", b"x" * 100)])
    data = bytearray(place[0].read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    place[0].write_bytes(data)
    assert "is encrypted" in refused(place)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods(place, method):
    pack(place[0], [("a", b"x" * 100)], method)
    assert "packed in a way that is not read" in refused(place)


def test_a_bomb_is_counted_as_it_grows(place):
    pack(place[0], [("bomb", b"\0" * 3 * 10**8)])
    assert place[0].stat().st_size < 10**6
    assert "holds more than 67 MB, which is too much for a file of its size" in refused(place, ArchiveLimits(10**9))
    assert sum(path.stat().st_size for path in place[1].iterdir()) <= 67_200_000


def test_a_bomb_that_announces_little(place):
    """The header's size is a lie; what comes out is more than is taken."""
    pack(place[0], [("bomb", b"\0" * 10**7)])
    data = place[0].read_bytes().replace(struct.pack("<I", 10**7), struct.pack("<I", 100))
    place[0].write_bytes(data)
    refused(place, ArchiveLimits(10**6))
    assert sum(path.stat().st_size for path in place[1].iterdir()) <= 10**6


def test_many_small_files_are_together_too_large(place):
    pack(place[0], [(str(k), os.urandom(1000)) for k in range(50)])
    assert "holds more than 0 MB" in refused(place, ArchiveLimits(40_000))
    assert "holds 50 files, and 49 are allowed" in refused(place, ArchiveLimits(10**8, count=49))


def test_overlapping_files(place):
    """Many names for the same bytes: each would be unpacked."""
    pack(place[0], [("a", b"\0" * 10**6)])
    data = place[0].read_bytes()
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    entry, count = data[start:end], 200
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(entry) * count, start, 0)
    place[0].write_bytes(data[:start] + entry * count + tail)
    refused(place)


@pytest.mark.parametrize("cut", [10, 200, -30])
def test_damaged(place, cut):
    pack(place[0], [("a", os.urandom(1000))])
    place[0].write_bytes(place[0].read_bytes()[:cut])
    assert "is no zip file, or damaged" in refused(place)


def test_a_wrong_checksum(place):
    pack(place[0], [("a", b"some content")], zipfile.ZIP_STORED)
    place[0].write_bytes(place[0].read_bytes().replace(b"some content", b"same content"))
    assert "damaged" in refused(place)


def test_archives_in_archives_are_files(place):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("../evil", b"x")
    pack(place[0], [("inner.zip", inner.getvalue())])
    assert unpack(*place, LIMITS) == 1
