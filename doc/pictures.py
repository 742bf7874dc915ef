"""Draw the pictures of the README from the models that the examples train.

    python doc/pictures.py

This takes some minutes, since the examples run in full. The picture of a report needs a
browser, Chromium; without one it stays as it is.
"""

import contextlib
import io
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
from PIL import Image

from skdeepcluster.plots import (
    ClusterSheetDisplay,
    FacetsDisplay,
    GeneratedSheetDisplay,
)
from skdeepcluster.report import write_report_of

DOC = Path(__file__).resolve().parent
EXAMPLES = DOC.parent / "examples"

# each picture: the example, and what to draw of its model (the example draws more)
PICTURES = {
    "digits": (
        "plot_1_first_clusters.py",
        ClusterSheetDisplay,
        {"n_images": 5, "n_columns": 2},
    ),
    "facets": (
        "plot_4_facets.py",
        FacetsDisplay,
        {"n_images": 2, "n_samples": 2, "max_clusters": 6, "random_state": 0},
    ),
    "generated": (
        "plot_5_generated_clusters.py",
        GeneratedSheetDisplay,
        {"clusters": range(2, 6), "random_state": 0},
    ),
}


def run(example):
    """Run an example in full, and return its variables."""
    sys.argv = [example]  # without --quick
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        return runpy.run_path(str(EXAMPLES / example))


def save(png, path):
    """Save a picture in 256 colours, which takes a third of the bytes."""
    image = Image.open(png).convert("RGB")
    image = image.quantize(256, kmeans=2, dither=Image.Dither.NONE)
    image.save(path, optimize=True)


def draw_report(path):
    """Draw the top of a report on the digits, as a browser shows it."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        print("No Chromium was found: the picture of the report stays as it is.")
        return
    found = run("plot_1_first_clusters.py")
    with tempfile.TemporaryDirectory() as folder:
        page = write_report_of(Path(folder, "r.html"), found["model"], found["X"])
        png = Path(folder, "report.png")
        flags = (
            f"--headless --no-sandbox --disable-gpu --user-data-dir={folder}/profile"
        )
        flags += " --hide-scrollbars --window-size=1100,2000 --virtual-time-budget=4000"
        command = [browser, *flags.split(), f"--screenshot={png}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True)
        Image.open(png).crop((0, 0, 1100, 1800)).save(png)  # the rest is unpainted
        save(png, path)


def main():
    """Draw all pictures."""
    matplotlib.use("agg")
    draw_report(DOC / "images" / "report.png")
    for name, (example, display, options) in PICTURES.items():
        found = run(example)
        sheet = display.from_estimator(found["model"], found["X"], **options)
        png = io.BytesIO()
        sheet.figure_.savefig(png, dpi=100)
        save(png, DOC / "images" / f"{name}.png")


if __name__ == "__main__":
    main()
