"""A small folder of images, with odd ones among them."""

import os
import re
import warnings

import numpy as np
from PIL import Image

KINDS = 3
ODD = ["animated.gif", "clear.png", "deep.png", "rotated.jpg", "naïve – ☃.png"]
ODD += ['=cmd|calc!A1,"x".png', "two\nlines.png", "cr\r.png"]
UNREADABLE = ["broken.jpg", "cut.png", "empty.webp"]


def pixels(kind, seed, shape=(20, 24)):
    """An image in which one of three channels is bright."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 60, (*shape, 3))
    values[..., kind % KINDS] += 170
    return values.astype(np.uint8)


def make_photos(folder, n=18, odd=True):
    """Write ``n`` plain images, half of them in a subfolder, and the odd ones.

    Returns the readable files, sorted as the package sorts them.
    """
    (folder / "sub").mkdir(parents=True)
    for i in range(n):
        name = f"sub/{i}.png" if i % 2 else f"{i}.png"
        Image.fromarray(pixels(i, i, (20 + i % 3, 24))).save(folder / name)
    if odd:
        make_odd(folder)
    files = [p for p in folder.rglob("*") if p.is_file() and p.name not in UNREADABLE]
    return sorted(files, key=lambda p: p.relative_to(folder).parts)


def make_odd(folder):
    frames = [Image.fromarray(pixels(0, 100 + i)).convert("P") for i in range(3)]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    clear = Image.fromarray(pixels(1, 110)).convert("RGBA")
    clear.putalpha(128)
    clear.save(folder / "clear.png")
    deep = np.random.default_rng(2).integers(0, 65536, (20, 20)).astype(np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(2, 111)).save(folder / "rotated.jpg", exif=exif)
    for seed, name in enumerate(ODD[4:]):
        Image.fromarray(pixels(seed, 120 + seed)).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"no image")
    whole = (folder / "0.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.webp").write_bytes(b"")


def make_undecodable(folder):
    """Write an image whose name is no UTF-8, or None where no name can be such."""
    name = os.fsencode(folder) + b"/na\xefve.png"
    try:
        with open(name, "wb") as file:
            Image.fromarray(pixels(0, 7)).save(file, "PNG")
    except OSError:
        warnings.warn("names are Unicode on this file system", stacklevel=1)
        return None
    return os.fsdecode(name)


QUOTED = r"(?<![\w=])'(?:\\.|[^'\\\n])*'|(?<![\w=])\"(?:\\.|[^\"\\\n])*\""
OF_PYTHON = r"(?<![-\w])\w+=|\b[a-z]+_[a-z_]+\b|\bNone\b|\bX\b|\bto fit\b"


def plain(text):
    """Return what the command line said, if it holds no word of Python's.

    What it quotes is of the user. Of one thing it does not speak as of many.
    """
    said = re.sub(QUOTED, "", text)
    assert not re.findall(OF_PYTHON, said), text
    assert not re.search(r"(?<!\d )\b1 (file|image|folder|cluster|name|epoch)s\b", said)
    return text
