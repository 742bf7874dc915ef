"""No image of a folder is left out without a word."""

import os
import warnings

import numpy as np
import pytest
from PIL import Image

from skdeepcluster._input import formats
from skdeepcluster._input.files import check_file
from skdeepcluster.datasets import load_image_folder


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(path, format="PNG")


def names(data, folder):
    return [os.path.relpath(p, folder).replace(os.sep, "/") for p in data.paths]


READ = "apng bmp dib gif ico jfif jp2 jpe jpeg jpg pgm png pnm tga tiff webp".split()


def test_whatever_pillow_reads_is_an_image(tmp_path):
    write(tmp_path, *(f"x.{ending}" for ending in READ), "x.JFIF")
    data = load_image_folder(tmp_path)
    assert names(data, tmp_path) == sorted(f"x.{end}" for end in [*READ, "JFIF"])
    assert data.other_files == {}
    assert data.skipped == []


def test_formats_without_pixels_are_no_images(tmp_path):
    endings = "eps ps pdf wmf emf mpg h5 grib".split()
    write(tmp_path, "x.png")
    for ending in endings:
        (tmp_path / f"x.{ending}").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    data = load_image_folder(tmp_path)
    assert names(data, tmp_path) == ["x.png"]
    assert data.other_files == {f".{ending}": 1 for ending in endings}


def test_formats_of_a_plugin_are_read(tmp_path, monkeypatch):
    monkeypatch.setitem(Image.EXTENSION, ".heic", "PNG")
    write(tmp_path, "x.HEIC")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert names(load_image_folder(tmp_path), tmp_path) == ["x.HEIC"]


HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heic"


@pytest.fixture
def no_plugins(monkeypatch):
    """No plugin is installed, whatever is."""
    missing = {kind: (p, "no_module", "") for kind, (p, *_) in formats.PLUGINS.items()}
    monkeypatch.setattr(formats, "PLUGINS", missing)


@pytest.mark.usefixtures("no_plugins")
def test_images_that_are_left_out_are_said(tmp_path):
    write(tmp_path, "a.png")
    for name in ("b.heic", "c.HEIC", "d.jxl", "notes.txt", "e.svg"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "f").write_bytes(HEIC)
    match = r"5 .* left out: 2 x \.heic, 1 x \.jxl, 1 x \.svg, 1 x no.* Register a"
    with pytest.warns(UserWarning, match=match) as caught:
        data = load_image_folder(tmp_path)
    assert caught[0].filename == __file__
    assert names(data, tmp_path) == ["a.png"]
    assert data.other_files == {".txt": 1}  # each file is counted once
    whys = {os.path.basename(path): why for path, why in data.skipped}
    assert sorted(whys) == ["b.heic", "c.HEIC", "d.jxl", "e.svg", "f"]
    end = "which Pillow does not read here: "
    for name in ("b.heic", "c.HEIC", "f"):
        assert whys[name] == f"is an image in HEIC, {end}pip install pillow-heif"
    assert whys["d.jxl"].endswith(f"JPEG XL, {end}pip install pillow-jxl-plugin")
    assert whys["e.svg"] == f"is an image in .svg, {end}save it as PNG or JPEG"
    (tmp_path / "a.png").unlink()
    match = r"Not one of 5 images in .*\n.*b\.heic': is an image in HEIC, .*heif\n"
    with pytest.raises(ValueError, match=match):
        load_image_folder(tmp_path)


def test_another_ending_does_not_hide_what_an_image_needs(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"  # as telephones send it
    path.write_bytes(HEIC)
    monkeypatch.setattr(formats, "PLUGINS", {"HEIC": ("a-package", "json", "register")})
    assert check_file(path).endswith("here: register its plugin, json.register()")
    path.write_bytes(HEIC.replace(b"ftypheic", b"ftypavif"))
    assert "AVIF" in check_file(path)


@pytest.mark.parametrize("extensions", [None, "any"])
def test_the_preview_in_a_raw_file_is_no_image(tmp_path, extensions):
    write(tmp_path, "a.png")
    Image.new("L", (4, 4)).save(tmp_path / "b.NEF", format="TIFF")
    with pytest.warns(UserWarning, match=r"does not read here, left out: 1 x \.nef"):
        data = load_image_folder(tmp_path, extensions=extensions)
    assert names(data, tmp_path) == ["a.png"]
    assert data.skipped[0][1].endswith("not read here: save it as PNG or JPEG")


def test_images_of_other_names(tmp_path):
    write(tmp_path, "b.png", "IMG_1", "a/c.dat", "d.JPG_")
    (tmp_path / "e.txt").write_text("P6 is no image, nor is BM")
    (tmp_path / "f").write_bytes(b"\0" * 40)  # which a reader of TGA might take
    os.mkfifo(tmp_path / "g")
    match = r"holds 3 images whose names .* out: .*1 x \.dat.* Pass ext.*='any' to take"
    with pytest.warns(UserWarning, match=match):
        data = load_image_folder(tmp_path)
    assert names(data, tmp_path) == ["b.png"] and data.skipped == []
    assert data.other_files == {"": 3, ".dat": 1, ".jpg_": 1, ".txt": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_image_folder(tmp_path, extensions="any", on_error="skip")
        assert names(data, tmp_path) == ["IMG_1", "a/c.dat", "b.png", "d.JPG_"]
        assert data.other_files == {"": 2, ".txt": 1}
    (tmp_path / "b.png").unlink()
    match = r"No images in .* 6 files .*extensions='any': 3 of them are images all the"
    with pytest.raises(ValueError, match=match):
        load_image_folder(tmp_path)


def test_endings_that_were_asked_for_need_no_warning(tmp_path):
    write(tmp_path, "a.png", "b.heic", "c.txt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_image_folder(tmp_path, extensions="png")
        assert data.other_files == {".heic": 1, ".txt": 1}
        load_image_folder(tmp_path, extensions=["png", "heic"])


@pytest.fixture
def damaged(tmp_path):
    """Two good images in each of two classes, and three that cannot be read."""
    write(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png")
    noise = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "b/cut.png")
    (tmp_path / "b/cut.png").write_bytes((tmp_path / "b/cut.png").read_bytes()[:150])
    (tmp_path / "a/text.jpg").write_text("no image")
    os.mkfifo(tmp_path / "b/pipe.gif")
    return tmp_path


def test_images_that_cannot_be_read_are_skipped(damaged):
    assert len(load_image_folder(damaged).paths) == 7  # fit names them
    data = load_image_folder(damaged, on_error="skip")
    assert names(data, damaged) == ["a/1.png", "a/2.png", "b/1.png", "b/2.png"]
    assert data.target.tolist() == [0, 0, 1, 1]
    assert data.target.dtype == np.int64
    found = {os.path.relpath(path, damaged): why for path, why in data.skipped}
    assert list(found) == ["a/text.jpg", "b/cut.png", "b/pipe.gif"]
    assert found["a/text.jpg"] == "is not an image that Pillow can read"
    assert found["b/cut.png"].startswith("is truncated or damaged (")
    assert found["b/pipe.gif"] == "is not an image but a named pipe"


def test_no_image_can_be_read(tmp_path):
    for i in range(12):
        (tmp_path / f"{i:02}.png").write_text("no image")
    match = r"Not one of 12 images in .* can be read:\n.*00\.png'(.*\n)*  and 2 more"
    with pytest.raises(ValueError, match=match):
        load_image_folder(tmp_path, on_error="skip")


def test_folders_that_cannot_be_read(tmp_path, monkeypatch):
    write(tmp_path, "a.png", "open/b.png", "locked/c.png", "locked too/d.png")
    scandir = os.scandir

    def locked(path):
        if "locked" in os.fspath(path):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    match = r"2 folders in .*\n  '.*locked': Permission denied\n  '.*locked too': Perm"
    with pytest.raises(OSError, match=match):
        load_image_folder(tmp_path)
    data = load_image_folder(tmp_path, on_error="skip")
    assert names(data, tmp_path) == ["a.png", "open/b.png"]
    assert [os.path.basename(path) for path, _ in data.skipped] == [
        "locked",
        "locked too",
    ]


def test_loops_of_links(tmp_path):
    write(tmp_path, "a/x.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    data = load_image_folder(tmp_path, on_error="skip")
    assert names(data, tmp_path) == ["a/x.png"]
    assert [os.path.basename(path) for path, _ in data.skipped] == ["self.png"]


def test_a_folder_as_bytes_and_a_bad_option(tmp_path):
    write(tmp_path, "x.png")
    assert len(load_image_folder(os.fsencode(tmp_path)).paths) == 1
    with pytest.raises(ValueError, match="on_error='ignore' should be 'raise' or"):
        load_image_folder(tmp_path, on_error="ignore")
