"""A round trip through a DICOM server: store, retrieve, segment, store."""

import json
import shutil
import socket
import subprocess
import threading
import urllib.request
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pydicom
import pytest

from dicom_files import head, slices, write
from models import write_model
from voxseg.cli.main import run

PROGRAM = shutil.which("Orthanc")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="the DICOM server Orthanc is not installed")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def server(folder: Path):
    """An Orthanc of its own on the loopback address; yields what sends it a request and returns the answer."""
    port = free_port()
    folder.mkdir()
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))

    def request(path, data=None):
        made = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=data)
        with urllib.request.urlopen(made, timeout=60) as answer:
            return answer.read()

    process = subprocess.Popen([PROGRAM, folder / "orthanc.json"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        told = []
        for line in process.stdout:
            told.append(line)
            if b"Orthanc has started" in line:
                break
        assert told, "Orthanc says nothing"
        assert b"Orthanc has started" in told[-1], told
        threading.Thread(target=process.stdout.read, daemon=True).start()  # so that its pipe does not fill up
        yield request
    finally:
        process.terminate()
        process.wait(60)


def test_a_series_goes_to_a_server_and_its_segmentation_back(tmp_path):
    model = write_model(tmp_path / "model")
    sent = slices(head(), axes=((0, 1, 0), (0, 0, -1)))
    for ds in sent:  # Orthanc takes UIDs of the usual length
        ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.826.0.1.77", "1.2.826.0.1.77.1"
    write(sent, tmp_path / "scanner")
    with server(tmp_path / "orthanc") as request:
        for file in (tmp_path / "scanner").iterdir():
            assert json.loads(request("/instances", file.read_bytes()))["Status"] == "Success"
        (study,) = json.loads(request("/studies"))
        (tmp_path / "study.zip").write_bytes(request(f"/studies/{study}/archive"))
        (tmp_path / "media.zip").write_bytes(request(f"/studies/{study}/media"))
        with zipfile.ZipFile(tmp_path / "media.zip") as archive:
            archive.extractall(tmp_path / "media")
        for given in (tmp_path / "study.zip", tmp_path / "media" / "DICOMDIR"):
            with pytest.raises(SystemExit) as caught:
                run(["predict", str(given), "--model", str(model), "-o", str(tmp_path / "out")])
            assert not caught.value.code
        for name in ("study_seg.dcm", "study_qc.dcm"):
            answer = json.loads(request("/instances", (tmp_path / "out" / name).read_bytes()))
            assert answer["Status"] == "Success"
            assert answer["ParentStudy"] == study
        found = {}
        for series in json.loads(request(f"/studies/{study}/series")):
            found[series["MainDicomTags"]["Modality"]] = series
        assert sorted(found) == ["MR", "OT", "SEG"]
        back = pydicom.dcmread(
            pydicom.filebase.DicomBytesIO(request(f"/instances/{found['SEG']['Instances'][0]}/file"))
        )
        assert len(found["MR"]["Instances"]) == len(sent)
        assert {
            item.ReferencedSOPInstanceUID for item in back.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        } == {ds.SOPInstanceUID for ds in sent}
        assert (tmp_path / "out" / "study_seg.dcm").exists()
        assert (tmp_path / "out" / "media_seg.dcm").exists()
