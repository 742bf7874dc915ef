"""Every layout of X becomes one thing: images that are read by index, in batches."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from sklearn.utils.validation import _num_samples, validate_data
from torch import nn
from torch.utils.data import Dataset, get_worker_info

CHANNELS = (1, 3, 4)
CACHE_BYTES = 2**30
CHUNK = 1024
MAX_STATISTICS_SAMPLES = 10_000


@contextlib.contextmanager
def seeded(seed, device="cpu"):
    """Seed torch inside the block; the caller's generators are left as they were."""
    cuda = torch.device(device).type == "cuda"
    devices = list(range(torch.cuda.device_count())) if cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


class Images(Dataset):
    """Rows of an array, read as batches of images.

    Parameters
    ----------
    data : ndarray or tensor of shape (n, ...)
        The rows in their own layout and dtype; never copied here.
    shape : tuple (C, H, W)
        The shape of one image; ``(1, 1, d)`` for vectors.
    channels_last : bool
        Whether a row holds its values in the order (H, W, C).
    """

    def __init__(self, data, shape, channels_last=False):
        self.data, self.shape, self.channels_last = data, shape, channels_last

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        """Read a batch.

        Parameters
        ----------
        index : slice or int64 tensor of shape (b,)

        Returns
        -------
        images : tensor of shape (b, C, H, W), uint8 or float32
        index : the index, as it came
        """
        if isinstance(self.data, torch.Tensor):
            if isinstance(index, torch.Tensor):
                index = index.to(self.data.device, non_blocking=True)
            batch = self.data[index]
        else:
            rows = index.numpy() if isinstance(index, torch.Tensor) else index
            batch = self._read(rows)
            if batch.dtype != np.uint8:
                batch = batch.astype(np.float32, copy=False)
            # from_numpy refuses what it could not write to or stride over
            if not batch.flags.writeable or any(s < 0 for s in batch.strides):
                batch = batch.copy()
            batch = torch.from_numpy(batch)
        channels, height, width = self.shape
        if self.channels_last:
            batch = batch.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
        else:
            batch = batch.reshape(-1, channels, height, width)
        return batch, index

    def _read(self, rows):
        return np.asarray(self.data[rows])

    def chunks(self, size=CHUNK):
        """Yield all images in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size][0]

    def to(self, device):
        """Move the data to a CUDA device once, if they fit in half its free memory."""
        device = torch.device(device)
        if device.type != "cuda":
            return self
        itemsize = 1 if self.data.dtype == np.uint8 else 4
        free, _ = torch.cuda.mem_get_info(device)
        if self.data.size * itemsize > free / 2:
            return self
        data = torch.empty(
            self.data.shape,
            dtype=torch.uint8 if itemsize == 1 else torch.float32,
            device=device,
        )
        for start in range(0, len(self), CHUNK):
            rows = slice(start, start + CHUNK)
            part = self._read(rows)
            data[rows] = torch.from_numpy(
                np.array(part, dtype=None if itemsize == 1 else np.float32)
            ).to(device)
        return Images(data, self.shape, self.channels_last)


class ImageFiles(Images):
    """Image files, decoded when they are read and resized to one shape."""

    def __init__(self, paths, shape):
        super().__init__(np.asarray(paths, dtype=object), shape)

    def _read(self, rows):
        paths = self.data[rows]
        if get_worker_info() is not None:  # a loader worker has its core to itself
            return np.stack([_decode(path, self.shape) for path in paths])
        with ThreadPoolExecutor(_n_threads()) as pool:
            decoded = pool.map(lambda path: _decode(path, self.shape), paths)
            return np.stack(list(decoded))

    def to(self, device):
        return self

    def load(self):
        """Decode every file once, and keep the pixels where they fit in 1 GiB.

        Returns
        -------
        images : Images or ImageFiles

        Raises
        ------
        ValueError
            If a file is truncated or is no image: it is named.
        """
        keep = len(self) * int(np.prod(self.shape)) <= CACHE_BYTES
        pixels = np.empty((len(self), *self.shape), np.uint8) if keep else None
        for start in range(0, len(self), CHUNK):
            rows = slice(start, start + CHUNK)
            decoded = self._read(rows)
            if keep:
                pixels[rows] = decoded
        return Images(pixels, self.shape) if keep else self


def _n_threads():
    return min(8, os.cpu_count() or 1)


def _open(path):
    from PIL import Image

    try:
        return Image.open(path)
    except FileNotFoundError:
        raise ValueError(
            f"The image file {str(path)!r} does not exist. Remove it from X, or pass "
            "its whole path."
        ) from None
    except Exception as error:  # the readers of broken headers raise nearly anything
        raise ValueError(
            f"The file {str(path)!r} is not an image that Pillow can read ({error}). "
            "Remove it from X."
        ) from None


def _decode(path, shape):
    """Decode one file to a uint8 array of shape (C, H, W)."""
    from PIL import Image

    channels, height, width = shape
    with _open(path) as image:
        if image.mode in ("I", "F"):
            raise ValueError(
                f"The image file {str(path)!r} holds 32-bit values, whose range is not "
                "known. Save it with 8 or 16 bits, or pass the images as an array."
            )
        try:
            if image.mode.startswith("I;16"):  # Pillow would clip these to white
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            image = image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])
        except Exception as error:  # the decoders raise nearly anything, too
            raise ValueError(
                f"The image file {str(path)!r} is truncated or damaged ({error}). "
                "Remove it from X."
            ) from None
        if image.size != (width, height):
            image = image.resize((width, height), resample=3)  # bicubic
        pixels = np.asarray(image, dtype=np.uint8).reshape(height, width, channels)
    return pixels.transpose(2, 0, 1)


def _shape_of_files(paths):
    """Return (C, H, W) if all files agree on it."""

    def header(path):
        with _open(path) as image:
            grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I;16")
            return image.size, grey

    with ThreadPoolExecutor(_n_threads()) as pool:
        headers = list(pool.map(header, paths))
    sizes = {size for size, _ in headers}
    if len(sizes) > 1:
        raise ValueError(
            f"The {len(paths)} image files have {len(sizes)} different sizes. Pass the "
            "shape that they shall be resized to, for example image_shape=(3, 64, 64)."
        )
    (width, height) = sizes.pop()
    return (1 if all(grey for _, grey in headers) else 3, height, width)


def _is_paths(X):
    """Whether X is a list of file paths."""
    if isinstance(X, str | Path):
        raise ValueError(
            f"X is one path, {str(X)!r}; a list of image files was expected. Pass "
            "[path], or load_image_folder(path).paths for the files of a folder."
        )
    if not isinstance(X, list | tuple):
        return False
    if not X:
        raise ValueError(
            "X is empty (n_samples = 0). Pass images, vectors or paths of image files."
        )
    other = [i for i, x in enumerate(X) if not isinstance(x, str | Path)]
    if 0 < len(other) < len(X):
        raise TypeError(
            f"X mixes file paths with other things: X[{other[0]}] is of type "
            f"{type(X[other[0]]).__name__}. Pass paths only."
        )
    return not other


def _stack(images):
    """Make one array or tensor of a list of images."""
    shapes = dict.fromkeys(tuple(np.shape(image)) for image in images)
    if len(shapes) > 1:
        first, second = list(shapes)[:2]
        raise ValueError(
            f"X is a list of images of {len(shapes)} different shapes, such as {first} "
            f"and {second}. Resize them to one, or pass their files with image_shape."
        )
    if isinstance(images[0], torch.Tensor):
        return torch.stack(list(images))
    return np.asarray(images)


def check_image_shape(image_shape):
    """Return ``image_shape`` as a tuple (C, H, W) of ints, or None.

    Raises
    ------
    ValueError
        If it is not three positive integers.
    """
    if image_shape is None:
        return None
    shape = tuple(image_shape)
    if len(shape) != 3 or not all(
        isinstance(s, int | np.integer) and s > 0 for s in shape
    ):
        raise ValueError(
            f"image_shape={image_shape!r} should be None or three positive integers "
            "(channels, height, width), for example (3, 32, 32)."
        )
    return tuple(int(s) for s in shape)


def _layout(array_shape, image_shape):
    """Tell the layout of a 3-D or 4-D array.

    Returns
    -------
    shape : tuple (C, H, W)
    channels_last : bool
    """
    if len(array_shape) == 3:
        candidates = {False: (1, *array_shape[1:])}
    elif len(array_shape) == 4:
        _, a, b, c = array_shape
        candidates = {False: (a, b, c), True: (c, a, b)}
    else:
        raise ValueError(
            f"Found array with dim {len(array_shape)}, shape {tuple(array_shape)}. "
            "Images come as (n, C, H, W), (n, H, W, C) or (n, H, W), vectors as (n, d)."
        )
    if image_shape is not None:
        fits = [last for last, shape in candidates.items() if shape == image_shape]
        if not fits:
            if is_vector(image_shape):
                raise ValueError(
                    f"X has shape {tuple(array_shape)}; vectors of {image_shape[2]} "
                    f"features were expected. Pass rows, (n, {image_shape[2]})."
                )
            raise ValueError(
                f"X has shape {tuple(array_shape)}, which does not hold images of "
                f"image_shape={image_shape} (channels, height, width). Pass images of "
                "that shape, as (n, C, H, W) or (n, H, W, C); one image as image[None]."
            )
    elif len(candidates) == 1:
        fits = [False]
    else:
        fits = [last for last, shape in candidates.items() if shape[0] in CHANNELS]
        if not fits:
            raise ValueError(
                f"X has shape {tuple(array_shape)}: neither axis 1 nor axis 3 holds 1, "
                "3 or 4 channels. Pass image_shape=(C, H, W) if the images have "
                "another number of channels."
            )
    if len(fits) == 2 and candidates[True] != candidates[False]:
        raise ValueError(
            f"X has shape {tuple(array_shape)}, which is ambiguous: the channels may "
            f"be axis 1 (images of shape {candidates[False]}) or axis 3 (of shape "
            f"{candidates[True]}). Pass image_shape=(C, H, W) to say which."
        )
    return candidates[fits[0]], fits[0]


def as_images(estimator, X, *, reset):
    """Check X in any of its layouts and return it as images.

    Parameters
    ----------
    estimator : DeepClusterer
        With ``reset``, gets ``n_features_in_``, ``feature_names_in_`` and
        ``image_shape_``; without, X is checked against them.
    X : array-like, tensor, DataFrame or list of paths
        See the page *What X may be* of the user guide.
    reset : bool
        True at ``fit``.

    Returns
    -------
    images : Images

    Raises
    ------
    ValueError, TypeError
        If X is empty, not finite, not numeric, of an ambiguous layout, or does not
        have the shape that the estimator was fitted on.
    """
    shape = (
        check_image_shape(estimator.image_shape) if reset else estimator.image_shape_
    )
    if len(getattr(X, "shape", ())) == 1:
        X = list(X)  # an array or a Series of paths or of images
    if _is_paths(X):
        return _files(estimator, list(X), shape, reset)
    if isinstance(X, list | tuple) and np.ndim(X[0]) > 1:
        X = _stack(X)
    if isinstance(X, torch.Tensor):
        X = X.detach().cpu()
        X = (X.float() if X.dtype == torch.bfloat16 else X).numpy()
    last = False
    if getattr(X, "ndim", 2) > 2:
        if 0 in X.shape:
            raise ValueError(
                f"X has shape {tuple(X.shape)}, which is empty. Pass at least one "
                "image of at least one pixel."
            )
        shape, last = _layout(X.shape, shape)
        X = X.reshape(len(X), -1)
    elif not reset:
        last = estimator._channels_last
    X = validate_data(estimator, X, reset=reset, ensure_min_samples=2 if reset else 1)
    if reset:
        if shape is None:
            shape = (1, 1, X.shape[1])
        elif X.shape[1] != np.prod(shape):
            raise ValueError(
                f"X has {X.shape[1]} features a row, but image_shape={shape} needs "
                f"{' * '.join(map(str, shape))} = {np.prod(shape)}. Pass the shape "
                "(channels, height, width) of the images in these rows."
            )
        estimator.image_shape_, estimator._channels_last = shape, last
    return Images(X, shape, last)


def _files(estimator, paths, shape, reset):
    if shape is None:
        shape = _shape_of_files(paths)
    if shape[0] not in CHANNELS or shape[1] == 1:
        raise ValueError(
            f"image_shape={shape} cannot be read from image files: they have 1, 3 or 4 "
            "channels and more than one row of pixels."
        )
    images = ImageFiles(paths, shape).load()
    if reset:
        if _num_samples(paths) < 2:
            raise ValueError(
                f"Found {len(paths)} sample(s) (n_samples = {len(paths)}) while a "
                "minimum of 2 is required. Pass more image files."
            )
        vars(estimator).pop("feature_names_in_", None)
        estimator.n_features_in_ = int(np.prod(shape))
        estimator.image_shape_, estimator._channels_last = shape, False
    return images


class Scaling(nn.Module):
    """Bring raw values to the range that augmentations and networks expect.

    Images go to [0, 1] for the augmentations (uint8 by 255, other types by the range
    of the training data unless that lies in [0, 1]), then to zero mean and unit
    standard deviation per channel. Vectors are centred per feature and divided by one
    common standard deviation: their features keep their relative scale, as in k-means.

    Parameters
    ----------
    images : Images
        The training data; at most 10 000 evenly spaced ones are read for the moments.
    """

    def __init__(self, images):
        super().__init__()
        step = -(-len(images) // MAX_STATISTICS_SAMPLES)
        sample = images[0 : len(images) : step][0]
        vectors = is_vector(images.shape)
        low, high = 0.0, 255.0
        if sample.dtype != torch.uint8 and not vectors:
            ranges = [(float(c.min()), float(c.max())) for c in images.chunks()]
            low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
            if low >= 0 and high <= 1:
                low, high = 0.0, 1.0
        values = sample.double()
        if vectors:
            low = values.mean(0, keepdim=True)
            span = float((values - low).square().mean().sqrt())
            mean, std = torch.zeros(1), torch.ones(1)
        else:
            span = high - low
            values = (values - low) / (span or 1.0)
            mean = values.mean((0, 2, 3)).view(1, -1, 1, 1)
            std = values.std((0, 2, 3), correction=0).view(1, -1, 1, 1)
        self.register_buffer("low", torch.as_tensor(low, dtype=torch.float32))
        self.register_buffer("span", torch.tensor(span or 1.0, dtype=torch.float32))
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", torch.where(std > 1e-6, std, 1.0).float())

    def unit(self, raw):
        """Raw images of any dtype to float32, [0, 1]; vectors to unit scale."""
        return (raw.float() - self.low) / self.span

    def standardize(self, unit):
        """Images in [0, 1] to zero mean and unit variance per channel."""
        return (unit - self.mean) / self.std

    def forward(self, raw):
        """Both steps: what the networks see of an image that is not augmented."""
        return self.standardize(self.unit(raw))


def is_vector(image_shape):
    """Whether X held rows without an image shape: carried as (1, 1, d)."""
    return tuple(image_shape[:2]) == (1, 1)
