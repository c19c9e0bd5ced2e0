"""The page of the service in a real browser: drag and drop, progress, results, the viewer, errors, a token."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from pathlib import Path

import pytest
from browsers import chromium, open_page

from small_server import COMMAND, until

WINDOW = {"width": 900, "height": 700}
TOKEN = "a-token-of-some-length"

# Does as the real one: copies the results that were made beforehand, after it was told to go on.
PROGRAM = """
import json, shutil, sys
from pathlib import Path
order = json.loads(Path(sys.argv[-1]).read_text())
print(json.dumps({"stage": "network", "progress": 0.43}), flush=True)
open(sys.argv[1]).read()
shutil.copytree(sys.argv[2], order["results"])
print((Path(sys.argv[2]).parent / "result.json").read_text(), flush=True)
"""

DRAG = """([kinds, files]) => {
  const data = new DataTransfer();
  for (const [name, content] of files) {
    data.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name));
  }
  const box = document.querySelector(".drop");
  for (const kind of kinds) {
    box.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
  }
}"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as start:
        yield start()


@pytest.fixture
def visit(browser):
    """Opens the page of a server; what it says on the console and what it requests is kept."""
    pages = []

    def visit(server, **options):
        page = open_page(browser, str(server.client.base_url), viewport=WINDOW, **options)
        page.locator("main > section:visible").first.wait_for()  # it asks the server what to show
        pages.append(page)
        return page

    yield visit
    for page in pages:
        page.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Results of `voxseg predict --report` with a tiny model, and what their job tells."""
    from models import write_model
    from small_cases import save_head
    from voxseg.cli.main import run

    folder = tmp_path_factory.mktemp("made")
    save_head(folder / "scan.nii.gz")
    model = str(write_model(folder / "tiny"))
    scan, out = str(folder / "scan.nii.gz"), str(folder / "results")
    with pytest.raises(SystemExit) as ended:
        run(["predict", scan, "--model", model, "--device", "cpu", "--report", "-o", out])
    assert not ended.value.code
    files = sorted(path.name for path in (folder / "results").iterdir())
    case = {"name": "scan", "files": files, "quality": 0.38, "warnings": ["the result is <b>doubtful</b>"]}
    (folder / "result.json").write_text(json.dumps({"result": {"cases": [case]}}))
    return folder


def drop(page, *files, kinds=("dragenter", "dragover", "drop")):
    """Drop files, as (name, content), onto the page's field."""
    page.evaluate(DRAG, [list(kinds), [[name, base64.b64encode(content).decode()] for name, content in files]])


def shown(page, section):
    page.wait_for_selector(f"#{section}", state="visible")
    assert page.locator("main > section:visible").count() == 1
    return page.locator(f"#{section}")


def foreign(page, server):
    """Requests that went elsewhere."""
    own = (str(server.client.base_url).rstrip("/"), "data:", "blob:", "about:")
    return [url for url in page.requested if not url.startswith(own)]


def test_from_drop_to_download(served, visit, made, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    server = served(command=[sys.executable, "-c", PROGRAM, str(gate), str(made / "results")], viewer=True)
    page = visit(server)
    shown(page, "start")
    content = (made / "scan.nii.gz").read_bytes()
    drop(page, ("x", b""), kinds=("dragenter", "dragover"))
    assert page.locator(".drop.over").count() == 1
    drop(page, ("x", b""), kinds=("dragleave",))
    assert page.locator(".drop.over").count() == 0
    drop(page, ("Zebulon <i>Quixote</i>.nii.gz", content))
    work = shown(page, "work")
    work.get_by_text("Segmenting (43 %)").wait_for()
    assert work.locator("h2").inner_text() == "Zebulon <i>Quixote</i>.nii.gz"
    assert abs(float(page.locator("#bar").get_attribute("value")) - 0.43) < 1e-6
    with open(gate, "w"):
        pass
    done = shown(page, "done")
    assert done.locator(".case > h2").inner_text() == "Zebulon <i>Quixote</i>"
    assert page.evaluate("document.querySelector('figure img').naturalWidth") > 500
    assert done.locator(".warnings li").inner_text() == "The result is <b>doubtful</b>."
    volumes = (made / "results/scan_volumes.tsv").read_text().splitlines()[1:]
    rows = done.locator("tbody tr").all_inner_texts()
    assert [row.split("\t") for row in rows] == [
        [name, f"{float(mm3) / 1000:.2f}"] for _, name, _, _, mm3, *_ in (line.split("\t") for line in volumes)
    ]
    with page.expect_download() as one:
        done.get_by_text("_seg.nii.gz").click()
    assert re.fullmatch(r"Zebulon .i.Quixote..i._seg\.nii\.gz", one.value.suggested_filename)
    assert Path(one.value.path()).read_bytes() == (made / "results/scan_seg.nii.gz").read_bytes()

    done.get_by_text("Open the viewer").click()
    frame = page.frame_locator("iframe")
    frame.locator("#viewer-canvas[data-scene='0']").wait_for()
    frame.locator("#viewer-controls").wait_for(state="visible")
    assert frame.locator("#viewer-message").inner_text() == ""

    for width in (360, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    with page.expect_download() as everything:
        done.get_by_text("Download all").click()
    assert Path(everything.value.path()).stat().st_size > sum(p.stat().st_size for p in (made / "results").iterdir())
    page.locator("#kept").get_by_text("The server has removed the results").wait_for()
    assert server.left == []
    assert page.said == []
    assert foreign(page, server) == []
    assert "Zebulon" not in " ".join(server.said)


def test_errors_are_shown_and_the_next_scan_is_taken(served, visit):
    server = served(largest=5000)
    page = visit(server)
    drop(page, ("a.nii", b"fail"))
    failed = shown(page, "failed")
    assert failed.locator("h2").inner_text() == "a.nii"
    assert failed.locator("#failed-problem").inner_text() == "The scan is damaged."
    assert failed.locator("#failed-remedy").inner_text() == "Copy it again."
    failed.get_by_text("Another scan").click()
    shown(page, "start")
    drop(page, ("a.nii", b"x" * 6000))
    assert "larger (6 kB) than the 5 kB" in shown(page, "failed").inner_text()
    failed.get_by_text("Another scan").click()
    assert page.said == []
    drop(page, ("notes.txt", b"hello"))
    assert "not in a format that is read" in shown(page, "failed").inner_text()
    assert foreign(page, server) == []
    assert server.left == []


def test_one_of_several_series_is_chosen(served, visit):
    program = COMMAND[-1].replace(
        '(path,) = order["images"].values()',
        """(path,) = order["images"].values()
if not order["series"]:
    more = [{"series": "3", "description": "T1 <b>MPRAGE</b>", "modality": "MR"}, {"series": "5", "modality": "MR"}]
    say(error={"what": "scan", "problem": "has 2 series", "remedy": "choose one", "series": more})
    raise SystemExit""",
    )
    server = served(command=[sys.executable, "-c", program])
    page = visit(server)
    drop(page, ("a.nii", b"sleep"))
    choices = shown(page, "failed").locator("#series-list button")
    assert choices.all_inner_texts() == ["Series 3 · T1 <b>MPRAGE</b> · MR", "Series 5 · MR"]
    choices.first.click()
    shown(page, "work").get_by_text("(25 %)").wait_for()
    (folder,) = server.left
    assert json.loads((server.jobs.root / folder / "job.json").read_text())["series"] == ["3"]
    page.get_by_text("Cancel").click()
    shown(page, "start")
    assert page.said == []


def test_a_job_outlives_a_reload_and_can_be_cancelled(served, visit):
    server = served()
    page = visit(server)
    page.set_input_files("#image-file", {"name": "a.nii", "mimeType": "", "buffer": b"sleep"})
    shown(page, "work").get_by_text("(25 %)").wait_for()
    page.reload()
    shown(page, "work").get_by_text("(25 %)").wait_for()
    assert page.locator("#work-name").inner_text() == "a.nii"
    page.get_by_text("Cancel").click()
    shown(page, "start")
    until(lambda: server.left == [])
    assert page.said == []


def test_a_model_of_two_images_waits_for_both(served, visit):
    server = served(images=("t1", "flair"))
    page = visit(server)
    page.set_input_files("#t1-file", {"name": "a.nii", "mimeType": "", "buffer": b"fail"})
    assert not page.locator("#send").is_visible()
    page.set_input_files("#flair-file", {"name": "b.nii", "mimeType": "", "buffer": b"fail"})
    page.locator("#send").click()
    shown(page, "failed")


def test_a_token_is_asked_for_once(served, visit):
    server = served(token=TOKEN)
    page = visit(server)
    shown(page, "token")
    page.fill("#token-text", "wrong")
    page.keyboard.press("Enter")
    page.get_by_text("That is not the token.").wait_for()
    page.fill("#token-text", TOKEN)
    page.keyboard.press("Enter")
    shown(page, "start")
    page.reload()
    shown(page, "start")
    drop(page, ("a.nii", b"fail"))
    assert "damaged" in shown(page, "failed").inner_text()
