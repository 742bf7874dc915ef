"""Images of any origin, read by index in batches."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

CACHE_BYTES = 2**30
CHUNK = 1024
ORIENTATION = 0x0112  # the EXIF tag; from 5 on, width and height are exchanged


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


def open_image(path):
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
    from PIL import Image, ImageOps

    channels, height, width = shape
    with open_image(path) as image:
        if image.mode in ("I", "F"):
            raise ValueError(
                f"The image file {str(path)!r} holds 32-bit values, whose range is not "
                "known. Save it with 8 or 16 bits, or pass the images as an array."
            )
        try:
            image = ImageOps.exif_transpose(image)  # as the camera was held
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


def shape_of_files(paths):
    """Return (C, H, W) if all files agree on it."""

    def header(path):
        with open_image(path) as image:
            grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I;16")
            try:
                sideways = image.getexif().get(ORIENTATION, 1) >= 5
            except Exception:  # a damaged file, which its decoding will name
                sideways = False
            return image.size[::-1] if sideways else image.size, grey

    with ThreadPoolExecutor(_n_threads()) as pool:
        headers = list(pool.map(header, paths))
    sizes = {size for size, _ in headers}
    if len(sizes) > 1:
        raise ValueError(
            f"The {len(paths)} image files have {len(sizes)} different sizes. Pass the "
            "shape that they shall be resized to, for example image_shape=(3, 32, 32)."
        )
    (width, height) = sizes.pop()
    return (1 if all(grey for _, grey in headers) else 3, height, width)
