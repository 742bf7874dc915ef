"""Images that Pillow reads with a plugin or not at all, by first bytes or ending."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os

PLUGINS = {  # package, module, and the call that registers it, if its import does not
    "HEIC": ("pillow-heif", "pillow_heif", "register_heif_opener"),
    "JPEG XL": ("pillow-jxl-plugin", "pillow_jxl", ""),
}
BRANDS = b"heic heix heim heis hevc hevx mif1 msf1"
FIRST_BYTES = (  # where, any of these, the format
    (4, tuple(b"ftyp" + brand for brand in BRANDS.split()), "HEIC"),
    (4, (b"ftypavif", b"ftypavis"), "AVIF"),
    (0, (b"\0\0\0\x0cJXL \r\n\x87\n",), "JPEG XL"),
)
ENDINGS = {
    **dict.fromkeys((".heic", ".heics", ".heif", ".hif"), "HEIC"),
    **dict.fromkeys((".avif", ".avifs"), "AVIF"),
    ".jxl": "JPEG XL",
}
# of cameras: Pillow takes some for TIFF, and reads a preview of few pixels
RAW = set(".arw .cr2 .cr3 .dng .nef .orf .raf .rw2".split())
# images as well, which some build of Pillow reads or none
OTHERS = {".jp2", ".jpx", ".svg", ".webp", *RAW, *ENDINGS}


def first_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the first 16 bytes of a file, completed by zeros where it has fewer."""
    head = b""
    with contextlib.suppress(OSError, ValueError):
        if os.path.isfile(path):  # to open a pipe would wait for its writer
            with open(path, "rb", buffering=0) as file:
                head = file.read(16)
    return head.ljust(16, b"\0")


def why_not_read(path: str | os.PathLike[str]) -> str | None:
    """Say why Pillow does not read a file that is an image by its bytes or its name.

    Parameters
    ----------
    path : str or PathLike

    Returns
    -------
    reason : str or None
        The rest of a sentence that names the file, and what to do; None if the file
        is none that is known to be an image.
    """
    ending = os.path.splitext(os.fsdecode(path))[1].lower()
    head = first_bytes(path)
    known = [kind for at, starts, kind in FIRST_BYTES if head[at:].startswith(starts)]
    kind = known[0] if known else ENDINGS.get(ending)
    if kind is None and ending not in OTHERS:
        return None
    what = f"is an image in {kind or ending}, which Pillow does not read here"
    if kind == "AVIF":
        return f"{what}: pip install --upgrade pillow"
    if kind not in PLUGINS:
        return f"{what}: save it as PNG or JPEG"
    package, module, call = PLUGINS[kind]
    if importlib.util.find_spec(module) is None:
        return f"{what}: pip install {package}"
    return f"{what}: register its plugin, {module}{f'.{call}()' if call else ''}"


def use_plugins() -> None:
    """Let Pillow read what its installed plugins read, in the whole process."""
    for _, module, call in PLUGINS.values():
        with contextlib.suppress(ImportError):
            plugin = importlib.import_module(module)
            if call:
                getattr(plugin, call)()
