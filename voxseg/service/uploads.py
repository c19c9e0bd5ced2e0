"""What a browser or a program sends, written to disk as it comes: names never trusted, sizes counted.

Nothing is parsed here but the frame that HTTP puts around files, and the first bytes of each.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from voxseg.data.dicom.files import START, looks_like_dicom
from voxseg.data.paths import SUFFIXES
from voxseg.errors import UserError

__all__ = ["TooLargeError", "Upload", "receive"]

SERIES = "series"
MOST_FILES = 5000
MOST_TEXT = 1000  # bytes of a field that is no file
MOST_HEADER = 4096  # bytes of the headers of a part
ZIP = ".zip"
NAME = "scan"
"""How every upload is called on this machine, in its results and in messages: names of files can be those of people."""

GZIP, PACKED = b"\x1f\x8b", (b"PK\x03\x04", b"PK\x05\x06")


class TooLargeError(UserError):
    """More was sent than is taken."""


@dataclass
class Upload:
    """A case as it was sent.

    Attributes:
        images: what to segment, by the names of the model's images: a scan, a zip archive, or a folder of DICOM files.
        series: which DICOM series were asked for.
        bytes: of all files.
    """

    images: dict[str, Path] = field(default_factory=dict)
    series: list[str] = field(default_factory=list)
    bytes: int = 0


async def receive(
    pieces: AsyncIterator[bytes], content_type: str, folder: Path, names: Sequence[str], most: int
) -> Upload:
    """Write the files of a `multipart/form-data` body into a folder.

    Args:
        pieces: the body.
        content_type: the header.
        folder: empty; what was written before an error is left there.
        names: of the model's images, which the fields with files have to be called; a model of one takes any name.
        most: bytes of the whole body.

    Raises:
        TooLargeError: as soon as more than that has come.
        UserError: if it is no such body, has no files, or files that cannot be scans.
        OSError: if it cannot be written.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise UserError(
            "upload", "is no form with files", "send it as multipart/form-data, such as: curl -F image=@FILE"
        )
    form = _Form(folder, tuple(names))
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin,
                "on_header_field": form.header_name,
                "on_header_value": form.header_value,
                "on_header_end": form.header_end,
                "on_headers_finished": form.headers_end,
                "on_part_data": form.data,
                "on_part_end": form.end,
                "on_end": form.finish,
            },
        )
        came = 0
        async for piece in pieces:
            came += len(piece)
            if came > most:
                problem = f"is larger than the {most / 1e6:.0f} MB that this server takes"
                raise TooLargeError(
                    "upload", problem, "send a smaller file, or start voxseg with a larger --max-upload"
                )
            parser.write(piece)
        parser.finalize()
    except MultipartParseError as error:
        raise UserError("upload", "is damaged", "send it again") from error
    finally:
        form.close()
    if not form.complete:
        raise UserError("upload", "was cut short", "send it again")
    return form.upload()


class _Form:
    """What comes out of the parser, which calls this for each piece."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.folder, self.names = folder, names
        self.fields: dict[str, list[Path]] = {}
        self.series: list[str] = []
        self.bytes = 0
        self.complete = False
        self.headers: dict[bytes, bytes] = {}
        self.name, self.value = b"", b""
        self.header_bytes = 0
        self.file: IO[bytes] | None = None
        self.text: bytearray | None = None

    def begin(self) -> None:
        """A part begins."""
        self.headers, self.header_bytes = {}, 0
        self.name, self.value = b"", b""
        self.file = self.text = None

    def header_name(self, data: bytes, start: int, end: int) -> None:
        """So much more of a header's name."""
        self.name += self._counted(data[start:end])

    def header_value(self, data: bytes, start: int, end: int) -> None:
        """So much more of a header's value."""
        self.value += self._counted(data[start:end])

    def _counted(self, piece: bytes) -> bytes:
        self.header_bytes += len(piece)
        if self.header_bytes > MOST_HEADER:
            raise UserError("upload", "has headers that are too long", "send it again, with shorter names")
        return piece

    def header_end(self) -> None:
        """A header is complete."""
        self.headers[self.name.lower()] = self.value
        self.name, self.value = b"", b""

    def headers_end(self) -> None:
        """The headers of a part are complete: is it a file, and of which image?"""
        _, options = parse_options_header(self.headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        filename = options.get(b"filename")
        if filename is None:
            if name != SERIES:
                raise UserError("upload", "has a field that is not known", f"send files, and perhaps {SERIES}=NUMBER")
            self.text = bytearray()
            return
        if len(self.names) == 1:
            name = self.names[0]
        elif name not in self.names:
            problem = "has a file for an image that the model does not take"
            raise UserError("upload", problem, f"send one for each of {', '.join(self.names)}")
        paths = self.fields.setdefault(name, [])
        if sum(map(len, self.fields.values())) >= MOST_FILES:
            raise TooLargeError(
                "upload", f"has more than {MOST_FILES} files", "send the images of one series, or a zip"
            )
        folder = self.folder / str(self.names.index(name))
        folder.mkdir(exist_ok=True)
        path = folder / f"{len(paths) + 1:06d}{_suffix(filename.decode('utf-8', 'replace'))}"
        paths.append(path)
        self.file = open(path, "xb")  # noqa: SIM115 - closed when the part ends

    def data(self, data: bytes, start: int, end: int) -> None:
        """So much more of the content of a part."""
        if self.file is not None:
            self.file.write(data[start:end])
            self.bytes += end - start
        elif self.text is not None:
            self.text += data[start:end]
            if len(self.text) > MOST_TEXT:
                raise UserError("upload", f"has a {SERIES} that is too long", "give its number")

    def end(self) -> None:
        """A part is complete."""
        if self.text:
            self.series.append(self.text.decode("utf-8", "replace").strip())
        self.close()

    def finish(self) -> None:
        """The last boundary has come."""
        self.complete = True

    def close(self) -> None:
        """Close the file that is being written, if there is one."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def upload(self) -> Upload:
        """The files, checked by their beginnings, and under names that `voxseg predict` understands."""
        missing = [name for name in self.names if not self.fields.get(name)]
        if missing:
            what = "has no file" if len(self.names) == 1 else f"has no file for {', '.join(missing)}"
            raise UserError("upload", what, "send one, such as: " + " ".join(f"-F {name}=@FILE" for name in missing))
        images = {name: _arrange(self.fields[name]) for name in self.names}
        return Upload(images, [text for text in self.series if text], self.bytes)


def _suffix(filename: str) -> str:
    """That of a format that is read; anything else has to be DICOM, whose files are called as anyone likes."""
    return next((suffix for suffix in (*SUFFIXES, ZIP) if filename.lower().endswith(suffix)), "")


def _arrange(paths: list[Path]) -> Path:
    """One scan or archive under the name of all of them, or the folder with all files of a series."""
    for path in paths:
        _check(path, alone=len(paths) == 1)
    target = paths[0].with_name(NAME + _suffix(paths[0].name))
    if len(paths) == 1:
        return paths[0].rename(target)
    series = paths[0].with_name(NAME)
    series.mkdir()
    for path in paths:
        path.rename(series / path.name)
    return series


def _check(path: Path, alone: bool) -> None:
    """Refuse what cannot be what its name says, by its first bytes.

    Raises:
        UserError: if so.
    """
    with open(path, "rb") as file:
        start = file.read(START)
    suffix = _suffix(path.name)
    if not start:
        raise UserError(f"{NAME}{suffix}", "is an empty file", "copy or export the scan again")
    if not alone:
        # Exports hold other files too, an index or a text, which are passed over as in a folder.
        if suffix:
            raise UserError("upload", "has several files, which only the slices of DICOM may be", "send one at a time")
        return
    if not suffix and not looks_like_dicom(start):
        remedy = f"send {', '.join(SUFFIXES)}, DICOM, or a zip archive of DICOM"
        raise UserError("upload", "is not in a format that is read", remedy)
    begins_well = {".nii.gz": start.startswith(GZIP), ".mgz": start.startswith(GZIP), ZIP: start.startswith(PACKED)}
    if not begins_well.get(suffix, True):
        raise UserError(f"{NAME}{suffix}", f"is no {suffix} file, or damaged", "copy or export it again")
