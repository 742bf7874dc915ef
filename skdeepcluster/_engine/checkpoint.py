"""Trainings that go on where they were killed."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from .._input.files import ImageFiles
from .._input.paths import path_of
from .._storage import FileError, read, unpack, write_tree
from .._storage.digest import digest
from .._storage.folder import make_folder
from .._warnings import warn
from .distributed import are_several, check_agreed, is_first
from .saved import check_training

SOME = 16  # images that tell whether processes have the same ones
# what may differ between the run that was killed and the one that goes on
FREE = {
    "cache",
    "calibrate",
    "callbacks",
    "checkpoint",
    "checkpoint_every",
    "device",
    "image_shape",  # of which X tells
    "max_epochs",
    "on_error",
    "verbose",
    "warm_start",
}


class Checkpoint:
    """A file in a folder that holds a training, replaced as the training goes on.

    Parameters
    ----------
    folder : path
        Made if it is not there.
    every : float
        Seconds between two writes at least.
    identity : dict of str
        What the training has to agree with, by name: a digest of its data, and of each
        parameter.
    name : str
        Of the file.
    """

    def __init__(self, folder, every: float, identity: dict, name="training"):
        self.folder, self.every, self.identity = Path(path_of(folder)), every, identity
        self.path = self.folder / f"{name}.safetensors"
        self.last = time.monotonic()
        self.within: Checkpoint | None = None

    def inner(self, name: str, identity: dict) -> Checkpoint:
        """Return the checkpoint of a training within this one, until the next save."""
        self.within = Checkpoint(self.folder, self.every, identity, name)
        return self.within

    def load(self, strict: bool = True) -> dict | None:
        """Read the training, or return None where there is none.

        Parameters
        ----------
        strict : bool
            Whether another training in the file is an error; else it is no training.

        Raises
        ------
        FileError
            If the file is damaged.
        ValueError
            If it holds a training on other data or by other parameters.
        """
        make_folder(self.folder, "checkpoint")
        for left in self.folder.glob(f".{self.path.name}*"):  # by a kill in a write
            left.unlink(missing_ok=True)
        if not os.path.lexists(self.path):
            return None
        with self.read():
            document, tensors = read(self.path, "checkpoint")
            saved = unpack(document, tensors)
            if not isinstance(saved, dict) or saved.keys() != {"identity", "state"}:
                raise FileError("it holds no training.")
            identity = saved["identity"]
            if not isinstance(identity, dict) or not all(
                map(is_text, identity.items())
            ):
                raise FileError("it does not say of what it is the training.")
            if identity != self.identity and not strict:
                return None
            check_training(saved["state"])
        where = f"in {str(self.folder)!r}"
        remedy = "delete that folder, or name another one in checkpoint"
        check_same(identity, self.identity, where, remedy)
        return saved["state"]

    @contextlib.contextmanager
    def read(self) -> Iterator[None]:
        """Name the file in what goes wrong while its content is taken.

        Raises
        ------
        FileError
        """
        try:
            yield
        except Exception as error:  # a forged file may go wrong anywhere
            reason = (str(error).splitlines() or [type(error).__name__])[0][:500]
            raise FileError(
                f"{str(self.path)!r} holds no training to go on with: "
                f"{reason.rstrip('.')}. Delete it to begin anew, or use a copy."
            ) from error

    def due(self) -> bool:
        """Whether the last write is long enough ago."""
        return time.monotonic() - self.last >= self.every

    def save(self, state: dict) -> None:
        """Replace the file by a training; of several processes the first one does."""
        if not is_first():
            return
        tree = {"identity": self.identity, "state": state}
        self.last = time.monotonic()
        try:
            write_tree(self.path, "checkpoint", tree)
        except OSError as error:
            warn(
                f"{str(self.path)!r} could not be written ({error.strerror}): it holds "
                "the last training that could, and training goes on.",
                RuntimeWarning,
            )
            return
        if self.within is not None:
            self.within.path.unlink(missing_ok=True)


class Kept:
    """A training in memory, with the methods of a :class:`Checkpoint`.

    Parameters
    ----------
    identity : dict of str
        As for :class:`Checkpoint`.
    """

    def __init__(self, identity: dict):
        self.identity = identity
        self.state: dict | None = None

    def load(self) -> dict | None:
        """Return the training, if there is one."""
        return self.state

    def read(self) -> contextlib.AbstractContextManager:
        """Return a block that changes nothing: no other process wrote this."""
        return contextlib.nullcontext()

    def due(self) -> bool:
        """Return True: copies are cheap."""
        return True

    def save(self, state: dict) -> None:
        """Keep a copy of a training."""
        self.state = copy.deepcopy(state)

    def inner(self, name: str, identity: dict) -> None:
        """Keep no training within this one."""


def last_training(
    estimator, images, max_epochs: int
) -> tuple[Checkpoint | Kept | None, dict | None]:
    """Find the training that an estimator goes on with.

    Parameters
    ----------
    estimator : DeepClusterer
    images : Images
    max_epochs : int
        What it trains to.

    Returns
    -------
    checkpoint : Checkpoint, Kept or None
        Where the training is saved; None: nowhere.
    state : dict or None
        Of the training so far; None: it begins.

    Raises
    ------
    ValueError
        If that was on other data, by other parameters, or planned for more epochs; or
        if other processes of the training have other data or parameters.
    """
    check_agreed(facts_of(estimator, images))
    kept = vars(estimator).pop("_training", None) if estimator.warm_start else None
    if estimator.checkpoint is None and not estimator.warm_start:
        return None, None
    if estimator.checkpoint == "":
        raise ValueError("checkpoint='' names no folder. Pass one, or None.")
    identity = identity_of(estimator, images)
    checkpoint: Checkpoint | Kept
    if estimator.checkpoint is not None:
        every = estimator.checkpoint_every
        checkpoint = Checkpoint(estimator.checkpoint, every, identity)
    else:
        checkpoint = estimator._training = Kept(identity)
        if kept is not None:
            where = "that warm_start=True goes on with"
            check_same(kept.identity, identity, where, "pass warm_start=False")
            checkpoint.state = kept.state  # a fit that fails leaves the old one alone
    state = checkpoint.load()
    done = 0 if state is None else clock_of(state).step
    check_agreed({"the steps that were done before": str(done)})
    if state is not None and max_epochs < clock_of(state).ends[-1]:
        raise ValueError(
            f"max_epochs={max_epochs}, but the training to go on with was planned for "
            f"{clock_of(state).ends[-1]} epochs. Pass as many or more."
        )
    return checkpoint, state


def facts_of(estimator, images) -> dict:
    """Tell in what all processes of a training have to agree, as far as it is short."""
    own = FREE - {"max_epochs", "calibrate", "warm_start"} | {"random_state"}
    params, n, some = estimator._plain_values(), len(images), {}
    if are_several():  # a few: files in another order, or a shuffle without a seed
        rows, bad = np.arange(0, n, max(1, n // SOME)), {}
        if isinstance(images, ImageFiles):  # of which some may not be readable
            pixels, bad = images.read(rows)
        else:
            pixels = images[torch.from_numpy(rows)][0]
        of_x = np.arange(n) if images.rows is None else images.rows.read
        good = [str(of_x[row]) for row in rows if row not in bad]
        some = dict(zip(good, map(digest, pixels), strict=True))
    return {
        "the number and shape of the images": f"{n} of {images.shape}",
        "the images, or their order": some,
        **{k: _shown(v) for k, v in params.items() if k not in own},
    }


def _shown(value) -> str:
    """Show a parameter as it is in each process: of objects, the name or the class."""
    if isinstance(value, dict):
        items = [
            f"{key!r}: {_shown(part)}"
            for key, part in value.items()
            if not str(key).startswith("iterator_")  # how batches are read may differ
        ]
        return f"{{{', '.join(sorted(items))}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    if value is None or isinstance(value, bool | int | float | str | os.PathLike):
        return repr(os.fspath(value) if isinstance(value, os.PathLike) else value)
    return getattr(value, "__qualname__", type(value).__qualname__)


def is_text(item) -> bool:
    """Whether an item of a dict has a string as its key and its value."""
    return all(type(part) is str for part in item)


def clock_of(state: dict):
    """Return the clock of a training."""
    return state["module"]["_extra_state"]["clock"]


# -- what makes two trainings the same one ---------------------------------------------


def check_same(theirs: dict, ours: dict, where: str, remedy: str) -> None:
    """Refuse to go on with a training on other data, or by other parameters."""
    differ = [key for key in {**ours, **theirs} if theirs.get(key) != ours.get(key)]
    if "the class" in differ:
        differ = ["the class"]  # and so in its parameters
    if differ:
        raise ValueError(
            f"The training {where} is another one: it differs in "
            f"{', '.join(sorted(differ))}. To go on with it, pass what it was begun "
            f"with; to begin anew, {remedy}."
        )


def identity_of(estimator, images) -> dict[str, str]:
    """Digest the data and each parameter of an estimator that changes the result."""
    params = estimator.get_params(deep=False)
    if isinstance(estimator.random_state, np.random.RandomState):
        # its state moves with every fit; that of the training is in the checkpoint
        params["random_state"] = "a RandomState"
    if isinstance(estimator.weights, str | os.PathLike):
        params["weights"] = digest_of_weights(estimator.weights)
    known = {key: digest(params[key]) for key in params if key not in FREE}
    return {
        "the class": type(estimator).__qualname__,
        "X": digest_of_images(images),
        **known,
    }


def digest_of_weights(weights) -> str:
    """Digest the content of a file of weights, under any path; of others, the name."""
    path = path_of(weights)
    if not os.path.isfile(path):
        return digest(os.fspath(weights))
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_images(images) -> str:
    """Digest what training reads; of files that do not fit in memory, their dates."""
    found = hashlib.blake2b(digest_size=16)
    if images.origin is not None:  # features may differ by device in their last bits
        images, network = images.origin
        found.update(network.digest.encode())
    found.update(repr((len(images), images.shape, images.channels_last)).encode())
    files = images.data if images.data.dtype == np.dtype(object) else []
    if len(files) and all(isinstance(path, str) for path in files):
        for path in files:
            facts = os.stat(path)
            found.update(f"{path}\0{facts.st_size}\0{facts.st_mtime_ns}\0".encode())
        return found.hexdigest()
    for chunk in images.chunks():
        found.update(str(chunk.dtype).encode())
        found.update(np.ascontiguousarray(chunk.numpy()).data)
    return found.hexdigest()
