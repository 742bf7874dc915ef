"""Features on the disk: found again by content, refused where they do not belong."""

import os
import pickle
import shutil
import signal
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from sklearn.model_selection import ParameterGrid
from torch import nn

from skdeepcluster import ImageEncoder
from skdeepcluster._storage import folder as folders
from skdeepcluster.pretrained import cache as module

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (30, 3, 8, 8), dtype=np.uint8)


def encoder(folder, **params):
    network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    small = {"batch_size": 5, "device": "cpu", "precision": "float32"}
    return ImageEncoder(network, cache=folder, **{**small, **params})


@pytest.fixture
def computed(monkeypatch):
    """Counts the images that networks compute with; those of a fit's trial are two."""
    counts, run = [], ImageEncoder._run

    def spy(self, x):
        counts.append(len(x))
        return run(self, x)

    monkeypatch.setattr(ImageEncoder, "_run", spy)
    return counts


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(12):
        image = RNG.integers(0, 256, (10, 12 + i, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{i:02}.png")
    return sorted(map(str, folder.iterdir()))


def files_of(folder):
    return sorted(folder.glob("features-*.safetensors"))


# -- what is known again ---------------------------------------------------------------


def test_arrays_are_known_again_by_their_values(tmp_path, computed):
    expected = encoder(None).fit_transform(X)
    model = encoder(tmp_path / "a" / "folder")
    np.testing.assert_array_equal(model.fit_transform(X), expected)
    computed.clear()
    order = RNG.permutation(30)
    np.testing.assert_array_equal(model.transform(X[order]), expected[order])
    channels_last = np.ascontiguousarray(X.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(model.transform(channels_last), expected)
    twice = np.concatenate([X[:3], X[:3]])
    np.testing.assert_array_equal(model.transform(twice)[3:], expected[:3])
    assert computed == []
    new = X.copy()
    new[4] += 1
    assert (model.transform(new) != expected).any(1).nonzero()[0].tolist() == [4]
    assert computed == [1]


def test_files_are_known_again_under_any_name(photos, tmp_path, computed):
    model = encoder(tmp_path / "cache", image_size=8).fit(photos)
    features = model.transform(photos)
    computed.clear()
    moved = [str(shutil.copy(p, tmp_path / f"{i}.png")) for i, p in enumerate(photos)]
    np.testing.assert_array_equal(model.transform(moved[::-1]), features[::-1])
    assert computed == []
    # the same name, size and date, but another image
    facts = os.stat(photos[0])
    Image.fromarray(255 - np.asarray(Image.open(photos[0]))).save(photos[0])
    os.utime(photos[0], ns=(facts.st_atime_ns, facts.st_mtime_ns))
    np.testing.assert_allclose(model.transform(photos[:1]) + features[:1], 1, atol=0.01)
    assert computed == [1]
    # decoded at another size they are other images
    other = encoder(tmp_path / "cache", image_size=8, image_shape=(3, 4, 4))
    assert not np.array_equal(other.fit_transform(moved), features)
    images = [Image.open(path) for path in moved]  # which are not kept
    np.testing.assert_array_equal(model.transform(images), features)


def test_the_range_counts(tmp_path):
    floats = X.astype(np.float32) - 100
    wide = np.concatenate([floats, floats[:1] * 2])
    for folder in (None, tmp_path):
        found = [
            encoder(folder).fit(data).transform(floats[:4]) for data in (floats, wide)
        ]
        assert not np.allclose(*found)


# -- runs that end early, and others beside them ---------------------------------------


def test_a_run_that_was_interrupted_goes_on(tmp_path, computed, monkeypatch):
    model, spy = encoder(tmp_path).fit(X), ImageEncoder._run

    def interrupted(self, x):
        if sum(computed) >= 15:
            raise KeyboardInterrupt
        return spy(self, x)

    computed.clear()
    monkeypatch.setattr(ImageEncoder, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.transform(X)
    computed.clear()
    monkeypatch.setattr(ImageEncoder, "_run", spy)
    np.testing.assert_array_equal(model.transform(X), encoder(None).fit_transform(X))
    assert computed[:3] == [5, 5, 5] and len(files_of(tmp_path)) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_a_run_that_was_killed_goes_on(tmp_path, computed, monkeypatch):
    monkeypatch.setattr(module, "EVERY_ROWS", 10)
    model, spy = encoder(tmp_path).fit(X), ImageEncoder._run
    computed.clear()

    def killed(self, x):
        if sum(computed) == 25:
            os.kill(os.getpid(), signal.SIGKILL)
        return spy(self, x)

    child = os.fork()
    if not child:
        ImageEncoder._run = killed
        model.transform(X)
        os._exit(0)  # without it there would be two runs of the tests
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert len(files_of(tmp_path)) == 2
    features = model.transform(X)
    assert sum(computed) == 10
    np.testing.assert_array_equal(features, encoder(None).fit_transform(X))


def test_a_slow_run_writes_each_minute(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.0)
    encoder(tmp_path).fit_transform(X)
    assert len(files_of(tmp_path)) == 6


def test_two_may_write_at_one_time(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EVERY_ROWS", 3)
    models, found = [encoder(tmp_path, batch_size=2).fit(X) for _ in range(4)], {}

    def work(i):
        found[i] = models[i].transform(X[i:])

    threads = [threading.Thread(target=work, args=[i]) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = encoder(None).fit_transform(X)
    for i in range(4):
        np.testing.assert_array_equal(found[i], expected[i:])
    np.testing.assert_array_equal(encoder(tmp_path).fit_transform(X), expected)


def test_only_what_a_kill_left_long_ago_is_removed(tmp_path):
    old, new = (tmp_path / f".features-{name}.tmp" for name in "ab")
    for path in (old, new):
        path.write_bytes(b"half a file")
    os.utime(old, (time.time() - 7200,) * 2)
    encoder(tmp_path).fit_transform(X)
    assert new.exists() and not old.exists()


# -- files that cannot be read ---------------------------------------------------------


def test_images_that_cannot_be_read_are_not_kept(photos, tmp_path, computed):
    content = open(photos[7], "rb").read()
    open(photos[7], "wb").write(content[:100])
    model = encoder(tmp_path / "cache", image_size=8, on_error="skip")
    with pytest.warns(UserWarning, match="1 of 12"):
        features = model.fit_transform(photos)
    computed.clear()
    with pytest.warns(UserWarning, match="1 of 12"):
        np.testing.assert_array_equal(model.transform(photos), features)
    assert computed == []
    open(photos[7], "wb").write(content)
    assert np.isfinite(model.transform(photos)).all() and computed == [1]


def test_what_was_computed_before_an_error_is_kept(photos, tmp_path, computed):
    model = encoder(tmp_path / "cache", image_size=8).fit(photos)
    open(photos[-1], "wb").write(b"no image")
    with pytest.raises(ValueError, match="1 of 12 image files cannot be read"):
        model.transform(photos)
    computed.clear()
    model.transform(photos[:-1])
    assert computed == [1]  # of the block of the bad one


# -- folders that do not belong --------------------------------------------------------


def test_features_of_another_network_are_refused(tmp_path):
    from torchvision.models import squeezenet1_1

    paths = [str(tmp_path / f"{i}.pt") for i in range(2)]
    for path in paths:
        torch.save(squeezenet1_1(weights=None).state_dict(), path)
    small = {"image_size": 32, "device": "cpu", "precision": "float32"}
    folder = str(tmp_path / "cache")
    first = ImageEncoder("squeezenet1_1", weights=paths[0], cache=folder, **small)
    first.fit_transform(X)
    before = files_of(tmp_path / "cache")
    others = {
        r"weights \(\w{16} there, \w{16} here\)": {"weights": paths[1]},
        r"model \(squeezenet1_1 there, Sequential": {"model": nn.Sequential()},
    }
    first.fit(X)
    for match, change in others.items():
        params = {**first.get_params(), **change}
        if "model" in change:
            params |= {"model": encoder(None).model, "weights": "DEFAULT"}
        other = ImageEncoder(**params)
        refusal = f"holds features of another network.*{match}.*another folder in cache"
        for method in (other.fit, other.fit_transform):
            with pytest.raises(ValueError, match=refusal):
                method(X)
            assert not hasattr(other, "network_")
        del params["cache"]
        late = ImageEncoder(**params).fit(X).set_params(cache=folder)
        with pytest.raises(ValueError, match=refusal):
            late.transform(X)
    assert files_of(tmp_path / "cache") == before


def own(function):
    """A network of the user's own: without weights, and its code in a method."""

    class Own(nn.Module):
        def forward(self, x):
            return function(x).flatten(1)

    return Own()


@pytest.mark.parametrize("size", [None, 4])
def test_features_of_other_code_are_refused(size, tmp_path, computed):
    params = {"image_size": size, "device": "cpu", "precision": "float32"}
    first = ImageEncoder(own(lambda x: x[..., :2]), cache=tmp_path, **params)
    features = first.fit_transform(X)
    for other in (
        lambda x: x[..., 2:4],
        lambda x: -x[..., :2],
        lambda x: x[..., :2].flip(1),
        lambda x: 3 * x[..., :2],
    ):
        with pytest.raises(ValueError, match=r"differs in features of \(3, "):
            ImageEncoder(own(other), cache=tmp_path, **params).fit(X)
    computed.clear()
    again = ImageEncoder(own(lambda x: x[:, :, :, :2]), cache=tmp_path, **params)
    np.testing.assert_array_equal(again.fit_transform(X), features)
    assert computed == [2]
    # images of another shape are in the same folder
    assert again.fit_transform(X[:, :, :, :6]).shape[0] == 30


def test_damaged_files_are_computed_again(tmp_path, computed, monkeypatch):
    monkeypatch.setattr(module, "EVERY_ROWS", 10)
    model = encoder(tmp_path)
    features = model.fit_transform(X)
    first, second, _ = files_of(tmp_path)
    content = first.read_bytes()
    first.write_bytes(content[:-7])
    computed.clear()
    again = (
        f"{first.name}' is damaged: .*computed again, and .*{first.name}.damaged now"
    )
    with pytest.warns(RuntimeWarning, match=again):
        np.testing.assert_array_equal(model.transform(X), features)
    assert sum(computed) == 10 and len(files_of(tmp_path)) == 3
    assert (tmp_path / f"{first.name}.damaged").read_bytes() == content[:-7]
    np.testing.assert_array_equal(model.transform(X), features)  # without a warning
    assert sum(computed) == 10
    middle = bytearray(second.read_bytes())
    middle[-9] ^= 1
    second.write_bytes(middle)
    with pytest.warns(RuntimeWarning, match="is damaged"):
        np.testing.assert_array_equal(model.transform(X), features)
    assert not second.exists() and sum(computed) == 20


def test_files_of_another_origin_are_left_alone(tmp_path, computed):
    notes = {
        tmp_path / "features-r18.safetensors": save({"a": torch.ones(2)}),
        tmp_path / "features-0123456789abcdef.safetensors": b"a note",
        tmp_path / "features-cut.safetensors": save({"a": torch.ones(2)})[:-1],
    }
    for path, content in notes.items():
        path.write_bytes(content)
    model = encoder(tmp_path)
    with pytest.warns(RuntimeWarning, match="left alone") as told:
        features = model.fit(X).transform(X)
    told = sorted(str(warning.message) for warning in told)
    assert [
        path in text for path, text in zip(sorted(map(str, notes)), told, strict=True)
    ] == [True] * 3
    computed.clear()
    np.testing.assert_array_equal(model.transform(X), features)  # without a warning
    assert computed == []
    assert {path: path.read_bytes() for path in notes} == notes


def test_a_folder_has_several_sizes_and_precisions(tmp_path, computed):
    params = {"image_size": [4, 6], "precision": ["float32", "bfloat16"]}
    for once in (True, False):
        for changed in ParameterGrid(params):
            expected = encoder(None, **changed).fit_transform(X)
            computed.clear()
            found = encoder(tmp_path, **changed).fit_transform(X)
            np.testing.assert_array_equal(found, expected)
            assert sum(computed) == (32 if once else 2)


def test_the_home_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    encoder("~/cache").fit_transform(X)
    assert len(files_of(tmp_path / "cache")) == 1


def test_a_folder_that_is_read_only_is_read(tmp_path, computed, monkeypatch):
    model = encoder(tmp_path / "cache").fit(X)
    expected = model.transform(X[:10])
    before = files_of(tmp_path / "cache")
    again, other = (pickle.loads(pickle.dumps(model)) for _ in range(2))
    (tmp_path / "file").touch()
    other.set_params(cache=tmp_path / "file" / "cache")  # can never be made

    def refuse(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(folders.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(module, "EVERY_ROWS", 5)
    computed.clear()
    np.testing.assert_array_equal(again.transform(X[:10]), expected)  # nor a warning
    assert computed == []
    for late, reason, n in ((again, "Read-only file", 20), (other, "none can be", 30)):
        computed.clear()
        with pytest.warns(RuntimeWarning, match=f"{reason}.*are not kept") as told:
            np.testing.assert_array_equal(late.transform(X)[:10], expected)
        assert len(told) == 1 and sum(computed) == n
    assert files_of(tmp_path / "cache") == before
    for method in (again.fit, again.fit_transform):
        with pytest.raises(OSError, match=r"Nothing can be written.*Read-only"):
            method(X)


def test_a_folder_that_cannot_be_used(tmp_path):
    file = tmp_path / "file"
    file.write_text("a file")
    with pytest.raises(OSError, match="cache='.*file' is no folder"):
        encoder(str(file)).fit(X)
    with pytest.raises(ValueError, match="cache='' names no folder"):
        encoder("").fit(X)


def test_a_full_disk_ends_nothing(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write", full)
    with pytest.warns(RuntimeWarning, match=r"No space left.*not in the cache"):
        features = encoder(tmp_path).fit_transform(X)
    np.testing.assert_array_equal(features, encoder(None).fit_transform(X))
