"""A damaged or forged file is one clear error: no code runs, nothing is slow."""

import importlib
import os
import sys
import time

import numpy as np
import pytest
from damaged import damaged_models, put_together, take_apart
from estimators import fitted, make_stripes

from skdeepcluster import FileError, load
from skdeepcluster._storage import pack, read, unpack, write

resource = pytest.importorskip("resource")
X = make_stripes()[0]
NAME = "DigPro"
# what the interpreter reports when code is made or run, or a process or connection
CODE = (
    "compile",
    "exec",
    "import",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.system",
)
CODE += ("pickle.find_class", "socket.connect", "subprocess.Popen", "ctypes.dlopen")
heard = None


def listen(event, args):
    if heard is not None and event in CODE:
        heard.append((event, args))


sys.addaudithook(listen)  # there is no way to remove it


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model.safetensors"
    fitted(NAME).save(path)
    load(path, device="cpu")  # imports what loading needs
    importlib.import_module("torchvision.models")  # and what a forged name asks for
    return path.read_bytes()


@pytest.fixture
def quiet():
    """Fails if code was run inside."""
    global heard
    heard = []
    yield
    events, heard = heard, None
    assert events == []


def peak_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux


def error_of(path):
    """The error of loading a file, and the seconds of the processor that it took."""
    began = time.process_time()
    with pytest.raises(FileError) as caught:
        load(path, device="cpu")
    return str(caught.value), time.process_time() - began


def test_every_damage_is_one_clear_error(whole, tmp_path):
    global heard
    path, before, count = tmp_path / "model.safetensors", peak_memory(), 0
    for name, data in damaged_models(whole):
        count += 1
        path.write_bytes(data)
        heard = []
        try:
            message, seconds = error_of(path)
        except pytest.fail.Exception:
            pytest.fail(f"{name} was loaded")
        finally:
            events, heard = heard, None
        assert events == [], name
        assert seconds < 1, name
        assert str(path) in message and len(message) < 1000, name
    assert count > 250
    if sys.platform == "linux":
        assert peak_memory() - before < 300 * 1024


def test_what_is_no_regular_file(whole, tmp_path, quiet):
    model, link = tmp_path / "model", tmp_path / "link"
    model.write_bytes(whole)
    link.symlink_to(model)
    message, _ = error_of(link)
    assert "symbolic link" in message and str(model) in message
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    assert "symbolic link" in error_of(tmp_path / "nowhere")[0]
    assert "is a folder" in error_of(tmp_path)[0]
    assert "pipe, socket or device" in error_of(os.devnull)[0]
    with pytest.raises(OSError, match="no regular file"):
        fitted("DigPro").save(os.devnull)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_does_not_block(tmp_path, quiet):
    os.mkfifo(tmp_path / "pipe")
    began = time.monotonic()
    assert "pipe, socket or device" in error_of(tmp_path / "pipe")[0]
    assert time.monotonic() - began < 5


def test_a_newer_format_says_what_to_install(whole, tmp_path):
    header, content, values = take_apart(whole)
    content |= {"format": 7, "versions": {"skdeepcluster": "9.8.7"}, "news": [1]}
    path = tmp_path / "newer"
    path.write_bytes(put_together(header, content, values))
    message, _ = error_of(path)
    assert "format 7" in message and "9.8.7" in message and "Install" in message


def test_the_helpers_change_nothing_by_themselves(whole, tmp_path):
    # else every damage above could be that of taking the file apart
    path = tmp_path / "again"
    path.write_bytes(put_together(*take_apart(whole)))
    again = load(path, device="cpu")
    np.testing.assert_array_equal(again.predict(X), fitted(NAME).labels_)


def test_forged_weights_give_no_labels(whole, tmp_path):
    document, tensors = read_model(whole, tmp_path)
    name = "module.teacher.network.projector.0.weight"
    tensors[name] = np.nan * tensors[name]
    write(tmp_path / "nan", "model", document, tensors)
    with pytest.raises(FloatingPointError, match="NaN"):
        load(tmp_path / "nan", device="cpu").predict(X)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("params", "checkpoint", "elsewhere"),
        ("params", "callbacks", None),
        ("attributes", "_read", 1),
        ("attributes", "_training", 1),
        ("attributes", "_per_sample", ()),
    ],
)
def test_forged_names_are_refused(part, name, value, whole, tmp_path):
    document, tensors = read_model(whole, tmp_path)
    tree = unpack(document, tensors)
    tree[part][name] = value
    write(tmp_path / "forged", "model", *pack(tree))
    with pytest.raises(FileError, match=name):
        load(tmp_path / "forged", device="cpu")


def read_model(whole, tmp_path):
    (tmp_path / "model").write_bytes(whole)
    return read(tmp_path / "model", "model")


@pytest.mark.parametrize("name", ["MFCVAE", "GCC"])
@pytest.mark.parametrize("value", [10**5, 10**9, 10**18, -3, 0, "x", (), None])
def test_forged_sizes_of_other_networks(name, value, tmp_path):
    path, before = tmp_path / "model", peak_memory()
    fitted(name).save(path)
    document, tensors = read(path, "model")
    tree = unpack(document, tensors)
    sizes = {
        "MFCVAE": (
            "n_clusters",
            "n_facets",
            "latent_dims",
            "hidden_dims",
            "max_epochs",
        ),
        "GCC": ("n_clusters", "samples_per_cluster", "max_epochs", "n_rounds", "bank"),
    }
    for size in sizes[name]:
        forged = {**tree, "resolved": {**tree["resolved"], size: value}}
        write(path, "model", *pack(forged))
        began = time.process_time()
        try:  # what no network is built of may be anything
            load(path, device="cpu")
        except FileError as error:
            assert str(path) in str(error)
        assert time.process_time() - began < 1
    if sys.platform == "linux":
        assert peak_memory() - before < 300 * 1024
