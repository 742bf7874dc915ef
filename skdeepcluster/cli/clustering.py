"""The stages of a clustering: find, encode, train, map, write, report."""

from __future__ import annotations

import datetime
import importlib
import os
import platform
from argparse import Namespace
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from .._input.files import check_files
from ..pretrained import ImageEncoder
from ..pretrained.kept import facts_of, rebuilt
from .arguments import METHODS, RANGE, SCRATCH_SIZE
from .images import Skipped, all_grey, find_images, none_readable, tell_skipped
from .maps import make_map
from .reports import write_run_report
from .results import CSV, EMBEDDING, MODEL, PARQUET, REPORT, SKIPPED, Result
from .shown import Console, counted, show
from .tables import Table, as_text, import_polars, write_rows

PACKAGES = ("numpy", "pillow", "scikit-learn", "skorch", "torch", "torchvision")
SETTINGS = "method n_clusters range pretrained weights size epochs batch_size seed"
SETTINGS += " device map"
BATCH = 32  # images that the network takes at a time
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
    skipped : list of tuple (path, reason)
        The other images.
    """

    paths: list[str]
    clusters: np.ndarray
    confidences: np.ndarray
    embedding: np.ndarray
    skipped: Skipped


# -- new images ------------------------------------------------------------------------


def embed_images(
    args: Namespace, console: Console, result: Result, paths: list[str]
) -> Found:
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
            proba = model.predict_proba(paths)
            readable = ~np.isnan(proba[:, 0])
            X: Any = [p for p, can in zip(paths, readable, strict=True) if can]
        else:
            own = {"device": args.device, "cache": args.cache}
            encoder = rebuilt(facts, verbose=console.verbosity, **own)
            X = encoder.transform(paths)
            readable = ~np.isnan(X[:, 0])
            X = X[readable]
        if not readable.any():
            raise ValueError(none_readable(paths))
    return _found(model, X, paths, _reasons(paths, readable))


def _reasons(paths, readable) -> Skipped:
    bad = [path for path, can in zip(paths, readable, strict=True) if not can]
    reasons = check_files(bad)
    return [(p, r or OTHERWISE) for p, r in zip(bad, reasons, strict=True)]


def _found(model, X, paths: list[str], skipped: Skipped) -> Found:
    left_out = {path for path, _ in skipped}
    return Found(
        [path for path in paths if path not in left_out],
        model.predict(X),
        model.predict_proba(X).max(axis=1),
        model.transform(X),
        skipped,
    )


# -- a clustering ----------------------------------------------------------------------


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
    with console.stage("Images") as said:
        paths, skipped = find_images(args.folders, args.strict)
        said.append(counted(len(paths), "file"))
    _check_enough(args, len(paths))
    encoder, features, bad = None, None, []
    if args.pretrained != "none":
        encoder = _make_encoder(args, console)
        with console.stage("Features") as said:
            features = _encode(encoder, paths)
            said.append(f"{features.shape[1]} of each image")
        bad = [(path, reason) for _, path, reason in encoder.skipped_]
        features = features[~np.isnan(features[:, 0])]
    model = _make_model(args, console, paths if encoder is None else None)
    with console.stage("Training") as said:
        X = paths if encoder is None else features
        model, search, stop = _fit(model, X, args, console)
        epochs = counted(model.n_iter_, "epoch")
        said += [METHODS[args.method], f"{model.n_clusters} clusters", epochs]
    if stop is not None:
        console.warn(f"The training was interrupted after epoch {model.n_iter_}.")
        console.say("What was learnt is written; another Ctrl-C ends at once.")
    if encoder is None:
        bad = [(path, reason) for _, path, reason in model.skipped_]
        left_out = {path for path, _ in bad}
        features = [path for path in paths if path not in left_out]
    tell_skipped(console, skipped + bad, len(paths), f" ({SKIPPED} lists all)")
    found = _found(model, features, paths, bad)
    found.skipped = skipped + bad
    positions, stop = _map(args, console, found.embedding, stop)
    table = Table(found.paths, found.clusters, found.confidences, positions)
    odd = sum(as_text(path) != path for path in table.paths)
    if odd:
        console.warn(
            f"{counted(odd, 'name')} {'is' if odd == 1 else 'are'} no UTF-8: {CSV} "
            "holds their bytes (read it with errors='surrogateescape'), and "
            f"{PARQUET} shows them as \\xe9."
        )
    run = {
        "state": "finished" if stop is None else "interrupted",
        "title": args.title or ", ".join(_names(args.folders)),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "folders": [os.path.abspath(folder) for folder in args.folders],
        "n_clusters": model.n_clusters,
        "search": search,
        "settings": {name: getattr(args, name) for name in SETTINGS.split()},
        "counts": {
            "images": len(paths),
            "clustered": len(table),
            "unreadable": len(found.skipped),
            "sizes": model.cluster_sizes_.tolist(),
        },
        "versions": _versions(),
        "seconds": console.seconds,
        "warnings": console.warnings,
        "encoder": None if encoder is None else facts_of(encoder),
    }
    with console.stage("Tables"), result.writing(run) as staging:
        with open(staging / CSV, "wb") as file:
            table.write_csv(file)
        if with_parquet:
            with open(staging / PARQUET, "wb") as file:
                table.write_parquet(file)
        if found.skipped:
            with open(staging / SKIPPED, "wb") as file:
                write_rows(file, ("path", "reason"), found.skipped)
        np.save(staging / EMBEDDING, found.embedding, allow_pickle=False)
        model.save(staging / MODEL)
    try:
        with result.writing(run) as staging, console.stage("Report"):
            write_run_report(
                staging / REPORT, table, found.embedding, model.history_, run
            )
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"Interrupted. RESULT {args.out!r} is complete, but for the report, which "
            f"this writes: skdeepcluster report {args.out}"
        ) from error
    _summarize(table, model.cluster_sizes_, result)
    return 0 if stop is None else _code(stop)


def _check_enough(args, n_images) -> None:
    auto = args.n_clusters == "auto"
    # the search for a number clusters halves as well
    least = 2 * _range(args)[-1] if auto else args.n_clusters
    if n_images < least:
        raise ValueError(
            f"{counted(n_images, 'image')} cannot be put into "
            f"{least // 2 if auto else least} clusters"
            + (", of which halves are compared" if auto else "")
            + f". Pass more images, or a lower {'--range' if auto else '--n-clusters'}."
        )


def _range(args) -> range:
    low, high = args.range or RANGE
    return range(low, high + 1)


def _can_write_parquet(console) -> bool:
    try:
        import_polars()
    except ImportError as error:
        console.warn(f"{PARQUET} is left out: {error}")
        return False
    return True


def _make_encoder(args, console) -> ImageEncoder:
    return ImageEncoder(
        args.pretrained,
        weights=None if args.weights == "none" else args.weights,
        image_size=args.size,
        on_error="skip",
        batch_size=BATCH,
        device=args.device,
        cache=args.cache,
        verbose=console.verbosity,
    )


def _encode(encoder, paths):
    try:
        return encoder.fit_transform(paths)
    except KeyboardInterrupt as error:
        kept = "; those that were encoded are in the cache" if encoder.cache else ""
        raise KeyboardInterrupt(
            f"Interrupted while images were encoded: nothing is written{kept}."
        ) from error
    except ValueError as error:
        raise ValueError(none_readable(paths) or str(error)) from error


def _make_model(args, console, paths):
    """Build the estimator: of features, or of the pixels of ``paths``."""
    params: dict[str, Any] = {
        "max_epochs": args.epochs,
        "batch_size": args.batch_size,
        "device": args.device,
        "random_state": args.seed,
        "verbose": console.verbosity,
    }
    if paths is not None:
        side = args.size or SCRATCH_SIZE
        channels = 1 if all_grey(paths) else 3
        params |= {"image_shape": (channels, side, side), "on_error": "skip"}
    if args.n_clusters != "auto":
        params["n_clusters"] = args.n_clusters
    cls = getattr(importlib.import_module("skdeepcluster"), METHODS[args.method])
    return cls(**{name: value for name, value in params.items() if value is not None})


def _fit(model, X, args, console):
    """Fit a model, or search for the number of its clusters.

    Returns the fitted model, what was found of the number of clusters, if that was
    looked for, and what interrupted the training, if something did.
    """
    search = None
    if args.n_clusters == "auto":
        from ..model_selection import NClustersSearch

        search = NClustersSearch(
            model, _range(args), random_state=args.seed, verbose=not args.quiet
        )
    try:
        (search or model).fit(X)
    except (KeyboardInterrupt, SystemExit) as stop:
        if not hasattr(stop, "estimator"):  # not one epoch was done
            raise
        if search is not None and not hasattr(search, "n_clusters_"):
            console.warn(
                "The search for the number of clusters was interrupted: there are as "
                f"many as it begins with, {stop.estimator.n_clusters}."
            )
        return stop.estimator, _told(search), stop
    except ValueError as error:
        if args.pretrained != "none":
            raise
        raise ValueError(none_readable(X) or str(error)) from error
    if search is None:
        return model, None, None
    console.say(search.reason_)
    return search.best_estimator_, _told(search), None


def _told(search) -> dict[str, Any] | None:
    """What run.json says of a search that came to an end."""
    if not hasattr(search, "n_clusters_"):
        return None
    return {
        "n_clusters": search.n_clusters_,
        "confidence": search.confidence_,
        "reason": search.reason_,
        "candidates": search.candidates_,
        "results": {name: v.tolist() for name, v in search.results_.items()},
    }


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
    return positions, stop


def _code(stop) -> int:
    return 130 if isinstance(stop, KeyboardInterrupt) else stop.code


def _names(folders):
    return [os.path.basename(os.path.abspath(folder)) or folder for folder in folders]


def _versions() -> dict[str, str]:
    from .._version import __version__

    return {
        "skdeepcluster": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def _summarize(table, sizes, result) -> None:
    means = np.bincount(table.clusters, table.confidences) / sizes
    for k, (size, mean) in enumerate(zip(sizes, means, strict=True)):
        show(f"cluster {k}: {counted(size, 'image')}, mean confidence {mean:.2f}")
    show(str(result.folder / REPORT))
