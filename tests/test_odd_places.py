"""Odd places on the command line: images are listed, all else is a clear sentence."""

import json
import os
import re
import socket
import warnings
import zipfile
from pathlib import Path

import pytest
import test_odd_folders
from folders import make_photos, plain
from test_cli import QUICK, rows_of
from test_odd_folders import bits, put

from skdeepcluster.cli import main
from skdeepcluster.cli.images import find_images

HERE = Path()
LISTED, REFUSED = {}, {}


def listed(*places, images, skipped=(), others=None, **options):
    """Declare places, and what is found in them, in this order."""

    def declare(build):
        found = list(images), list(skipped), others or {}
        LISTED[build.__name__] = (build, places, found, options)

    return declare


def refused(*argv, says):
    """Declare what ``cluster`` gets and cannot use."""

    def declare(build):
        REFUSED[build.__name__] = (build, argv, says)

    return declare


# -- what is found ---------------------------------------------------------------------


@listed("a", "a", "a/", "./b/../a", images=["a/x.png"], others={".txt": 1})
def one_folder_again_and_again():
    put(HERE, "a/x.png")
    bits(HERE / "a/notes.txt", b"x")


@listed("a/b", "a", images=["a/b/x.png", "a/y.png"], others={".txt": 2})
def a_folder_and_one_around_it():
    put(HERE, "a/b/x.png", "a/y.png")
    bits(HERE / "a/b/1.txt", b"x")
    bits(HERE / "a/2.txt", b"x")


@listed("a/y.png", "a", images=["a/y.png", "a/x.png"])
def a_folder_and_a_file_of_it():
    put(HERE, "a/x.png", "a/y.png")


@listed("a", "link", images=["a/x.png", "link/x.png"])
def a_folder_and_a_link_to_it():
    put(HERE, "a/x.png")
    os.symlink("a", "link")


@listed("a", images=["a/IMG.PNG", "a/Img.png", "a/img.png"])
def names_that_differ_in_case_alone():
    put(HERE, "a/IMG.PNG", "a/Img.png", "a/img.png")
    if len(os.listdir("a")) < 3:
        pytest.skip("this file system takes these names for one")


@listed("...", ".b", images=[".../x.png", ".b/x.png"])
def names_of_dots_and_hidden_folders():
    put(HERE, ".../x.png", ".../.png", ".../..png", ".b/x.png", ".b/.c/x.png")


@listed("a", images=["a/x.png"], others={"": 1, ".png ": 1})
def names_that_end_in_a_dot_or_a_space():
    put(HERE, "a/x.png", "a/y.png ", "a/z.png.")


@listed("a", images=["a/x.png"], others={".\x1b[2j\udcff": 1, "." + "e" * 99: 1})
def endings_that_are_not_to_be_shown():
    put(HERE, "a/x.png")
    bits(HERE / "a/y.\x1b[2J\udcff", b"x")
    bits(HERE / f"a/z.{'e' * 99}", b"x")


@listed("a", images=["a/IMG_1", "a/b.dat", "a/x.png"], others={"": 2}, any_ending=True)
def images_of_any_name():
    put(HERE, "a/IMG_1", "a/b.dat", "a/x.png", format="GIF")
    bits(HERE / "a/README", b"P6 is no image")
    os.mkfifo("a/pipe")


@listed(
    *("a", "a/z.svg"),
    images=["a/x.png", "a/z.svg"],
    skipped=["a/y.svg"],
)
def images_that_pillow_does_not_read_and_one_of_them_named():
    put(HERE, "a/x.png")
    bits(HERE / "a/y.svg", b"<svg/>")
    bits(HERE / "a/z.svg", b"<svg/>")


@pytest.mark.parametrize("name", LISTED)
def test_odd_places_are_listed(tmp_path, monkeypatch, name):
    build, places, (images, skipped, others), options = LISTED[name]
    monkeypatch.chdir(tmp_path)
    build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        listing = find_images(places, **options)
    assert [os.path.relpath(path) for path in listing.paths] == images
    assert [os.path.relpath(path) for path, _ in listing.skipped] == skipped
    assert listing.others == others
    assert str(listing).isprintable() and len(str(listing)) < 100


# -- what is refused, before anything is computed --------------------------------------

NONE = "The image file cannot be read:"


@refused(
    "a",
    says="The only image in .* cannot be read:\n.*: is an image in .svg, .* save it as",
)
def images_alone_that_pillow_does_not_read():
    bits(HERE / "a/y.svg", b"<svg/>")


@refused("a", says="found 2 files .*2 x no ending.* or --any-ending: 2 of them are im")
def images_without_endings_alone():
    put(HERE, "a/IMG_1", "a/IMG_2")


@refused("a", says="No images in .*: found 0 files, expected")
def hidden_images_alone():
    put(HERE, "a/.x.png", "a/.b/x.png")


@refused("a.zip", says=f"{NONE}\n.*a.zip' is not an image that Pillow can read$")
def an_archive():
    with zipfile.ZipFile("a.zip", "w") as archive:
        archive.writestr("x.png", "x")


@refused("/dev/null", says=f"{NONE}\n.*null' is not an image but a device$")
def a_device():
    pass


@refused("pipe", says=f"{NONE}\n.*pipe' is not an image but a named pipe$")
def a_pipe():
    os.mkfifo("pipe")


@refused("s", says=f"{NONE}\n.*s' is not an image but a socket$")
def a_socket():
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")


@refused("link", says=f"{NONE}\n.*link' is a link to a file that does not exist$")
def a_link_to_nothing():
    os.symlink("nothing", "link")


@refused("a/*.png", says=r"There is no file or folder '.*a/\*.png'")
def a_pattern_that_no_shell_expanded():
    put(HERE, "a/x.jpg")


@refused("https://example.org/x", says="There is no file or folder '.*example.org/x'")
def an_address():
    pass


@refused("a/" * 3000, says="a/a': File name too long$")
def a_path_that_is_too_long():
    pass


@refused("a", "-k", "1", says="1 image cannot be put .* Pass more images, 2 at least")
def one_image():
    put(HERE, "a/x.png")


@refused(
    "a", "-k", "1", "--strict", says="b.png' is not an image that Pillow can read$"
)
def a_large_file_of_zeros():
    put(HERE, "a/x.png")
    with open("a/b.png", "wb") as file:
        file.truncate(2**31)


@refused("a", "-o", "a", says="RESULT 'a' is not empty: it holds 1 file, 'x.png' among")
def result_in_the_folder_of_the_images():
    put(HERE, "a/x.png")


@refused("r/a", "-o", "r", says="RESULT 'r' is not empty: it holds 1 file, 'a' among")
def result_around_the_folder():
    put(HERE, "r/a/x.png")


@refused("a", "-o", "a/x.png/r", says="none can be made there .Not a directory.")
def result_below_an_image():
    put(HERE, "a/x.png")


@refused("a", "-o", "link", says="is no folder, and none can be made there")
def result_that_is_a_link_to_nothing():
    put(HERE, "a/x.png")
    os.symlink("nothing", "link")


@refused("a", "-o", "n" * 300, says="nnn': File name too long")
def result_of_a_name_that_is_too_long():
    put(HERE, "a/x.png")


@pytest.mark.parametrize("name", REFUSED)
def test_odd_places_are_refused(tmp_path, monkeypatch, capfd, name):
    build, argv, says = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    build()
    before = sorted(map(str, HERE.rglob("*")))
    assert main(["cluster", "-k", "2", "-o", "result", *QUICK, *argv]) == 1
    out, err = capfd.readouterr()
    assert out == "" and "Traceback" not in err
    said = plain(err[err.index("skdeepcluster: error: ") :])
    assert re.search(says, said, re.M), said
    assert sorted(map(str, HERE.rglob("*"))) == before


# -- what is clustered all the same ----------------------------------------------------


def test_result_within_the_folder_and_images_that_are_all_alike(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(HERE, *(f"a/{i}.png" for i in range(5)))
    argv = ["cluster", "a", "-k", "2", "-o", "a/r", *QUICK, "-q"]
    for again in ([], ["--overwrite"]):  # RESULT of the first run is in the folder
        assert main([*argv, *again]) == 0
        rows = rows_of("a/r/clusters.csv")
        assert len(rows) == 5 and len({row["cluster"] for row in rows}) == 1
    run = json.loads(Path("a/r/run.json").read_text())
    assert any("1 of 2 clusters are empty" in text for text in run["warnings"])
    assert find_images(["a"]).others[".csv"] == 1


def test_a_path_of_the_home_behind_an_equals_sign(tmp_path, monkeypatch):
    make_photos(tmp_path / "a", n=4, odd=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["cluster", "~/a", "-k2", "--out=~/r", *QUICK, "-q"]) == 0
    assert (tmp_path / "r" / "report.html").exists() and not Path("~").exists()


def test_sixty_kinds_and_more():
    here = len(LISTED) + len(REFUSED)
    assert here + len(test_odd_folders.KINDS) + len(test_odd_folders.REFUSED) >= 60
