"""The chart of "Choose a method" and the curve of "Large data", out of the records."""

import json
import math
import statistics

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt  # noqa: E402
from tables import BENCHMARKS, by_size  # noqa: E402

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
    tail = means("long_tail", "balanced", pack="mnist_test", ratio=50.0)
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
            'DigPro, or GCC(bank="real")',
            "digits at 50 : 1, balanced ACC:\n"
            + versus(tail, "DigPro", "GCC, real images"),
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


def draw_cost():
    """Draw what an image costs, and what memory a fit takes, over the number of images.

    Returns
    -------
    figure : matplotlib Figure
    """
    record = json.loads((BENCHMARKS / "records/large.json").read_text())
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    runs = [run for run in by_size(record) if run["epochs"] == 1]
    for method in ("DigPro", "SCL"):
        own = [run for run in runs if run["method"] == method]
        n = [run["n"] for run in own]
        epoch = [1000 * run["epoch_cpu_seconds"] / run["n"] for run in own]
        axes[0].plot(n, epoch, "o-", label=method)
        axes[1].plot(n, [run["fit_mib"] for run in own], "o-", label=method)
    n = sorted({run["n"] for run in runs})
    sizes = [rows * math.prod(record["shape"]) / 2**20 for rows in n]
    axes[1].plot(n, sizes, "--", color="0.6", label="the images themselves")
    axes[0].set(ylabel="epoch, ms an image", ylim=(0, None))
    axes[1].set(ylabel="memory of fit, MiB", yscale="log")
    for ax in axes:
        ax.set(xlabel="images", xscale="log")
        ax.spines[["top", "right"]].set_visible(False)
    axes[1].legend(frameon=False)
    return figure


def write(folder):
    """Draw both into a folder."""
    for name, figure in {"choose": draw(), "cost": draw_cost()}.items():
        figure.savefig(folder / f"{name}.svg")
        plt.close(figure)
