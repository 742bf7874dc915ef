"""The stages of a clustering: find, encode, train, map, write, report."""

from __future__ import annotations

import datetime
import os
import platform
from argparse import Namespace
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from .._input.files import check_files
from .._input.paths import counted
from .._version import __version__
from ..pretrained.kept import facts_of, rebuilt
from ..report._how_many import HowMany
from .arguments import METHODS
from .images import Skipped, find_images, none_readable, tell_skipped
from .learning import check_enough, check_options, encode, fit, make_encoder, make_model
from .maps import make_map
from .reports import write_run_report
from .results import CSV, EMBEDDING, MODEL, PARQUET, REPORT, SKIPPED, Result
from .shown import Console, as_command, show
from .tables import Table, as_text, import_polars, write_rows

PACKAGES = ("numpy", "pillow", "scikit-learn", "skorch", "torch", "torchvision")
SETTINGS = "method n_clusters range pretrained weights size epochs batch_size seed"
SETTINGS += " device map any_ending"
OTHERWISE = "cannot be read as the images that were clustered"


@dataclass
class Found:
    """What a model says of the images that can be read.

    Attributes
    ----------
    paths : list of str
    clusters : ndarray of shape (n,), int64
    confidences : ndarray of shape (n,), float32
    embedding : ndarray of shape (n, d), float32
    """

    paths: list[str]
    clusters: np.ndarray
    confidences: np.ndarray
    embedding: np.ndarray

    @classmethod
    def by(cls, model, X, paths: list[str]) -> Found:
        """Ask a fitted estimator about X, which belongs to ``paths``."""
        proba = model.predict_proba(X)
        return cls(paths, model.predict(X), proba.max(axis=1), model.transform(X))


# -- new images ------------------------------------------------------------------------


def embed_images(
    args: Namespace, console: Console, result: Result, paths: list[str]
) -> tuple[Found, Skipped]:
    """Ask the model of a run about images.

    Parameters
    ----------
    args : Namespace
        With ``device`` and ``cache``.
    console : Console
    result : Result
    paths : list of str

    Returns
    -------
    found : Found
    skipped : list of tuple (path, reason)

    Raises
    ------
    FileError
        If the model, or the weights of its encoder, are not those of the run.
    ValueError
        If no image can be read.
    """
    model, facts = result.model(args.device), result.run["encoder"]
    with console.stage("Features"):
        if facts is None:
            features = None
            readable = ~np.isnan(model.predict_proba(paths)[:, 0])
        else:
            own = {"device": args.device, "cache": args.cache}
            encoder = rebuilt(facts, verbose=console.verbosity, **own)
            features = encoder.transform(paths)
            readable = ~np.isnan(features[:, 0])
        if not readable.any():
            raise ValueError(none_readable(paths))
        good = [path for path, can in zip(paths, readable, strict=True) if can]
        bad = [path for path, can in zip(paths, readable, strict=True) if not can]
        X = good if features is None else features[readable]
        found = Found.by(model, X, good)
    reasons = [reason or OTHERWISE for reason in check_files(bad)]
    return found, list(zip(bad, reasons, strict=True))


# -- a clustering ----------------------------------------------------------------------


@dataclass
class Learnt:
    """A model, and what it was trained on.

    Attributes
    ----------
    model : DeepClusterer
        Fitted.
    encoder : ImageEncoder or None
        Fitted; None if the model takes the images.
    X : ndarray or list of str
        Of the images that can be read: features, or paths.
    paths : list of str
        These images.
    skipped : list of tuple (path, reason)
        The others.
    search : dict or None
        What was found of the number of clusters.
    stop : BaseException or None
        What interrupted the training.
    """

    model: Any
    encoder: Any
    X: Any
    paths: list[str]
    skipped: Skipped
    search: dict[str, Any] | None
    stop: BaseException | None


def cluster_images(args: Namespace, console: Console, result: Result) -> int:
    """Cluster images, and write what was found.

    Parameters
    ----------
    args : Namespace
    console : Console
    result : Result

    Returns
    -------
    code : int
        0; 130 after Ctrl-C, 143 after SIGTERM.
    """
    with_parquet = _can_write_parquet(console)
    check_options(args)
    with console.stage("Images") as said:
        listing = find_images(args.folders, args.strict, args.any_ending)
        said.append(str(listing))
    check_enough(args, listing.paths)
    learnt = _learn(args, console, listing.paths)
    if learnt.stop is not None:
        n_epochs = learnt.model.n_iter_
        console.warn(f"The training was interrupted after epoch {n_epochs}.")
        console.say("What was learnt is written; another Ctrl-C ends at once.")
    skipped = listing.skipped + learnt.skipped
    tell_skipped(console, skipped, len(learnt.paths), SKIPPED)
    found = Found.by(learnt.model, learnt.X, learnt.paths)
    positions, kind, stop = _map(args, console, found.embedding, learnt.stop)
    table = Table(found.paths, found.clusters, found.confidences, positions)
    odd = sum(as_text(path) != path for path in table.paths)
    if odd:
        console.warn(
            f"Names of files that are no UTF-8: {odd}. {CSV} holds their bytes as they "
            f"are; {PARQUET} shows these as \\xe9."
        )
    run = _describe(args, console, learnt)
    run |= {"state": "finished" if stop is None else "interrupted", "map": kind}
    run["counts"] = {
        "images": len(table) + len(skipped),
        "clustered": len(table),
        "unreadable": len(skipped),
        "sizes": learnt.model.cluster_sizes_.tolist(),
    }
    with console.stage("Tables"), result.writing(run) as staging:
        with open(staging / CSV, "wb") as file:
            table.write_csv(file)
        if with_parquet:
            with open(staging / PARQUET, "wb") as file:
                table.write_parquet(file)
        if skipped:
            with open(staging / SKIPPED, "wb") as file:
                write_rows(file, ("path", "reason"), skipped)
        np.save(staging / EMBEDDING, found.embedding, allow_pickle=False)
        learnt.model.save(staging / MODEL)
    try:  # what is above is on the disk, whatever happens to the report
        with result.writing(run) as staging, console.stage("Report"):
            history = learnt.model.history_
            write_run_report(staging / REPORT, table, found.embedding, history, run)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"Interrupted. RESULT {args.out!r} is complete, but for the report, which "
            f"this writes: {as_command('report', args.out)}"
        ) from error
    _summarize(table, result)
    return 0 if stop is None else _code(stop)


def _can_write_parquet(console) -> bool:
    try:
        import_polars()
    except ImportError as error:
        console.warn(f"{PARQUET} is left out: {error}")
        return False
    return True


def _learn(args, console, paths) -> Learnt:
    """Encode the images, if they are to be, and train."""
    encoder, X, skipped = None, paths, []
    if args.pretrained != "none":
        encoder = make_encoder(args, console)
        with console.stage("Features") as said:
            X = encode(encoder, paths)
            said.append(f"{X.shape[1]} of each image")
        skipped = encoder.skipped_
        if skipped:
            X = X[~np.isnan(X[:, 0])]
    model = make_model(args, console, paths if encoder is None else None)
    with console.stage("Training") as said:
        model, search, stop = fit(model, X, args, console)
        clusters = counted(model.n_clusters, "cluster")
        said += [METHODS[args.method], clusters, counted(model.n_iter_, "epoch")]
    skipped = skipped or model.skipped_
    left_out = {path for _, path, _ in skipped}
    good = [path for path in paths if path not in left_out]
    bad = [(path, reason) for _, path, reason in skipped]
    return Learnt(
        model, encoder, good if encoder is None else X, good, bad, search, stop
    )


def _map(args, console, embedding, stop):
    """Make the map; whoever interrupts, or did, gets the one that takes no time."""
    kind = "pca" if stop is not None else args.map
    with console.stage("Map") as said:
        try:
            positions = make_map(embedding, kind, args.seed)
        except KeyboardInterrupt as error:
            if stop is not None:
                raise
            kind, stop = "pca", error
            positions = make_map(embedding, kind, args.seed)
        said.append({"pca": "PCA", "tsne": "t-SNE"}[kind])
    return positions, kind, stop


def _describe(args, console, learnt) -> dict[str, Any]:
    """Say for run.json what was run; seconds and warnings still grow."""
    names = [os.path.basename(os.path.abspath(f)) or f for f in args.folders]
    encoder = learnt.encoder
    settings = {name: getattr(args, name) for name in SETTINGS.split()}
    # a page that may be sent shows them; where the file is stands with the encoder
    settings["weights"] = os.path.basename(args.weights)
    return {
        "title": args.title or ", ".join(names),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "folders": [os.path.abspath(folder) for folder in args.folders],
        "n_clusters": learnt.model.n_clusters,
        "search": learnt.search,
        "settings": settings,
        "versions": {
            "skdeepcluster": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
        "seconds": console.seconds,
        "warnings": console.warnings,
        "encoder": None if encoder is None else facts_of(encoder),
    }


def _summarize(table, result) -> None:
    sizes = np.bincount(table.clusters)
    means = np.bincount(table.clusters, table.confidences) / np.maximum(sizes, 1)
    for k, (size, mean) in enumerate(zip(sizes, means, strict=True)):
        show(f"cluster {k}: {counted(size, 'image')}, mean confidence {mean:.2f}")
    if result.run["search"] is not None:
        show(HowMany.of(result.run["search"]).sentence())
    show(str(result.folder / REPORT))


def _code(stop) -> int:
    return 130 if isinstance(stop, KeyboardInterrupt) else stop.code
