"""ImageEncoder: the contract, what it reads, and what it says when it cannot."""

import pickle
import random
import threading

import joblib
import numpy as np
import pytest
import torch
from numpydoc.docscrape import ClassDoc, FunctionDoc
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks
from test_sklearn import OPTIONAL_CHECKS
from torch import nn
from toy import make

from skdeepcluster import SCL, FileError, ImageEncoder
from skdeepcluster._progress import ImageProgress
from skdeepcluster._warnings import ignored
from skdeepcluster.pretrained import streaming

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (30, 3, 8, 8), dtype=np.uint8)
SMALL = {"device": "cpu", "precision": "float32"}


class Rows(nn.Module):
    """Four features of rows of any length."""

    def forward(self, x):
        x = x.flatten(1)
        moments = [x.mean(1), x.amax(1), x.amin(1), x.square().mean(1)]
        return torch.stack(moments, 1)


def pooled(**params):
    """An encoder whose features are the means of the quarters of each channel."""
    network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return ImageEncoder(network, **{**SMALL, **params})


def quarters(images):
    n, c, h, w = images.shape
    blocks = images.reshape(n, c, 2, h // 2, 2, w // 2).astype(np.float64)
    return blocks.mean((3, 5)).reshape(n, -1)


def close(features, expected):
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=1e-5)


@pytest.fixture
def weights(tmp_path):
    """A file of random weights of a small torchvision network."""
    from torchvision.models import squeezenet1_1

    torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / "small.pt")
    return str(tmp_path / "small.pt")


@pytest.fixture
def photos(tmp_path):
    """Twelve colour photographs of two sizes, as files."""
    paths = [str(tmp_path / f"{i:02}.png") for i in range(12)]
    for i, path in enumerate(paths):
        shape = (20, 30, 3) if i % 2 else (16, 16, 3)
        Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return paths


# -- the contract ----------------------------------------------------------------------


@parametrize_with_checks([ImageEncoder(Rows(), **SMALL)])  # no expected failure
def test_contract(estimator, check):
    check(estimator)


@pytest.mark.parametrize("check", OPTIONAL_CHECKS)
def test_optional_contract(check):
    getattr(estimator_checks, check)("ImageEncoder", ImageEncoder(Rows(), **SMALL))


def test_flattened_images_behind_a_table():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(X.reshape(30, -1)).add_prefix("pixel")
    encoder = pooled(image_shape=(3, 8, 8)).set_output(transform="pandas")
    found = encoder.fit_transform(table)
    close(found.to_numpy(), quarters(X / 255))
    assert list(found) == [f"imageencoder{i}" for i in range(12)]
    assert list(encoder.feature_names_in_[:2]) == ["pixel0", "pixel1"]
    with pytest.raises(ValueError, match="feature names should match"):
        encoder.transform(table.rename(columns={"pixel0": "first"}))


def test_nothing_is_loaded_before_fit(tmp_path):
    encoder = ImageEncoder("no such model", weights=tmp_path / "none", cache=tmp_path)
    assert repr(clone(encoder)).startswith("ImageEncoder(")
    with pytest.raises(NotFittedError):
        encoder.transform(X)
    with pytest.raises(ValueError, match="'no such model'"):
        encoder.fit(X)
    assert vars(encoder).keys() == encoder.get_params().keys()


def test_pickles_hold_the_weights_and_clones_do_not(weights, tmp_path):
    encoder = ImageEncoder("squeezenet1_1", weights=weights, image_size=32, **SMALL)
    features = encoder.fit_transform(X)
    assert features.shape == (30, 512) and features.std() > 0
    joblib.dump(encoder, tmp_path / "encoder.joblib")
    (tmp_path / "small.pt").unlink()
    for copy in (
        pickle.loads(pickle.dumps(encoder)),
        joblib.load(tmp_path / "encoder.joblib"),
    ):
        np.testing.assert_array_equal(copy.transform(X), features)
        assert copy.weights_digest_ == encoder.weights_digest_
    assert len(pickle.dumps(clone(encoder))) < 5000 < len(pickle.dumps(encoder))
    with pytest.raises(ValueError, match=r"small\.pt"):
        clone(encoder).fit(X)
    damaged = bytearray(pickle.dumps(encoder))
    middle = len(damaged) // 2
    damaged[middle] ^= 1  # within the weights
    with pytest.raises(FileError, match="damaged"):
        pickle.loads(bytes(damaged))


def test_joblib_tells_modules_by_their_weights():
    def encoder(start):
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
        nn.init.constant_(network[1].weight, start)
        nn.init.zeros_(network[1].bias)
        return ImageEncoder(network, **SMALL)

    first, same, other = encoder(1.0), encoder(1.0), encoder(2.0)
    assert joblib.hash(first) == joblib.hash(same) == joblib.hash(clone(first))
    assert joblib.hash(first) != joblib.hash(other)
    again = pickle.loads(pickle.dumps(first.fit(X)))
    for one in (first, again):  # both can be fitted anew
        np.testing.assert_array_equal(one.fit_transform(X), same.fit_transform(X))


def test_random_weights_are_the_same_each_time():
    states = (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state())
    encoder = ImageEncoder("squeezenet1_1", weights=None, image_size=32, **SMALL)
    features = encoder.fit_transform(X[:4])
    np.testing.assert_array_equal(clone(encoder).fit_transform(X[:4]), features)
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])


def test_public_methods_and_fitted_attributes_are_documented():
    for name in ("fit", "transform", "fit_transform"):
        doc = FunctionDoc(getattr(ImageEncoder, name))
        assert doc["Parameters"] and doc["Returns"] and doc["Raises"]
    documented = {part.name for part in ClassDoc(ImageEncoder)["Attributes"]}
    public = {n for n in vars(pooled().fit(X)) if n.endswith("_") and n[0] != "_"}
    assert public <= documented


# -- compositions ----------------------------------------------------------------------


def test_clusters_in_a_pipeline(stripes):
    images, _ = stripes
    pipe = make_pipeline(pooled(), SCL(3, max_epochs=2, random_state=0))
    labels = pipe.fit_predict(images)
    np.testing.assert_array_equal(pipe.predict(images), labels)


def test_a_search_encodes_once(weights, tmp_path, monkeypatch):
    calls = []
    encode = ImageEncoder._encode
    monkeypatch.setattr(
        ImageEncoder, "_encode", lambda *a, **k: calls.append(1) or encode(*a, **k)
    )
    encoder = ImageEncoder("squeezenet1_1", weights=weights, image_size=32, **SMALL)
    steps = [("encode", encoder), ("classify", LogisticRegression())]
    pipe = Pipeline(steps, memory=str(tmp_path / "memory"))
    grid = {"classify__C": [0.1, 1.0, 10.0]}
    y = np.arange(30) % 2
    search = GridSearchCV(pipe, grid, cv=2, refit=False).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    # of the training part once a split; of the test part for each of three settings
    assert len(calls) == 2 + 2 * 3


# -- what X may be ---------------------------------------------------------------------


def test_layouts_and_types_give_the_same_features(tmp_path):
    expected = quarters(X / 255)
    encoder = pooled().fit(X)
    np.save(tmp_path / "X.npy", X)
    same = [
        X,
        X.transpose(0, 2, 3, 1),
        torch.from_numpy(X),
        list(X),
        np.load(tmp_path / "X.npy", mmap_mode="r"),
        X[:, :, ::-1][:, :, ::-1],
        X.reshape(30, -1),
        (X / 255).astype(np.float32),  # which match brings to 0 to 255
    ]
    for one in same:
        close(encoder.transform(one), expected)
    for one in (*same[:6], (X / 255), X.astype(np.int64) * 257):
        close(pooled(batch_size=7).fit_transform(one), expected)


def test_arrays_on_the_disk(tmp_path):
    h5py, zarr = pytest.importorskip("h5py"), pytest.importorskip("zarr")
    stored = zarr.create_array(str(tmp_path / "X.zarr"), data=X, chunks=(8, 3, 8, 8))
    with h5py.File(tmp_path / "X.h5", "w") as file:
        file["X"] = X
        for one in (file["X"], stored):
            close(pooled(batch_size=4).fit_transform(one), quarters(X / 255))


def test_the_range_is_that_of_the_fit():
    floats = X.astype(np.float32) * 3 - 100  # of no known range
    encoder = pooled().fit(floats)
    low, high = floats.min(), floats.max()
    close(encoder.transform(floats[:2]), quarters((floats[:2] - low) / (high - low)))
    with pytest.raises(ValueError, match="but the estimator was fitted on images of"):
        encoder.transform(floats * 100)
    close(pooled().fit(X // 4).transform(X), quarters(X / 255))  # uint8 by 255


def test_one_image_is_enough():
    close(pooled().fit_transform(X[:1]), quarters(X[:1] / 255))


def test_files_of_any_size_are_decoded_at_the_size_of_the_network(photos):
    encoder = pooled(image_size=8, batch_size=5)
    features = encoder.fit_transform(photos)
    assert encoder.image_shape_ == (3, 8, 8) and encoder.n_features_in_ == 192
    expected = np.stack([np.asarray(Image.open(p).resize((8, 8), 3)) for p in photos])
    close(features, quarters(expected.transpose(0, 3, 1, 2) / 255))
    np.testing.assert_array_equal(encoder.transform(photos), features)
    np.testing.assert_array_equal(encoder.transform(map(Image.open, photos)), features)
    np.testing.assert_array_equal(encoder.transform(photos[::-1]), features[::-1])
    # a module of one's own takes images of any size, so the files have to agree
    with pytest.raises(ValueError, match="2 different sizes"):
        pooled().fit(photos)
    assert pooled().fit(photos[::2]).image_shape_ == (3, 16, 16)
    assert pooled(image_shape=(1, 4, 6)).fit_transform(photos).shape == (12, 4)


@pytest.mark.parametrize("high", [4095, 65535])
def test_files_of_16_bits(tmp_path, high):
    images = RNG.integers(0, high + 1, (6, 1, 8, 8)).astype(np.uint16)
    images[0, 0, 0, :2] = 0, high
    paths = [str(tmp_path / f"{i}.png") for i in range(6)]
    for image, path in zip(images, paths, strict=True):
        Image.fromarray(image[0]).save(path)
    encoder = pooled()
    close(encoder.fit_transform(paths), quarters(images / high))
    close(encoder.transform(paths[3:]), quarters(images[3:] / high))


# -- streaming -------------------------------------------------------------------------


def test_each_file_is_decoded_once(photos, monkeypatch):
    seen, lock = [], threading.Lock()
    decode = streaming.ImageFiles.decode

    def spy(self, rows):
        with lock:
            seen.extend(self.data[rows])
        return decode(self, rows)

    monkeypatch.setattr(streaming.ImageFiles, "decode", spy)
    encoder = pooled(image_size=8, batch_size=5)
    encoder.fit_transform(photos)
    assert seen == photos
    encoder.fit(photos)
    assert seen == photos
    encoder.transform(photos)
    assert seen == photos * 2


def test_one_block_is_read_ahead(photos):
    files = streaming.ImageFiles(photos, (3, 8, 8))
    rows, began, decode = np.arange(12), [], files.decode

    def spy(part):
        began.append(part[0])
        return decode(part)

    files.decode = spy
    found = []
    for number, block in enumerate(streaming.blocks(files, rows, 3)):
        found.extend(block.rows)
        assert len(began) <= number + 2
    assert found == list(range(12)) and began == [0, 3, 6, 9]
    assert list(streaming.blocks(files, rows[:0], 3)) == []


def test_ctrl_c_ends_between_blocks(monkeypatch):
    encoder, ran = pooled(batch_size=5).fit(X), []
    run = ImageEncoder._run

    def interrupted(self, x):
        ran.append(len(x))
        if len(ran) == 2:
            raise KeyboardInterrupt
        return run(self, x)

    threads = threading.active_count()
    monkeypatch.setattr(ImageEncoder, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encoder.transform(X)
    assert ran == [5, 5] and threading.active_count() == threads
    monkeypatch.undo()
    close(encoder.transform(X), quarters(X / 255))


def test_threads_share_an_encoder():
    encoder, found = pooled(batch_size=3).fit(X), {}

    def work(i):
        found[i] = encoder.transform(X[i:])

    threads = [threading.Thread(target=work, args=[i]) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(6):
        close(found[i], quarters(X[i:] / 255))


def test_progress_is_shown(capsys, monkeypatch):
    pooled(verbose=1).fit_transform(X)
    out, err = capsys.readouterr()
    assert out == "" and err == "ImageEncoder: 30/30 images (0 s, 0 s left)\n"
    monkeypatch.setattr(ImageProgress, "interval", 0.0)
    pooled(verbose=2, batch_size=10).fit_transform(X)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["10/30", "20/30", "30/30"]
    monkeypatch.setattr("skdeepcluster._progress.shows_bars", lambda: True)
    pooled(verbose=1).fit_transform(X)
    assert "30/30" in capsys.readouterr().err
    pooled().fit_transform(X)
    assert capsys.readouterr().err == ""


def test_precision():
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 8))
    float32 = ImageEncoder(network, **SMALL).fit_transform(X)
    other = {**SMALL, "precision": "bfloat16"}
    bfloat16 = ImageEncoder(network, **other).fit_transform(X)
    assert bfloat16.dtype == np.float32
    assert 0 < np.abs(float32 - bfloat16).max() < 0.05
    assert not np.isnan(bfloat16).any()


# -- files that cannot be read ---------------------------------------------------------


@pytest.fixture
def damaged(photos, tmp_path):
    """The photographs, two of which cannot be read: one is missing, one truncated."""
    (tmp_path / "03.png").unlink()
    content = (tmp_path / "07.png").read_bytes()
    (tmp_path / "07.png").write_bytes(content[: len(content) // 2])
    return photos


def test_all_bad_files_are_in_one_error(damaged):
    encoder = pooled(image_size=8, batch_size=2)
    match = r"2 of 12 image files cannot be read:\n.*03\.png' does not(.|\n)*07\.png'"
    for method in (encoder.fit, encoder.fit_transform):
        with pytest.raises(ValueError, match=match):
            method(damaged)
        assert not hasattr(encoder, "network_")
    with pytest.raises(ValueError, match=match):
        encoder.fit(damaged[:3]).transform(damaged)


def test_estimators_tell_where_rows_of_nan_come_from(damaged):
    encoder = pooled(image_size=8, batch_size=2, on_error="skip")
    match = (
        r"2 of 12 rows hold nothing else, the first is X\[3\]\. ImageEncoder\("
        r"on_error='skip'\) leaves .*load_image_folder\(path, on_error='skip'\) does"
    )
    for output in ("default", "pandas"):
        model = make_pipeline(
            clone(encoder).set_output(transform=output), make(augment="none")
        )
        with ignored(UserWarning), pytest.raises(ValueError, match=match):
            model.fit(damaged)
        model.fit([path for i, path in enumerate(damaged) if i not in (3, 7)])
        with ignored(UserWarning), pytest.raises(ValueError, match=match):
            model.predict(damaged)


def test_rows_of_bad_files_are_nan(damaged):
    encoder = pooled(image_size=8, batch_size=2, on_error="skip")
    match = r"2 of 12 image files cannot be read(.|\n)*Their rows are NaN\."
    with pytest.warns(UserWarning, match=match) as caught:
        features = encoder.fit_transform(damaged)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert np.flatnonzero(np.isnan(features).any(1)).tolist() == [3, 7]
    assert [row[:2] for row in encoder.skipped_] == [(3, damaged[3]), (7, damaged[7])]
    with pytest.warns(UserWarning, match=match) as caught:
        again = encoder.transform(damaged)
    assert len(caught) == 1
    np.testing.assert_array_equal(again, features)
    with pytest.warns(UserWarning, match="1 of 12"):
        assert [row for row, *_ in encoder.fit(damaged).skipped_] == [3]
    with pytest.warns(UserWarning, match="2 of 2"):
        assert np.isnan(encoder.transform([damaged[3], damaged[7]])).all()
    with pytest.raises(ValueError, match="2 of 2 image files cannot be read"):
        clone(encoder).fit_transform([damaged[3], damaged[7]])


# -- bad input -------------------------------------------------------------------------


def test_vectors_are_refused_with_advice():
    match = r"X holds vectors of 192 features.*image_shape=\(C, H, W\).*SCL"
    for encoder in (
        ImageEncoder("squeezenet1_1", weights=None, **SMALL),
        pooled(image_size=8),
    ):
        with pytest.raises(ValueError, match=match):
            encoder.fit(X.reshape(30, -1))


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (X[:, :, :4], "does not hold images of image_shape=\\(3, 8, 8\\)"),
        (X[0], "does not hold images of"),
        (X[:0], "empty"),
        ([], "X is empty"),
        (np.where(X > 250, np.nan, X), "NaN"),
        ("photo.png", "X is one path"),
    ],
    ids=["smaller", "one image", "no rows", "no list", "NaN", "one path"],
)
def test_what_transform_refuses(bad, match):
    encoder = pooled().fit(X)
    before = encoder.transform(X)
    with pytest.raises(ValueError, match=match):
        encoder.transform(bad)
    np.testing.assert_array_equal(encoder.transform(X), before)


def test_a_closed_image_is_named(photos):
    images = [Image.open(path) for path in photos]
    images[4].close()
    with pytest.raises(ValueError, match=r"1 of 12 image files.*\n +X\[4\]"):
        pooled(image_size=8).fit_transform(images)


@pytest.mark.parametrize(
    ("network", "match"),
    [
        (nn.Identity(), r"returned \(2, 3, 8, 8\) for 2 images"),
        (nn.Linear(5, 2), r"cannot read images of shape \(3, 8, 8\).*It said: mat1"),
    ],
    ids=["no rows", "another shape"],
)
def test_a_module_that_does_not_fit(network, match):
    with pytest.raises(ValueError, match=match):
        ImageEncoder(network, **SMALL).fit(X)


def test_a_size_that_does_not_fit():
    model = ImageEncoder("squeezenet1_1", weights=None, image_size=2, **SMALL)
    match = r"cannot read images.*resized to 2 x 2 pixels\. Pass another model"
    with pytest.raises(ValueError, match=match):
        model.fit(X)


def test_a_closed_file_of_arrays(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "X.h5", "w") as file:
        file["X"] = X
        data, encoder = file["X"], pooled().fit(file["X"])
    for method in (encoder.fit, encoder.transform):
        with pytest.raises(ValueError, match="a file that was closed, open that again"):
            method(data)


def test_features_that_are_not_finite():
    class Logarithm(nn.Module):
        def forward(self, x):
            return x.flatten(1).log()

    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        ImageEncoder(Logarithm(), **SMALL).fit_transform(X)


def test_a_fit_that_fails_changes_nothing(photos):
    encoder = pooled(image_size=8).fit(photos)
    features = encoder.transform(photos)
    with pytest.raises(ValueError, match="cannot be read"):
        encoder.fit([*photos, "none.png"])
    np.testing.assert_array_equal(encoder.transform(photos), features)
    with pytest.raises(ValueError, match="batch_size"):
        encoder.set_params(batch_size=0).fit(photos)
    encoder.set_params(batch_size=3, device="nowhere")
    with pytest.raises(ValueError, match="device='nowhere' cannot be used"):
        encoder.fit(photos)
