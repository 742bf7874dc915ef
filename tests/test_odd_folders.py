"""Folders of every odd kind: images are read, all else is said in a clear sentence."""

import os
import re
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from skdeepcluster._input.decoding import decode
from skdeepcluster._input.files import check_file
from skdeepcluster.datasets import load_image_folder

RED = (200, 30, 60)
NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
KINDS = {}


def put(folder, *names, **options):
    """Write a red image under each name, with that ending or another format."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = path.suffix.lower() if path.suffix.isascii() else ""
        known = Image.registered_extensions().get(suffix, "PNG")
        Image.new("RGB", (16, 16), RED).save(path, **{"format": known, **options})


def bits(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def png_of(width, height):
    """A PNG of some bytes that says that it has this size."""

    def chunk(kind, body):
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def kind(images=(), skipped=None, other=None):
    """Declare a folder: the images in it, why others are skipped, and other files."""

    def declare(build):
        KINDS[build.__name__] = (build, list(images), skipped or {}, other or {})

    return declare


# -- names -----------------------------------------------------------------------------


@kind(["a.jpg"], other={".txt": 1, ".db": 1, ".ini": 1, "": 1})
def other_files(folder):
    put(folder, "a.jpg")
    for name in ("notes.txt", "Thumbs.db", "desktop.ini", "README"):
        bits(folder / name, b"x")


@kind(["photos/a.jpg"])
def archive_of_a_mac(folder):
    put(folder, "photos/a.jpg")
    bits(folder / "__MACOSX/photos/._a.jpg", b"\0\5\x16\7")
    bits(folder / "photos/.DS_Store", b"x")


@kind(["a.jpg"])
def hidden_files_and_folders(folder):
    put(folder, "a.jpg", ".b.jpg", ".git/c.jpg", ".d/e/f.jpg")


@kind(["A.JPG", "b.Png", "c.TIFF"])
def capital_endings(folder):
    put(folder, "A.JPG", "b.Png", "c.TIFF")


@kind(["a.jpg"], other={"": 1, ".jpg_": 1, ".jpg~": 1, ".part": 1})
def nearly_endings(folder):
    put(folder, "a.jpg", "jpg", "b.jpg_", "c.jpg~", "d.jpg.part", format="JPEG")


@kind(["a\nb.png", "c'\"<>&.png", "d\\e.png", "f g.png", "-rf.png", "%s{}.png"])
def names_of_any_characters(folder):
    put(folder, *KINDS["names_of_any_characters"][1])


@kind(["é.png", "e\u0301.png", "日本.png", "😀.png", "\u202egnp.png", "ß/ẞ.png"])
def names_in_unicode(folder):
    put(folder, *KINDS["names_in_unicode"][1])


@kind([os.fsdecode(b"\xff\xfe.png"), os.fsdecode(b"\xe9t\xe9/x.png")])
def names_that_are_no_text(folder):
    put(folder, *KINDS["names_that_are_no_text"][1])


@kind(["é" * 125 + ".png", "x" * 251 + ".jpg"])
def the_longest_names(folder):
    put(folder, *KINDS["the_longest_names"][1])


@kind(["/".join(["d"] * 50) + "/x.png"])
def fifty_folders_deep(folder):
    put(folder, *KINDS["fifty_folders_deep"][1])


@kind(["a.jpg", "a/x.jpg", "ab/x.jpg", "b.jpg/x.jpg"])
def a_folder_named_as_an_image(folder):
    put(folder, *KINDS["a_folder_named_as_an_image"][1])


@kind(["a.jpg"])
def empty_folders(folder):
    put(folder, "a.jpg")
    (folder / "b" / "c").mkdir(parents=True)


# -- links and files that are none -----------------------------------------------------


@kind(["a.jpg", "b.jpg", "c.jpg", "d/a.jpg"])
def duplicates_and_links_to_files(folder):
    put(folder, "a.jpg", "d/a.jpg")
    os.link(folder / "a.jpg", folder / "b.jpg")
    (folder / "c.jpg").symlink_to("d/a.jpg")


@kind(["a/x.jpg"])
def a_loop_of_folders(folder):
    put(folder, "a/x.jpg")
    (folder / "a" / "up.jpg").symlink_to(folder, target_is_directory=True)


@kind(
    ["a.jpg"],
    {
        "b.jpg": "is a link to a file that does not exist",
        "c.jpg": r"cannot be opened \(.*symbolic links\)",
    },
)
def links_to_nothing_and_to_themselves(folder):
    put(folder, "a.jpg")
    (folder / "b.jpg").symlink_to("nowhere.jpg")
    (folder / "c.jpg").symlink_to("c.jpg")


@kind(
    ["a.jpg"],
    {
        "p.jpg": "is not an image but a named pipe",
        "s.jpg": "is not an image but a socket",
    },
)
def pipes_and_sockets(folder):
    put(folder, "a.jpg")
    os.mkfifo(folder / "p.jpg")
    here = os.getcwd()
    os.chdir(folder)  # the path of a socket has to be short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("s.jpg")
    finally:
        os.chdir(here)


# -- contents --------------------------------------------------------------------------


@kind(["a.jpg"], {"b.jpg": r"is not an image that Pillow can read \(it is empty\)"})
def a_file_without_bytes(folder):
    put(folder, "a.jpg")
    bits(folder / "b.jpg", b"")


@kind(["a.jpg", "b.gif", "c.png"])
def another_ending_than_the_format(folder):
    put(folder, "a.jpg", "c.png", format="PNG")
    put(folder, "b.gif", format="WEBP", lossless=True)


@kind(
    ["a.jpg"],
    {
        "b.jpg": "is not an image that Pillow can read$",
        "c.png": "is not an image that Pillow can read$",
        "d.jpg": "is not an image that Pillow can read$",
        "e.png": "is not an image that Pillow can read$",
    },
)
def what_is_no_image(folder):
    put(folder, "a.jpg")
    bits(folder / "b.jpg", b"<!DOCTYPE html><title>404</title>")
    bits(folder / "c.png", b"version https://git-lfs.github.com/spec/v1\n")
    bits(folder / "d.jpg", bytes(1000))
    bits(folder / "e.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")


@kind(["b.gif", "c.webp", "d.png", "e.tiff"])
def animations_and_pages(folder):
    pages = [Image.new("RGB", (16, 16), colour) for colour in (RED, "blue", "green")]
    for name in KINDS["animations_and_pages"][1]:
        options = {"lossless": True} if name == "c.webp" else {}
        pages[0].save(folder / name, save_all=True, append_images=pages[1:], **options)


@kind([f"{mode}.tiff" for mode in ("1", "CMYK", "L", "LA", "LAB", "P", "RGBA")])
def modes(folder):
    for mode in ("1", "CMYK", "L", "LA", "P", "RGBA"):
        Image.new("RGB", (16, 16), RED).convert(mode).save(folder / f"{mode}.tiff")
    Image.new("LAB", (16, 16), (100, 180, 150)).save(folder / "LAB.tiff")


@kind(["a.png", "b.tiff", "c.pgm"])
def sixteen_bits(folder):
    deep = Image.fromarray(np.full((16, 16), 51_400, np.uint16))
    for name in KINDS["sixteen_bits"][1]:
        deep.save(folder / name)


@kind([f"{i}.jpg" for i in range(1, 9)])
def rotated_by_exif(folder):
    for i in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = i
        put(folder, f"{i}.jpg", exif=exif)


@kind(["a.png", "b.gif", "c.png"])
def transparent(folder):
    Image.new("RGBA", (16, 16), (*RED, 0)).save(folder / "a.png")
    Image.new("P", (16, 16)).save(folder / "b.gif", transparency=0)
    Image.new("LA", (16, 16), (9, 0)).save(folder / "c.png")


@kind(
    ["a.jpg"],
    {
        "b.jpg": "is truncated or damaged",
        "c.png": "is truncated or damaged",
        "d.webp": r"is not an image that Pillow can read \(could not create",
    },
)
def truncated(folder):
    put(folder, "a.jpg")
    for name in ("b.jpg", "c.png", "d.webp"):
        path = folder / name
        Image.fromarray(NOISE).save(path)
        path.write_bytes(path.read_bytes()[:700])


@kind(
    ["a.jpg"],
    dict.fromkeys(("b.png", "c.gif"), r"has too many pixels \(Image size"),
)
def bombs(folder):
    put(folder, "a.jpg")
    bits(folder / "b.png", png_of(100_000, 100_000))
    put(folder, "c.gif")
    gif = (folder / "c.gif").read_bytes()
    bits(folder / "c.gif", gif[:6] + struct.pack("<HH", 65_535, 65_535) + gif[10:])


@kind(["a.jpg"], {"b.png": "is (not an image that|truncated or damaged)"})
def a_bomb_in_a_text(folder):
    put(folder, "a.jpg")
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 2_000_000, zip=True)
    put(folder, "b.png", pnginfo=text)


@kind(["a.jpg", "b.png", "c.gif"])
def bytes_after_the_end(folder):
    put(folder, "a.jpg", "b.png", "c.gif")
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes() + os.urandom(5000))


@kind(["a.png", "b.png", "c.png"])
def very_long_and_very_small(folder):
    for name, size in (("a.png", (5000, 1)), ("b.png", (1, 5000)), ("c.png", (1, 1))):
        Image.new("RGB", size, RED).save(folder / name)


WHITE = {"transparent"}
NOT_RED = {"modes", "sixteen_bits"}


@pytest.mark.filterwarnings("ignore:.* whose names do not end as those of images")
@pytest.mark.parametrize("name", KINDS)
def test_a_folder_of_an_odd_kind(tmp_path, name):
    build, images, skipped, other = KINDS[name]
    folder = tmp_path / "photos"
    folder.mkdir()
    build(folder)
    data = load_image_folder(folder, on_error="skip")
    read = [os.path.relpath(path, folder) for path in data.paths]
    assert sorted(read) == sorted(images)
    reasons = {os.path.relpath(path, folder): reason for path, reason in data.skipped}
    assert list(reasons) == sorted(skipped)
    for path, reason in skipped.items():
        assert re.match(reason, reasons[path]), reasons[path]
    assert data.other_files == other
    listed = load_image_folder(folder).paths
    assert sorted(listed) == sorted([*data.paths, *(path for path, _ in data.skipped)])
    for path in data.paths:
        pixels = decode(path, (3, 8, 8)).reshape(3, -1)
        expected = [255] * 3 if name in WHITE else RED
        if name == "sixteen_bits":
            assert (pixels == 200).all()
        elif name not in NOT_RED:
            np.testing.assert_allclose(pixels.mean(axis=1), expected, atol=3)
    if images and all("/" in image for image in images):
        assert data.target_names == sorted({image.split("/")[0] for image in images})


def test_thirty_kinds_and_more():
    assert len(KINDS) + len(REFUSED) + 8 >= 30  # and the tests below


# -- folders that are refused ----------------------------------------------------------

REFUSED = {
    "an empty folder": (".", {}, ValueError, r"No images in .*found 0 files, expected"),
    "other files": ("texts", {}, ValueError, r"found 2 files \(2 x \.txt\), expected"),
    "a file": ("texts/1.txt", {}, NotADirectoryError, r"1\.txt' is a file; a folder"),
    "no folder": ("nothing", {}, FileNotFoundError, "There is no folder '.*nothing'"),
    "a link to nothing": ("link", {}, FileNotFoundError, "There is no folder '.*link'"),
    "a loop": ("loop", {}, FileNotFoundError, "There is no folder '.*loop'"),
    "a null byte": ("a\0b", {}, FileNotFoundError, "There is no folder"),
    "no name": ("", {}, ValueError, r"path is empty\. Pass a folder; '\.' is the"),
    "no ending": (".", {"extensions": []}, ValueError, r"extensions=\[\] has no end"),
    "a dot": (".", {"extensions": "."}, ValueError, r"extensions=\('\.',\) has no"),
    "a pattern": (
        ".",
        {"extensions": "*.HEIC"},
        ValueError,
        r"names that end in \.heic",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_is_refused(tmp_path, monkeypatch, name):
    path, options, error, match = REFUSED[name]
    inner = tmp_path / "inner"
    for i in (1, 2):
        bits(inner / "texts" / f"{i}.txt", b"x")
    (inner / "link").symlink_to("gone")
    (inner / "loop").symlink_to("loop")
    (inner / "void").mkdir()
    monkeypatch.chdir(inner / "void" if path == "." else inner)
    with pytest.raises(error, match=match) as caught:
        load_image_folder(path, **options)
    assert str(caught.value)[-1] in ".)"


def test_relative_paths_dots_and_a_hidden_folder(tmp_path, monkeypatch):
    put(tmp_path, ".cache/photos/a.jpg")
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path / "x")
    relative = os.path.join("..", ".cache", "photos")
    for path in (relative, Path(relative), f"{relative}/.", f"../x/{relative}//"):
        (found,) = load_image_folder(path).paths
        assert os.path.samefile(found, tmp_path / ".cache/photos/a.jpg")
    monkeypatch.chdir(tmp_path / ".cache" / "photos")
    assert load_image_folder(".").paths == ["a.jpg"]


def test_a_link_to_a_folder_of_images(tmp_path):
    put(tmp_path, "photos/a.jpg")
    (tmp_path / "link").symlink_to("photos")
    assert len(load_image_folder(tmp_path / "link").paths) == 1


# -- what happens while it is read -----------------------------------------------------


def fail(monkeypatch, name, error):
    """Let Pillow's opening of one file fail."""
    opened = Image.open

    def broken(path, *args, **options):
        if os.path.basename(path) == name:
            raise error
        return opened(path, *args, **options)

    monkeypatch.setattr(Image, "open", broken)


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (PermissionError(13, "Permission denied"), r"\(Permission denied\)"),
        (OSError(5, "Input/output error"), r"\(Input/output error\)"),
        (OSError(24, "Too many open files"), r"\(Too many open files\)"),
    ],
)
def test_a_file_that_cannot_be_opened(tmp_path, monkeypatch, error, match):
    put(tmp_path, "a.jpg", "b.jpg")
    fail(monkeypatch, "b.jpg", error)
    data = load_image_folder(tmp_path, on_error="skip")
    assert [os.path.basename(path) for path in data.paths] == ["a.jpg"]
    assert re.fullmatch(rf"cannot be opened {match}", data.skipped[0][1])


def test_a_file_that_vanishes(tmp_path, monkeypatch):
    put(tmp_path, "a.jpg", "b.jpg")
    paths = load_image_folder(tmp_path).paths
    fail(monkeypatch, "b.jpg", FileNotFoundError(2, "No such file or directory"))
    assert check_file(paths[1]) == "cannot be opened (No such file or directory)"
    monkeypatch.undo()
    opened = Image.open

    def vanish(path, *args, **options):
        Path(path).write_bytes(b"x")
        try:
            return opened(path, *args, **options)
        finally:
            os.unlink(path)

    monkeypatch.setattr(Image, "open", vanish)
    assert check_file(paths[1]) == "is not an image that Pillow can read"
    monkeypatch.undo()
    assert check_file(paths[1]) == "does not exist"


def test_a_folder_that_changes_while_it_is_read(tmp_path, monkeypatch):
    put(tmp_path, "a/x.jpg", "b/x.jpg")
    scandir = os.scandir

    def change(path):
        other = {"a": "b", "b": "a"}.get(os.path.basename(path))
        if other and not (tmp_path / "c").exists():
            os.rename(tmp_path / other, tmp_path / "c")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", change)
    with pytest.raises(OSError, match=r"1 folder in .* be read:\n.*': No such file"):
        load_image_folder(tmp_path)
    monkeypatch.undo()
    assert len(load_image_folder(tmp_path).paths) == 2
