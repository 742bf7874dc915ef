"""Features on the disk: each is found again by the content of its image."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from .._engine.shares import in_step
from .._input.files import ImageFiles
from .._input.images import CHUNK
from .._input.paths import path_of
from .._input.threads import in_threads
from .._storage import FileError, read, write
from .._storage.container import DamagedError
from .._storage.digest import digest
from .._storage.folder import make_folder
from .._warnings import warn

EVERY_ROWS, EVERY = CHUNK, 60.0  # images and seconds between two writes at most
KEY = 16  # bytes of a key: no two images have the same one
SETTINGS = {"image_size", "precision"}  # of which a folder may have several
OWN = re.compile(r"features-[0-9a-f]{16}\.safetensors")
STALE = 3600.0  # seconds after which a file that is being written was left by a kill


class FeatureCache:
    """A folder of files that hold features of one network.

    Each file has some features, and the keys of their images. Files are written whole
    and never changed, under names that no other process takes: a run that was killed
    goes on where it was, and two may write at one time.

    Parameters
    ----------
    folder : path
        Made if it is not there.
    identity : dict of str
        What gives the features of an image, by the name of the parameter. A name that
        a file lacks is not compared: it is about images of a shape that the file has
        none of. Files of another one of ``SETTINGS`` are passed over.
    fitting : bool
        Whether a folder that cannot be made or written to is an error; else it is read
        only. Whether to tell of files of another origin.

    Raises
    ------
    OSError, ValueError
        If the folder cannot be made or written to.
    """

    def __init__(self, folder, identity: dict[str, str], fitting: bool):
        if folder == "":
            raise ValueError("cache='' names no folder. Pass one, or None.")
        self.folder, self.identity = Path(path_of(folder)), identity
        self.fitting = fitting
        self.waiting: list[tuple[bytes, np.ndarray]] = []
        self.last = time.monotonic()
        self.refusal: str | None = None  # of a folder to be read only; empty once told
        try:
            make_folder(self.folder, "cache")
        except OSError as error:
            if fitting:
                raise
            self.refusal = error.strerror

    def check(self) -> None:
        """Refuse a folder that holds features of another network.

        Raises
        ------
        ValueError
            It says what differs.
        """
        next(self._files(), None)

    def fill(self, features: np.ndarray, keys: list[bytes | None]) -> np.ndarray:
        """Set the features that are known.

        Parameters
        ----------
        features : ndarray of shape (n, d), float32
            Changed.
        keys : list of n keys
            None: there is nothing to be known of that row.

        Returns
        -------
        known : ndarray of shape (n,), bool

        Raises
        ------
        ValueError
            If the folder holds features of another network.
        """
        rows: dict[bytes, list[int]] = {}
        for row, key in enumerate(keys):
            if key is not None:
                rows.setdefault(key, []).append(row)
        known = np.zeros(len(keys), bool)
        for tensors in self._files():
            found, values = tensors["keys"].numpy(), tensors["features"].numpy()
            if values.shape[1] != features.shape[1]:
                continue  # of images of another shape
            for key, value in zip(found, values, strict=True):
                here = rows.pop(key.tobytes(), None)
                if here is not None:
                    features[here], known[here] = value, True
        return known

    def add(self, keys: list[bytes | None], features: np.ndarray) -> None:
        """Keep features, and write them when there are enough, or after a minute.

        Parameters
        ----------
        keys : list of b keys
        features : ndarray of shape (b, d), float32
        """
        pairs = zip(keys, features, strict=True)
        self.waiting += [(key, value) for key, value in pairs if key is not None]
        late = time.monotonic() - self.last >= EVERY
        if late or len(self.waiting) >= EVERY_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last write."""
        self.last = time.monotonic()
        waiting, self.waiting = self.waiting, []
        if not waiting:
            return
        if self.refusal is not None:
            if self.refusal:
                text = f"{self.refusal} Until then new features are not kept."
                warn(text, RuntimeWarning)
            self.refusal = ""
            return
        keys = np.frombuffer(b"".join(key for key, _ in waiting), np.uint8)
        tensors = {
            "keys": torch.from_numpy(keys.reshape(-1, KEY).copy()),
            "features": torch.from_numpy(np.stack([value for _, value in waiting])),
        }
        path = self.folder / f"features-{secrets.token_hex(8)}.safetensors"
        try:
            write(path, "features", self.identity, tensors)
        except OSError as error:
            warn(
                f"{str(path)!r} could not be written ({error.strerror}): these "
                "features are not in the cache, and will be computed again.",
                RuntimeWarning,
            )

    def _files(self) -> Iterator[dict]:
        """Yield the tensors of each file that is of the same settings."""
        for left in self.folder.glob(".features-*.tmp"):
            try:
                if time.time() - left.stat().st_mtime > STALE:
                    left.unlink()
            except OSError:  # it is complete, or another process was faster
                pass
        for path in sorted(self.folder.glob("features-*.safetensors")):
            try:
                identity, tensors = read(path, "features")
                _check_content(identity, tensors)
            except (OSError, FileError) as error:
                if os.path.lexists(path):  # else somebody empties the folder
                    self._pass_over(path, error)
                continue
            self._check_identity(identity)
            if all(identity.get(name) == self.identity[name] for name in SETTINGS):
                yield tensors

    def _pass_over(self, path, error):
        """Tell of a file that cannot be used, and move it away if it is of a cache."""
        if isinstance(error, OSError):
            text = f"cannot be read ({error.strerror}): its features are computed again"
        elif isinstance(error, DamagedError) and OWN.fullmatch(path.name):
            text = "is damaged: its features are computed again"
            try:
                path.rename(f"{path}.damaged")
            except OSError:  # in a folder that is read only
                pass
            else:
                text += f", and it is named {path.name}.damaged now"
        elif self.fitting:
            text = "is no file of this cache that can be read, and is left alone"
        else:
            return
        warn(f"{str(path)!r} {text}.", RuntimeWarning)

    def _check_identity(self, theirs):
        ours = self.identity
        differ = [
            f"{name} ({theirs[name]} there, {ours[name]} here)"
            for name in sorted(ours.keys() & theirs.keys() - SETTINGS)
            if theirs[name] != ours[name]
        ]
        if differ:
            raise ValueError(
                f"cache={str(self.folder)!r} holds features of another network, which "
                f"do not compare with those of this one: it differs in "
                f"{', '.join(differ)}. Pass what that cache was made with, or name "
                "another folder in cache."
            )


def _check_content(identity, tensors):
    texts = isinstance(identity, dict) and all(
        type(part) is str for item in identity.items() for part in item
    )
    right = texts and tensors.keys() == {"keys", "features"}
    if right:
        keys, features = tensors["keys"], tensors["features"]
        right = (
            (keys.dtype, features.dtype) == (torch.uint8, torch.float32)
            and (keys.ndim, features.ndim) == (2, 2)
            and keys.shape == (len(features), KEY)
        )
    if not right:
        raise FileError("it does not hold features and their keys.")


# -- keys ------------------------------------------------------------------------------


def keys_of(images, facts, rows: slice) -> list[bytes | None]:
    """Give some images keys of their content: of a file its bytes, else its values.

    Neither names nor dates of files count: who copies or renames a folder keeps its
    features.

    Parameters
    ----------
    images : Images
    facts : object
        What else the features depend on: shape and range.
    rows : slice

    Returns
    -------
    keys : list of keys
        None for files that cannot be read.
    """
    salt = bytes.fromhex(digest(facts))
    if not isinstance(images, ImageFiles):
        keys = []
        for chunk in images.chunks(64, rows):
            values = chunk.contiguous().numpy()
            salted = salt + values.dtype.str.encode()
            keys += [_hash(salted, value.data) for value in values]
        return keys[: rows.stop - rows.start]
    keys = []
    for start in in_step(range(rows.start, rows.stop, CHUNK)):
        part = images.data[start : min(start + CHUNK, rows.stop)]
        keys += in_threads(lambda source: _key_of_file(source, salt), part)
    return keys


def _key_of_file(source, salt):
    if not isinstance(source, str):  # of Pillow: what it holds may be changed since
        return None
    try:
        if not stat.S_ISREG(os.stat(source).st_mode):
            return None
        with open(source, "rb") as file:
            return hashlib.file_digest(file, lambda: _hasher(salt)).digest()
    except (OSError, ValueError):  # decoding will tell of it
        return None


def _hash(salt, values):
    found = _hasher(salt)
    found.update(values)
    return found.digest()


def _hasher(salt):
    return hashlib.blake2b(salt, digest_size=KEY)
