"""The command line: images that are gone since the clustering, and what is said."""

import errno
import json
import os
import shlex

import pytest
from folders import make_photos
from test_cli import QUICK, rows_of

from skdeepcluster.cli import main
from skdeepcluster.sorting import sort_into_folders


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of 8 images and the files of a run of it."""
    base = tmp_path_factory.mktemp("made")
    make_photos(base / "photos", n=8, odd=False)
    argv = ["cluster", base / "photos", "-k2", "-o", base / "r", *QUICK, "-q"]
    assert main(list(map(str, argv))) == 0
    return base


@pytest.fixture
def result(made, tmp_path):
    """A run of images that may be moved: RESULT, and the paths of its table."""
    for path in made.rglob("*"):
        to = tmp_path / path.relative_to(made)
        to.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            data = path.read_bytes()
            if path.name == "clusters.csv":
                data = data.replace(os.fsencode(made), os.fsencode(tmp_path))
            to.write_bytes(data)
    paths = [row["path"] for row in rows_of(tmp_path / "r" / "clusters.csv")]
    assert len(paths) == 8 and all(map(os.path.isfile, paths))
    return tmp_path / "r", paths


def names_in(folder):
    return sorted(path.name for path in folder.rglob("*.png"))


@pytest.mark.parametrize("how", ["copy", "move"])
def test_sort_leaves_out_what_cannot_be_sorted(result, tmp_path, capfd, how):
    folder, paths = result
    gone, link, *rest = paths
    os.unlink(gone)
    elsewhere = tmp_path / "elsewhere.png"
    os.rename(link, elsewhere)
    os.symlink(elsewhere, link)
    dest = tmp_path / "sorted"
    argv = ["sort", str(folder), f"--{how}", str(dest)]
    n_bad = 2 if how == "move" else 1
    assert main([*argv, "--strict"]) == 1
    assert f"{n_bad} of 8 images cannot be sorted, and none" in capfd.readouterr().err
    assert not dest.exists()
    assert main(argv) == 0
    err = capfd.readouterr().err
    verb = "are" if n_bad == 2 else "is"
    assert f"{n_bad} of 8 images cannot be sorted, and {verb} left out:" in err
    assert f"{gone!r} does not exist" in err
    assert (f"{link!r} is a link" in err) is (how == "move")
    kept = rest if how == "move" else [link, *rest]
    assert names_in(dest) == sorted(map(os.path.basename, kept))
    assert elsewhere.exists() and os.path.islink(link)
    # the same again: those that were moved are not taken for lost ones
    assert main(argv) == 0
    assert f"{n_bad} of 8 images cannot be sorted" in capfd.readouterr().err
    assert len(names_in(dest)) == len(kept)


def test_sort_of_nothing(result, tmp_path, capfd):
    folder, paths = result
    sort_into_folders(paths, [0] * 8, tmp_path / "other", "move")
    assert main(["sort", str(folder), "--copy", str(tmp_path / "sorted")]) == 1
    assert "Not one of 8 images can be sorted:" in capfd.readouterr().err


def test_a_report_without_images_that_are_gone(result, tmp_path, capfd):
    folder, paths = result
    os.rename(paths[0], tmp_path / "away.png")
    assert main(["report", str(folder), "-q"]) == 0
    err = capfd.readouterr().err
    assert "1 of 8 images are not where they were, and are left out" in err
    assert f"{paths[0]!r} is no file" in err and "skdeepcluster undo DEST" in err
    assert "<dt>Images</dt><dd>7</dd>" in (folder / "report.html").read_text()
    assert len(rows_of(folder / "clusters.csv")) == 8
    os.rename(tmp_path / "away.png", paths[0])
    dest = tmp_path / "my sorted"
    assert main(["sort", str(folder), "--move", str(dest)]) == 0
    undo = f"skdeepcluster undo {shlex.quote(str(dest))}"
    assert f"To undo it: {undo}\n" in capfd.readouterr().err
    before = (folder / "report.html").read_bytes()
    assert main(["report", str(folder)]) == 1
    err = capfd.readouterr().err
    assert "8 of 8 images are not where they were" in err and undo in err
    assert (folder / "report.html").read_bytes() == before
    assert main(shlex.split(undo)[1:]) == 0
    assert main(["report", str(folder), "-q"]) == 0
    assert json.loads((folder / "run.json").read_text())["state"] == "finished"


def test_help_of_sort(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit):
        main(["sort", "--help"])
    text = capsys.readouterr().out
    move = "move the images into folder DEST; skdeepcluster undo DEST moves them back\n"
    assert move in text


def test_auto_is_named_for_a_number_that_is_none(capsys):
    with pytest.raises(SystemExit):
        main(["cluster", "x", "-k", "ten", "-o", "r"])
    assert "'ten' is no whole number from 1 on, nor auto" in capsys.readouterr().err


def test_images_that_were_moved_can_be_moved_back(result, tmp_path, capfd):
    folder, paths = result
    dest = str(tmp_path / "X" / "moved")
    assert main(["sort", str(folder), "--move", dest, "-q"]) == 0
    undo = f"skdeepcluster undo {dest}\n"
    back = f"skdeepcluster sort moved them. To put them back: {undo}"
    for argv in (["sort", "--copy", str(tmp_path / "c")], ["report"]):
        for strict in ([], ["--strict"]) if argv[0] == "sort" else ([],):
            assert main([argv[0], str(folder), *argv[1:], *strict]) == 1
            assert back in capfd.readouterr().err
    assert main(shlex.split(undo)[1:]) == 0
    os.unlink(paths[0])  # by somebody else
    assert main(["sort", str(folder), "--copy", str(tmp_path / "c")]) == 0
    err = capfd.readouterr().err
    assert "1 of 8 images cannot be sorted, and is left out:" in err
    assert f"If skdeepcluster sort moved them, {undo.strip()} puts them back." in err


def test_a_result_that_cannot_be_written(result, monkeypatch, capfd):
    folder, _ = result

    def refuse(prefix, dir):
        raise PermissionError(
            errno.EACCES, os.strerror(errno.EACCES), f"{dir}/{prefix}"
        )

    monkeypatch.setattr("skdeepcluster.cli.results.tempfile.mkdtemp", refuse)
    assert main(["report", str(folder)]) == 1
    err = capfd.readouterr().err
    said = (
        f"error: Nothing can be written in RESULT {str(folder)!r} (Permission denied)."
    )
    assert said in err and ".writing" not in err


def test_predict_lists_all_that_cannot_be_read(result, tmp_path, capfd):
    folder, paths = result
    out, listing = tmp_path / "new.csv", tmp_path / "new.unreadable.csv"
    bad = [str(tmp_path / f"{i:02}.jpg") for i in range(12)]
    for path in bad:
        open(path, "w").close()
    argv = ["predict", str(folder), paths[0], *bad]
    assert main(argv) == 0
    err = capfd.readouterr().err
    assert all(repr(path) in err for path in bad)
    assert main([*argv, "-o", str(out)]) == 0
    err = capfd.readouterr().err
    assert f"12 of 13 image files cannot be read, and are left out ({listing} li" in err
    assert [row["path"] for row in rows_of(listing)] == bad
    assert len(rows_of(out)) == 1
    out.unlink()
    assert main([*argv, "-o", str(out)]) == 1
    assert f"{str(listing)!r}, which is to list what can" in capfd.readouterr().err
    assert not out.exists()
    again = ["predict", str(folder), paths[0], "-o", str(out), "--overwrite", "-q"]
    assert main(again) == 0
    assert out.exists() and not listing.exists()
    listing.write_text("mine")
    assert main(again) == 1
    assert "Pass another name as --out.\n" in capfd.readouterr().err
    assert listing.read_text() == "mine"


@pytest.mark.parametrize("name", ["my sorted", "X/moved", "n_clusters=5/X-ray"])
def test_another_way_into_one_folder(result, tmp_path, capfd, name):
    dest = str(tmp_path / name)
    assert main(["sort", str(result[0]), "--copy", dest]) == 0
    capfd.readouterr()
    assert main(["sort", str(result[0]), "--link", dest]) == 1
    err = capfd.readouterr().err
    assert "holds what sort --copy wrote" in err
    assert f"skdeepcluster undo {shlex.quote(dest)}\n" in err
