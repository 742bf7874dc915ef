"""Write the README's table of results, so that no number in it is typed by hand.

The table comes out of the record of ``real_images.py`` and goes between the comments
``<!-- numbers -->`` and ``<!-- /numbers -->``.

    python examples/benchmarks/fill_readme.py          # rewrite README.md
    python examples/benchmarks/fill_readme.py --check  # fail if it is out of date
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).parent
RECORD = HERE / "records" / "real_images.json"
README = HERE.parents[1] / "README.md"
BEGIN, END = "<!-- numbers -->", "<!-- /numbers -->"

PACKS = {
    "mnist_train": "MNIST",
    "fashion_mnist_train": "Fashion-MNIST",
    "usps": "USPS",
    "coil20_32x32": "COIL-20",
}
METHODS = ["k-means", "UMAP + Gaussian mixture", "DigPro", "SCL", "StatDEC"]


def accuracies(record):
    """Rows of the README's table: ACC of each method on the same images and seeds.

    Parameters
    ----------
    record : dict
        With ``runs``: one dict for each pack of images, method and seed.

    Returns
    -------
    rows : list of lists of str
        The first one is the header.
    """
    rows = [["data", "images", "seeds", *METHODS]]
    for pack, name in PACKS.items():
        runs = [run for run in record["runs"] if run["pack"] == pack]
        acc = {
            method: {run["seed"]: run["acc"] for run in runs if run["method"] == method}
            for method in METHODS
        }
        # the methods are compared on the same seeds and images
        seeds = set.intersection(*map(set, acc.values()))
        (n,) = {run["n"] for run in runs}
        cells = [mean_and_spread(scores[s] for s in seeds) for scores in acc.values()]
        rows.append([name, f"{n:,}", str(len(seeds)), *cells])
    return rows


def mean_and_spread(values):
    """Format a mean and, of two values or more, the standard deviation."""
    values = list(values)
    mean = f"{statistics.fmean(values):.3f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values):.3f}"


def as_markdown(rows):
    """Render rows, the first one the header, as a table of Markdown."""
    header, *body = rows
    return "\n".join(
        "| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *body]
    )


def main():
    """Rewrite the README, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    old = README.read_text()
    if old.count(BEGIN) != 1 or old.count(END) != 1:
        sys.exit(f"{README.name} should hold {BEGIN} and {END} once each.")
    before, rest = old.split(BEGIN)
    after = rest.split(END)[1]
    table = as_markdown(accuracies(json.loads(RECORD.read_text())))
    new = f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"
    if check and new != old:
        sys.exit(f"{README.name} is out of date: run this script without --check.")
    if not check:
        README.write_text(new)


if __name__ == "__main__":
    main()
