"""The service over HTTP: jobs from upload to download, limits, refusals, and nothing left behind."""

import io
import json
import os
import re
import signal
import socket
import zipfile

import pytest

from small_server import until

httpx = pytest.importorskip("httpx", reason="httpx is not installed")

TOKEN = "a-token-of-some-length"


@pytest.fixture
def gate(tmp_path):
    """A pipe that a job waits for, and what opens it."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


def release(gate):
    with open(gate, "w"):
        pass


def alive(pid):
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_from_upload_to_download(served):
    server = served()
    answer = server.send("works", "Zebulon Quixote.nii", data={"series": "3"})
    told = answer.json()
    assert answer.status_code == 202
    assert re.fullmatch(r"[\w-]{22}", told["id"])
    job = f"/api/jobs/{told['id']}"
    told = server.end(job)
    assert (told["state"], told["progress"], told["error"]) == ("done", 1.0, None)
    assert told["result"]["cases"][0]["quality"] == 0.9
    names = [file["name"] for file in told["result"]["files"]]
    assert names == ["scan_qc.png", "scan_seg.json"]
    one = server.client.get(f"{job}/files/scan_seg.json")
    assert one.json()["series"] == ["3"]
    assert one.headers["content-security-policy"].endswith("sandbox")
    assert server.client.get(f"{job}/files/job.json").status_code == 404
    assert server.client.get(f"{job}/files/..%2Fjob.json").status_code == 404
    packed = server.client.get(f"{job}/results.zip")
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        assert archive.namelist() == names
        assert archive.read("scan_seg.json") == one.content
    until(lambda: server.client.get(job).status_code == 404)
    until(lambda: server.left == [])
    everything = " ".join([json.dumps(told), packed.text, *server.said]).lower()
    assert "zebulon" not in everything
    assert "quixote" not in everything


def test_the_upload_is_gone_when_the_job_is_done(served):
    server = served()
    job = server.start("works")
    server.end(job)
    (folder,) = server.left
    assert sorted(os.listdir(server.jobs.root / folder)) == ["job.json", "results"]
    assert oct(server.jobs.root.stat().st_mode)[-3:] == "700"


def test_progress_and_queue(served, gate):
    server = served(most=2)
    first = server.start(f"wait {gate}")
    assert server.stage(first)
    second = server.start("works")
    told = server.client.get(first).json()
    assert (told["state"], told["progress"]) == ("running", 0.5)
    told = server.client.get(second).json()
    assert (told["state"], told["ahead"]) == ("queued", 1)
    busy = server.send("works")
    assert busy.status_code == 503
    assert "as many jobs as it takes" in busy.json()["problem"]
    assert server.client.get(f"{second}/results.zip").status_code == 409
    release(gate)
    assert server.end(second)["state"] == "done"
    assert server.client.get(first).json()["state"] == "done"


def test_a_running_job_is_cancelled_with_all_its_processes(served):
    server = served()
    job = server.start("sleep")
    pids = [int(text) for text in server.stage(job).split()]
    assert all(map(alive, pids))
    assert server.client.delete(job).status_code == 204
    assert server.client.get(job).status_code == 404
    until(lambda: not any(map(alive, pids)))
    until(lambda: server.left == [])
    assert server.end(server.start("works"))["state"] == "done"


def test_a_waiting_job_is_cancelled(served, gate):
    server = served()
    first, second = server.start(f"wait {gate}"), server.start("works")
    assert server.client.delete(second).status_code == 204
    assert len(server.left) == 1
    release(gate)
    assert server.end(first)["state"] == "done"


@pytest.mark.parametrize(
    ("what", "options", "problem"),
    [
        ("eat", {"memory": 2 * 10**8}, "takes more memory than a job may have here (0.2 GB)"),
        ("gulp 9000000000", {"memory": 2 * 10**8}, "takes more memory than a job may have here (0.2 GB)"),
        ("sleep", {"seconds": 0.5}, "takes longer than a job may take here (0 s)"),
        ("kill", {}, "could not be segmented: the process ended unexpectedly (signal 9)"),
        ("leave", {}, "could not be segmented: the process ended unexpectedly (exit code 3)"),
        ("chat", {}, "could not be segmented: the process ended unexpectedly (exit code 0)"),
        ("fail", {}, "is damaged"),
        ("lie", {}, "could not be done"),
    ],
)
def test_what_goes_wrong_in_a_job_is_told_and_the_next_one_is_done(served, what, options, problem):
    server = served(**options)
    told = server.end(server.start(what))
    assert (told["state"], told["result"]) == ("failed", None)
    assert told["error"]["problem"] == problem
    assert told["error"]["remedy"]
    if "seconds" not in options:
        assert server.end(server.start("works"))["state"] == "done"


def test_the_process_is_killed_from_outside(served):
    server = served()
    job = server.start("sleep")
    program, child = map(int, server.stage(job).split())
    os.kill(program, signal.SIGKILL)
    assert "signal 9" in server.end(job)["error"]["problem"]
    until(lambda: not alive(child))


def test_uploads_that_are_too_large(served):
    server = served(largest=50_000)
    announced = server.send(b"x" * 60_000)
    assert announced.status_code == 413
    assert "larger than the 0 MB" in announced.json()["problem"]

    sent = []

    def pieces():
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.nii"\r\n\r\n'
        for _ in range(100_000):
            sent.append(1)
            yield b"x" * 1000

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    try:
        counted = server.client.post("/api/jobs", content=pieces(), headers=headers)
        assert counted.status_code == 413
    except httpx.NetworkError:  # refused while it was sent
        assert len(sent) < 100_000
    until(lambda: server.left == [])


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("notes.txt", b"hello", "is not in a format that is read"),
        ("scan", b"", "is an empty file"),
        ("a.nii.gz", b"no gzip", "is no .nii.gz file, or damaged"),
        ("a.mgz", b"no gzip", "is no .mgz file, or damaged"),
        ("a.zip", b"no zip", "is no .zip file, or damaged"),
        ("../../evil.exe", b"MZ", "is not in a format that is read"),
    ],
)
def test_files_of_the_wrong_kind(served, name, content, problem):
    server = served()
    answer = server.send(content, name)
    assert answer.status_code == 415
    assert answer.json()["problem"] == problem
    assert server.left == []


@pytest.mark.parametrize("name", ["../../evil.nii", "..\\..\\evil.nii", "/etc/evil.nii", "C:\\evil.nii", "a\0b.nii"])
def test_names_of_files_lead_nowhere(served, name, tmp_path):
    server = served()
    body = f'--b\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\nworks\r\n--b--\r\n'
    answer = server.client.post(
        "/api/jobs", content=body.encode(), headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert answer.status_code == 202
    assert server.end(f"/api/jobs/{answer.json()['id']}")["state"] == "done"
    assert [path for path in tmp_path.rglob("*") if "evil" in path.name] == []


PART = '--b\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n{}\r\n'
END = "--b--\r\n"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (END, "has no file"),
        (PART.format("image", '; filename="a.nii"', "works"), "was cut short"),
        ("nonsense", "is damaged"),
        (PART.format("other", "", "x") + END, "has a field that is not known"),
        (PART.format("series", "", "x" * 2000) + END, "has a series that is too long"),
        (PART.format("x" * 9000, "", "") + END, "has headers that are too long|is damaged"),
        (PART.format("image", '; filename="a.nii"', "works") * 2 + END, "has several files, .*"),
    ],
)
def test_forms_that_are_none(served, body, problem):
    server = served()
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = server.client.post("/api/jobs", content=body.encode(), headers=headers)
    assert answer.status_code == 415
    assert re.fullmatch(problem, answer.json()["problem"])
    assert server.left == []
    assert "no form with files" in server.client.post("/api/jobs", content=b"x").json()["problem"]


def test_a_model_of_several_images(served):
    server = served(images=("t1", "flair"))
    answer = server.client.post("/api/jobs", files={"t1": ("a.nii", b"works")})
    assert answer.json()["problem"] == "has no file for flair"
    answer = server.client.post("/api/jobs", files={"t1": ("a.nii", b"a"), "t2": ("b.nii", b"b")})
    assert "that the model does not take" in answer.json()["problem"]
    answer = server.client.post("/api/jobs", files={"t1": ("a.nii", b"a"), "flair": ("b.nii.gz", b"\x1f\x8b")})
    assert answer.status_code == 202
    order = json.loads((server.jobs.root / answer.json()["id"] / "job.json").read_text())
    assert order["images"]["t1"].endswith("/upload/0/scan.nii")
    assert order["images"]["flair"].endswith("/upload/1/scan.nii.gz")


def test_many_slices_of_dicom(served):
    server = served()
    start = b"\0" * 128 + b"DICM"
    some = [("image", (f"Quixote{k}.IMA", start + bytes([k]))) for k in range(3)]
    answer = server.client.post("/api/jobs", files=[*some, ("image", ("notes.txt", b"hello"))])
    assert answer.status_code == 202
    order = json.loads((server.jobs.root / answer.json()["id"] / "job.json").read_text())
    assert order["images"]["image"].endswith("/upload/0/scan")


def test_a_token(served):
    server = served(token=TOKEN)
    get = server.client.get
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}, {"Cookie": "voxseg=x"}):
        answer = get("/api/about", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert server.send("works", headers=headers).status_code == 401
    assert server.left == []
    assert get("/").status_code == get("/assets/serve.js").status_code == 200
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert get("/api/about", headers=bearer).json()["model"] == "tiny"
    assert server.client.post("/api/session", headers={"Authorization": "Bearer wrong"}).status_code == 401
    answer = server.client.post("/api/session", headers=bearer)
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert get("/api/about").status_code == 200  # the client has the cookie now
    told = server.end(server.start("works"))
    seen = get(f"/api/jobs/{told['id']}/files/scan_seg.json").json()
    assert seen["secret"] is None


def test_the_token_is_no_business_of_a_job(served, monkeypatch):
    monkeypatch.setenv("VOXSEG_TOKEN", TOKEN)
    server = served()
    told = server.end(server.start("works"))
    assert server.client.get(f"/api/jobs/{told['id']}/files/scan_seg.json").json()["secret"] is None


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 421),
        ("evil.example:80", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("user@localhost", 421),
        ("", 421),
        ("localhost:9000", 200),
        ("LOCALHOST", 200),
        ("[::1]:8642", 200),
        ("192.168.0.7", 200),
        ("voxseg.example", 200),
    ],
)
def test_names_of_the_machine(served, host, status):
    server = served()
    assert server.client.get("/api/about", headers={"Host": host}).status_code == status
    assert server.client.get("/", headers={"Host": host}).status_code == status


def test_pages_of_other_sites_cannot_send(served):
    server = served()
    own = str(server.client.base_url)
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        answer = server.send("works", headers={"Origin": origin})
        assert (answer.status_code, answer.json()["problem"]) == (403, "comes from a page of another site")
    assert server.left == []
    job = f"/api/jobs/{server.send('works', headers={'Origin': own}).json()['id']}"
    assert server.client.delete(job, headers={"Origin": "https://evil.example"}).status_code == 403
    assert server.end(job)["state"] == "done"


def test_every_answer_has_the_headers_that_browsers_need(served):
    server = served()
    for path in ("/", "/assets/serve.css", "/api/about", "/api/none", "/none"):
        answer = server.client.get(path)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert server.client.get("/none").json().keys() == {"what", "problem", "remedy"}
    assert server.client.get("/docs").status_code == 404  # would come from elsewhere
    assert "/api/jobs" in server.client.get("/api/openapi.json").json()["paths"]


def test_a_download_that_is_broken_off_removes_nothing(served):
    server = served()
    job = server.start(f"large {5 * 10**7}")
    server.end(job)
    with server.client.stream("GET", f"{job}/results.zip") as answer:
        next(answer.iter_raw())
    assert server.client.get(job).json()["state"] == "done"
    assert len(server.client.get(f"{job}/results.zip").content) > 5 * 10**7
    until(lambda: server.left == [])


def test_an_upload_that_is_broken_off_leaves_nothing(served):
    server = served()
    address = server.client.base_url
    with socket.create_connection((address.host, address.port)) as connection:
        connection.sendall(
            b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
            b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.nii"\r\n\r\nhalf of it'
        )
        until(lambda: server.left)
    until(lambda: server.left == [])


def test_results_expire(served):
    now = [0.0]
    server = served(expire=100.0, clock=lambda: now[0])
    job = server.start("works")
    server.end(job)
    now[0] = 99.0
    assert server.client.get(job).status_code == 200
    now[0] = 100.0
    assert server.client.get(job).status_code == 404
    assert server.left == []


def test_results_are_kept_where_that_is_asked_for(served, tmp_path):
    keep = tmp_path / "kept"
    keep.mkdir()
    server = served(keep=keep)
    job = server.start("works")
    server.end(job)
    server.client.delete(job)
    (folder,) = keep.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["scan_qc.png", "scan_seg.json"]
    keep.rename(tmp_path / "away")
    keep.write_text("no folder any more")
    told = server.end(server.start("works"))
    assert told["error"]["problem"] == "the results could not be kept"


def test_a_job_is_removed_while_it_is_fetched(served, monkeypatch):
    server = served()
    job = server.start("works")
    server.end(job)

    def remove(*arguments):
        server.client.delete(job)
        raise FileNotFoundError

    monkeypatch.setattr("voxseg.service.app.zipfile.ZipFile", remove)
    answer = server.client.get(f"{job}/results.zip")
    assert (answer.status_code, answer.json()["problem"]) == (404, "was removed just now")


def test_a_full_disk(served, monkeypatch):
    server = served()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("voxseg.service.uploads._Form.data", full)
    answer = server.send("works")
    assert answer.status_code == 507
    assert "No space left on device" in answer.json()["problem"]
    assert server.left == []


def test_what_a_killed_server_has_left_is_removed_and_nothing_else(served, temporary):
    left = temporary / "voxseg-serve-killed"
    (left / "job" / "results").mkdir(parents=True)
    (left / "job" / "results" / "scan_seg.nii.gz").touch()
    (left / "lock").touch()
    other = temporary / "voxseg-other"
    other.mkdir()
    link = temporary / "voxseg-serve-link"
    link.symlink_to(other)
    first = served()
    assert not left.exists()
    second = served()
    assert first.jobs.root.is_dir()
    assert second.jobs.root.is_dir()
    assert other.is_dir()
    link.unlink()
    other.rmdir()


def test_the_end_of_the_server_is_the_end_of_its_jobs(served):
    server = served()
    job = server.start("sleep")
    waiting = server.start("works")
    pids = [int(text) for text in server.stage(job).split()]
    server.jobs.close()
    assert not any(map(alive, pids))
    assert not server.jobs.root.exists()
    assert server.client.get(waiting).status_code == 404
    assert server.send("works").status_code == 503
