"""Messages of the library, in words of the command line."""

import json
import os
import re
import sys
import types
import warnings

import numpy as np
import pytest
import torch
import torchvision
from folders import make_photos, plain
from PIL import Image
from test_cli import QUICK, rows_of

from skdeepcluster._input import formats
from skdeepcluster._warnings import warn
from skdeepcluster.cli import main
from skdeepcluster.cli.images import find_images
from skdeepcluster.cli.shown import Console
from skdeepcluster.cli.words import in_options

OTHER_NAMES = ("IMG_3", "photo.dat")
PATHS = ("/mnt/X/moved", "/data/n_clusters=5/moved", "X/max_epochs", "./lr=1/X-ray")
HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heic"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "n_samples=5 should be >= n_clusters=6. Pass more samples or lower "
            "n_clusters.",
            "5 images should be >= --n-clusters 6. Pass more images or lower "
            "--n-clusters.",
        ),
        (
            "2 of 9 clusters are empty. Lower n_clusters, train longer (max_epochs).",
            "2 of 9 clusters are empty. Lower --n-clusters, train longer (--epochs).",
        ),
        ("device='gpu' cannot be used", "--device 'gpu' cannot be used"),
        (
            "'n_clusters=3.png' and \"it's lr=1\"",
            "'n_clusters=3.png' and \"it's lr=1\"",
        ),
        (r"'it\'s \"lr=1\"' is no image", r"'it\'s \"lr=1\"' is no image"),
        (
            "--out='x' and https://a.b/c?d=1 stay",
            "--out='x' and https://a.b/c?d=1 stay",
        ),
        ("the network's weights='w.pt'", "the network's --weights 'w.pt'"),
        ("Pass on_error='skip' to leave", "Leave out --strict to leave"),
        ("it takes extensions='any' to", "it takes --any-ending to"),
        ("pass how='hardlink' or how='copy'", "pass --link or --copy"),
        (
            "All 20 rows of X are equal. Pass other samples.",
            "All 20 images are equal. Pass other images.",
        ),
        (
            "of the numbers that were tried: pass numbers beyond.",
            "of the numbers that were tried: pass a --range that goes beyond.",
        ),
        ("Pass the name; or an nn.Module.", "Pass the name."),
        ("Call undo_sorting('a b').", "Call run skdeepcluster undo 'a b'."),
        ("The 'n_clusters' parameter of SCL must be", "--n-clusters must be"),
        (
            "Pass another model, image_size, or X.",
            "Pass another --pretrained or --size.",
        ),
        (
            "X holds 5 values.\nScale X as those of '/photos/X or None. call again'",
            "The input holds 5 values.\nScale the input as those of "
            "'/photos/X or None. call again'",
        ),
        # paths and commands that no quotes hold, and other words that hold a name
        *((path, path) for path in PATHS),
        *(
            (f"Run skdeepcluster undo {p}", f"Run skdeepcluster undo {p}")
            for p in PATHS
        ),
        *((f"weights={p!r} is none", f"--weights {p!r} is none") for p in PATHS),
        *(
            (f"call undo_sorting({p!r})", f"run skdeepcluster undo {p!r}")
            for p in PATHS
        ),
        ("X-ray, aX, X2, my_n_clusters", "X-ray, aX, X2, my_n_clusters"),
        (
            "pre-n_clusters=5 and (n_clusters=5)",
            "pre-n_clusters=5 and (--n-clusters 5)",
        ),
        (
            "Lower lr=0.1, or train with precision='float32'.",
            "Lower lr 0.1, or train with precision 'float32'.\n"
            "(No options, but parameters in Python: lr, precision.)",
        ),
    ],
)
def test_parameters_become_options(said, expected):
    assert in_options(said) == expected


def test_only_errors_of_the_library_are_put_in_options(monkeypatch, capfd):
    from skdeepcluster import sorting
    from skdeepcluster.cli import commands

    said = "Lower n_clusters=5 of X to run it."

    def own(*args):
        raise ValueError(said)

    own = types.FunctionType(own.__code__, vars(commands), closure=own.__closure__)
    monkeypatch.setattr(sorting, "undo_sorting", own)
    assert main(["undo", "x"]) == 1
    assert capfd.readouterr().err == f"skdeepcluster: error: {said}\n"
    library = types.FunctionType(own.__code__, vars(sorting), closure=own.__closure__)
    monkeypatch.setattr(sorting, "undo_sorting", library)
    assert main(["undo", "x"]) == 1
    expected = "Lower --n-clusters 5 of the input to run it."
    assert capfd.readouterr().err == f"skdeepcluster: error: {expected}\n"


def test_warnings_of_the_library_are_put_in_options(capsys):
    console = Console()
    with console.gathering():
        warn("Enlarge batch_size=64.")
    assert capsys.readouterr().err == "Warning: Enlarge --batch-size 64.\n"
    assert console.warnings == ["Enlarge --batch-size 64."]


BAD = {  # options of cluster, and what is said of them
    "too many clusters": (["-k", "9"], "Pass more images, or a lower --n-clusters."),
    "no weights": (["--weights", "no.pt"], "--weights 'no.pt' is no file, and none of"),
    "no network": (["--pretrained", "resnet51"], "There is no model 'resnet51'"),
    "no device": (["--device", "gpu"], "'gpu' cannot be used. Pass auto, cpu, or cuda"),
    "no range": (
        ["-k", "auto"],
        "15 clusters fit: 30 are needed. Pass more images, or",
    ),
    "one file": (["--strict", "text.png"], "1 of 9 image files cannot be read:"),
    "a file as RESULT": (["-o", "text.png"], "is no folder"),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words") / "photos"
    make_photos(folder, n=8, odd=False)
    (folder.parent / "text.png").write_text("no image")
    return folder


@pytest.mark.parametrize("name", BAD)
def test_refusals_hold_no_word_of_python(photos, monkeypatch, capfd, name):
    options, expected = BAD[name]
    monkeypatch.chdir(photos.parent)
    argv = ["cluster", "-k", "2", "-o", "result", *QUICK, *options, "photos"]
    assert main(argv) == 1
    err = capfd.readouterr().err
    assert expected in plain(err[err.index("skdeepcluster: error: ") :])
    assert not os.path.exists("result")
    if name in ("no weights", "no network", "no device"):
        assert "Images:" not in err  # before the folder is listed


@pytest.mark.parametrize(
    "argv",
    [
        ["cluster", "", "-k", "2", "-o", "r"],
        ["cluster", "photos", "-k", "2", "-o", ""],
        ["cluster", "photos", "-k", "2", "-o", "r", "--cache", ""],
        ["predict", "", "photos"],
        ["sort", "r", "--move", ""],
        ["undo", ""],
    ],
    ids=" ".join,
)
def test_empty_text_is_not_the_current_folder(argv, capsys):
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    assert "a path is expected, and this is empty" in capsys.readouterr().err


# -- images that Pillow does not read, and images by another name ----------------------


@pytest.fixture
def mixed(photos, tmp_path, monkeypatch):
    """8 images, two in HEIC of which one is named .jpg, two by other names, a text."""
    monkeypatch.setattr(formats, "PLUGINS", {"HEIC": ("pillow-heif", "no_module", "f")})
    folder = tmp_path / "mixed"
    make_photos(folder, n=8, odd=False)
    (folder / "IMG_1.HEIC").write_bytes(HEIC)
    (folder / "2.jpg").write_bytes(HEIC)
    for name in OTHER_NAMES:
        Image.new("RGB", (20, 20)).save(folder / name, format="JPEG")
    (folder / "notes.txt").write_text("P6")
    return folder


@pytest.mark.parametrize("pretrained", [True, False])
def test_what_an_image_needs_stands_in_the_table(mixed, tmp_path, capfd, pretrained):
    out = tmp_path / "r"
    own = [] if pretrained else ["--pretrained", "none", "--size", "8", "--any-ending"]
    assert main(["cluster", str(mixed), "-k2", "-o", str(out), *QUICK, *own]) == 0
    err = plain(capfd.readouterr().err)
    n_read = 8 if pretrained else 10
    end = "image files cannot be read, and are left out (unreadable.csv lists all)"
    assert f"2 of {n_read + 2} {end}" in err
    bad = rows_of(out / "unreadable.csv")
    assert {os.path.basename(row["path"]) for row in bad} == {"IMG_1.HEIC", "2.jpg"}
    reason = "is an image in HEIC, which Pillow does not read here: pip install pillow"
    assert {row["reason"] for row in bad} == {f"{reason}-heif"}
    found = {os.path.basename(row["path"]) for row in rows_of(out / "clusters.csv")}
    assert len(found) == n_read
    assert found & {*OTHER_NAMES} == (set() if pretrained else {*OTHER_NAMES})
    counts = json.loads((out / "run.json").read_text())["counts"]
    assert (counts["images"], counts["unreadable"]) == (n_read + 2, 2)
    hint = (
        "holds 2 images whose names do not end as those of images, left out: 1 x no "
        "ending, 1 x .dat. Pass --any-ending to take such images, too."
    )
    assert (hint in err) is pretrained
    kinds = "1 x no ending, 1 x .txt, 1 x .dat"
    listed = "Images: 9 files, and 1 that cannot be read (left out for their endings: "
    assert (f"{listed}{kinds})" in err) is pretrained


def test_where_weights_are_is_not_on_the_page(photos, tmp_path, capfd):
    weights, out = tmp_path / "secret" / "mine.pt", tmp_path / "r"
    weights.parent.mkdir()
    net = torchvision.models.mobilenet_v3_small(weights=None)
    torch.save(net.state_dict(), weights)
    argv = ["cluster", str(photos), "-k2", "-o", str(out), *QUICK]
    assert main([*argv, "--weights", str(weights)]) == 0
    page = (out / "report.html").read_text()
    assert "mine.pt" in page and "secret" not in page
    run = json.loads((out / "run.json").read_text())
    assert run["settings"]["weights"] == "mine.pt"
    assert run["encoder"]["params"]["weights"] == str(weights)  # predict reads it
    assert main(["predict", str(out), str(photos / "0.png"), "-q"]) == 0


def test_strict_refuses_what_pillow_does_not_read(mixed, capfd):
    match = r"2 of 10 image files cannot be read:(.|\n)*IMG_1.HEIC' is an image in HEIC"
    with pytest.raises(ValueError, match=match), pytest.warns(UserWarning):
        find_images([str(mixed)], strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        listing = find_images([str(mixed)], any_ending=True)
    assert [os.path.basename(path) for path, _ in listing.skipped] == ["IMG_1.HEIC"]
    assert str(listing) == (
        "11 files, and 1 that cannot be read (left out for their endings: 1 x .txt)"
    )
    assert listing.others == {".txt": 1}


def test_installed_plugins_are_used(tmp_path, monkeypatch):
    """A command registers them, since nobody else can."""
    plugin = types.ModuleType("a_plugin")
    plugin.register = lambda: monkeypatch.setitem(Image.EXTENSION, ".heic", "PNG")
    monkeypatch.setitem(sys.modules, "a_plugin", plugin)
    monkeypatch.setattr(formats, "PLUGINS", {"HEIC": ("p", "a_plugin", "register")})
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.heic", format="PNG")
    assert len(find_images([str(tmp_path)]).paths) == 1


def test_a_path_elsewhere_is_not_on_the_page():
    from skdeepcluster.cli.reports import _sentences

    run = {"search": None, "folders": ["/home/me/photos"]}
    run["warnings"] = [
        "'/home/me/photos' holds 1 image, '/home/me/photos/sub/a.png'.",
        "'/srv/cache of me/ab.npz' is damaged; \"/x's/y.npz\" as well.",
    ]
    first, second = _sentences(run)
    assert first == "'photos' holds 1 image, 'sub/a.png'."
    assert second == "'ab.npz' is damaged; \"y.npz\" as well."
    assert not re.search(r"/home|/srv", first + second)
