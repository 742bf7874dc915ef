"""The command line: what each command writes, on a small folder with odd files."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from estimators import ESTIMATORS
from folders import (
    KINDS,
    ODD,
    UNREADABLE,
    make_photos,
    make_undecodable,
    plain,
)

import skdeepcluster
from skdeepcluster import ImageEncoder
from skdeepcluster.cli import main
from skdeepcluster.cli.arguments import METHODS, make_parser

# random weights, the same each time, of a network that is quick on small images
ENCODER = "--pretrained mobilenet_v3_small --weights none --size 32".split()
QUICK = [*ENCODER, "--epochs", "2", "--map", "pca", "--device", "cpu"]
FILES = {"clusters.csv", "clusters.parquet", "embedding.npy", "model.safetensors"}
FILES |= {"report.html", "run.json"}


def rows_of(path, **kwargs):
    kwargs = {"encoding": "utf-8", "errors": "surrogateescape", **kwargs}
    with open(path, newline="", **kwargs) as file:
        return list(csv.DictReader(file))


def assert_same(found, rows):
    """Two tables are one, but for how sums of float32 are rounded."""
    for name in ("path", "cluster"):
        assert [row[name] for row in found] == [row[name] for row in rows]
    for name in ("confidence", "x", "y"):
        both = [[float(row[name]) for row in table] for table in (found, rows)]
        np.testing.assert_allclose(*both, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos") / "photos"
    return folder, make_photos(folder)


@pytest.fixture(scope="module")
def result(photos, tmp_path_factory):
    """The folder that a run wrote."""
    folder, _ = photos
    out = tmp_path_factory.mktemp("results") / "result"
    assert main(["cluster", str(folder), "-k", "3", "-o", str(out), *QUICK]) == 0
    return out


# -- start -----------------------------------------------------------------------------


def test_help_and_version_come_without_torch():
    code = """if True:
        import sys, time
        from skdeepcluster.cli import main
        for argv in (["--version"], ["--help"], ["cluster", "--help"]):
            try:
                main(argv)
            except SystemExit as end:
                assert end.code == 0
        print(sorted({"torch", "numpy", "sklearn", "PIL"} & set(sys.modules)))
    """
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    lines = run.stdout.splitlines()
    assert lines[0] == skdeepcluster.__version__
    assert lines[-1] == "[]"
    assert "exit codes:" in run.stdout and "--n-clusters" in run.stdout


def test_the_module_runs_and_the_entry_point_is_the_same_function():
    run = subprocess.run(
        [sys.executable, "-m", "skdeepcluster", "cluster"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert "the following arguments are required" in run.stderr
    import tomllib

    root = Path(skdeepcluster.__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"skdeepcluster": f"{main.__module__[:17]}:main"}


def test_who_reads_the_output_may_stop():
    code = """if True:
        import sys, types
        from skdeepcluster.cli import main
        commands = types.ModuleType("skdeepcluster.cli.commands")
        commands.undo = lambda args: print("x" * 10**6)
        sys.modules[commands.__name__] = commands
        sys.exit(main(["undo", "folder"]))
    """
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["cluster", "x", "-k", "0", "-o", "r"],
        ["cluster", "x", "-k", "three", "-o", "r"],
        ["cluster", "x", "-k", "3"],
        ["cluster", "x", "-k", "3", "-o", "r", "--range", "2-5"],
        ["cluster", "x", "-k", "auto", "-o", "r", "--range", "5-2"],
        ["cluster", "x", "-k", "3", "-o", "r", "--seed", "-1"],
        ["cluster", "x", "-k", "3", "-o", "r", "--method", "kmeans"],
        ["cluster", "x", "-k", "3", "-o", "r", "-q", "-v"],
        ["sort", "r"],
        ["sort", "r", "--copy", "a", "--move", "b"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(argv, capsys):
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    assert "usage: skdeepcluster" in capsys.readouterr().err


def test_every_method_can_be_asked_for():
    assert sorted(METHODS.values()) == sorted(type(e).__name__ for e in ESTIMATORS)
    assert list(METHODS) == [name.lower() for name in METHODS.values()]


def test_the_guide_names_each_option():
    page = (Path(__file__).parents[1] / "doc" / "command_line.rst").read_text()
    (commands,) = make_parser()._subparsers._group_actions
    for name, parser in commands.choices.items():
        assert f"skdeepcluster {name}" in page
        for action in parser._actions:
            for option in action.option_strings[-1:]:
                assert option in page or option == "--help"


# -- cluster ---------------------------------------------------------------------------


def test_a_run_writes_its_files(photos, result):
    folder, readable = photos
    assert {p.name for p in result.iterdir()} == {*FILES, "unreadable.csv"}
    rows = rows_of(result / "clusters.csv")
    assert list(rows[0]) == ["path", "cluster", "confidence", "x", "y"]
    assert [row["path"] for row in rows] == list(map(str, readable))
    assert {Path(row["path"]).name for row in rows} >= set(ODD)
    assert {int(row["cluster"]) for row in rows} <= set(range(KINDS))
    assert all(1 / KINDS < float(row["confidence"]) <= 1 for row in rows)
    bad = rows_of(result / "unreadable.csv")
    assert [Path(row["path"]).name for row in bad] == UNREADABLE
    assert "is not an image that Pillow can read" in bad[0]["reason"]


def test_parquet_holds_the_table_of_the_csv(result):
    table = pl.read_parquet(result / "clusters.parquet")
    assert dict(table.schema) == {
        "path": pl.String,
        "cluster": pl.Int64,
        "confidence": pl.Float32,
        "x": pl.Float32,
        "y": pl.Float32,
    }
    rows = rows_of(result / "clusters.csv")
    for name, parse in (("path", str), ("cluster", int), ("x", np.float32)):
        assert table[name].to_list() == [parse(row[name]) for row in rows]


def test_the_run_is_described(photos, result):
    run = json.loads((result / "run.json").read_text())
    assert run["state"] == "finished" and run["title"] == "photos"
    assert run["folders"] == [str(photos[0])]
    assert run["settings"]["seed"] == 0 and run["settings"]["epochs"] == 2
    counts = run["counts"]
    assert (counts["images"], counts["unreadable"]) == (18 + 8 + 3, 3)
    assert sum(counts["sizes"]) == counts["clustered"] == 18 + 8
    assert {"Images", "Features", "Training", "Map", "Report"} <= set(run["seconds"])
    assert run["versions"]["skdeepcluster"] == skdeepcluster.__version__
    assert any("3 of 29 image files" in text for text in run["warnings"])
    assert set(run["files"]) | {"run.json"} == {p.name for p in result.iterdir()}


def test_model_and_embedding_are_those_of_the_table(result):
    rows = rows_of(result / "clusters.csv")
    model = skdeepcluster.load(result / "model.safetensors", device="cpu")
    encoder = ImageEncoder(
        "mobilenet_v3_small", weights=None, image_size=32, device="cpu"
    )
    X = encoder.fit_transform([row["path"] for row in rows])
    assert model.predict(X).tolist() == [int(row["cluster"]) for row in rows]
    np.testing.assert_allclose(
        np.load(result / "embedding.npy"), model.transform(X), atol=1e-6
    )


def test_a_run_says_what_it_does(photos, tmp_path, capfd):
    folder, _ = photos
    argv = ["cluster", str(folder / "sub"), "-k", "2", "-o", str(tmp_path / "r")]
    assert main([*argv, *QUICK, "--cache", str(tmp_path / "cache")]) == 0
    out, err = capfd.readouterr()
    stages = [line.partition(":")[0] for line in err.splitlines()]
    assert stages == ["Images", "Features", "Training", "Map", "Tables", "Report"]
    sizes = json.loads((tmp_path / "r/run.json").read_text())["counts"]["sizes"]
    lines = out.splitlines()
    assert lines[0].startswith(f"cluster 0: {sizes[0]} images, mean confidence ")
    assert lines[-1] == str(tmp_path / "r" / "report.html")
    assert not (tmp_path / "r" / "unreadable.csv").exists()
    again = [*argv, *QUICK, "--overwrite", "-q", "--cache", str(tmp_path / "cache")]
    before = (tmp_path / "r" / "clusters.csv").read_bytes()
    assert main(again) == 0
    assert capfd.readouterr().err == ""  # quiet
    assert (tmp_path / "r" / "clusters.csv").read_bytes() == before  # one seed


def test_several_folders_and_files_each_image_once(photos, tmp_path):
    folder, readable = photos
    places = [folder / "sub", folder / "sub", folder / "0.png", folder / "2.png"]
    out = tmp_path / "r"
    assert main(["cluster", *map(str, places), "-k2", "-o", str(out), *QUICK]) == 0
    paths = [row["path"] for row in rows_of(out / "clusters.csv")]
    expected = [*(p for p in readable if p.parent.name == "sub"), *places[2:]]
    assert paths == list(map(str, expected))


@pytest.mark.parametrize("grey", [True, False])
def test_from_scratch(photos, tmp_path, grey):
    from PIL import Image

    folder, readable = photos
    out = tmp_path / "r"
    if grey:
        folder = tmp_path / "grey"
        folder.mkdir()
        for i, path in enumerate(readable[:12]):
            Image.open(path).convert("L").save(folder / f"{i}.png")
    argv = ["cluster", str(folder), "-k", "3", "-o", str(out), "--pretrained", "none"]
    argv += ["--size", "8", "--method", "digpro", "--batch-size", "16"]
    assert main([*argv, *QUICK[len(ENCODER) :]]) == 0
    model = skdeepcluster.load(out / "model.safetensors", device="cpu")
    assert type(model).__name__ == "DigPro" and model.batch_size == 16
    assert model.image_shape_ == (1 if grey else 3, 8, 8)
    rows = rows_of(out / "clusters.csv")
    labels = model.predict([row["path"] for row in rows])
    assert labels.tolist() == [int(row["cluster"]) for row in rows]
    assert (out / "unreadable.csv").exists() is not grey
    new = tmp_path / "p.csv"
    assert main(["predict", str(out), str(folder), "-o", str(new), "-q"]) == 0
    assert_same(rows_of(new), rows)


# -- predict ---------------------------------------------------------------------------


def test_predict_finds_the_training_images_where_they_were(photos, result, capfdbinary):
    assert main(["predict", str(result), str(photos[0])]) == 0
    out, err = capfdbinary.readouterr()
    text = out.decode("utf-8", "surrogateescape")
    found = list(csv.DictReader(io.StringIO(text, newline="")))
    assert_same(found, rows_of(result / "clusters.csv"))
    assert b"3 of 29 image files cannot be read, and are left out:" in err


def test_predict_writes_parquet(photos, result, tmp_path, capfd):
    out = tmp_path / "new.parquet"
    argv = ["predict", str(result), str(photos[0] / "sub"), "-o", str(out)]
    assert main(argv) == 0
    table = pl.read_parquet(out)
    known = {row["path"]: row for row in rows_of(result / "clusters.csv")}
    assert len(table) == 9
    for path, cluster in table["path", "cluster"].iter_rows():
        assert int(known[path]["cluster"]) == cluster
    assert main(argv) == 1
    assert "is there already. Pass another name, or --overwrite." in _error(capfd)
    assert main([*argv, "--overwrite"]) == 0


def test_other_weights_are_refused(photos, result, tmp_path, capfd):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in result.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    run = json.loads((copy / "run.json").read_text())
    run["encoder"]["weights_digest"] = "0" * 64
    (copy / "run.json").write_text(json.dumps(run))
    assert main(["predict", str(copy), str(photos[0] / "sub"), "-q"]) == 1
    assert "are others than those that the clusters were found with" in _error(capfd)


def test_new_images_are_scaled_as_those_of_the_run(tmp_path):
    """A folder of 16 bits has a range, which new ones of 8 bits do not change."""
    from PIL import Image

    from skdeepcluster.pretrained.kept import facts_of, rebuilt

    rng = np.random.default_rng(0)
    deep = rng.integers(1000, 5000, (4, 16, 16)).astype(np.uint16)
    paths = [str(tmp_path / f"{i}.png") for i in range(4)]
    for path, pixels in zip(paths, deep, strict=True):
        Image.fromarray(pixels).save(path)
    encoder = ImageEncoder(
        "mobilenet_v3_small", weights=None, image_size=32, on_error="skip"
    )
    expected = encoder.fit_transform(paths)
    facts = json.loads(json.dumps(facts_of(encoder)))
    again = rebuilt(facts, device="cpu")
    np.testing.assert_allclose(again.transform(paths), expected, atol=1e-5)
    np.testing.assert_allclose(again.transform(paths[:1]), expected[:1], atol=1e-5)
    with pytest.raises(skdeepcluster.FileError, match="damaged"):
        rebuilt({**facts, "scaling": {}})


# -- report, sort, undo ----------------------------------------------------------------


def test_the_report_is_written_again(result, tmp_path, monkeypatch, capfd):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    page = result / "report.html"
    before = page.read_text()
    page.unlink()
    assert main(["report", str(result), "--open", "--title", "Bright & <red>"]) == 0
    assert capfd.readouterr().out.strip() == str(page)
    assert opened == [page.resolve().as_uri()]
    assert "Bright &amp; &lt;red&gt;" in page.read_text()
    assert main(["report", str(result), "--title", "photos"]) == 0
    assert page.read_text() == before


def test_sort_and_undo(tmp_path):
    folder, out, dest = tmp_path / "photos", tmp_path / "r", tmp_path / "sorted"
    make_photos(folder, n=12, odd=False)
    assert main(["cluster", str(folder), "-k2", "-o", str(out), *QUICK, "-q"]) == 0
    before = {p: p.read_bytes() for p in folder.rglob("*.png")}
    rows = rows_of(out / "clusters.csv")
    for how in ("copy", "link", "symlink", "move"):
        assert main(["sort", str(out), f"--{how}", str(dest), "-q"]) == 0
        for k in range(2):
            members = [Path(r["path"]).name for r in rows if int(r["cluster"]) == k]
            found = [p.name for p in dest.rglob("*.png") if int(p.parent.name) == k]
            assert sorted(found) == sorted(members)
        stay = {p for p in before if p.exists()}
        assert stay == (set() if how == "move" else {*before})
        assert main(["undo", str(dest), "-q"]) == 0
        assert {p: p.read_bytes() for p in folder.rglob("*.png")} == before
        assert not list(dest.rglob("*.png"))


# -- names -----------------------------------------------------------------------------


def test_the_number_of_clusters_is_looked_for(photos, tmp_path, capfd):
    out = tmp_path / "r"
    argv = ["cluster", str(photos[0]), "-k", "auto", "--range", "2-5", "-o", str(out)]
    assert main([*argv, *QUICK]) == 0
    said, err = capfd.readouterr()
    plain(err)
    run = json.loads((out / "run.json").read_text())
    search = run["search"]
    assert search["results"]["n_clusters"] == [2, 3, 4, 5]
    assert search["n_clusters"] in search["candidates"]
    assert run["n_clusters"] == search["n_clusters"] == len(run["counts"]["sizes"])
    sure = f"{search['n_clusters']}, chosen with {search['confidence']} confidence. "
    assert sure + search["reason"] in said and "are empty" not in err
    page = (out / "report.html").read_text()
    assert f"<p>Number of clusters: {sure}" in page
    assert str(photos[0].parent) not in page  # it may be sent
    bad = [Path(row["path"]) for row in rows_of(out / "unreadable.csv")]
    names = ", ".join(path.relative_to(photos[0]).as_posix() for path in bad)
    assert (
        f"3 of 29 image files cannot be read, and are left out: {names}.</li>" in page
    )
    model = skdeepcluster.load(out / "model.safetensors", device="cpu")
    assert model.n_clusters == run["n_clusters"]


def test_names_that_are_no_text(tmp_path, capfd):
    folder, out = tmp_path / "photos", tmp_path / "r"
    make_photos(folder, n=10, odd=False)
    path = make_undecodable(folder)
    if path is None:
        pytest.skip("names of this file system are Unicode")
    assert main(["cluster", str(folder), "-k", "2", "-o", str(out), *QUICK]) == 0
    assert os.fsencode(path) in (out / "clusters.csv").read_bytes()
    assert path in [row["path"] for row in rows_of(out / "clusters.csv")]
    shown = path.replace("\udcef", "\\xef")
    assert shown in pl.read_parquet(out / "clusters.parquet")["path"].to_list()
    assert "Names of files that are no UTF-8: 1." in capfd.readouterr().err
    assert main(["report", str(out)]) == 0


def _error(capfd):
    err = capfd.readouterr().err
    assert "Traceback" not in err
    (line,) = [x for x in err.splitlines() if x.startswith("skdeepcluster: error: ")]
    return plain(line)
