"""Models in files: what is saved is loaded again, and nothing else is in the file."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from estimators import NAMES, SMALL, each_estimator, fitted, make_stripes
from safetensors import safe_open
from safetensors.torch import load_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn
from toy import IMAGES, Toy, make

from skdeepcluster import GCC, MFCVAE, SCL, DigPro, FileError, StatDEC, load
from skdeepcluster._storage.container import MAX_PARTS, read, write

X = make_stripes()[0]
N = len(X)


def assert_alike(one, other, X=X):
    """Both predict the same, bit for bit."""
    for method in ("predict", "predict_proba", "transform", "score_samples"):
        if hasattr(other, method):
            expected = getattr(other, method)(X)
            np.testing.assert_array_equal(getattr(one, method)(X), expected)
    assert one.score(X) == other.score(X)
    if hasattr(other, "predict_facets"):
        expected = other.predict_facets(X)
        np.testing.assert_array_equal(one.predict_facets(X), expected)
    if hasattr(other, "sample"):
        for drawn, expected in zip(draw(one), draw(other), strict=True):
            np.testing.assert_array_equal(drawn, expected)


def draw(estimator):
    try:
        return estimator.sample(3, random_state=0)
    except ValueError:  # a GCC without a diffusion model
        return []


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def saved(model, path, **kwargs):
    model.save(path)
    return load(path, device="cpu", **kwargs)


# -- there and back --------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_estimator_is_the_one_that_was_saved(name, path):
    model = fitted(name)
    again = saved(model, path)
    assert type(again) is type(model) and repr(again) == repr(model)
    assert_alike(again, model)
    missing = vars(model).keys() - vars(again).keys()
    assert missing == {*model._per_sample, "skipped_"}
    assert again.history_ == model.history_
    assert again.layout_ == model.layout_
    for attribute in ("cluster_centers_", "cluster_sizes_"):
        expected = getattr(model, attribute)
        np.testing.assert_array_equal(getattr(again, attribute), expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_estimator_can_be_saved_cloned_and_fitted(name, path, tmp_path):
    model = fitted(name)
    again = saved(model, path)
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    np.testing.assert_array_equal(clone(again).fit(X).labels_, model.labels_)


VARIANTS = {
    "alignment": DigPro(**SMALL, instance="alignment", group_reset=3),
    "member": SCL(**SMALL, similarity="member"),
    "member, boundary": SCL(**SMALL, similarity="member", assign="boundary"),
    "two trunks": StatDEC(**SMALL, share_trunk=False, representation="contrastive"),
    "averages": StatDEC(**SMALL, pooling="avg"),
    "real": GCC(**{**SMALL, "max_epochs": 3}, bank="real", assign="head"),
    "one stage": GCC(**SMALL, pretraining=1.0),
    "bernoulli": MFCVAE((3, 4), max_epochs=2, likelihood="bernoulli", random_state=0),
    "one facet": MFCVAE(3, n_facets=1, max_epochs=2, covariance_type="diag"),
    "resnet18": DigPro(**SMALL, backbone="resnet18"),
    "torchvision": DigPro(**{**SMALL, "max_epochs": 1}, backbone="squeezenet1_1"),
    "regnet": DigPro(**{**SMALL, "max_epochs": 1}, backbone="regnet_y_400mf"),
    "generator": DigPro(**{**SMALL, "random_state": np.random.RandomState(3)}),
    "optimizer": SCL(**SMALL, net_params={"optimizer": torch.optim.SGD}),
    "a number of numpy": SCL(**{**SMALL, "n_clusters": np.int64(3)}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_choice_of_networks_is_restored(name, path):
    images = X
    if name in ("torchvision", "regnet"):
        images = np.kron(X[:, None], np.ones((1, 3, 4, 4), np.uint8))
    model = clone(VARIANTS[name]).fit(images)
    assert_alike(saved(model, path), model, images)


@pytest.mark.parametrize(
    "images", [X.reshape(N, -1) / 7.0, X[..., None], X / 255], ids=["rows", "hwc", "1"]
)
def test_layout_and_scaling_are_restored(images, path):
    model = DigPro(**SMALL).fit(images)
    assert_alike(saved(model, path), model, images)


def test_column_names_are_restored(path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        np.random.default_rng(0).normal(size=(40, 3)), None, [*"abc"]
    )
    model = DigPro(**SMALL).fit(frame)
    again = saved(model, path)
    assert again.feature_names_in_.tolist() == ["a", "b", "c"]
    with pytest.raises(ValueError, match="feature names"):
        again.predict(frame[["c", "b", "a"]])


def test_a_fresh_process_without_a_network_predicts_the_same(tmp_path):
    for name in NAMES:
        fitted(name).save(tmp_path / name)
    np.save(tmp_path / "X.npy", X)
    code = f"""
import socket
socket.socket.connect = socket.create_connection = None
import numpy, skdeepcluster
for name in {NAMES}:
    model = skdeepcluster.load(name, device="cpu")
    numpy.save(name + ".npy", model.predict_proba(numpy.load("X.npy")))
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    for name in NAMES:
        proba = np.load(tmp_path / f"{name}.npy")
        np.testing.assert_array_equal(proba, fitted(name).predict_proba(X))


def test_neither_save_nor_load_touch_what_the_caller_set(path):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        again = saved(fitted("GCC"), path)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(default)
    assert_alike(again, fitted("GCC"))
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


# -- what is in the file ---------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_the_file_has_an_entry_for_each_sample(name, path):
    model = fitted(name)
    model.save(path)
    with safe_open(path, "pt") as file:
        shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    assert not [key for key, shape in shapes.items() if N in shape]
    held = {
        attribute
        for attribute, value in vars(model).items()
        if isinstance(value, np.ndarray) and N in value.shape
    }
    assert held == set(model._per_sample)


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_in_the_file_if_asked_for(name, path):
    model = fitted(name)
    model.save(path, per_sample=True)
    again = load(path, device="cpu")
    for attribute in model._per_sample:
        expected = getattr(model, attribute)
        np.testing.assert_array_equal(getattr(again, attribute), expected)


def test_other_programs_can_read_the_weights(path):
    model = fitted("DigPro")
    model.save(path)
    weights = load_file(path)
    name = "teacher.network.projector.0.weight"
    expected = model.net_.module_.state_dict()[name]
    assert torch.equal(weights[f"module.{name}"], expected)


def test_the_machine_is_not_in_the_file(path, tmp_path):
    model = make().set_params(callbacks=[]).fit(IMAGES)
    model.save(path)
    content = path.read_bytes()
    for word in (os.getcwd(), str(Path.home()), str(tmp_path), "__main__"):
        assert word.encode() not in content


# -- what the file cannot hold ---------------------------------------------------------


class Net(nn.Sequential):
    """A backbone of a user's own."""

    def __init__(self, width=12):
        super().__init__(nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width))


def brighten(x):
    return (x + 0.1 * torch.rand(len(x), 1, 1, 1)).clamp(0, 1)


def test_a_backbone_of_ones_own_is_asked_for(path):
    model = DigPro(**SMALL, backbone=Net()).fit(X)
    model.save(path)
    with pytest.raises(
        FileError, match=r"backbone \(Net\).*load\(path, backbone=\.\.\."
    ):
        load(path)
    given = Net()
    weight = given[1].weight.detach().clone()
    again = load(path, device="cpu", backbone=given)
    assert_alike(again, model)
    assert again.backbone is given and torch.equal(given[1].weight, weight)
    with pytest.raises(FileError, match="do not go together.*same structure"):
        load(path, backbone=Net(13))
    with pytest.raises(FileError, match="do not go together.*same structure"):
        load(path, backbone=nn.Sequential(nn.Flatten(), nn.Linear(64, 12)))


def test_an_augmentation_of_ones_own_is_asked_for(path):
    model = DigPro(**SMALL, augment=brighten).fit(X)
    model.save(path)
    with pytest.raises(FileError, match=r"augment \(brighten\)"):
        load(path)
    again = load(path, device="cpu", augment=brighten)
    assert_alike(again, model)
    assert again.augment is brighten


def test_objects_that_the_file_does_not_ask_for_are_refused(path):
    fitted("SCL").save(path)
    with pytest.raises(TypeError, match="backbone was passed.*Leave it out"):
        load(path, backbone=Net())
    with pytest.raises(TypeError, match="estimator=.*Leave it out"):
        load(path, estimator=SCL)
    assert load(path, device="cpu", callbacks=[]).callbacks == []


def test_a_method_of_ones_own_is_loaded_by_its_class(path):
    model = make().fit(IMAGES)
    model.save(path)
    assert_alike(load(path, device="cpu", estimator=Toy), model, IMAGES)
    for given in ({}, {"estimator": SCL}):
        with pytest.raises(FileError, match="'Toy'.*estimator=TheClass"):
            load(path, **given)


def test_a_class_that_took_the_name_of_ours_is_not_taken_for_it(path):
    other = type("DigPro", (DigPro,), {"__module__": "skdeepcluster.digpro"})
    model = other(**SMALL).fit(X)
    model.save(path)
    with pytest.raises(FileError, match="estimator=TheClass"):
        load(path)
    assert type(load(path, device="cpu", estimator=other)) is other


def test_an_attribute_that_no_file_can_hold_is_named(path):
    model = make().fit(IMAGES)
    model.found_ = {"a": [1, {2}]}
    with pytest.raises(TypeError, match=r"\['found_'\]\['a'\]\[1\] is of type .*set"):
        model.save(path)
    assert not path.exists()


# -- writing ---------------------------------------------------------------------------


def test_only_what_is_fitted_can_be_saved(path):
    with pytest.raises(NotFittedError):
        DigPro().save(path)


def test_a_file_is_replaced_as_a_whole_or_not_at_all(path, monkeypatch):
    model = fitted("SCL")
    path.write_bytes(b"old")

    def full(*args):
        raise OSError("No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr(os, name, full)
            model.save(path)
        assert path.read_bytes() == b"old"
        assert os.listdir(path.parent) == [path.name]
    assert_alike(saved(model, path), model)
    assert os.listdir(path.parent) == [path.name]


def test_names_of_files(path, monkeypatch):
    model = fitted("MFCVAE")
    monkeypatch.chdir(path.parent)
    for name in ("plain", "ümläut 1", "x" * 250, b"bytes".decode()):
        assert_alike(saved(model, name), model)
    with pytest.raises(IsADirectoryError, match="name of a file"):
        model.save(path.parent)
    with pytest.raises(FileNotFoundError):
        model.save(path.parent / "no" / "folder")
    with pytest.raises(FileNotFoundError):
        load(path.parent / "missing")


def test_the_home_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    model = make(checkpoint="~/training").fit(IMAGES)
    fitted("SCL").save("~/model")
    assert_alike(load("~/model", device="cpu"), fitted("SCL"))
    assert sorted(os.listdir(tmp_path)) == ["model", "training"]
    assert os.listdir(tmp_path / "training") and len(model.labels_) == len(IMAGES)


def test_permissions_are_those_of_any_new_file(path):
    fitted("MFCVAE").save(path)
    other = path.with_name("other")
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


def test_what_could_not_be_read_again_is_not_written(path):
    with pytest.raises(ValueError, match="Keep long lists of numbers as arrays"):
        write(path, "checkpoint", [0] * (MAX_PARTS + 1), {})
    assert not path.exists()
    write(path, "checkpoint", [0] * (MAX_PARTS // 2), {})
    assert read(path, "checkpoint") == ([0] * (MAX_PARTS // 2), {})


# -- CUDA ------------------------------------------------------------------------------


@pytest.mark.gpu
@each_estimator
def test_a_file_from_a_gpu_is_read_on_a_cpu_and_back(estimator, path):
    model = clone(estimator).set_params(device="cuda").fit(X)
    again = saved(model, path)
    assert {
        t.device.type
        for t in again.net_.module_.state_dict().values()
        if isinstance(t, torch.Tensor)
    } == {"cpu"}
    np.testing.assert_allclose(again.transform(X), model.transform(X), atol=1e-3)
    back = load(path)
    assert back.net_.device.startswith("cuda")
    np.testing.assert_array_equal(back.predict(X), model.predict(X))
