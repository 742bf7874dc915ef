"""The encoder and the model that a command line asks for, and their training."""

from __future__ import annotations

import importlib
import warnings
from argparse import Namespace
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from .._engine.device import resolve_device
from .._input.paths import counted
from ..pretrained import ImageEncoder, load_network
from ..pretrained.networks import check_weights, structure_only
from ..report._how_many import HowMany
from .arguments import METHODS, RANGE, SCRATCH_SIZE
from .images import all_grey, none_readable
from .shown import Console
from .words import in_options

BATCH = 32  # images that a pretrained network takes at a time


def check_device(device: str) -> None:
    """Refuse a device that is not there, before any file is looked at.

    Parameters
    ----------
    device : str

    Raises
    ------
    ValueError
    """
    try:
        resolve_device(device)
    except ValueError as error:
        raise ValueError(
            f"--device {device!r} cannot be used. Pass auto, cpu, or cuda or cuda:N "
            f"for a GPU (found here: {torch.cuda.device_count()})."
        ) from error


def check_options(args: Namespace) -> None:
    """Refuse a device, network or weights that are not there: see check_device.

    Parameters
    ----------
    args : Namespace

    Raises
    ------
    ValueError, ImportError
    """
    check_device(args.device)
    if args.pretrained != "none":
        with structure_only():  # no weights are read
            load_network(args.pretrained, _weights(args), args.size)
        check_weights(args.pretrained, _weights(args))


def _weights(args) -> str | None:
    return None if args.weights == "none" else args.weights


def check_enough(args: Namespace, paths: list[str]) -> None:
    """Refuse more clusters than images, before the images are encoded.

    Parameters
    ----------
    args : Namespace
    paths : list of str

    Raises
    ------
    ValueError
    """
    search = args.n_clusters == "auto"
    most = _numbers(args)[-1] if search else args.n_clusters
    if len(paths) >= max(2, 2 * most if search else most):
        return
    n = counted(len(paths), "image")
    what = f"{n} cannot be put into {counted(most, 'cluster')}"
    lower = ", or a lower --n-clusters" if most > 1 else ", 2 at least"
    if search:
        what = f"{n} cannot tell how well {most} clusters fit: {2 * most} are needed"
        low, high = _numbers(args)[0], len(paths) // 2
        low = low if low < high else RANGE[0]
        lower = (
            f", or --range {low}-{high}"
            if low < high
            else ", or a number as --n-clusters"
        )
    raise ValueError(none_readable(paths) or f"{what}. Pass more images{lower}.")


def _numbers(args) -> range:
    low, high = args.range or RANGE
    return range(low, high + 1)


def make_encoder(args: Namespace, console: Console) -> ImageEncoder:
    """Build the encoder that was asked for.

    Parameters
    ----------
    args : Namespace
    console : Console

    Returns
    -------
    encoder : ImageEncoder
    """
    return ImageEncoder(
        args.pretrained,
        weights=_weights(args),
        image_size=args.size,
        on_error="skip",
        batch_size=BATCH,
        device=args.device,
        cache=args.cache,
        verbose=console.verbosity,
    )


def encode(encoder: ImageEncoder, paths: list[str]) -> np.ndarray:
    """Fit the encoder and encode images.

    Parameters
    ----------
    encoder : ImageEncoder
    paths : list of str

    Returns
    -------
    features : ndarray of shape (n, d), float32
        Rows of files that cannot be read are NaN.

    Raises
    ------
    KeyboardInterrupt
        It says what is kept.
    ValueError
        If no file can be read.
    """
    try:
        return encoder.fit_transform(paths)
    except KeyboardInterrupt as error:
        kept = (
            "; those that were encoded are in the cache"
            if encoder.cache
            else "; with --cache DIR, those that were encoded would be kept"
        )
        raise KeyboardInterrupt(
            f"Interrupted while images were encoded: nothing is written{kept}."
        ) from error
    except ValueError as error:
        raise ValueError(none_readable(paths) or in_options(str(error))) from error


def make_model(args: Namespace, console: Console, paths: list[str] | None):
    """Build the estimator that was asked for.

    Parameters
    ----------
    args : Namespace
    console : Console
    paths : list of str or None
        Images to train on from scratch; None for features.

    Returns
    -------
    model : DeepClusterer
    """
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


def fit(
    model: Any, X: Any, args: Namespace, console: Console
) -> tuple[Any, dict[str, Any] | None, BaseException | None]:
    """Fit a model, or search for the number of its clusters.

    Parameters
    ----------
    model : DeepClusterer
    X : ndarray or list of str
    args : Namespace
    console : Console

    Returns
    -------
    model : DeepClusterer
        Fitted.
    search : dict or None
        What was found of the number of clusters, if that was looked for.
    stop : BaseException or None
        What interrupted the training.

    Raises
    ------
    KeyboardInterrupt, SystemExit
        If nothing was learnt before.
    ValueError
        If no file can be read, or there are too few images.
    """
    try:
        if args.n_clusters == "auto":
            return *_search(model, X, args, console), None
        return model.fit(X), None, None
    except (KeyboardInterrupt, SystemExit) as stop:
        if not hasattr(stop, "estimator"):  # not one epoch was done
            raise
        return stop.estimator, None, stop
    except ValueError as error:
        if args.pretrained != "none":
            raise
        raise ValueError(none_readable(X) or in_options(str(error))) from error


def _search(model, X, args, console):
    from ..model_selection import select_n_clusters

    with warnings.catch_warnings():
        # of numbers that are tried, some are too high: that is what is looked for
        warnings.simplefilter("ignore", ConvergenceWarning)
        search = select_n_clusters(
            model,
            X,
            _numbers(args),
            random_state=args.seed,
            verbose=not args.quiet,
        )
    found = asdict(HowMany.of(search))
    return search.best_estimator_, {**found, "reason": in_options(found["reason"])}
