"""One image, a file or one of Pillow, as an array of the values that it holds."""

from __future__ import annotations

import os
import stat
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from .formats import first_bytes, why_not_read
from .items import Item
from .paths import IMAGES, path_of

ORIENTATION = 0x0112  # the EXIF tag; from 5 on, width and height are exchanged
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BICUBIC = Image.Resampling.BICUBIC
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
BYTE, DEEP, FLOAT = np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32)
GAP = 8  # an image is averaged down to this many times its new sides, then resized
STRIP = 2**22  # pixels of a large image that are converted at a time
# EPS starts Ghostscript; the others only name what they cannot decode
NO_FORMATS = {"EPS", "PDF", "WMF", "MPEG", "BUFR", "GRIB", "HDF5"}
FLOATS_APART = (
    "holds 32-bit values, whose range the other images do not share. Save it with 8 or "
    "16 bits"
)
FLOATS_ONLY = "holds no 32-bit values, as those of the training data are"
KINDS_OF_FILES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Unreadable(ValueError):
    """What is wrong with one image, as the rest of a sentence that names it."""


class Header(NamedTuple):
    """What can be told of an image before it is decoded.

    Attributes
    ----------
    size : tuple (width, height) or None
        Upright, where it was asked for.
    grey : bool
        Whether one channel holds all of its colours.
    dtype : dtype
        uint8, uint16, or float32 for values of 32 bits.
    """

    size: tuple[int, int] | None
    grey: bool
    dtype: np.dtype


def readable_formats() -> list[str]:
    """Return the formats of Pillow, and of its plugins, that hold pixels."""
    Image.init()
    return [name for name in Image.ID if name not in NO_FORMATS]


def is_image(path) -> bool:
    """Whether a file begins as an image of a format that its first bytes tell."""
    head = first_bytes(path)
    # a few formats have no such bytes, and their readers take much for an image
    told = {name: Image.OPEN[name][1] for name in readable_formats()}
    likely = [name for name, accepts in told.items() if accepts and accepts(head)]
    try:
        with open_image(path, likely) if likely else nullcontext():
            return bool(likely)
    except Unreadable:
        return False


def open_image(source, formats=None):
    """Open a file as a context, or take an image of Pillow as it is.

    Parameters
    ----------
    source : path, PIL image or Item
    formats : list of str, optional
        Formats of Pillow to try; all that hold pixels by default.

    Returns
    -------
    image : context manager of a PIL image

    Raises
    ------
    Unreadable
        If the path is not that of a regular file, or Pillow does not read it.
    """
    if isinstance(source, Item):
        return nullcontext(_read(source))
    if isinstance(source, Image.Image):
        return nullcontext(source)
    path = path_of(source)
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            raise Unreadable("is a link to a file that does not exist") from None
        where = "" if os.path.isabs(path) else f" (looked for it from {os.getcwd()!r})"
        raise Unreadable(f"does not exist{where}") from None
    except (OSError, ValueError) as error:  # no right, a loop of links, a null byte
        raise Unreadable(f"cannot be opened ({_text(error)})") from None
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:  # to open a pipe would wait for its writer
        raise Unreadable(
            f"is not an image but {KINDS_OF_FILES.get(kind, 'no regular file')}"
        )
    try:
        image = Image.open(path, formats=formats or readable_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unreadable(_bomb(error)) from None
    except UnidentifiedImageError:
        empty = "" if status.st_size else " (it is empty)"
        unknown = f"is not an image that Pillow can read{empty}"
        raise Unreadable((status.st_size and why_not_read(path)) or unknown) from None
    except Exception as error:  # the readers of broken headers raise nearly anything
        if isinstance(error, OSError) and error.errno:  # of the system: no right, gone
            raise Unreadable(f"cannot be opened ({_text(error)})") from None
        raise Unreadable(
            f"is not an image that Pillow can read ({_text(error)})"
        ) from None
    if image.format == "TIFF":  # Pillow maps its file, and then turns it wrongly
        image.filename = ""
    return image


def _read(item):
    """Return the image of Pillow at an index of a data set."""
    try:
        image = item.read()
    except MemoryError:
        raise
    except Exception as error:  # any library may raise anything here
        raise Unreadable(f"cannot be read ({_text(error)})") from None
    if not isinstance(image, Image.Image):
        raise Unreadable(f"is not an image but of type {type(image).__name__}")
    return image


def read_header(source, upright=True) -> Header:
    """Read what is known of an image before it is decoded.

    Parameters
    ----------
    source : path or PIL image
    upright : bool
        Whether the size is asked for: some formats tell only after their pixels
        whether an image lies on its side.

    Returns
    -------
    header : Header

    Raises
    ------
    Unreadable
    """
    with open_image(source) as image:
        size = image.size if upright else None
        # a square is the same on its side, and Pillow decodes a PNG for its tags
        if upright and image.width != image.height:
            turn = _turn(image)
            if turn is not None and image.format == "TIFF":
                turn = _turn(_loaded(image))  # Pillow may have turned it
            sideways = turn in [TURNS[tag] for tag in (5, 6, 7, 8)]
            size = image.size[::-1] if sideways else image.size
        dtype = _dtype(image)
        return Header(
            size, dtype != BYTE or image.mode in ("1", "L", "LA", "La"), dtype
        )


def decode(source, shape, dtype=BYTE, room=None) -> np.ndarray:
    """Decode an image upright, without hidden colours, and resize it.

    Parameters
    ----------
    source : path or PIL image
    shape : tuple (C, H, W)
        Of the result. One channel is the luminance; four are colours and alpha; else
        what is transparent shows white.
    dtype : dtype
        Of the result. 8 bits become 16 by the factor 257, and 16 become 8 without their
        lower half; 32 bits are read as float32 and as nothing else.
    room : Room, optional
        Bounds the memory of all images that threads decode at one time.

    Returns
    -------
    pixels : ndarray of shape (C, H, W)

    Raises
    ------
    Unreadable
    """
    channels, height, width = shape
    with open_image(source) as image:
        if not isinstance(source, IMAGES):  # those belong to others
            _draft(image, GAP * max(height, width))
        with room.taken(_bytes(image)) if room else nullcontext():
            try:
                own = _dtype(_loaded(image))  # some formats tell their mode only then
                if (own == FLOAT) != (dtype == FLOAT):
                    raise Unreadable(FLOATS_APART if own == FLOAT else FLOATS_ONLY)
                turn = _turn(image)
                upright = image if turn is None else image.transpose(turn)
                part = _part(own, dtype, channels, image.info.get("transparency"))
                values = np.array(_resized(upright, (width, height), part))
            except (Unreadable, MemoryError):
                raise
            except Exception as error:  # the decoders raise nearly anything, too
                raise Unreadable(_damaged(error)) from None
    if dtype == FLOAT and not np.isfinite(values).all():
        raise Unreadable("holds NaN or infinite values")
    return _spread(values, channels, dtype)


# -- what an image holds ---------------------------------------------------------------


def _dtype(image):
    """Tell the dtype that holds an image's values."""
    if image.mode.startswith("I;16"):
        return DEEP
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # these have 16 at most
        return DEEP
    return FLOAT if image.mode in ("I", "F") else BYTE


def _bytes(image):
    """Memory that an image takes once it is decoded."""
    one = {"1": 1, "L": 1, "P": 1}.get(image.mode, 2 if ";16" in image.mode else 4)
    return image.width * image.height * one


def _turn(image):
    """Find what brings an image upright; None if it is, or if its tag says nothing."""
    try:
        return TURNS.get(image.getexif().get(ORIENTATION))
    except Exception:  # other tags of the block may be of any kind, and broken
        return None


def _loaded(image):
    try:
        image.load()
    except MemoryError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unreadable(_bomb(error)) from None
    except Exception as error:  # the decoders raise nearly anything
        raise Unreadable(_damaged(error)) from None
    return image


# -- values of one kind, of one size ---------------------------------------------------


def _draft(image, side):
    """Let a JPEG decoder leave out detail, where whole blocks become pixels."""
    width, height = image.size
    for scale in (8, 4, 2):
        least = min(width, height) // scale
        if least >= side and width % scale == height % scale == 0:
            image.draft(None, (width // scale, height // scale))
            return


def _part(own, dtype, channels, clear):
    """Return the function that brings an image, or a strip of it, to a mode."""
    if own == BYTE:
        return lambda image: _flat(image, channels)

    def numbers(image):
        values = np.array(image, dtype=np.float32)
        if own == DEEP and isinstance(clear, int):
            values[values == clear] = 65535
        return values

    if dtype == BYTE:
        return lambda image: Image.fromarray((numbers(image) // 256).astype(np.uint8))
    return lambda image: Image.fromarray(numbers(image))


def _flat(image, channels):
    """Bring 8-bit images of any mode to L, RGB or RGBA, the first two on white."""
    if image.mode in ("LAB", "HSV"):  # which Pillow converts to nothing else
        image = image.convert("RGB")
    palette = image.palette.mode if image.mode == "P" and image.palette else ""
    if "transparency" in image.info or (image.mode + palette)[-1] in "Aa":
        image = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        if channels < 4:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
    return image.convert(MODES[channels])


def _resized(image, size, part):
    """Resize an image whose strips or whole ``part`` brings to the mode that counts.

    A far larger one is averaged by a whole factor first, strip by strip, so that no
    second image of its size is made. It remains ``GAP`` times larger than the result,
    which that changes by 3 of 255 at most and by .15 on average.
    """
    width, height = image.size
    factor = min(width // (GAP * size[0]), height // (GAP * size[1]))
    if factor < 2:
        whole = part(image)
        return whole if image.size == size else whole.resize(size, BICUBIC)
    rows = max(1, STRIP // (width * factor)) * factor
    strips = []
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(height, top + rows)))
        strips.append(part(strip).reduce(factor))
    whole = Image.new(strips[0].mode, (strips[0].width, -(-height // factor)))
    for i, strip in enumerate(strips):
        whole.paste(strip, (0, i * rows // factor))
    return whole.resize(size, BICUBIC, box=(0, 0, width / factor, height / factor))


def _spread(values, channels, dtype):
    """Bring (H, W) or (H, W, C) values to (C, H, W) of a dtype."""
    if values.dtype == np.float32 and dtype == DEEP:  # bicubic overshoots
        values = values.round().clip(0, 65535).astype(DEEP)
    elif values.dtype == BYTE and dtype == DEEP:
        values = values.astype(DEEP) * DEEP.type(257)
    if values.ndim == 3:
        return values.transpose(2, 0, 1)
    pixels = np.repeat(values[None], channels, axis=0)
    if channels == 4:  # no mode of one channel has an alpha that is left
        pixels[3] = np.iinfo(dtype).max
    return pixels


# -- what is wrong ---------------------------------------------------------------------


def _bomb(error):
    return (
        f"has too many pixels ({_text(error)}). Make it smaller; if you trust it, set "
        "PIL.Image.MAX_IMAGE_PIXELS = None"
    )


def _damaged(error):
    return f"is truncated or damaged ({_text(error)})"


def _text(error):
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
