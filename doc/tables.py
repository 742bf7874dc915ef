"""Tables of the benchmark page, out of the records of ``examples/benchmarks``."""

import json
import math
import statistics
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "examples" / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from fill_readme import mean_and_spread  # noqa: E402

from skdeepcluster.communities import CUT_MORE, LINKAGES  # noqa: E402

SMALLEST = 3  # as long_tail.py
MIN_PAIRS = 5  # seeds: of fewer, a difference is not shown


def quick(gallery_conf, script_vars):
    """Arguments of the examples while the gallery is built."""
    return ["--quick"]


def real_images(record):
    """Rows of the comparison on real images: the mean over the seeds, and its spread.

    Parameters
    ----------
    record : dict
        With ``runs``: one dict for each data set, method and seed.

    Returns
    -------
    rows : list of lists of str
        The first one is the header.
    """
    rows = [["images", "n", "method", "seeds", "ACC", "NMI", "ARI", "CPU s"]]
    for (pack, method), runs in grouped(record, "pack", "method"):
        scores = [mean_and_spread([r[m] for r in runs]) for m in ("acc", "nmi", "ari")]
        n = f"{runs[0]['n']:,}"
        rows.append([pack, n, method, str(len(runs)), *scores, cpu_seconds(runs)])
    return rows


def long_tail(record):
    """Rows of the comparison on long-tailed images, as of ``real_images``."""
    header = ["images", "ratio", "method", "seeds", "ACC", "balanced ACC", "NMI", "ARI"]
    rows = [[*header, f"recall of the {SMALLEST} smallest", "CPU s"]]
    keys = ("acc", "balanced", "nmi", "ari", "smallest")
    for (pack, ratio, method), runs in grouped(record, "pack", "ratio", "method"):
        scores = [mean_and_spread([r[key] for r in runs]) for key in keys]
        about = [pack, f"{ratio:g}", method, str(len(runs))]
        rows.append([*about, *scores, cpu_seconds(runs)])
    return rows


ABLATIONS = [
    ("DigPro", "DigPro, contrast only"),
    ("DigPro", "DigPro, no group term"),
    ("DigPro", "DigPro, no prototype term"),
    ("DigPro", "DigPro, groups that move faster"),
    ("DigPro", "DigPro, groups that move slower"),
    ("DigPro", "DigPro, groups anew every K steps"),
    ("DigPro", "DigPro, prototypes from the start"),
    ("DigPro", "DigPro, prototypes late"),
    ("SCL", "DigPro, contrast only"),
    ("StatDEC", "StatDEC, no clustering loss"),
    ("StatDEC", "StatDEC, average pooling"),
    ("GCC", "GCC, first stage"),
    ("GCC", "GCC, real images"),
]


def ablations(record):
    """Rows of paired differences: a method less the same without a part of it."""
    about = [key for key in ("pack", "ratio", "n_clusters") if key in record["runs"][0]]
    scores = [
        key for key in ("acc", "balanced", "nmi", "ari") if key in record["runs"][0]
    ]
    rows = [[*about, "method", "less", "seeds", *scores]]
    for key, runs in grouped(record, *about):
        of = {
            name: {run["seed"]: run for run in group}
            for (name,), group in grouped({"runs": runs}, "method")
        }
        for method, without in ABLATIONS:
            seeds = sorted(of.get(method, {}).keys() & of.get(without, {}).keys())
            if len(seeds) < MIN_PAIRS:
                continue
            cells = []
            for score in scores:
                gains = [of[method][s][score] - of[without][s][score] for s in seeds]
                error = statistics.stdev(gains) / math.sqrt(len(gains))
                cells.append(f"{statistics.fmean(gains):+.3f} ± {error:.3f}")
            named = [f"{x:g}" if isinstance(x, float) else str(x) for x in key]
            rows.append([*named, method, without, str(len(seeds)), *cells])
    return rows


def linkages(record):
    """Rows of scores without labels: what they chose among clusterings is worth."""
    runs = record["runs"]
    methods = list(runs[0]["found"])
    scores = ["silhouette", "association", "links within", "modularity", "stability"]

    def chosen(score):
        return [max(methods, key=lambda m, r=run: r["found"][m][score]) for run in runs]

    choices = {score: chosen(score) for score in scores}
    choices["our methods"] = [decided(run["found"]) for run in runs]
    choices |= {f"always {method}": [method] * len(runs) for method in methods}
    choices["best by NMI"] = chosen("nmi")
    header = ["chosen by", "best of the three, of so many"]
    rows = [[*header, "NMI, balanced", "ACC, balanced", "NMI, tails", "ACC, tails"]]
    best = choices["best by NMI"]
    for name, choice in choices.items():
        right = sum(a == b for a, b in zip(choice, best, strict=True))
        row = [name, f"{right} / {len(runs)}"]
        for tail in (False, True):
            found = [
                run["found"][method]
                for run, method in zip(runs, choice, strict=True)
                if (run["ratio"] > 1) == tail
            ]
            for key in ("nmi", "acc"):
                row.append(f"{statistics.fmean(one[key] for one in found):.3f}")
        rows.append(row)
    return rows


def decided(found):
    """Name the linkage that our methods decide for."""
    within = {name: found[name]["links within"] for name in LINKAGES}
    unequal = within["normalized"] > within["modularity"] + CUT_MORE
    return LINKAGES[int(unequal)]


def features(record):
    """Rows of the comparison on features that are given, as of ``long_tail``."""
    header = ["features", "n", "ratio", "method", "seeds", "clusters"]
    rows = [[*header, "ACC", "balanced ACC", "NMI", "ARI", "CPU s"]]
    keys = ("acc", "balanced", "nmi", "ari")
    for (data, ratio, method), runs in grouped(record, "data", "ratio", "method"):
        scores = [mean_and_spread([run[key] for run in runs]) for key in keys]
        n = f"{statistics.median(run['n'] for run in runs):,.0f}"
        found = "–".join(f"{k}" for k in extremes([run["n_found"] for run in runs]))
        about = [data, n, f"{ratio:g}", method, str(len(runs)), found]
        rows.append([*about, *scores, cpu_seconds(runs)])
    return rows


def outliers(record):
    """Rows of how well foreign images are told from those that were clustered."""
    rows = [["images", "foreign", "method", "seeds", "AUROC", "ACC", "CPU s"]]
    for (pack, foreign, method), runs in grouped(record, "pack", "foreign", "method"):
        share = runs[0]["n_foreign"] / runs[0]["n"]
        scores = [mean_and_spread([r[key] for r in runs]) for key in ("auroc", "acc")]
        about = [pack, f"{share:.0%} {foreign}", method, str(len(runs))]
        rows.append([*about, *scores, cpu_seconds(runs)])
    return rows


def facets(record):
    """Rows of how well the factors of generated images are told apart."""
    factors = record["factors"]
    header = ["method", "seeds", "factors found"]
    header += [f"{name}: {what}" for name in factors for what in ("purity", "leak")]
    rows = [[*header, "CPU s"]]
    for (name,), runs in grouped(record, "row"):
        found = sum(run["found"] for run in runs)
        row = [name, str(len(runs)), f"{found} of {len(runs)}"]
        for m in range(len(factors)):
            for key in ("matched_purity", "leak_nmi"):
                row.append(mean_and_spread([run[key][m] for run in runs]))
        rows.append([*row, cpu_seconds(runs)])
    return rows


def paper_mnist(record):
    """Rows of the published MNIST run, or of a part of it: test scores by facet."""
    header = ["settings", "seed", "epochs", "facet", "purity", "ACC", "NMI", "CPU min"]
    rows = [header]
    for run in record["runs"]:
        changed = [f"{key}={value}" for key, value in run["changed"].items()]
        shortened = [] if run["epochs"] == run["paper_epochs"] else ["shortened"]
        about = ", ".join(["paper_settings", *shortened, *changed])
        for facet, name in ((1, "deep"), (0, "shallow")):
            scores = [f"{run[m][facet]:.3f}" for m in ("purity", "accuracy", "nmi")]
            minutes = f"{run['cpu_seconds'] / 60:.0f}"
            at = [about, str(run["seed"]), str(run["epochs"])]
            rows.append([*at, name, *scores, minutes])
    return rows


def calibration(record):
    """Rows of what stage II of GCC makes of stage I, with and without its images."""
    header = ["images", "ratio", "row", "seeds", "ACC", "balanced ACC", "NMI", "ARI"]
    rows = [[*header, "agreement", "CPU s"]]
    keys = ("acc", "balanced", "nmi", "ari")
    for (pack, ratio), fits in grouped(record, "pack", "ratio"):
        first = {run["seed"]: run["stage_1"] for run in fits if run["row"] == "GCC"}
        about = [pack, f"{ratio:g}", "stage I: k-means", str(len(first))]
        scores = [mean_and_spread([one[k] for one in first.values()]) for k in keys]
        rows.append([*about, *scores, "", ""])
        for (row,), runs in grouped({"runs": fits}, "row"):
            scores = [mean_and_spread([run[key] for run in runs]) for key in keys]
            shares = [x for run in runs for one in run["agreement"] for x in one]
            agreement = f"{statistics.fmean(shares):.2f}" if shares else ""
            about = [pack, f"{ratio:g}", row, str(len(runs))]
            rows.append([*about, *scores, agreement, cpu_seconds(runs)])
    return rows


def confidence(record):
    """Rows of what the temperature of ``fit`` does to the calibration error."""
    header = ["data", "n", "method", "seeds", "ACC", "temperature", "ECE before"]
    rows = [[*header, "ECE after", "ACC of the surest 80 %"]]
    for (data, method), runs in grouped(record, "data", "method"):
        middle = statistics.median(run["temperature"] for run in runs)
        about = [data, f"{runs[0]['n']:,}", method, str(len(runs))]
        acc, before, after, sure = (
            mean_and_spread([run[key] for run in runs])
            for key in ("acc", "ece_before", "ece", "acc_of_sure")
        )
        rows.append([*about, acc, f"{middle:.2f}", before, after, sure])
    return rows


def n_clusters(record):
    """Rows of the number of clusters that was chosen, where it is known."""
    alone = ("silhouette_alone", "calinski_harabasz_alone")
    header = ["data", "for", "method", "classes", "chosen", "confidence"]
    rows = [[*header, "silhouette alone", "Calinski-Harabasz alone"]]
    for (data, method), runs in grouped(record, "data", "method"):
        use = "tuning" if data in record["tuning"] else "reporting"
        classes = runs[0]["n_classes"]
        chosen = (f"**{k}**" if k == classes else str(k) for k in each(runs, "chosen"))
        cells = [", ".join(chosen), ", ".join(each(runs, "confidence"))]
        cells += [", ".join(map(str, each(runs, key))) for key in alone]
        rows.append([data, use, method, str(classes), *cells])
    return rows


def each(runs, key):
    """What each run has under a key, where it has."""
    return [run[key] for run in runs if key in run]


def n_clusters_summary(record):
    """Rows of how often each way of choosing was right; one cluster is left out."""
    ways = {
        "chosen": "`select_n_clusters`",
        "highest_silhouette": "highest silhouette in the reduced space",
        "highest_stability": "highest stability",
        "highest_generalization": "highest generalization",
        "silhouette_alone": "highest silhouette of the rows",
        "calinski_harabasz_alone": "highest Calinski-Harabasz score",
    }
    header = ["data", "method", "way", "right", "near", "mean factor"]
    rows = [header]
    several = [run for run in record["runs"] if run["n_classes"] > 1]
    for method in dict.fromkeys(run["method"] for run in several):
        for use in ("reporting", "tuning"):
            runs = [
                run
                for run in several
                if run["method"] == method
                and (run["data"] in record["tuning"]) == (use == "tuning")
            ]
            for key, name in ways.items():
                pairs = [(run[key], run["n_classes"]) for run in runs if key in run]
                if not pairs:
                    continue
                right = sum(k == true for k, true in pairs)
                near = sum(abs(k - true) <= max(1, 0.1 * true) for k, true in pairs)
                off = statistics.fmean(abs(math.log(k / true)) for k, true in pairs)
                counts = [f"{right} of {len(pairs)}", str(near)]
                rows.append([use, method, name, *counts, f"{math.exp(off):.2f}"])
    return rows


def n_clusters_confidence(record):
    """Rows of how often a choice was right, by what it says of itself."""
    rows = [["method", "confidence", "choices", "right", "near"]]
    several = [run for run in record["runs"] if run["n_classes"] > 1]
    for (method,), of_method in grouped({"runs": several}, "method"):
        for level in ("high", "medium", "low"):
            runs = [run for run in of_method if run["confidence"] == level]
            off = [abs(run["chosen"] - run["n_classes"]) for run in runs]
            near = sum(
                d <= max(1, 0.1 * run["n_classes"])
                for d, run in zip(off, runs, strict=True)
            )
            counts = len(runs), sum(d == 0 for d in off), near
            rows.append([method, level, *map(str, counts)])
    return rows


def n_init(record):
    """Rows of which run a score without labels keeps, and of the consensus of all."""
    kept = {
        "score": "`score`",
        "silhouette": "silhouette",
        "confidence": "confidence",
        "generalisation": "generalisation",
        "balance": "balance",
        "centrality": "agreement",
        "early_score": "early silhouette",
        "early_centrality": "early agreement",
    }
    header = ["data", "method", "runs", "mean", "worst to best", *kept.values()]
    rows = [[*header, "consensus", "settled", "ACC of these"]]
    keys = ("consensus", "all_agree", "consensus_where_all_agree")
    for one in record["groups"]:
        spread = f"{one['worst']:.3f} to {one['best']:.3f}"
        row = [one["data"], one["method"], str(one["seeds"]), f"{one['mean']:.3f}"]
        row += [spread, *(decimals(one["kept"].get(name)) for name in kept)]
        rows.append([*row, *(decimals(one[key]) for key in keys)])
    return rows


def decimals(value):
    """A score with three decimals, or nothing if there is none."""
    return "" if value is None else f"{value:.3f}"


def merge_trees(record):
    """Rows of how far merged clusters agree with the classes, at their number."""
    runs = [run for run in record["runs"] if "ari_of_ward" in run]
    runs = [run for run in runs if run["n_classes"] > 1]
    ways = {
        "k-means with the number of classes": "ari_of_k_means",
        'merged from 50, `method="ward"`': "ari_of_ward",
        'merged from 50, `method="average"`': "ari_of_average",
    }
    rows = [["clusters", "data sets", "mean ARI"]]
    for name, key in ways.items():
        mean = statistics.fmean(run[key] for run in runs)
        rows.append([name, str(len(runs)), f"{mean:.3f}"])
    return rows


def sampling(record):
    """Rows of the time that drawing images takes."""
    rows = [["denoiser", "images", "steps", "guidance", "seconds", "CPU s"]]
    for row in record["rows"]:
        images = f"{row['n']:,} of " + " × ".join(map(str, row["shape"]))
        times = f"{row['seconds']:.0f}", f"{row['cpu_seconds']:.0f}"
        settings = row["denoiser"], images, str(row["steps"]), f"{row['guidance']:g}"
        rows.append([*settings, *times])
    return rows


def curves(record):
    """Rows of ACC over time: what a long training had reached after some minutes.

    They are minutes of processor time over the threads: other work on the machine
    lengthens the seconds of the clock, and hardly these.
    """
    minutes = (1, 2, 4, 6, 10, 15, 20)
    threads = record["environment"]["threads"]
    rows = [["images", *(f"{m:g} min" for m in minutes), "end", "epochs"]]
    for curve in record["curves"]:
        row = [curve["pack"]]
        for minute in minutes:
            until = 60 * minute * threads
            before = [p for p in curve["points"] if p["cpu_seconds"] <= until]
            row.append(f"{before[-1]['acc']:.3f}" if before else "")
        rows.append([*row, f"{curve['final']['acc']:.3f}", str(curve["epochs"])])
    return rows


def engine(record):
    """Rows of what the engine costs, beside two loops without it."""
    summary = record["summary"]
    return [
        ["of `fit`, against", "ratio"],
        [
            "a bare PyTorch loop over the same views, in images a second",
            f"{summary['engine_over_bare']:.2f}",
        ],
        [
            "a loop that makes the views image by image, in images a second",
            f"{summary['engine_over_per_image']:.2f}",
        ],
        [
            '`precision="float32"`, in images a second',
            f"{summary['auto_over_float32']:.2f}",
        ],
        [
            "k-means: its share of an epoch",
            f"{summary['kmeans_share_of_epoch']:.3f}",
        ],
    ]


def profile(record):
    """Rows of where a step of each method goes, in shares of it."""
    kinds = dict.fromkeys(kind for row in record["runs"] for kind in row["shares"])
    header = ["", *(row["method"] for row in record["runs"])]
    rows = [header, ["a step, ms"]]
    rows += [[kind] for kind in kinds]
    rows += [["networks alone"], ["refresh, by steps"], ["embedding in it"]]
    for one in record["runs"]:
        step, steps = one["step_seconds"], one["steps_per_epoch"]
        shares = [one["shares"].get(kind) for kind in kinds]
        shares.append(one["networks_alone_seconds"] / step)
        shares.append(one["refresh_seconds"] / steps / step)
        shares.append(one["embedding_seconds"] / steps / step)
        cells = ["" if share is None else f"{share:.1%}" for share in shares]
        for row, cell in zip(rows[1:], [f"{1000 * step:.0f}", *cells], strict=True):
            row.append(cell)
    return rows


def augment(record):
    """Rows of the speed of the augmentations, beside torchvision image by image."""
    rows = [["recipe", "shape", "images/s", "torchvision, images/s", "ratio"]]
    for row in record["rows"]:
        rows.append(
            [
                row["recipe"],
                " × ".join(map(str, row["shape"])),
                f"{row['ours_images_per_s']:,.0f}",
                f"{row['torchvision_images_per_s']:,.0f}",
                f"{row['ratio']:.1f}",
            ]
        )
    return rows


def gpu(record):
    """Rows of the speed of a fit on a GPU, beside two loops without the engine."""
    rows = [["backbone", "images", "row", "images a second", "of the steps alone"]]
    rows[0] += ["share of the rate", "over per image"]
    for (backbone, side), runs in grouped(record, "backbone", "side"):
        speeds = {run["row"]: run["images_per_second"] for run in runs}
        for run in runs:
            speed, steps = run["images_per_second"], run.get("steps_images_per_second")
            slow = speeds.get("per image")
            rows.append(
                [
                    backbone,
                    f"{run['n']:,} of {side} px",
                    run["row"],
                    f"{speed:,.0f}",
                    f"{steps:,.0f}" if steps else "",
                    f"{run['share_of_rate']:.3f}" if steps else "",
                    f"{speed / slow:.2f}" if slow else "",
                ]
            )
    return rows


def cifar10(record):
    """Rows of ACC after minutes of training on CIFAR-10."""
    minutes = (1, 2, 4, 8, 15, 30, 60)
    rows = [["method", "seed", *(f"{m} min" for m in minutes), "last", "epochs"]]
    for run in record["runs"]:
        row = [run["method"], str(run["seed"])]
        for minute in minutes:
            before = [p for p in run["points"] if p["seconds"] <= 60 * minute]
            later = run["points"][-1]["seconds"] > 60 * minute
            row.append(f"{before[-1]['acc']:.3f}" if before and later else "")
        last = run.get("final", run["points"][-1])
        epochs = f"{run['points'][-1]['epoch']} of {run['epochs_planned']}"
        rows.append([*row, f"{last['acc']:.3f}", epochs])
    return rows


def by_size(record):
    """Runs of a record, the smallest data first."""
    keys = ("n", "method", "epochs")
    return sorted(record["runs"], key=lambda run: [run[key] for key in keys])


def large(record):
    """Rows of what an epoch of many images takes, and what its time goes to."""
    parts = ("steps", "embedding", "clustering", "rest")
    heads = ["images", "method", "epochs", "epoch, ms an image"]
    rows = [[*heads, *(f"{part}, %" for part in parts)]]
    for run in by_size(record):
        epoch = run["epoch_cpu_seconds"]
        shares = (100 * run[f"{name}_cpu_seconds"] / epoch for name in parts)
        cells = [f"{1000 * epoch / run['n']:.3f}", *(f"{s:.1f}" for s in shares)]
        rows.append([f"{run['n']:,}", run["method"], str(run["epochs"]), *cells])
    return rows


def large_memory(record):
    """Rows of the memory of a fit, a predict and a transform of many images."""
    calls = ("fit", "predict", "transform")
    heads = [f"{call}, {what}" for what in ("MiB", "ms an image") for call in calls]
    rows = [["images", "method", "epochs", "file, MiB", *heads]]
    for run in by_size(record):
        n = run["n"]
        size = n * math.prod(record["shape"]) / 2**20
        memory = (f"{run[f'{call}_mib']:,.0f}" for call in calls)
        times = (f"{1000 * run[f'{call}_cpu_seconds'] / n:.3f}" for call in calls)
        about = [f"{n:,}", run["method"], str(run["epochs"]), f"{size:,.0f}"]
        rows.append([*about, *memory, *times])
    return rows


def paths(record):
    """Rows of what a fit does with paths before it trains, and of predict."""
    parts = ("list", "headers", "decoding")
    heads = [*(f"{part}, CPU s" for part in parts), "all, CPU s", "MiB"]
    rows = [["files", *heads, "predict, ms a file"]]
    for run in record["runs"]:
        times = [f"{run[f'{part}_cpu_seconds']:,.1f}" for part in (*parts, "before")]
        predict = 1000 * run["predict_cpu_seconds"] / record["predicted"]
        memory = f"{run['before_mib']:,.0f}"
        rows.append([f"{run['n']:,}", *times, memory, f"{predict:.2f}"])
    return rows


def neighbors(record):
    """Rows of the time of a graph of neighbours, and of what faiss finds of it."""
    rows = [["rows", "width", "search", "seconds", "found"]]
    for run in record["runs"]:
        cells = [f"{run['cpu_seconds']:,.1f}", f"{run['recall']:.3f}"]
        rows.append([f"{run['n']:,}", str(run["width"]), run["search"], *cells])
    return rows


def bank(record):
    """Rows of what a memory of all images costs a step."""
    rows = [["images", "step, ms", "backbone, ms", "contrast, ms", "update, ms"]]
    names = ("step", "backbone", "contrast", "update")
    for row in record["rows"]:
        rows.append([f"{row['n']:,}", *(f"{row[name]:.1f}" for name in names)])
    return rows


def reading(record):
    """Rows of the peak of memory of a fit on arrays, files and pictures."""
    rows = [["X", "peak above the data, MiB"]]
    rows += [[case, f"{peak:,.0f}"] for case, peak in record["peaks_mib"].items()]
    return rows


def encoder(record):
    """Rows of what the encoder costs beside its network, and of its memory on files."""
    speed, files = record["speed"], record["memory"]
    return [
        ["what", "measured"],
        ["images a second", f"{speed['images_per_second']:.0f}"],
        ["speed over a bare loop, by CPU seconds", f"{speed['speed_cpu']:.2f}"],
        ["speed over a bare loop, by wall seconds", f"{speed['speed_wall']:.2f}"],
        *([f"peak on {r['files']:,} files", f"{r['mib']:.1f} MiB"] for r in files),
    ]


def report(record):
    """Rows of what a report costs."""
    head = "images;CPU seconds;peak, MiB;page, MB;pictures;copies;near-duplicates"
    rows = [head.split(";")]
    for r in record["reports"]:
        cells = [f"{r['files']:,}", f"{r['cpu_seconds']:.1f}"]
        cells += [f"{r['mib']:.0f}", f"{r['bytes'] / 1e6:.1f}", f"{r['pictures']:,}"]
        found = (f"{r[k]:,} of {r[f'planted_{k}']:,}" for k in ("copies", "alike"))
        rows.append([*cells, *found])
    return rows


def sorting(record):
    """Rows of the seconds that sorting into folders takes."""
    files = f"{record['arguments']['files']:,}"
    rows = [["way", "files", "sort, s", "again, s", "undo, s", "lost"]]
    for run in record["runs"]:
        times = [f"{run[k]:.1f}" if k in run else "" for k in ("sort", "again", "undo")]
        rows.append([run["how"], files, *times, f"{run['lost']:,}"])
    return rows


def cli(record):
    """Rows of what the command line takes."""
    rows = [["images", "command", "seconds", "CPU seconds", "peak, MB", "stages"]]
    for run in record["runs"]:
        many = run.get("counts", {}).get("images")
        stages = [f"{name} {s:.0f}" for name, s in run.get("stages", {}).items()]
        cells = [f"{run['images']}{f', {many:,}' if many else ''}", run["command"]]
        cells += [f"{run['seconds']:.0f}", f"{run['cpu_seconds']:.0f}"]
        rows.append([*cells, f"{run['peak_mb']:,}", ", ".join(stages)])
    return rows


def maps(record):
    """Rows of how good a map is, by how many images t-SNE takes."""
    rows = [["features", "images", "map", "CPU seconds", "trustworthiness"]]
    for run in record["runs"]:
        kind = "PCA" if run["map"] == "pca" else f"t-SNE of {run['mapped']:,}"
        cells = [run["set"], f"{run['images']:,}", kind]
        numbers = [f"{run['cpu_seconds']:.1f}", f"{run['trustworthiness']:.3f}"]
        rows.append([*cells, *numbers])
    return rows


def kills(record):
    """Rows of trainings that were killed, and of those that ended as others do."""
    rows = [["method", "trainings", "kills", "identical results"]]
    names = dict.fromkeys(row["method"] for row in record["rows"])
    for name in names:
        runs = [row for row in record["rows"] if row["method"] == name]
        n_kills = sum(len(row["killed_after"]) for row in runs)
        same = sum(row["same"] for row in runs)
        rows.append([name, *map(str, (len(runs), n_kills, same))])
    return rows


def checkpoint_cost(record):
    """Rows of what checkpoints cost."""
    rows = [["method", "n", "epoch, s", "file, MB", "a write, s", "share of the time"]]
    for row in record["rows"]:
        cells = [f"{row['n']:,}", f"{row['epoch_seconds']:.1f}"]
        cells += [f"{row['megabytes']:.1f}", f"{row['write_seconds']:.3f}"]
        rows.append([row["method"], *cells, f"{row['share']:.1%}"])
    return rows


def threads(record):
    """Rows of fits in threads and processes that differ from those alone."""
    rows = [["method", "fits", "different in threads", "different in processes"]]
    names = ("fits", "different_in_threads", "different_in_processes")
    for row in record["rows"]:
        rows.append([row["method"], *(str(row[name]) for name in names)])
    return rows


def processes(record):
    """Rows of what a step costs each process, and the share of the views in it."""
    heads = ["one process, ms an image", "two, in each", "ratio"]
    heads += ["views, % of one", "views, % of two", "saved by parts, %"]
    rows = [["network", "batch", *heads]]
    for run in record["runs"]:
        seconds = [run[f"cpu_seconds_in_{size}"] for size in (1, 2)]
        cells = [f"{1000 * s:.2f}" for s in seconds] + [f"{run['two_over_one']:.2f}"]
        cells += [f"{100 * run[f'views_share_in_{size}']:.1f}" for size in (1, 2)]
        saved = run["views_seconds_in_2"] / 2 - run["gathering_seconds_in_2"]
        cells.append(f"{100 * saved / seconds[1]:.1f}")
        rows.append([run["backbone"], str(run["batch_size"]), *cells])
    return rows


def crowd(record):
    """Rows of the seconds of a fit, alone and beside processes that want the cores."""
    rows = [["method", "other processes", "threads", "seconds", "CPU seconds"]]
    groups = {}
    for run in record["rows"]:
        key = (run["method"], run["others"], run["way"])
        groups.setdefault(key, []).append(run)
    for (method, others, way), runs in groups.items():
        wall, cpu = (statistics.median(r[k] for r in runs) for k in ("wall", "cpu"))
        rows.append([method, str(others), way, f"{wall:.1f}", f"{cpu:.1f}"])
    return rows


TABLES = {
    "reading": reading,
    "encoder": encoder,
    "report": report,
    "sorting": sorting,
    "cli": cli,
    "map": maps,
    "kills": kills,
    "checkpoint_cost": checkpoint_cost,
    "threads": threads,
    "processes": processes,
    "crowd": crowd,
    "real_images": real_images,
    "long_tail": long_tail,
    "linkages": linkages,
    "features": features,
    "outliers": outliers,
    "facets": facets,
    "paper_mnist": paper_mnist,
    "calibration": calibration,
    "confidence": confidence,
    "n_clusters": n_clusters,
    "n_init": n_init,
    "sampling": sampling,
    "curves": curves,
    "engine": engine,
    "profile": profile,
    "augment": augment,
    "large": large,
    "gpu": gpu,
    "cifar10": cifar10,
    "paths": paths,
    "neighbors": neighbors,
    "bank": bank,
}


def grouped(record, *keys):
    """Runs that share some keys, in the order in which each key's values appear."""
    runs = record.get("runs", [])
    order = {key: list(dict.fromkeys(run[key] for run in runs)) for key in keys}
    groups = {}
    for run in runs:
        groups.setdefault(tuple(run[key] for key in keys), []).append(run)
    return sorted(
        groups.items(),
        key=lambda group: [
            order[k].index(v) for k, v in zip(keys, group[0], strict=True)
        ],
    )


def extremes(values):
    """The least and the greatest value, or the only one."""
    return sorted({min(values), max(values)})


def cpu_seconds(runs):
    """Median of the seconds of processor time, over all threads."""
    return f"{statistics.median(run['cpu_seconds'] for run in runs):,.0f}"


def where(record):
    """Say when, on what and with what a record, or each of its parts, was measured."""
    lines = []
    for part in record.get("parts", [record]):
        about = part.get("environment", part)
        versions = about.get("versions", about)
        device = about.get("hardware", about.get("device", "unknown device"))
        said = [f"Measured {about['date'][:10]} on {device}"]
        if "threads" in about:
            said.append(f"{about['threads']} thread(s)")
        lines.append(", ".join([*said, f"torch {versions['torch']}."]))
    return " ".join(dict.fromkeys(lines))


def write(folder):
    """Write one file to include for each kind of record, if it has records or not."""
    folder.mkdir(exist_ok=True)
    for kind, table in TABLES.items():
        records = sorted((BENCHMARKS / "records").glob(f"{kind}*.json"))
        parts = [as_rst(json.loads(path.read_text()), table) for path in records]
        text = "\n".join(parts) or "*There is no record of this script yet.*\n"
        (folder / f"{kind}.inc").write_text(text)
    for kind in ("real_images", "long_tail", "granularity"):
        path = BENCHMARKS / "records" / f"{kind}.json"
        text = as_rst(json.loads(path.read_text()), ablations)
        (folder / f"{kind}_ablations.inc").write_text(text)
    others = {
        "n_clusters": (n_clusters_summary, n_clusters_confidence, merge_trees),
        "large": (large_memory,),
    }
    for name, tables in others.items():
        record = json.loads((BENCHMARKS / "records" / f"{name}.json").read_text())
        for table in tables:
            (folder / f"{table.__name__}.inc").write_text(as_rst(record, table))


def as_rst(record, table):
    """Render one record as a list-table and a line on where it was measured."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in table(record):
        # the first cell opens a row: "* - cell", then "  - cell"
        lines += [f"   {' ' if i else '*'} - {cell}" for i, cell in enumerate(row)]
    return "\n".join([*lines, "", where(record), ""])
