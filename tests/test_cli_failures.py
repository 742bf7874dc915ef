"""What the command line refuses: one sentence, and nothing is half written."""

import errno
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from folders import UNREADABLE, make_photos, plain
from test_cli import FILES, QUICK, rows_of

from skdeepcluster.cli import main
from skdeepcluster.cli.maps import MAPPED, make_map, place
from skdeepcluster.cli.results import Result

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos") / "photos"
    make_photos(folder, n=10, odd=False)
    for name in UNREADABLE:
        (folder / "sub" / name).write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """What the files of a run hold."""
    out = tmp_path_factory.mktemp("whole") / "result"
    assert main(["cluster", str(photos), "-k2", "-o", str(out), *QUICK, "-q"]) == 0
    return content(out)


@pytest.fixture
def result(whole, tmp_path):
    """A folder as a run wrote it."""
    out = tmp_path / "result"
    out.mkdir()
    for name, data in whole.items():
        (out / name).write_bytes(data)
    return out


@pytest.fixture
def fails(capfd):
    """Call of the command line that fails: returns its one line about that."""

    def call(*argv, code=1):
        capfd.readouterr()
        assert main([str(a) for a in argv]) == code
        out, err = capfd.readouterr()
        assert out == "" and "Traceback" not in err
        found = [x for x in err.splitlines() if x.startswith("skdeepcluster: ")]
        assert len(found) == 1
        assert "Errno" not in found[0]
        return plain(err[err.index("skdeepcluster: ") :])

    return call


def content(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


# -- refused before the work -----------------------------------------------------------


def a_missing_folder(tmp_path, photos):
    return [tmp_path / "nothing"], "There is no file or folder"


def an_empty_folder(tmp_path, photos):
    (tmp_path / "empty").mkdir()
    return [tmp_path / "empty"], "No images in"


def other_files(tmp_path, photos):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    return [tmp_path / "texts"], "1 x .txt"


def one_of_two_missing(tmp_path, photos):
    return [photos, tmp_path / "nothing"], "There is no file or folder"


def broken_files_alone(tmp_path, photos):
    paths = [photos / "sub" / name for name in UNREADABLE]
    return paths, "Not one of 3 image files can be read:"


def broken_files_alone_from_scratch(tmp_path, photos):
    paths = [photos / "sub" / name for name in UNREADABLE]
    return [*paths, "--pretrained", "none"], "Not one of 3 image files can be read:"


def too_few_images(tmp_path, photos):
    return [
        photos / "sub",
        "-k",
        "9",
    ], "8 images cannot be put into 9 clusters."


SEARCH = "8 images cannot tell how well 5 clusters fit: 10 are needed. Pass more "
SEARCH += "images, or --range 2-4."


def too_few_images_to_search(tmp_path, photos):
    own = [photos / "sub", "-k", "auto", "--range", "2-5"]
    return own, SEARCH


def too_few_readable_images(tmp_path, photos):
    return [photos / "sub", "-k", "6"], "5 images should be >= --n-clusters 6"


def strict(tmp_path, photos):
    return [photos, "--strict"], "3 of 13 image files cannot be read:"


def an_unknown_network(tmp_path, photos):
    return [photos, "--pretrained", "resnet51"], "There is no model 'resnet51'"


def missing_weights(tmp_path, photos):
    return [photos, "--weights", tmp_path / "w.pt"], "w.pt"


def an_unknown_device(tmp_path, photos):
    return [photos, "--device", "gpu"], "gpu"


def a_cache_that_is_a_file(tmp_path, photos):
    (tmp_path / "cache").write_text("")
    return [photos, "--cache", tmp_path / "cache"], "is no folder"


REFUSED = [a_missing_folder, an_empty_folder, other_files, one_of_two_missing]
REFUSED += [broken_files_alone, broken_files_alone_from_scratch, too_few_images]
REFUSED += [too_few_readable_images, strict, an_unknown_network, missing_weights]
REFUSED += [too_few_images_to_search]
REFUSED += [an_unknown_device, a_cache_that_is_a_file]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.__name__)
def test_cluster_refuses(case, photos, tmp_path, fails):
    own, expected = case(tmp_path, photos)
    out = tmp_path / "result"
    assert expected in fails("cluster", "-k2", "-o", out, *QUICK, *own)
    assert not out.exists()  # it was made, and is gone


def test_a_result_that_is_not_empty(photos, result, tmp_path, fails):
    before = content(result)
    said = fails("cluster", photos, "-k2", "-o", result, *QUICK)
    assert "is not empty" in said and "--overwrite" in said
    assert content(result) == before
    a_file = tmp_path / "file"
    a_file.write_text("")
    assert "is no folder" in fails("cluster", photos, "-k2", "-o", a_file, *QUICK)


def test_overwrite_replaces_what_a_run_wrote_and_nothing_else(
    photos, result, tmp_path, fails
):
    (result / "notes.txt").write_text("mine")
    again = ["cluster", photos / "0.png", photos / "2.png", "-k2", "-o", result]
    assert main([*map(str, again), *QUICK, "-q", "--overwrite"]) == 0
    assert len(rows_of(result / "clusters.csv")) == 2
    # every image could be read: the list of the earlier run is gone
    assert {p.name for p in result.iterdir()} == {*FILES, "notes.txt"}
    (result / "unreadable.csv").write_text("mine, too")
    before = content(result)
    said = fails("cluster", photos, "-k2", "-o", result, *QUICK, "--overwrite")
    assert "holds 'unreadable.csv', which no run wrote there" in said
    assert content(result) == before
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "run.json").write_text("{}")
    said = fails("cluster", photos, "-k2", "-o", foreign, *QUICK, "--overwrite")
    assert "is no description of a run" in said


def test_a_folder_that_cannot_be_written(photos, tmp_path, monkeypatch, fails):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "x")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    out = tmp_path / "result"
    out.mkdir()
    said = fails("cluster", photos, "-k2", "-o", out, *QUICK)
    assert "Nothing can be written in --out=" in said and "Permission denied" in said


@pytest.mark.parametrize("strict", [True, False])
def test_folders_that_cannot_be_read(photos, tmp_path, monkeypatch, capfd, strict):
    from skdeepcluster.cli import images

    load, locked = images.load_image_folder, str(photos / "locked")

    def locks(path, extensions=None, on_error="raise"):
        if on_error == "raise":
            raise OSError(f"1 folder cannot be read: {locked}")
        found = load(path, on_error="skip")
        found.skipped.append((locked, "Permission denied"))
        return found

    monkeypatch.setattr(images, "load_image_folder", locks)
    out = tmp_path / "result"
    argv = ["cluster", str(photos), "-k2", "-o", str(out), *QUICK]
    if strict:
        assert main([*argv, "--strict"]) == 1
        assert "1 folder cannot be read" in capfd.readouterr().err
    else:
        assert main(argv) == 0
        assert len(rows_of(out / "clusters.csv")) == 10
        bad = [row["path"] for row in rows_of(out / "unreadable.csv")]
        assert len(bad) == 4 and locked in bad


# -- what a command finds in RESULT ----------------------------------------------------


def no_run(result):
    (result / "run.json").unlink()
    return "holds no run.json"


def no_folder(result):
    result.rename(result.with_name("moved"))
    return "is no folder"


def damaged_run(result):
    path = result / "run.json"
    path.write_bytes(path.read_bytes()[:-40])
    return "is no description of a run"


def newer_run(result):
    run = json.loads((result / "run.json").read_text())
    (result / "run.json").write_text(json.dumps({**run, "format": 2}))
    return "which reads format 1. Install"


def unfinished_run(result):
    run = json.loads((result / "run.json").read_text())
    (result / "run.json").write_text(json.dumps({**run, "state": "writing"}))
    return "was killed before its files were complete"


def damaged_table(result):
    (result / "clusters.csv").write_text("path,cluster\na,1\n")
    return "is not the table that was written"


def cut_table(result):
    path = result / "clusters.csv"
    path.write_bytes(path.read_bytes()[:-12])
    return "is not the table that was written"


def damaged_embedding(result):
    (result / "embedding.npy").write_bytes(b"\x93NUMPY")
    return "is damaged"


def damaged_model(result):
    path = result / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    return "is damaged"


DAMAGE = [no_run, no_folder, damaged_run, newer_run, unfinished_run, damaged_table]
DAMAGE += [cut_table, damaged_embedding, damaged_model]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_result(damage, result, photos, tmp_path, fails):
    expected = damage(result)
    assert expected in fails("predict", result, photos / "0.png")
    assert expected in fails("report", result)
    if "table" in damage.__name__ or "run" in damage.__name__:
        dest = tmp_path / "sorted"
        assert expected in fails("sort", result, "--copy", dest)
        assert not dest.exists()


def test_tables_of_new_images(photos, result, tmp_path, fails):
    said = fails("predict", result, photos, "-o", tmp_path / "new.txt")
    assert "should end in .csv or .parquet" in said
    said = fails("predict", result, photos, "-o", tmp_path / "none" / "new.csv")
    assert "there is no folder" in said
    said = fails("predict", result, photos / "sub" / UNREADABLE[0])
    assert "The image file cannot be read:" in said
    assert "3 of 13 image files" in fails("predict", result, photos, "--strict")


# -- while files are written -----------------------------------------------------------


def test_a_full_disk_leaves_what_was_there(photos, result, monkeypatch, fails):
    before, new = content(result), result.with_name("new")
    argv = ["cluster", photos / "0.png", photos / "2.png", "-k2", *QUICK, "-o"]
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", _raises(FULL))
        assert "No space left on device" in fails(*argv, result, "--overwrite")
        assert content(result) == before
        fails(*argv, new)
        assert not new.exists()
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(OSError):
            patch.setattr(os, name, _raises(FULL))
            again = Result.create(result, overwrite=True)
            with again.writing({**again.run}) as staging:
                (staging / "clusters.csv").write_bytes(b"new")
        assert content(result) == before


def test_a_kill_between_two_files_is_noticed(photos, result, monkeypatch, fails):
    replace, names = os.replace, []

    def dies(source, target):
        names.append(Path(target).name)
        if len(names) == 3:
            raise FULL
        replace(source, target)

    monkeypatch.setattr(os, "replace", dies)
    table, run = (
        Result.open(result).table(),
        json.loads((result / "run.json").read_text()),
    )
    with pytest.raises(OSError), Result.open(result).writing(dict(run)) as staging:
        for name in ("clusters.csv", "embedding.npy"):
            (staging / name).write_bytes(b"new")
    monkeypatch.undo()
    assert names == ["run.json", "clusters.csv", "embedding.npy"]
    assert "was killed before its files" in fails("report", result)
    argv = ["cluster", photos, "-k2", *QUICK, "-o", result, "--overwrite", "-q"]
    assert main(list(map(str, argv))) == 0
    assert Result.open(result).table().paths == table.paths


def test_a_report_that_fails_loses_nothing(photos, tmp_path, monkeypatch, fails):
    out = tmp_path / "result"
    with monkeypatch.context() as patch:
        patch.setattr("skdeepcluster.report.write_report", _raises(FULL))
        said = fails("cluster", photos, "-k2", "-o", out, *QUICK)
    assert "No space left on device" in said
    assert {p.name for p in out.iterdir()} == {*FILES, "unreadable.csv"} - {
        "report.html"
    }
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").exists()


def _raises(error):
    def function(*args, **kwargs):
        raise error

    return function


class NoPolars:
    """A finder of modules, for which one is not installed."""

    def find_spec(self, name, *args):
        if name == "polars":
            raise ModuleNotFoundError("No module named 'polars'", name=name)


def test_parquet_is_optional(photos, tmp_path, monkeypatch, capfd, fails):
    monkeypatch.delitem(sys.modules, "polars", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoPolars(), *sys.meta_path])
    out = tmp_path / "result"
    assert main(["cluster", str(photos), "-k2", "-o", str(out), *QUICK]) == 0
    assert not (out / "clusters.parquet").exists()
    assert "clusters.parquet is left out: Parquet needs" in capfd.readouterr().err
    said = fails("predict", out, photos, "-o", tmp_path / "new.parquet")
    assert 'pip install "skdeepcluster[cli]"' in said


def test_a_fault_of_the_program(photos, tmp_path, monkeypatch, fails):
    from skdeepcluster.cli import commands

    monkeypatch.setattr(commands, "cluster_images", _raises(KeyError("x")))
    said = fails("cluster", photos, "-k2", "-o", tmp_path / "r")
    assert "The program has a fault (KeyError: 'x')" in said
    with pytest.raises(KeyError):
        main(["cluster", str(photos), "-k2", "-o", str(tmp_path / "r"), "--debug"])


# -- maps ------------------------------------------------------------------------------


@pytest.mark.parametrize("n, d", [(2, 1), (3, 5), (4, 1), (5, 5), (40, 2)])
@pytest.mark.parametrize("kind", ["tsne", "pca"])
def test_a_map_of_few_images(n, d, kind):
    embedding = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    positions = make_map(embedding, kind, seed=0)
    assert positions.shape == (n, 2) and positions.dtype == np.float32
    assert np.isfinite(positions).all()


def test_a_map_of_many_images_places_most_by_the_others(monkeypatch):
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 4, MAPPED + 200)
    embedding = 10 * np.eye(4)[kinds] + rng.normal(size=(len(kinds), 4))
    monkeypatch.setattr("skdeepcluster.cli.maps.MAPPED", 120)
    positions = make_map(embedding.astype(np.float32), "tsne", seed=0)
    middles = np.array([positions[kinds == k].mean(0) for k in range(4)])
    nearest = ((positions[:, None] - middles) ** 2).sum(2).argmin(1)
    assert (nearest == kinds).mean() > 0.99
    again = place(embedding[:50], embedding, positions)
    np.testing.assert_allclose(again, positions[:50], atol=1e-2)
