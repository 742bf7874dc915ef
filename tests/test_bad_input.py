"""Bad input gets one error that says what came, what is expected and what to do."""

import copy

import numpy as np
import pytest
import scipy.sparse
import torch
from PIL import Image
from small_digpro import make
from torch import nn

from skdeepcluster.datasets import load_digits_images

IMAGES = load_digits_images()[0][:64]  # (64, 8, 8), uint8
ROWS = IMAGES.reshape(64, -1)
FLOATS = ROWS / 255
VECTORS = np.random.default_rng(0).normal(size=(40, 6))


@pytest.fixture(scope="module")
def fitted():
    return make().fit(IMAGES)


def assert_unchanged(estimator, before):
    assert vars(estimator).keys() == before.keys()
    assert all(vars(estimator)[key] is before[key] for key in before)


@pytest.fixture(scope="module")
def assert_refused(fitted):
    """A refused fit leaves a new and a fitted estimator as they were."""

    def check(X, error, match, **params):
        # a shallow copy: the arrays and the networks stay those of the fixture
        for estimator in (make(), copy.copy(fitted)):
            estimator.set_params(**params)
            before = dict(vars(estimator))
            with pytest.raises(error, match=match) as caught:
                estimator.fit(X)
            assert_unchanged(estimator, before)
        np.testing.assert_array_equal(fitted.predict(IMAGES), fitted.labels_)
        return caught.value

    return check


def with_value(value):
    X = FLOATS.copy()
    X[5, 7] = value
    return X


def ragged(as_array=False):
    images = [np.zeros((3, 8, 8)), np.zeros((3, 8, 9))] * 10
    return np.fromiter(images, dtype=object) if as_array else images


BAD_X = {
    "no row": (ROWS[:0], ValueError, r"0 sample\(s\) \(shape=\(0, 64\)\).* 2 is req"),
    "no column": (ROWS[:, :0], ValueError, r"0 feature\(s\) \(shape=\(64, 0\)\)"),
    "no image": (IMAGES[:0], ValueError, r"\(0, 8, 8\), which is empty. Pass at least"),
    "no pixel": (IMAGES[:, :0], ValueError, r"\(64, 0, 8\), which is empty. Pass at l"),
    "no colour pixel": (
        np.zeros((20, 3, 8, 0), np.uint8),
        ValueError,
        r"\(20, 3, 8, 0\), which is empty. Pass at least one image",
    ),
    "empty list": ([], ValueError, "X is empty .*Pass images, vectors or paths"),
    "empty array": (np.array([]), ValueError, "X is empty .*Pass images, vectors"),
    "one row": (ROWS[:1], ValueError, r"1 sample\(s\) .* minimum of 2 is required"),
    "NaN": (with_value(np.nan), ValueError, "X contains NaN"),
    "NaN image": (with_value(np.nan).reshape(-1, 8, 8), ValueError, "X contains NaN"),
    "NaN tensor": (torch.tensor(with_value(np.nan)), ValueError, "X contains NaN"),
    "infinity": (with_value(np.inf), ValueError, "X contains infinity"),
    "-infinity": (with_value(-np.inf), ValueError, "X contains infinity"),
    "fewer than clusters": (
        IMAGES[:2],
        ValueError,
        "n_samples=2 should be >= n_clusters=3. Pass more samples or lower n_clusters",
    ),
    "objects": (np.array([[{}] * 4] * 9, dtype=object), TypeError, "real number.*dict"),
    "object images": (
        np.full((9, 8, 8), "x", dtype=object),
        ValueError,
        "could not convert string to float: 'x'",
    ),
    "strings": (np.array([["a", "b"]] * 9), ValueError, "strings.*Convert your data"),
    "complex": (FLOATS + 1j, ValueError, "Complex data not supported"),
    "sparse": (scipy.sparse.csr_array(ROWS), TypeError, "Sparse.*dense.*toarray"),
    "sparse tensor": (torch.tensor(ROWS).to_sparse(), TypeError, "Sparse.*to_dense"),
    "ambiguous channels": (
        np.zeros((20, 3, 32, 3)),
        ValueError,
        r"\(20, 3, 32, 3\), which is ambiguous: .* axis 1 .*\(3, 32, 3\).* axis 3 .*"
        r"\(3, 3, 32\).* Pass image_shape",
    ),
    "no channel axis": (
        np.zeros((20, 7, 9, 5)),
        ValueError,
        r"\(20, 7, 9, 5\): neither axis 1 nor axis 3 .* 1, 3 or 4 .* Pass image_shape",
    ),
    "5-D": (
        np.zeros((20, 3, 8, 8, 1)),
        ValueError,
        r"dim 5, shape \(20, 3, 8, 8, 1\). Images come as \(n, C, H, W\)",
    ),
    "1-D": (ROWS[0], ValueError, "Expected 2D array, got 1D array.*Reshape your data"),
    "a number": (3.0, ValueError, "Expected 2D array, got scalar"),
    "a folder": ("photos", ValueError, r"one path, 'photos'.* load_image_folder\(path"),
    "ragged list": (
        ragged(),
        ValueError,
        r"2 different shapes, such as \(3, 8, 8\) and \(3, 8, 9\). Resize them to one",
    ),
    "ragged array": (ragged(as_array=True), ValueError, "2 different shapes.*Resize"),
    "images of Pillow and others": (
        [Image.new("L", (8, 8)), None],
        TypeError,
        r"X\[1\] is of type NoneType. Pass paths and images of Pillow only",
    ),
    "paths and others": (["a.png", 3], TypeError, r"X\[1\] is of type int. Pass paths"),
}


@pytest.mark.parametrize("case", BAD_X)
def test_bad_data_at_fit(assert_refused, case):
    X, error, match = BAD_X[case]
    assert_refused(X, error, f"(?s){match}")


FEW = ["fewer than clusters", "one row"]  # are enough after fit


@pytest.mark.parametrize("case", [case for case in BAD_X if case not in FEW])
def test_bad_data_after_fit(fitted, case):
    X, error, _ = BAD_X[case]
    before = dict(vars(fitted))
    for method in ("predict", "transform", "predict_proba", "score"):
        with pytest.raises(error):
            getattr(fitted, method)(X)
    assert_unchanged(fitted, before)
    np.testing.assert_array_equal(fitted.predict(IMAGES), fitted.labels_)


@pytest.mark.parametrize(
    ("X", "match"),
    [
        (
            IMAGES[:, :4],
            r"shape \(64, 4, 8\), which does not hold images of image_shape=\(1, 8, 8\)"
            r".* Pass images of that shape",
        ),
        (np.zeros((9, 3, 8, 8)), r"\(9, 3, 8, 8\), .* image_shape=\(1, 8, 8\)"),
        (np.zeros((9, 8, 8, 3)), r"\(9, 8, 8, 3\), .* image_shape=\(1, 8, 8\)"),
        (IMAGES[0][None, :, :4], r"\(1, 8, 4\), .* image_shape=\(1, 8, 8\)"),
        (IMAGES[0], r"\(8, 8\), that of one image .* Pass X\[None\]"),
        (ROWS[:, :9], "X has 9 features, but DigPro is expecting 64 features"),
        ([IMAGES[0, :5]], r"\(1, 5, 8\), .* image_shape=\(1, 8, 8\)"),
    ],
)
def test_another_shape_than_at_fit(fitted, X, match):
    before = dict(vars(fitted))
    with pytest.raises(ValueError, match=match):
        fitted.predict(X)
    assert_unchanged(fitted, before)


def test_an_image_without_the_sample_axis_is_told_how_to_get_one():
    estimator = make().fit(np.zeros((20, 3, 8, 8)) + np.arange(20).reshape(-1, 1, 1, 1))
    with pytest.raises(
        ValueError, match=r"shape \(3, 8, 8\).*one image as image\[None"
    ):
        estimator.predict(np.zeros((3, 8, 8)))


def test_images_where_vectors_were_fitted():
    estimator = make(backbone="mlp", augment="vector").fit(VECTORS)
    with pytest.raises(ValueError, match=r"\(64, 8, 8\); vectors of 6 .*Pass rows"):
        estimator.predict(IMAGES)


def test_other_columns_than_at_fit():
    pd = pytest.importorskip("pandas")
    estimator = make(backbone="mlp", augment="vector")
    estimator.fit(pd.DataFrame(VECTORS, columns=list("abcdef")))
    with pytest.raises(ValueError, match=r"(?s)feature names should match.*- g.*- f"):
        estimator.predict(pd.DataFrame(VECTORS, columns=list("abcdeg")))


THREE_INTEGERS = r" should be None or three positive integers \(channels, height"


@pytest.mark.parametrize(
    ("X", "image_shape", "match"),
    [
        (
            ROWS,
            (1, 8, 9),
            r"64 features .*\(1, 8, 9\) needs 1 \* 8 \* 9 = 72. Pass the",
        ),
        (IMAGES, (3, 8, 8), r"\(64, 8, 8\), .*image_shape=\(3, 8, 8\).*Pass images"),
        (IMAGES, (8, 8), r"image_shape=\(8, 8\)" + THREE_INTEGERS),
        (IMAGES, (1, 0, 8), r"image_shape=\(1, 0, 8\)" + THREE_INTEGERS),
        (IMAGES, (1, -8, 8), r"image_shape=\(1, -8, 8\)" + THREE_INTEGERS),
        (IMAGES, (1.0, 8.0, 8.0), r"image_shape=\(1.0, 8.0, 8.0\)" + THREE_INTEGERS),
        (IMAGES, "1x8x8", "'image_shape' .* 'tuple', .* 'list' or None. Got '1x8x8'"),
        (IMAGES, 8, "'image_shape' .* 'tuple', .* 'list' or None. Got 8"),
    ],
)
def test_bad_image_shape(assert_refused, X, image_shape, match):
    assert_refused(X, ValueError, match, image_shape=image_shape)


# --- Files


@pytest.fixture
def files(tmp_path):
    """Nine good images, and a function that writes one more of given bytes."""
    good = []
    for i, pixels in enumerate(IMAGES[:9]):
        good.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(pixels).save(good[-1])

    def write(name, content):
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    return good, write


def truncated(path, format, size=64):
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, format)
    content = path.read_bytes()
    return content[: len(content) // 2]


@pytest.fixture
def untrained(monkeypatch):
    """Let a training that begins fail with another error."""
    message = "training began before the files were checked"

    def begin(*args, **kwargs):
        raise AssertionError(message)

    monkeypatch.setattr("skorch.NeuralNet.partial_fit", begin)


@pytest.mark.parametrize("image_shape", [None, (1, 8, 8)])
@pytest.mark.usefixtures("untrained")
class TestFiles:
    def assert_refused(self, X, match, image_shape, error=ValueError):
        estimator = make(image_shape=image_shape)
        before = dict(vars(estimator))
        with pytest.raises(error, match=match):
            estimator.fit(X)
        assert_unchanged(estimator, before)

    def test_missing(self, files, image_shape):
        X = [*files[0], "not/there.png"]
        match = r"'not/there.png' does not exist \(looked for it from '/"
        self.assert_refused(X, match, image_shape)

    @pytest.mark.parametrize("format", ["png", "jpeg"])
    def test_truncated(self, files, image_shape, tmp_path, format):
        good, write = files
        path = write("half", truncated(tmp_path / "whole", format))
        match = rf"'{path}' is truncated or damaged \(.*\)\.\nRemove them from X"
        self.assert_refused([*good, path], match, image_shape or (3, 64, 64))
        if image_shape is None:
            match = match.replace("Remove them from X", "Pass images that can be read")
            self.assert_refused([path] * 4, match, None)

    @pytest.mark.parametrize("content", [b"", b"hello, I am a text"])
    def test_no_image(self, files, image_shape, content):
        good, write = files
        path = write("text.png", content)
        match = (
            rf"'{path}' is not an image that Pillow can read.*\.\nRemove them from X"
        )
        self.assert_refused([*good, path], match, image_shape)

    def test_folder_among_files(self, files, image_shape, tmp_path):
        match = rf"'{tmp_path}' is not an image but a folder\.\nRemove them from X"
        self.assert_refused([*files[0], str(tmp_path)], match, image_shape)

    def test_one_file(self, files, image_shape):
        match = r"1 sample\(s\) \(n_samples = 1\) while a minimum of 2 is required"
        self.assert_refused(files[0][:1], match, image_shape)

    def test_unknown_range(self, files, image_shape, tmp_path):
        path = tmp_path / "float.tiff"
        Image.fromarray(np.ones((8, 8), np.float32)).save(path)
        match = rf"'{path}' holds 32-bit values, .* Save it with 8 or 16 bits"
        self.assert_refused([*files[0], path], match, image_shape or (3, 8, 8))

    @pytest.mark.parametrize("other", [None, 3, np.zeros((8, 8))])
    def test_paths_and_others(self, files, image_shape, other):
        match = r"X mixes paths, or images .*: X\[9\] is of type .*Pass paths"
        self.assert_refused([*files[0], other], match, image_shape, TypeError)


def test_files_of_different_sizes(assert_refused, files, tmp_path):
    Image.fromarray(IMAGES[0, :5]).save(tmp_path / "small.png")
    match = "10 image files have 2 different sizes. Pass the shape .* image_shape="
    assert_refused([*files[0], tmp_path / "small.png"], ValueError, match)


@pytest.mark.parametrize("image_shape", [(2, 8, 8), (1, 1, 8)])
def test_image_shape_that_no_file_has(assert_refused, files, image_shape):
    match = r"cannot be read from image files: they have 1, 3 or 4 channels \(4"
    assert_refused(files[0], ValueError, match, image_shape=image_shape)


@pytest.mark.parametrize("content", [None, b"no image"])
def test_bad_file_at_predict(fitted, files, content):
    good, write = files
    path = "not/there.png" if content is None else write("text.png", content)
    before = dict(vars(fitted))
    with pytest.raises(ValueError, match=rf"1 of 10 .*:\n  '{path}'"):
        fitted.predict([*good, path])
    assert_unchanged(fitted, before)
    assert len(fitted.predict(good)) == 9


# --- Parameters


class Fails(nn.Module):
    def __init__(self, error, after=0):
        super().__init__()
        self.error, self.left = error, after

    def forward(self, x):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return x


BAD_PARAMETERS = [
    ({"n_clusters": 0}, r"'n_clusters' .* int in the range \[1, inf\). Got 0"),
    ({"n_clusters": -1}, r"'n_clusters' .* int in the range \[1, inf\). Got -1"),
    ({"n_clusters": 2.5}, r"'n_clusters' .* int in the range \[1, inf\). Got 2.5"),
    ({"n_clusters": "3"}, r"'n_clusters' .* int in the range \[1, inf\). Got '3'"),
    ({"n_clusters": 65}, "n_samples=64 should be >= n_clusters=65.* lower n_clusters"),
    ({"batch_size": 1}, r"'batch_size' .* int in the range \[2, inf\). Got 1"),
    ({"lr": 0}, r"'lr' .* in the range \(0.0, inf\). Got 0"),
    ({"lr": float("nan")}, r"'lr' .* in the range \(0.0, inf\). Got nan"),
    ({"max_epochs": 0}, r"'max_epochs' .* \[1, inf\) or a str among \{'auto'\}. Got 0"),
    ({"max_epochs": "many"}, r"'max_epochs' .* \{'auto'\}. Got 'many'"),
    ({"verbose": "yes"}, "'verbose' .* Got 'yes'"),
    ({"random_state": "seed"}, "'random_state' .* Got 'seed'"),
    ({"precision": "half"}, "'precision' .* str among .* Got 'half'"),
    ({"callbacks": 3}, "'callbacks' .* 'list' or None. Got 3"),
    (
        {"backbone": "resnot"},
        "backbone='resnot' is unknown. Pass 'auto', 'mlp', 'conv', 'resnet18', .*"
        r"torchvision .*nn\.Module",
    ),
    (
        {"backbone": "fasterrcnn_resnet50_fpn"},
        "backbone='fasterrcnn_resnet50_fpn' is unknown. Pass 'auto'",
    ),
    ({"backbone": 3}, "'backbone' .* instance of 'str' or .*Module'. Got 3"),
    ({"backbone": nn.Linear}, "'backbone' .* instance of 'str' or .*Module'. Got <cl"),
    (
        {"backbone": nn.Linear(5, 2)},
        r"cannot read images of shape \(1, 8, 8\). Pass another .* multiplied",
    ),
    (
        {"backbone": nn.Conv2d(1, 4, 3)},
        r"returned \(2, 4, 6, 6\) for 2 images; .* \(2, width\) .*Flatten",
    ),
    (
        {"backbone": Fails(AssertionError("Expected 224"))},
        r"cannot read images of shape \(1, 8, 8\). Pass another .* Expected 224",
    ),
    (
        {"augment": "upside down"},
        r"augment='upside down' .* images; pass 'auto'.*'digits', 'simclr', 'weak'",
    ),
    ({"augment": "vector"}, "augment='vector' .* images; pass 'auto'.*'digits'"),
    ({"augment": 3}, "'augment' .* instance of 'str' or a callable. Got 3"),
    ({"device": "cuda:99"}, r"device='cuda:99' cannot be used: .* Pass 'cpu', 'auto'"),
    ({"device": "quantum"}, r"device='quantum' cannot be used: .* Pass 'cpu', 'auto'"),
    ({"device": "meta"}, r"device='meta' cannot be used: .* Pass 'cpu', 'auto'"),
    ({"device": 3}, r"'device' .* 'str' or an instance of 'torch.device'. Got 3"),
    ({"net_params": [1]}, "'net_params' .* 'dict' or None. Got"),
]


@pytest.mark.parametrize(("params", "match"), BAD_PARAMETERS)
def test_bad_parameter(assert_refused, params, match):
    assert_refused(IMAGES, ValueError, match, **params)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"backbone": "conv"}, "backbone='conv' needs images, .*vectors. Use .*'mlp'"),
        (
            {"augment": "simclr"},
            "augment='simclr' .* vectors; .*'vector'.* image_shape=",
        ),
    ],
)
def test_an_image_method_for_vectors(assert_refused, params, match):
    params = {"backbone": "mlp", "augment": "vector", **params}
    assert_refused(VECTORS, ValueError, match, **params)


@pytest.mark.parametrize(
    ("key", "error", "match"),
    [
        ("typo", ValueError, r"unexpected argument\(s\) typo"),
        ("typo__typo", ValueError, r"unexpected argument\(s\) typo__typo"),
        ("optimizer_eps", ValueError, "optimizer_eps, did you mean optimizer__eps"),
        ("optimizer__typo", TypeError, "unexpected keyword argument 'typo'"),
        (3, TypeError, "keywords must be strings"),
    ],
)
def test_unknown_parameter_of_the_net(assert_refused, key, error, match):
    caught = assert_refused(IMAGES, error, match, net_params={key: 1})
    assert str(caught).startswith(f"net_params={ {key: 1} } cannot be used: ")


def test_a_failing_backbone_does_not_blame_other_parameters(assert_refused):
    backbone = nn.Linear(5, 2)
    caught = assert_refused(IMAGES, ValueError, "cannot read", backbone=backbone)
    assert "net_params" not in str(caught)
