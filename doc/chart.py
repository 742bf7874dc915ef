"""The flow chart of the page "Choose a method", with numbers out of the records."""

import json
import statistics

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt  # noqa: E402
from tables import BENCHMARKS  # noqa: E402

QUESTION = {"boxstyle": "round,pad=0.5", "fc": "#eef4fb", "ec": "#2b6cb0"}
ANSWER = {"boxstyle": "round,pad=0.5", "fc": "#fdf3e1", "ec": "#b7791f"}
ARROW = {"arrowstyle": "-|>", "color": "0.35", "shrinkA": 0, "shrinkB": 0}


def means(record, score, **fixed):
    """Mean over the seeds of a score of each method, of the runs that agree."""
    runs = json.loads((BENCHMARKS / "records" / f"{record}.json").read_text())["runs"]
    scores = {}
    for run in runs:
        if all(run[key] == value for key, value in fixed.items()):
            scores.setdefault(run["method"], []).append(run[score])
    return {method: statistics.fmean(values) for method, values in scores.items()}


def versus(found, *methods):
    """Name the scores of methods beside that of k-means."""
    ours = ", ".join(f"{method} {found[method]:.3f}" for method in methods)
    return f"{ours}; k-means {found['k-means']:.3f}"


def steps():
    """Questions, each with the answer of a yes."""
    photos = means("features", "acc", data="cifar_test", ratio=1.0)
    tail = means("long_tail", "balanced", pack="mnist_train", ratio=50.0)
    digits = means("real_images", "acc", pack="mnist_train")
    clothes = means("real_images", "acc", pack="fashion_mnist_train")
    facets = json.loads((BENCHMARKS / "records/facets.json").read_text())["runs"]
    both = [run["found"] for run in facets if run["row"] == "MFCVAE"]
    return [
        (
            "Photographs, or features\nof a pretrained network?",
            "ImageEncoder, then StatDEC or DigPro",
            "CIFAR-10: " + versus(photos, "StatDEC", "DigPro"),
        ),
        (
            "Some kinds far more\nfrequent than others?",
            "DigPro or StatDEC",
            "digits at 50 : 1, balanced ACC:\n" + versus(tail, "DigPro", "StatDEC"),
        ),
        (
            "More than one way\nto sort them?",
            "MFCVAE",
            f"shapes on backgrounds: both found by {sum(both)} of {len(both)} seeds",
        ),
        (
            "New images drawn\nof each cluster?",
            "GCC",
            "the slowest; its labels are no better for it",
        ),
        (
            "Small images, or a GPU?",
            "DigPro, then SCL",
            f"digits: {versus(digits, 'DigPro', 'SCL')}\n"
            f"clothes: {versus(clothes, 'DigPro', 'SCL')}",
        ),
    ]


def draw():
    """Draw the chart.

    Returns
    -------
    figure : matplotlib Figure
    """
    rows = steps()
    figure, ax = plt.subplots(figsize=(9, 1.15 * len(rows) + 1))
    ax.set(xlim=(0, 9), ylim=(-0.6, len(rows) + 0.45))
    ax.axis("off")
    first = "Try k-means first. Not good enough?"
    ax.text(1.5, len(rows) + 0.1, first, ha="center", va="center", bbox=QUESTION)
    for i, (question, answer, numbers) in enumerate(rows):
        y = len(rows) - 1 - i
        above = y + (0.7 if i else 0.9)
        ax.annotate("", (1.5, y + 0.3), (1.5, above), arrowprops=ARROW)
        ax.annotate("", (3.55, y), (2.75, y), arrowprops=ARROW)
        ax.text(3.15, y + 0.12, "yes", ha="center", color="0.35", size=9)
        if i:
            ax.text(1.6, y + 0.47, "no", color="0.35", size=9)
        ax.text(1.5, y, question, ha="center", va="center", bbox=QUESTION)
        ax.text(3.7, y, answer, va="center", weight="bold", bbox=ANSWER)
        ax.text(3.65, y - 0.24, numbers, va="top", color="0.3", size=9)
    figure.subplots_adjust(0, 0, 1, 1)
    return figure


def write(folder):
    """Draw the chart into a folder."""
    figure = draw()
    figure.savefig(folder / "choose.svg")
    plt.close(figure)
