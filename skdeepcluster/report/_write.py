"""Reports, of labels of any origin or of a fitted estimator."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from .._input.arrays import as_array
from .._input.layouts import is_vector
from .._input.paths import PATHS, are_pictures, counted, listed, named_lines, path_of
from .._storage.container import replacing
from .._storage.folder import make_folder
from .._warnings import warn
from ..plots._style import last_step
from ..plots._tiles import to_panels
from ._clustering import checked, readable
from ._duplicates import duplicates
from ._geometry import Geometry
from ._how_many import HowMany
from ._page import Content, build
from ._pictures import Pictures

LISTED = 3  # files that a sentence names


def write_report(
    path: str | os.PathLike[str],
    X: Any,
    labels: ArrayLike,
    *,
    n_clusters: int | None = None,
    confidence: ArrayLike | None = None,
    embedding: ArrayLike | None = None,
    positions: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    agreement: ArrayLike | None = None,
    cluster_agreement: ArrayLike | None = None,
    search: Any = None,
    history: Sequence[dict[str, Any]] | None = None,
    warnings: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    title: str = "Clusters",
    n_examples: int = 12,
    max_bytes: int = 15_000_000,
    random_state: int = 0,
    verbose: int = 0,
) -> Path:
    """Write one HTML page about a clustering of images, of any origin.

    It shows the sizes, the most typical and the least certain images of each cluster
    and some at random, a map, copies and near-duplicates, the images that are far from
    every cluster, the course of the training, and says in words what looks wrong. The
    page loads nothing: images are in it, small, and those of a sample where there are
    many.

    Parameters
    ----------
    path : str or path-like
        The page; what is there is replaced.
    X : list of paths, array-like or tensor of length n
        The images: files, images of Pillow, or an array of shape (n, H, W),
        (n, C, H, W) or (n, H, W, C). Files that cannot be read are counted on the page.
    labels : array-like of shape (n,), int
        Cluster of each image from 0 on; -1 for none.
    n_clusters : int, optional
        The clusters that there should be: empty ones are named. By default the
        largest label plus one.
    confidence : array-like of shape (n,), float, optional
        Probability of the own cluster, from 0 to 1. Without it the images next to the
        middle of a cluster in the embedding are the typical ones.
    embedding : array-like of shape (n, d), float, optional
        Features of the images, by which near-duplicates, and images that are far from
        every cluster, are found. If near-duplicates matter, pass the features of a
        pretrained network: a clustering brings all images of a cluster together.
    positions : array-like of shape (n, 2), float, optional
        Places on the map, of any reducer to two dimensions. By default, t-SNE places
        up to 2,000 images by the embedding, which takes some seconds.
    names : sequence of n str, optional
        Names of the images; by default their paths below the folder that holds all.
    agreement : array-like of shape (n,), float, optional
        Share of several runs that agree with the label, from 0 to 1: ``agreement_`` of
        a :class:`~skdeepcluster.ConsensusClusterer`.
    cluster_agreement : array-like of shape (n_clusters,), float, optional
        How far the runs agree on each cluster, from 0 to 1: ``cluster_agreement_`` of
        the same. Clusters that are an accident of the seed are named.
    search : NClustersSearch or dict, optional
        Why there are as many clusters: a fitted
        :class:`~skdeepcluster.model_selection.NClustersSearch`, or a dict of its
        ``n_clusters``, ``confidence``, ``reason``, ``candidates`` and ``results``.
    history : list of dict, optional
        One row an epoch, as ``history_`` of the estimators.
    warnings : sequence of str
        Sentences that come first on the page.
    settings : dict, optional
        Names and values for the table of settings.
    title : str, default="Clusters"
        The heading.
    n_examples : int, default=12
        Images of a row. If the page would grow too large, fewer.
    max_bytes : int, default=15_000_000
        Most bytes of the page: as these require, images are smaller, then fewer.
    random_state : int, default=0
        For the images that are drawn, and the map.
    verbose : int, default=0
        1 shows how many images were read, and the time left.

    Returns
    -------
    path : Path
        The page that was written.

    Raises
    ------
    TypeError
        If ``path`` and ``X`` are swapped, or ``search`` is no search.
    ValueError
        If lengths, shapes or values do not fit, if X holds vectors, or ``max_bytes``
        is too little.
    OSError
        If the page cannot be written, or none of the files of X exists.

    See Also
    --------
    write_report_of : The same of a fitted estimator.
    skdeepcluster.plots.ClusterSheetDisplay : Typical images as a figure.

    Notes
    -----
    In ``embedding`` and ``positions``, rows with a label are finite; others may be NaN,
    and are then left out. Distances are taken in the 32 main components of the
    embedding. Near-duplicates are the nearest pairs of them, if their pixels at 32 x 32
    have a correlation of 0.98 at least, up to 2,000 pairs; of more than 50,000 images,
    as many are searched.

    Examples
    --------
    >>> import numpy as np
    >>> from skdeepcluster.report import write_report
    >>> images = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
    >>> write_report("report.html", images, [0, 0, 1, 1, 1, -1])  # doctest: +SKIP
    PosixPath('report.html')
    """
    if isinstance(X, PATHS) and not isinstance(path, PATHS):
        raise TypeError(
            f"path is of type {type(path).__name__}, and X is a path: these are "
            "swapped. Pass the page first: write_report(path, X, labels)."
        )
    target = _target(path)
    for name, value in (("n_examples", n_examples), ("max_bytes", max_bytes)):
        if value < 1:
            raise ValueError(f"{name}={value!r} should be at least 1.")
    if isinstance(warnings, str):
        warnings = [warnings]
    how_many = None if search is None else HowMany.of(search)
    pictures = Pictures(X)
    _tell_missing(pictures)
    clustering = checked(
        pictures,
        labels,
        n_clusters,
        confidence,
        embedding,
        positions,
        names,
        agreement,
        cluster_agreement,
    )
    if how_many is not None:
        how_many.check(clustering.n_clusters)
    rng = np.random.RandomState(random_state)
    geometry = distance = far = None
    if clustering.embedding is not None:
        geometry = Geometry(clustering, rng)
        distance, far = geometry.distances()
    content = Content(
        clustering,
        distance=distance,
        far=far,
        groups=duplicates(pictures, geometry, rng),
        geometry=geometry,
        history=list(history or []),
        warnings=list(warnings),
        settings=dict(settings or {}),
        title=title,
        how_many=how_many,
    )
    page = build(content, n_examples, max_bytes, random_state, verbose)
    with replacing(target) as file:
        file.write(page)
    return target


def write_report_of(
    path: str | os.PathLike[str],
    estimator: Any,
    X: Any,
    *,
    images: Any = None,
    **options: Any,
) -> Path:
    """Predict the clusters of X, and write a page about them.

    Parameters
    ----------
    path : str or path-like
        The page; what is there is replaced.
    estimator : fitted clusterer or pipeline
        With ``predict``. ``predict_proba`` gives the confidences, ``transform`` the
        embedding, and ``history_`` the course of the training, if it has them. A
        :class:`~skdeepcluster.ConsensusClusterer` gives the agreement of its runs, a
        :class:`~skdeepcluster.model_selection.NClustersSearch` what speaks for the
        number of clusters, also where one is around the other. In a pipeline the steps
        before the last are run once.
    X : array-like, tensor or list of paths of length n
        Whatever the estimator takes.
    images : array-like, tensor or list of paths of length n, optional
        The images that belong to the rows of X, if X does not hold them.
    **options
        Those of :func:`write_report`, which replace what the estimator gives.

    Returns
    -------
    path : Path
        The page that was written.

    Raises
    ------
    TypeError
        If the estimator has no ``predict``.
    ValueError
        If X holds vectors and no ``images`` are passed, or an option does not fit.
    OSError
        If the page cannot be written.

    See Also
    --------
    write_report : The same for labels of any origin.

    Examples
    --------
    >>> from skdeepcluster import DigPro  # doctest: +SKIP
    >>> from skdeepcluster.report import write_report_of  # doctest: +SKIP
    >>> model = DigPro(10).fit(X)  # doctest: +SKIP
    >>> write_report_of("report.html", model, X)  # doctest: +SKIP
    """
    target = _target(path)
    check_is_fitted(estimator)
    last = last_step(estimator)
    if not hasattr(last, "predict"):
        raise TypeError(
            f"{type(last).__name__} has no predict. Pass its labels_ to write_report."
        )
    X = listed(X)
    images = _images(X, last) if images is None else images
    Pictures(images)  # vectors are refused before anything is predicted
    steps = [step for _, step in getattr(estimator, "steps", [])[:-1]]
    features = estimator[:-1].transform(X) if steps else X
    read = _complete(features) if steps else slice(None)
    known = features[read] if isinstance(read, np.ndarray) else features
    found: dict[str, Any] = {"labels": _spread(last.predict(known), read, -1)}
    if hasattr(last, "predict_proba"):
        proba = np.asarray(last.predict_proba(known))
        confidence = _spread(proba.max(axis=1), read, np.nan)
        found |= {"confidence": confidence, "n_clusters": proba.shape[1]}
    embedding = features if steps else None
    if hasattr(last, "transform"):
        own = np.asarray(last.transform(known))
        # k-means transforms into distances to its centers: no embedding of the images
        if own.shape[1:] == np.shape(getattr(last, "cluster_centers_", own))[1:]:
            embedding = _spread(own, read, np.nan)
    found["embedding"] = embedding
    found |= _known_within(last)
    if hasattr(last, "predict_agreement"):
        found["agreement"] = _spread(last.predict_agreement(known), read, np.nan)
    found["settings"] = {"estimator": " ".join(repr(estimator).split())}
    found["title"] = f"Clusters of {type(last).__name__}"
    if isinstance(read, np.ndarray):
        lost = np.flatnonzero(~read)
    else:
        lost = np.flatnonzero(np.isnan(found.get("confidence", ())))
    if len(lost) and are_pictures(X) and isinstance(X[0], PATHS):
        found["warnings"] = [_left_out([path_of(X[row]) for row in lost])]
    found |= options
    return write_report(target, images, found.pop("labels"), **found)


def _tell_missing(pictures):
    """Refuse files none of which is there, and warn of some."""
    if not (pictures.files and len(pictures)):
        return
    paths = [path_of(path) for path in pictures.data]
    missing = [(path, "does not exist") for path in paths if not os.path.exists(path)]
    if not missing:
        return
    of = f"{len(missing)} of {counted(len(paths), 'file')}"
    verb = "is" if len(missing) == 1 else "are"
    said = f"{of} {verb} missing:{named_lines(missing)}"
    if len(missing) == len(paths):
        raise FileNotFoundError(
            f"{said}\nPass paths that are right from the current folder."
        )
    warn(f"{said}\nThe page shows no pictures of them.")


def _known_within(clusterer):
    """Find the options that a clusterer, or one that it is around, knows."""
    found: dict[str, Any] = {"history": None}
    while clusterer is not None:
        if hasattr(clusterer, "history_"):
            found["history"] = clusterer.history_
        if hasattr(clusterer, "reason_"):
            found.setdefault("search", clusterer)
        if hasattr(clusterer, "cluster_agreement_"):
            # what lies within is one run of many
            return found | {"cluster_agreement": clusterer.cluster_agreement_}
        clusterer = last_step(getattr(clusterer, "estimator_", None))
    return found


def _complete(features):
    """Tell which rows a step before the last filled: NaN are those of files left out.

    Returns
    -------
    read : bool ndarray of shape (n,), or slice
        A slice of all if none was left out.
    """
    values = features.dtype.kind if hasattr(features, "dtype") else ""
    if values != "f" or np.ndim(features) != 2:
        return slice(None)
    read = ~np.isnan(features).any(axis=1)
    return slice(None) if read.all() else read


def _spread(values, read, fill):
    """Put values of some rows where these are among all."""
    values = np.asarray(values)
    if not isinstance(read, np.ndarray):
        return values
    spread = np.full((len(read), *values.shape[1:]), fill, values.dtype)
    spread[read] = values
    return spread


def _images(X, last):
    """Bring rows of pixels to the images that they are."""
    shape = getattr(last, "image_shape_", None)
    if are_pictures(X) or shape is None or is_vector(shape):
        return X
    array = as_array(X)
    if len(array.shape) != 2:
        return X
    return to_panels(np.asarray(array), shape, last.layout_.channels_last)


def _left_out(paths):
    n = len(paths)
    more = f" and {n - LISTED:,} more" if n > LISTED else ""
    which = "1 file was" if n == 1 else f"{n:,} files were"
    names = ", ".join(map(readable, paths[:LISTED]))
    return f"{which} left out as unreadable: {names}{more}."


def _target(path):
    """Return where the page goes; an early error if it cannot be written there."""
    path = Path(os.fsdecode(path)).expanduser()
    if path.is_dir():
        raise IsADirectoryError(
            f"{str(path)!r} is a folder; the name of a file was expected. Pass "
            f"{str(path / 'report.html')!r}."
        )
    make_folder(path.parent, "the folder of path")
    return path
