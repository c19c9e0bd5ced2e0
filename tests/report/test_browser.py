"""The pages in a real browser without graphics hardware, opened from the disk."""

import io
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from browsers import chromium, open_page
from matplotlib.image import imread

from voxseg.cli._cases import EXAMPLE
from voxseg.cli.main import run
from voxseg.report.evaluation_page import write_evaluation_page
from voxseg.report.qc import draw_qc
from voxseg.report.scan_page import ScanReport, write_scan_page

WINDOW = {"width": 760, "height": 640}  # small, as every pixel is computed


@pytest.fixture(scope="module")
def launch():
    """Starts browsers, which end with the module."""
    with chromium() as start:
        yield start


@pytest.fixture(scope="module")
def browser(launch):
    return launch()


def visit(browser, path, **options):
    """Open a page; what it says on the console and what it requests is kept."""
    return open_page(browser, path.as_uri(), viewport=WINDOW, **options)


def ready(page, scene=0):
    page.wait_for_selector(f"#viewer-canvas[data-scene='{scene}']")
    page.wait_for_selector("#viewer-controls", state="visible")
    return page


def canvas(page):
    """Pixels [H, W, 3] of the viewer, 0 to 1, as they are on the screen."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return imread(io.BytesIO(page.locator("#viewer-canvas").screenshot()))[..., :3]


def saturated(picture, colour):
    """Pixels [N, 2] (row, column) of about a hue: channels of `colour` that are 1 well above those that are 0."""
    high = np.array(colour, dtype=bool)
    return np.argwhere(picture[..., high].min(-1) - picture[..., ~high].max(-1) > 0.3)


def choose(page, name, value):
    page.select_option(f"#viewer-{name}", value)


def slide(page, value):
    page.locator("#viewer-opacity").fill(str(value))


@pytest.fixture(scope="module")
def scan_page(browser, tmp_path_factory, head):
    folder = tmp_path_factory.mktemp("page")
    path = folder / "head.html"
    draw_qc(folder / "qc.png", head.scan, head.classes, head.geometry, head.table, head.counts, "head")
    report = ScanReport("head", {"t1": "head.nii.gz"}, "tiny")
    picture = (folder / "qc.png").read_bytes()
    images = {"t1": head.scan, "flair": head.scan.max() - head.scan}
    write_scan_page(path, images, head.classes, head.geometry, head.table, head.counts, picture, report)
    page = ready(visit(browser, path))
    page.path, page.picture = path, imread(folder / "qc.png")[..., :3]
    yield page
    page.close()


@pytest.fixture
def viewer(scan_page):
    """The page of a scan as it is when it has been opened."""
    choose(scan_page, "view", "planes")
    choose(scan_page, "image", "0")
    for box in ("outline", "neurological"):
        scan_page.set_checked(f"#viewer-{box}", False)
    slide(scan_page, 50)
    scan_page.click("#viewer-all")
    return scan_page


def test_it_loads_without_errors_and_without_requests(viewer):
    assert viewer.requested == [viewer.url]
    assert viewer.url.startswith("file://")
    assert viewer.said == []
    assert viewer.inner_text("#viewer-message") == ""
    assert "Radiological convention" in viewer.inner_text("#viewer-convention")


def test_the_head_is_seen(viewer):
    viewer.click("#viewer-none")
    picture = canvas(viewer)
    grey = picture[np.ptp(picture, axis=-1) < 0.02]
    assert len(np.unique(np.round(grey[:, 0] * 255))) > 60
    assert (grey[:, 0] > 0.3).mean() > 0.05


def test_a_box_in_the_table_shows_and_hides_a_structure(viewer):
    slide(viewer, 100)
    yellow = len(saturated(canvas(viewer), (1, 1, 0)))  # the hippocampus; the crosshair is yellow too
    box = viewer.locator("#volumes input.toggle[aria-label='show Hippocampus']")
    box.uncheck()
    hidden = len(saturated(canvas(viewer), (1, 1, 0)))
    assert yellow > hidden + 300
    box.check()
    assert len(saturated(canvas(viewer), (1, 1, 0))) == yellow


def test_all_and_none(viewer):
    viewer.click("#viewer-none")
    assert viewer.locator("input.toggle:checked").count() == 0
    without = canvas(viewer)
    viewer.click("#viewer-all")
    assert viewer.locator("input.toggle:checked").count() == 3
    assert (np.abs(canvas(viewer) - without).max(-1) > 0.05).mean() > 0.05


def test_opacity(viewer):
    slide(viewer, 0)
    clear = canvas(viewer)
    slide(viewer, 50)
    half = canvas(viewer)
    slide(viewer, 100)
    full = canvas(viewer)
    changed = np.abs(full - clear).max(-1) > 0.2
    assert changed.mean() > 0.03
    between = np.abs(half - (clear + full) / 2)[changed].max(-1)
    assert np.median(between) < 0.1


def test_outlines_leave_the_inside_free(viewer):
    slide(viewer, 100)
    filled = len(saturated(canvas(viewer), (1, 1, 0)))
    viewer.set_checked("#viewer-outline", True)
    assert 50 < len(saturated(canvas(viewer), (1, 1, 0))) < 0.8 * filled


def sides(points):
    """Larger and smaller cluster along the columns: middle and number of pixels of each."""
    columns = np.sort(points[:, 1])
    gap = int(np.diff(columns).argmax())
    groups = [points[points[:, 1] <= columns[gap]], points[points[:, 1] > columns[gap]]]
    groups.sort(key=len, reverse=True)
    return [(group[:, 1].mean(), len(group)) for group in groups]


def hippocampi(picture):
    """Columns of the larger and of the smaller one, and their rows; letters and crosshair are of a redder yellow."""
    yellow = (picture[..., :2].min(-1) - picture[..., 2] > 0.3) & (np.abs(picture[..., 0] - picture[..., 1]) < 0.1)
    points = np.argwhere(yellow)
    (large, _), (small, _) = sides(points)
    return large, small, points[:, 0]


def test_left_is_where_the_picture_has_it(viewer):
    """The ball at the left is the larger one, and both are in front."""
    slide(viewer, 100)
    choose(viewer, "view", "axial")
    picture = canvas(viewer)
    left, right, rows = hippocampi(picture)
    assert left > right
    assert rows.mean() < 0.45 * picture.shape[0]
    axial = viewer.picture[80:540, : viewer.picture.shape[1] // 4]
    left, right, rows = hippocampi(axial)
    assert left > right
    assert rows.mean() < 0.45 * axial.shape[0]
    viewer.set_checked("#viewer-neurological", True)
    assert "Neurological convention" in viewer.inner_text("#viewer-convention")
    left, right, _ = hippocampi(canvas(viewer))
    assert left < right


def test_the_place_under_the_crosshair_is_told(viewer, head):
    choose(viewer, "view", "axial")
    before = viewer.inner_text("#viewer-location")
    assert before.startswith("x ")
    assert "mm" in before
    assert "intensity" in before
    box = viewer.locator("#viewer-canvas").bounding_box()
    told = set()
    for share in (0.35, 0.42, 0.5, 0.58, 0.65):
        viewer.mouse.click(box["x"] + share * box["width"], box["y"] + 0.4 * box["height"])
        told.add(viewer.inner_text("#viewer-location"))
    assert len(told) == 5
    named = [text.split(" · ")[1] for text in told]
    assert {name.split("-")[0] for name in named} >= {"Left", "Right"}
    for text in told:  # negative is to the left
        x = float(text.split(",")[0].removeprefix("x ").replace("−", "-"))
        name = text.split(" · ")[1]
        assert not name.startswith("Left") or x <= 0
        assert not name.startswith("Right") or x >= 0


@pytest.mark.parametrize("view", ["coronal", "render", "all"])
def test_every_view_shows_something(viewer, view):
    planes = canvas(viewer)
    choose(viewer, "view", view)
    picture = canvas(viewer)
    assert picture.max(-1).std() > 0.05
    assert np.abs(picture - planes).mean() > 0.01
    assert viewer.said == []


def test_another_image_of_the_case(viewer):
    viewer.click("#viewer-none")
    first = canvas(viewer)
    choose(viewer, "image", "1")
    viewer.wait_for_function("document.getElementById('viewer-canvas').dataset.image === '1'")
    assert np.abs(canvas(viewer) - first).mean() > 0.02
    assert viewer.said == []


def test_sorting(viewer):
    def column(place):
        return viewer.locator("#volumes tbody tr").evaluate_all(
            f"rows => rows.map(row => row.cells[{place}].dataset.value)"
        )

    heading = viewer.locator("#volumes thead th").nth(3)
    heading.locator("button").click()
    up = [float(value) for value in column(3)]
    assert up == sorted(up)
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.locator("button").click()
    assert [float(value) for value in column(3)] == up[::-1]
    viewer.locator("#volumes thead button").first.click()
    assert column(0) == ["Brain-Stem", "Cerebral-White-Matter", "Hippocampus"]
    asymmetry = viewer.locator("#volumes thead th").nth(4).locator("button")
    for _ in range(2):  # what has no value stays last
        asymmetry.click()
        assert column(0)[-1] == "Brain-Stem"


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_page(viewer, width):
    viewer.set_viewport_size({"width": width, "height": 800})
    try:
        assert viewer.evaluate("document.documentElement.scrollWidth") <= width
        assert viewer.locator("#viewer-canvas").bounding_box()["width"] > 0.35 * width
    finally:
        viewer.set_viewport_size(WINDOW)


def test_print_has_the_picture_and_the_table_and_no_controls(viewer):
    viewer.emulate_media(media="print")
    try:
        assert viewer.locator("figure img").is_visible()
        assert viewer.locator("#volumes table").is_visible()
        assert not viewer.locator("#viewer-controls").is_visible()
        assert not viewer.locator("#viewer-canvas").is_visible()
    finally:
        viewer.emulate_media(media="screen")


def test_without_webgl_it_says_so_and_shows_the_rest(launch, scan_page):
    page = visit(launch("--disable-3d-apis"), scan_page.path)
    page.wait_for_selector("#viewer-message:has-text('WebGL 2')")
    assert page.locator("figure img").is_visible()
    assert page.locator("#volumes table").is_visible()
    assert not page.locator("#viewer-controls").is_visible()
    assert page.locator("input.toggle:visible").count() == 0


def test_a_real_brain(browser, tmp_path):
    """The template that comes with nilearn, every other voxel, segmented by the packaged model."""
    nilearn = pytest.importorskip("nilearn")
    template = nib.load(Path(nilearn.__file__).parents[1] / EXAMPLE)
    nib.save(template.slicer[::2, ::2, ::2], tmp_path / "brain.nii.gz")
    with pytest.raises(SystemExit) as caught:
        run(["predict", str(tmp_path / "brain.nii.gz"), "--report", "--device", "cpu"])
    assert not caught.value.code
    page = ready(visit(browser, tmp_path / "brain_report.html"))
    assert page.requested == [page.url]
    slide(page, 0)
    picture = canvas(page)
    grey = picture[np.ptp(picture, axis=-1) < 0.02][:, 0]
    assert len(np.unique(np.round(grey * 255))) > 150
    slide(page, 100)
    choose(page, "view", "axial")
    page.click("#viewer-none")
    page.locator("input.toggle[aria-label='show Putamen']").check()
    magenta = saturated(canvas(page), (1, 0, 1))
    large, small = sides(magenta)
    assert large[1] < 1.5 * small[1]  # one on each side of the middle
    assert abs(large[0] + small[0] - picture.shape[1]) < 0.08 * picture.shape[1]
    names = page.locator("#volumes tbody th").all_inner_texts()
    assert len(names) == 16
    assert not page.locator("#volumes tbody").get_by_text("not found").count()
    assert page.said == []
    page.close()


def test_evaluation(browser, tmp_path, evaluated):
    made = evaluated(tmp_path, [3.0, 9.0], models=("first", "<other>"))
    path = tmp_path / "report.html"
    write_evaluation_page(path, made.evaluation, made.scans, made.scheme)
    page = ready(visit(browser, path))
    assert page.requested == [page.url]
    assert page.evaluate("document.documentElement.scrollWidth") <= WINDOW["width"]
    first = canvas(page)
    choose(page, "map", "2")  # differences
    page.wait_for_selector("ul[data-legend-of='differences']", state="visible")
    assert not page.locator("ul[data-legend-of='structures']").is_visible()
    slide(page, 100)
    different = canvas(page)
    assert np.abs(different - first).mean() > 0.01
    assert len(saturated(different, (0, 1, 1))) + len(saturated(different, (1, 0, 1))) > 100
    choose(page, "scene", "1")
    ready(page, 1)
    assert page.locator("ul[data-legend-of='structures']").is_visible()
    rows = page.locator("#cases tbody tr")
    page.locator("#cases thead button").nth(2).click()  # by Dice
    assert rows.first.locator("th").inner_text() == "case-1"
    assert page.said == []
    page.close()
