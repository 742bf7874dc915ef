"""Estimators with pretrained backbones: fine-tuned, frozen, and on features."""

import copy
import os
import pickle
import re
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from estimators import ESTIMATORS, NAMES, make_stripes
from PIL import Image
from sklearn.base import clone
from torch import nn
from toy import Spy

import skdeepcluster
from skdeepcluster import GCC, MFCVAE, SCL, DigPro, StatDEC
from skdeepcluster._input import files
from skdeepcluster._storage import FileError
from skdeepcluster.plots import FacetsDisplay, GeneratedSheetDisplay
from skdeepcluster.pretrained import Pretrained, frozen, load_network, networks

NAME = "timm:test_efficientnet"  # of 0.1 million parameters
X = make_stripes()[0]
SHIFTED = X[:, ::-1, ::-1]


@pytest.fixture(scope="module", autouse=True)
def small_images():
    """Named networks at 16 pixels, not at more: to be fast."""
    build = networks.find_source

    def build_small(model, weights, image_size):
        source = build(model, weights, image_size)
        source.size = 16
        return source

    networks.find_source = build_small
    yield
    networks.find_source = build


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file of random weights."""
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.manual_seed(0)
    network = networks.find_source(NAME, None, None).network
    for part in network.modules():  # statistics that images of ours differ from
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean += 0.1
    torch.save(network.state_dict(), path)
    return str(path)


class Small(nn.Module):
    """A user's network, with batch norm and dropout."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3)
        self.norm, self.dropout = nn.BatchNorm2d(5), nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.norm(self.conv(x))).mean(2).flatten(1)


def make(name, file, trainable="all", **params):
    estimator = clone(ESTIMATORS[NAMES.index(name)])
    params = {"backbone": NAME, "weights": file, "trainable": trainable, **params}
    return estimator.set_params(**params)


def pretrained_parts(model):
    """The pretrained networks in a module: the one that trains, and its averages."""
    return [m for m in model.net_.module_.modules() if isinstance(m, Pretrained)]


def same_weights(network, file):
    state, given = network.network.state_dict(), torch.load(file)
    return all(torch.equal(state[name], given[name]) for name in state)


each_name = pytest.mark.parametrize("name", NAMES)
each_trained = pytest.mark.parametrize("name", [n for n in NAMES if n != "MFCVAE"])


def assert_equal(a, b):
    np.testing.assert_array_equal(a.labels_, b.labels_)
    np.testing.assert_array_equal(a.transform(X), b.transform(X))


# -- what trains -----------------------------------------------------------------------


@each_trained
def test_a_frozen_backbone_stays_as_it_was_while_the_rest_trains(name, file):
    seen = []

    def look(net):
        seen.extend(part.training for part in pretrained_parts(_fitted(net)))

    model = make(name, file, "head", callbacks=[Spy("on_batch_end", look)]).fit(X)
    parts = pretrained_parts(model)
    assert parts and all(same_weights(part, file) for part in parts)
    assert seen and not any(seen)  # neither statistics of a batch, nor dropout
    assert not any(p.requires_grad for part in parts for p in part.parameters())
    assert model.encoder_ is None
    np.testing.assert_array_equal(model.predict(X), model.labels_)


def _fitted(net):
    return type("Fitted", (), {"net_": net})


@each_trained
def test_a_fine_tuned_backbone_trains_at_a_lower_rate(name, file):
    rates = []

    def look(net):
        groups = {id(p): g for g in net.optimizer_.param_groups for p in g["params"]}
        trained = [
            p
            for part in pretrained_parts(_fitted(net))
            for p in part.parameters()
            if p.requires_grad
        ]
        rates.extend({groups[id(p)]["initial_lr"] for p in trained})
        rates.append(net.optimizer_.param_groups[-1]["initial_lr"])

    model = make(
        name, file, lr=0.004, callbacks=[Spy("on_train_begin", look)], augment="weak"
    ).fit(X)
    assert rates == [pytest.approx(0.0004), 0.004]
    trained = pretrained_parts(model)
    assert not any(same_weights(part, file) for part in trained)
    np.testing.assert_array_equal(model.predict(X), model.labels_)


@pytest.mark.parametrize(("name", "own"), [("SCL", 1), ("StatDEC", 2)])
def test_groups_of_the_user_come_after_those_of_the_method(name, own, file):
    rates = []
    look = Spy("on_train_begin", lambda net: rates.append(net.optimizer_.param_groups))
    params = {"callbacks": [look], "augment": "weak"}
    make(name, file, **params).fit(X)
    groups = [("*.bias", {"lr": 1e-5})]
    params["net_params"] = {"optimizer__param_groups": groups}
    model = make(name, file, **params).fit(X)
    before, after = ([group["initial_lr"] for group in groups] for groups in rates)
    assert len(before) == own + 1 and 0.1 * model.lr in before
    assert after == [*before[:-1], 1e-5, model.lr]
    sizes = [[len(group["params"]) for group in groups] for groups in rates]
    assert sizes[0][:-1] == sizes[1][:own] and sizes[1][own] > 0
    assert groups == [("*.bias", {"lr": 1e-5})]


@pytest.mark.parametrize("pattern", ["none.*", "encoder.backbone.*"])
def test_groups_of_nothing_are_refused(pattern, file):
    groups = [("*head*", {}), (pattern, {"lr": 1e-5})]
    model = make("SCL", file, net_params={"optimizer__param_groups": groups})
    refusal = f"{re.escape(repr(pattern))} .* no parameters.*'encoder'.*backbone"
    with pytest.raises(ValueError, match=refusal):
        model.fit(X)


@pytest.mark.parametrize("trainable", ["all", "head"])
def test_weights_of_a_checkpoint_count_by_their_content(trainable, file, tmp_path):
    mine, folder = tmp_path / "weights.pth", tmp_path / "checkpoint"
    shutil.copy(file, mine)
    params = {"trainable": trainable, "augment": "weak", "checkpoint": folder}
    make("SCL", mine, max_epochs=1, **params).fit(X)
    model = make("SCL", file, max_epochs=2, **params).fit(X)  # a str at another path
    assert model.n_iter_ == 2
    torch.save({n: v + 1 for n, v in torch.load(file).items()}, mine)
    with pytest.raises(ValueError, match=r"differs in weights\."):
        make("SCL", mine, max_epochs=2, **params).fit(X)


def test_random_weights_of_a_named_network_train_at_the_full_rate():
    rates = []
    look = Spy("on_train_begin", lambda net: rates.append(net.optimizer_.param_groups))
    params = {"weights": None, "backbone": NAME, "callbacks": [look]}
    model = make("SCL", None, **params).fit(X)
    assert [group["initial_lr"] for group in rates[0]] == [model.lr]
    assert len(pretrained_parts(model)) == 1
    again = make("SCL", None, **params).fit(X)
    assert_equal(model, again)


def test_images_reach_the_network_normalised_once(file):
    seen = []

    class Looking(Small):
        def forward(self, x):
            seen.append((float(x.min()), float(x.max())))
            return super().forward(x)

    model = make("SCL", None, "head", backbone=Looking(), augment="none").fit(X)
    assert isinstance(model.net_.module_.encoder.standardize, nn.Identity)
    low, high = np.array(seen).T
    assert low.min() == 0 and high.max() == np.float32(X.max() / 255)


def test_from_scratch_a_module_is_standardised_as_ever():
    model = make("SCL", None, backbone=Small()).fit(X)
    assert not isinstance(model.net_.module_.encoder.standardize, nn.Identity)
    assert pretrained_parts(model) == []


def test_a_network_that_was_loaded_before(file):
    network = load_network(NAME, file, image_size=12)
    one = make("SCL", None, backbone=network, trainable="head").fit(X)
    assert pretrained_parts(one)[0].size == 12
    assert all(p.requires_grad for p in network.parameters())  # a copy was frozen


# -- features instead of images --------------------------------------------------------


@each_name
def test_none_is_a_fit_to_the_features(name, file):
    model = make(name, file, "none").fit(X)
    with torch.no_grad():
        features = model.encoder_(torch.tensor(X[:, None])).numpy()
        unit = torch.tensor(X / 255, dtype=torch.float32)[:, None]
        expected = load_network(NAME, file)(unit).numpy()
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-5)
    by_hand = clone(ESTIMATORS[NAMES.index(name)]).fit(features)
    np.testing.assert_array_equal(model.labels_, by_hand.labels_)
    np.testing.assert_array_equal(model.transform(X), by_hand.transform(features))
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    assert model.score(X) == by_hand.score(features)
    assert model.image_shape_ == (1, 8, 8) and model.n_features_in_ == 64
    assert pretrained_parts(model) == [] and model.encoder_.network.frozen


def test_features_are_computed_once(file, monkeypatch):
    seen, forward = [], Pretrained.forward

    def count(self, x):
        seen.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(Pretrained, "forward", count)
    make("SCL", file, "none", max_epochs=3).fit(X)
    assert seen == [2, len(X)]  # two tell what the network gives


@each_name
def test_none_takes_a_module_of_the_user(name):
    own = Small()
    before = copy.deepcopy(own.state_dict())
    model = make(name, None, "none", backbone=own).fit(X)
    assert model.encoder_(torch.tensor(X[:2, None])).shape == (2, 30)
    assert all(torch.equal(before[k], v) for k, v in own.state_dict().items())
    np.testing.assert_array_equal(model.predict(X), model.labels_)


def test_a_fit_from_scratch_forgets_the_frozen_network(file):
    model = make("SCL", file, "none").fit(X)
    model.set_params(trainable="all", weights=None, backbone="auto").fit(X)
    assert model.encoder_ is None
    assert_equal(model, clone(ESTIMATORS[NAMES.index("SCL")]).fit(X))


def test_new_images_of_another_range(file):
    model = make("SCL", file, "none").fit(X)
    np.testing.assert_allclose(
        model.transform((X / 255).astype(np.float32)), model.transform(X), atol=1e-5
    )
    with pytest.raises(ValueError, match="Scale X as the training"):
        model.predict(X * np.float32(1000))


def test_drawn_rows_are_features(file):
    model = make("GCC", file, "none").fit(X)
    drawn, labels = model.sample(3, random_state=0)
    width = model.encoder_(torch.tensor(X[:1, None])).shape[1]
    assert drawn.shape == (3, width) and drawn.dtype == np.float32 and len(labels) == 3
    facets = make("MFCVAE", file, "none").fit(X)
    assert facets.inverse_transform(facets.transform(X)).shape == (len(X), width)


def test_drawn_features_are_not_shown(file):
    model = make("GCC", file, "none").fit(X)
    with pytest.raises(ValueError, match="draws features, which cannot be shown"):
        GeneratedSheetDisplay.from_estimator(model, X)
    facets = make("MFCVAE", file, "none").fit(X)
    with pytest.raises(ValueError, match="draws features, which cannot be shown"):
        FacetsDisplay.from_estimator(facets, X)


def test_threads_fit_and_predict_side_by_side(file):
    alone = make("SCL", file, "none").fit(X)
    with ThreadPoolExecutor(2) as pool:
        for model in pool.map(lambda _: make("SCL", file, "none").fit(X), range(2)):
            assert_equal(model, alone)
        for labels in pool.map(alone.predict, [X, X]):
            np.testing.assert_array_equal(labels, alone.labels_)


def test_files_that_cannot_be_read_are_left_out(file, tmp_path):
    paths = []
    for i, image in enumerate(X):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(image).save(paths[-1])
    (tmp_path / "7.png").write_bytes(b"no image")
    model = make("SCL", file, "none", on_error="skip")
    with pytest.warns(UserWarning, match="left out"):
        model.fit(paths)
    assert model.labels_[7] == -1 and [row for row, *_ in model.skipped_] == [7]
    good = make("SCL", file, "none").fit(paths[:7] + paths[8:])
    np.testing.assert_array_equal(np.delete(model.labels_, 7), good.labels_)
    with pytest.warns(UserWarning, match="left out"):
        np.testing.assert_array_equal(model.predict(paths), model.labels_)
    with pytest.warns(UserWarning, match="left out"):
        assert np.isnan(model.transform(paths[7:8])).all()
    with pytest.raises(ValueError, match=r"7\.png"):
        model.set_params(on_error="raise").predict(paths)


def test_files_of_any_size_get_that_of_the_network(file, tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(len(X))]
    for i, (path, image) in enumerate(zip(paths, X, strict=True)):
        Image.fromarray(image).resize((20 + i, 17)).save(path)
    model = make("SCL", file, "none").fit(paths)
    side = model.encoder_.network.size
    assert model.image_shape_ == (3, side, side)
    np.testing.assert_array_equal(model.predict(paths), model.labels_)


@pytest.mark.parametrize("augment", ["simclr", "digits"])
def test_views_of_images_are_refused_before_features_are_computed(
    file, augment, monkeypatch
):
    monkeypatch.setattr(Pretrained, "forward", None)
    with pytest.raises(ValueError, match="what a frozen network gives"):
        make("SCL", file, "none", augment=augment).fit(X)


def test_a_signal_while_features_are_computed(file, monkeypatch):
    forward = Pretrained.forward

    def interrupted(self, x):
        os.kill(os.getpid(), signal.SIGINT)
        return forward(self, x)

    model = make("SCL", file, "none")
    monkeypatch.setattr(Pretrained, "forward", interrupted)
    monkeypatch.setitem(frozen.PIXELS, "cpu", 1)  # batches of 16
    with pytest.raises(KeyboardInterrupt, match="before it began"):
        model.fit(X)
    assert "labels_" not in vars(model)


def test_features_that_are_not_finite():
    own = Small()
    nn.init.constant_(own.conv.weight, float("nan"))
    with pytest.raises(FloatingPointError, match="pretrained network gives features"):
        make("SCL", None, "none", backbone=own).fit(X)


# -- copies and files ------------------------------------------------------------------


CASES = [
    ("SCL", "none"),
    ("SCL", "head"),
    ("StatDEC", "all"),
    ("MFCVAE", "none"),
]
each_case = pytest.mark.parametrize(("name", "trainable"), CASES)


@each_case
def test_pickles_and_files_hold_the_weights(name, trainable, file, tmp_path):
    there = tmp_path / "weights.pth"
    there.write_bytes(open(file, "rb").read())
    model = make(name, there, trainable).fit(X)
    there.unlink()  # nothing is read again
    assert_equal(pickle.loads(pickle.dumps(model)), model)
    model.save(tmp_path / "model.safetensors", per_sample=True)
    again = skdeepcluster.load(tmp_path / "model.safetensors", device="cpu")
    assert_equal(again, model)
    np.testing.assert_array_equal(again.predict(SHIFTED), model.predict(SHIFTED))
    again.save(tmp_path / "again.safetensors", per_sample=True)
    assert_equal(skdeepcluster.load(tmp_path / "again.safetensors"), model)
    assert_equal(copy.deepcopy(model), model)
    assert not any(hasattr(clone(model), name) for name in ("labels_", "net_"))


@pytest.mark.parametrize("trainable", ["none", "head"])
def test_a_file_of_a_module_of_the_user(trainable, tmp_path):
    own = Small()
    model = make("SCL", None, trainable, backbone=own).fit(X)
    path = tmp_path / "model.safetensors"
    model.save(path, per_sample=True)
    with pytest.raises(FileError, match=r"load\(path, backbone=\.\.\.\)"):
        skdeepcluster.load(path)
    assert_equal(skdeepcluster.load(path, device="cpu", backbone=Small()), model)
    with pytest.raises(FileError, match="do not go together"):
        skdeepcluster.load(
            path, backbone=nn.Sequential(nn.Flatten(), nn.Linear(64, 30))
        )


@pytest.mark.parametrize("trainable", ["none", "head"])
def test_a_file_holds_how_images_are_prepared(trainable, tmp_path):
    pooled = nn.Sequential(nn.Conv2d(1, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    own = Pretrained(pooled, size=6, interpolation="bicubic", channels=1)
    model = make("SCL", None, trainable, backbone=own).fit(X)
    path = tmp_path / "model.safetensors"
    model.save(path, per_sample=True)
    with pytest.raises(
        FileError, match=r"For one of load_network.*same arguments; its"
    ):
        skdeepcluster.load(path)
    again = skdeepcluster.load(path, device="cpu", backbone=Pretrained(pooled, size=9))
    assert_equal(again, model)
    part = again.encoder_.network if trainable == "none" else pretrained_parts(again)[0]
    assert (part.size, part.interpolation, part.channels) == (6, "bicubic", 1)
    again.save(path, per_sample=True)  # and so does what was loaded
    assert_equal(skdeepcluster.load(path, device="cpu", backbone=own), model)


@pytest.mark.parametrize(("name", "trainable"), [("SCL", "none"), ("StatDEC", "all")])
def test_a_training_goes_on(name, trainable, file, tmp_path):
    whole = make(name, file, trainable, max_epochs=3).fit(X)

    def stop(net):
        if net.module_.clock.epoch == 1:
            raise ZeroDivisionError

    broken = make(
        name,
        file,
        trainable,
        max_epochs=3,
        checkpoint=str(tmp_path),
        checkpoint_every=0,
        callbacks=[Spy("on_batch_begin", stop)],
    )
    with pytest.raises(ZeroDivisionError):
        broken.fit(X)
    broken.set_params(callbacks=None).fit(X)
    assert_equal(broken, whole)


def test_a_training_on_features_is_told_by_images_and_weights(file, tmp_path):
    folder = str(tmp_path / "training")
    model = make("SCL", file, "none", checkpoint=folder).fit(X)
    with pytest.raises(ValueError, match="differs in X"):
        clone(model).fit(SHIFTED)
    state = torch.load(file)
    other = tmp_path / "other.pth"
    torch.save({name: 2 * value for name, value in state.items()}, other)
    torch.save(state, tmp_path / "same.pth")
    changing = make("SCL", tmp_path / "same.pth", "none", warm_start=True).fit(X)
    (tmp_path / "same.pth").write_bytes(other.read_bytes())
    with pytest.raises(ValueError, match="differs in X"):
        changing.fit(X)


@pytest.mark.parametrize("trainable", ["none", "head"])
def test_warm_start(trainable, file):
    model = make("SCL", file, trainable, warm_start=True).fit(X)
    model.set_params(max_epochs=3).fit(X)
    assert model.n_iter_ == 3
    np.testing.assert_array_equal(model.predict(X), model.labels_)


# -- what does not go together ---------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"weights": "DEFAULT"}, "backbone='auto' is none. Pass backbone='efficient"),
        ({"weights": "DEFAULT", "backbone": "conv"}, "backbone='conv' is none"),
        ({"trainable": "none"}, "^trainable='none' belongs to .*backbone='auto' is no"),
        (
            {"weights": "x.pth", "trainable": "none"},
            "^weights='x.pth' and trainable='none' belong to .* at None and 'all'",
        ),
        (
            {"trainable": "head", "backbone": "resnet18"},
            "freeze backbone='resnet18' with random weights. Pass weights='DEFAULT'",
        ),
        (
            {"trainable": "none", "backbone": "efficientnet_lite0"},
            "freeze backbone='efficientnet_lite0' with random weights",
        ),
        ({"backbone": "resnet5", "weights": "DEFAULT"}, "no model 'resnet5'.*resnet50"),
        (
            {"backbone": "resnet50", "weights": "IMAGENET"},
            "no file, and none of 'DEFAULT'",
        ),
        ({"trainable": "some"}, "trainable"),
        ({"weights": 3}, "weights"),
    ],
)
@pytest.mark.parametrize("cls", [DigPro, GCC, SCL, StatDEC, MFCVAE])
def test_what_does_not_go_together(cls, params, message):
    model = cls(3, **params)
    if cls is MFCVAE and params.get("trainable", "all") == "all":
        message = f"{message}|Pass trainable='none'"
    with pytest.raises(ValueError, match=message):
        model.fit(X)
    assert "net_" not in vars(model)


@pytest.mark.parametrize("trainable", ["all", "head", "none"])
def test_vectors_are_refused(file, trainable):
    with pytest.raises(ValueError, match="X holds vectors.*image_shape"):
        make("SCL", file, trainable).fit(X.reshape(len(X), -1))
    rows = make("SCL", file, trainable, image_shape=(1, 8, 8), max_epochs=1)
    assert rows.fit(X.reshape(len(X), -1)).n_features_in_ == 64


@pytest.mark.parametrize("trainable", ["all", "head", "none"])
def test_a_module_that_cannot_take_the_images(trainable):
    own = nn.Sequential(nn.Conv2d(7, 5, 3), nn.Flatten())
    with pytest.raises(ValueError, match=r"backbone cannot read images of shape \(1, "):
        make("SCL", None, trainable, backbone=own).fit(X)


def test_progress_of_features_is_shown_in_lines_where_there_are_no_bars(capsys):
    make("SCL", None, "none", backbone=Small(), verbose=1).fit(X)
    assert "SCL, features: 60/60 images" in capsys.readouterr().err


def test_files_are_decoded_to_be_looked_at_and_for_their_features(
    monkeypatch, tmp_path
):
    paths = [str(tmp_path / f"{i}.png") for i in range(len(X))]
    for path, image in zip(paths, X, strict=True):
        Image.fromarray(image).save(path)
    monkeypatch.setattr(files, "CACHE_BYTES", 0)  # more than may be kept
    decoded, decode = [], files.ImageFiles.decode

    def count(self, rows):
        found = decode(self, rows)
        decoded.append(len(found))
        return found

    monkeypatch.setattr(files.ImageFiles, "decode", count)
    make("SCL", None, "none", backbone=Small(), image_shape=(1, 8, 8)).fit(paths)
    assert sum(decoded) == 2 * len(X)


@pytest.mark.parametrize("trainable", ["all", "head"])
def test_mfcvae_takes_features_only(trainable, file):
    for unread in (X, ["no such file.png"] * 60):
        with pytest.raises(ValueError, match="MFCVAE reconstructs.*trainable='none'"):
            make("MFCVAE", file, trainable).fit(unread)


@pytest.mark.parametrize("trainable", ["all", "none"])
def test_channels_that_no_network_knows(trainable, file):
    four = np.stack([X, X, X, X], axis=1)
    with pytest.raises(ValueError, match="4 channels.*takes 1 or 3"):
        make("SCL", file, trainable).fit(four)


def test_weights_that_do_not_fit_leave_the_estimator_as_it_was(file):
    model = make("SCL", file, "none").fit(X)
    before = model.labels_.copy()
    model.set_params(backbone="timm:test_resnet")
    with pytest.raises(FileError, match=f"{re.escape(file)}.*do not fit"):
        model.fit(X)
    np.testing.assert_array_equal(model.labels_, before)


@pytest.mark.gpu
@pytest.mark.parametrize("trainable", ["all", "head", "none"])
def test_cuda(trainable, file, tmp_path):
    model = make("SCL", file, trainable, device="cuda").fit(X)
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    model.save(tmp_path / "model.safetensors")
    again = skdeepcluster.load(tmp_path / "model.safetensors", device="cpu")
    np.testing.assert_allclose(again.transform(X), model.transform(X), atol=1e-2)
    pickled = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(pickled.predict(X), model.labels_)
