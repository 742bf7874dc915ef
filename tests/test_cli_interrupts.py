"""Ctrl-C and SIGTERM at each stage of the command line: what stays, and exit codes."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from folders import make_photos
from test_cli import FILES, QUICK, rows_of

import skdeepcluster
from skdeepcluster.callbacks import TrainingBar
from skdeepcluster.cli import clustering, learning, main


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos") / "photos"
    make_photos(folder, n=12, odd=False)
    return folder


@pytest.fixture(autouse=True)
def defaults():
    """Handle signals as a fresh process does, whatever runs the tests."""
    wanted = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, how) for number, how in wanted.items()}
    yield
    for number, how in before.items():
        signal.signal(number, how)


@pytest.fixture
def run(photos, tmp_path, capfd):
    """Call of the command line: exit code, RESULT, and the end of what was said."""
    out = tmp_path / "result"

    def call(*argv):
        code = main(["cluster", str(photos), "-k2", "-o", str(out), *QUICK, *argv])
        return code, out, capfd.readouterr().err.splitlines()[-1]

    return call


def signals(monkeypatch, number, at):
    """Send this process a signal at the end of an epoch."""

    def send(self, net, **kwargs):
        if net.history[-1]["epoch"] == at:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(TrainingBar, "on_epoch_end", send)


def interrupts(times=1):
    """A function that is interrupted the first times, and what it is otherwise."""
    calls = []

    def wrap(function):
        def call(*args, **kwargs):
            calls.append(args)
            if len(calls) <= times:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return call

    return wrap


@pytest.mark.parametrize(
    "number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_signal_in_training_keeps_what_was_learnt(run, monkeypatch, number, code):
    signals(monkeypatch, number, 3)
    ended, out, _ = run("--epochs", "50", "-v", "--map", "tsne")
    assert ended == code
    assert {p.name for p in out.iterdir()} == FILES
    described = json.loads((out / "run.json").read_text())
    assert described["state"] == "interrupted"
    assert "The training was interrupted after epoch 3." in described["warnings"]
    model = skdeepcluster.load(out / "model.safetensors", device="cpu")
    assert model.n_iter_ == 3
    assert len(rows_of(out / "clusters.csv")) == 12


def test_a_second_one_ends_at_once(run, monkeypatch):
    signals(monkeypatch, signal.SIGINT, 1)
    monkeypatch.setattr(clustering, "make_map", interrupts(1)(clustering.make_map))
    code, out, said = run("-v")
    assert (code, said) == (130, "skdeepcluster: Interrupted.")
    assert not out.exists()


def test_nothing_is_learnt_before_the_first_epoch(run, monkeypatch):
    monkeypatch.setattr(
        TrainingBar,
        "on_train_begin",
        lambda self, net, **kwargs: os.kill(os.getpid(), signal.SIGINT),
    )
    code, out, said = run("-v")
    assert code == 130 and not out.exists()
    assert "interrupted before its first epoch was done" in said


def test_in_encoding(run, monkeypatch, tmp_path):
    from skdeepcluster import ImageEncoder

    runs = ImageEncoder._run
    calls = []

    def interrupted(self, x):
        calls.append(len(x))
        if len(calls) == 3:  # the first one tries the network
            raise KeyboardInterrupt
        return runs(self, x)

    monkeypatch.setattr(ImageEncoder, "_run", interrupted)
    monkeypatch.setattr(learning, "BATCH", 4)
    cache = tmp_path / "cache"
    code, out, said = run("--cache", str(cache))
    assert code == 130 and not out.exists()
    assert said == (
        "skdeepcluster: Interrupted while images were encoded: nothing is written; "
        "those that were encoded are in the cache."
    )
    code, out, _ = run("--cache", str(cache))
    assert code == 0
    assert calls[3:] == [2, 4, 4]  # four of twelve were in the cache


def test_in_the_map_the_quick_one_is_made(run, monkeypatch):
    monkeypatch.setattr(clustering, "make_map", interrupts(1)(clustering.make_map))
    code, out, _ = run("--map", "tsne")
    assert code == 130
    assert {p.name for p in out.iterdir()} == FILES
    rows = rows_of(out / "clusters.csv")
    found = np.array([[float(row["x"]), float(row["y"])] for row in rows])
    embedding = np.load(out / "embedding.npy")
    expected = clustering.make_map(embedding, "pca", 0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_in_the_report_all_else_is_there(run, monkeypatch):
    monkeypatch.setattr("skdeepcluster.report.write_report", interrupts()(None))
    code, out, said = run()
    assert code == 130
    assert {p.name for p in out.iterdir()} == FILES - {"report.html"}
    assert said.endswith(f"skdeepcluster report {out}")


def test_a_signal_to_a_process(photos, tmp_path):
    out = tmp_path / "result"
    argv = ["cluster", str(photos), "-k2", "-o", str(out), "-v", *QUICK]
    argv += ["--pretrained", "none", "--size", "8", "--epochs", "5000"]
    code = "import sys, skdeepcluster.callbacks as c; c.TrainingBar.interval = 0\n"
    code += f"from skdeepcluster.cli import main; sys.exit(main({argv!r}))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            if ", epoch 5/" in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
        assert process.wait(60) == 130
    assert "Traceback" not in rest
    assert json.loads((out / "run.json").read_text())["state"] == "interrupted"
    assert {p.name for p in out.iterdir()} == FILES
