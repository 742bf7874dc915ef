"""Draw the pictures of the README from the models that the examples train.

    python doc/pictures.py

This takes some minutes, since the examples run in full.
"""

import contextlib
import io
import runpy
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


def save(figure, path):
    """Save a figure in 256 colours, which takes a third of the bytes."""
    png = io.BytesIO()
    figure.savefig(png, dpi=100)
    image = Image.open(png).convert("RGB")
    image = image.quantize(256, kmeans=2, dither=Image.Dither.NONE)
    image.save(path, optimize=True)


def main():
    """Draw all pictures."""
    matplotlib.use("agg")
    for name, (example, display, options) in PICTURES.items():
        found = run(example)
        sheet = display.from_estimator(found["model"], found["X"], **options)
        save(sheet.figure_, DOC / "images" / f"{name}.png")


if __name__ == "__main__":
    main()
