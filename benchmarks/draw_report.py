"""The viewer of a report page as a headless Chromium shows it, for the README.

    python benchmarks/draw_report.py -o docs/report.png

Segments the ICBM152 template that comes with nilearn, opens its page from the disk and photographs viewer and volumes.
Needs the package playwright, and Chromium or Chrome on the machine.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOFTWARE = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
PATIENCE = 300_000  # milliseconds: without graphics hardware every pixel is computed


def photograph(page_path: Path, path: Path) -> None:
    """Write a picture of the viewer and what is beside it, once the scan is drawn."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
    if program is None:
        raise SystemExit("there is no chromium and no google-chrome on this machine")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=SOFTWARE)
        page = browser.new_page(viewport={"width": 1240, "height": 800})
        page.set_default_timeout(PATIENCE)
        page.goto(page_path.as_uri())
        page.wait_for_selector("#viewer-canvas[data-scene='0']")
        page.locator("section", has=page.locator("#viewer-canvas")).screenshot(path=path)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/report.png"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "voxseg", "predict", "--example", "--report", "-o", folder]
        subprocess.run(command, check=True)
        photograph(next(Path(folder).resolve().glob("*_report.html")), options.output)


if __name__ == "__main__":
    main()
