"""Pickles have what prediction needs, and notice when a bit of that is another one."""

import copy
import io
import pickle
import random

import joblib
import numpy as np
import pytest
import torch
from estimators import NAMES, SMALL, each_estimator, fitted, make_stripes
from sklearn.base import clone
from test_storage import Net, assert_alike
from torch import nn
from toy import IMAGES, make

from skdeepcluster import SCL, DigPro, FileError
from skdeepcluster._storage.digest import digest
from skdeepcluster._storage.trimming import training_only

X = make_stripes()[0]


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def dumped(model, **kwargs):
    file = io.BytesIO()
    joblib.dump(model, file, **kwargs)
    file.seek(0)
    return joblib.load(file)


# -- there and back --------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", [pickled, dumped, copy.copy, copy.deepcopy])
def test_a_copy_predicts_the_same(name, way):
    model = fitted(name)
    again = way(model)
    assert vars(again).keys() == vars(model).keys()
    assert_alike(again, model)
    np.testing.assert_array_equal(again.labels_, model.labels_)
    assert_alike(pickled(again), model)


@pytest.mark.parametrize("name", NAMES)
def test_a_pickle_has_only_what_prediction_needs(name):
    model = fitted(name)
    again = pickled(model)
    parts = [
        (part, n) for part in again.net_.module_.modules() for n in training_only(part)
    ]
    assert parts
    assert not any(getattr(part, n, None) is not None for part, n in parts)
    # a file has the same networks, and less besides
    weights = {k: v.nbytes for k, v in tensors_of(again).items()}
    assert len(pickle.dumps(model)) < sum(weights.values()) + 60_000
    # what was pickled stays whole, and what is copied, too
    kept = tensors_of(model).keys()
    assert tensors_of(copy.deepcopy(model)).keys() == kept > weights.keys() or (
        name == "MFCVAE" and kept == weights.keys()
    )


def tensors_of(model):
    state = model.net_.module_.state_dict()
    return {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}


def test_joblib_compresses_and_maps_the_weights(tmp_path):
    model = fitted("SCL")
    assert_alike(dumped(model, compress=3), model)
    joblib.dump(model, tmp_path / "model")
    assert_alike(joblib.load(tmp_path / "model", mmap_mode="r"), model)


def test_a_lambda_can_be_pickled_by_those_who_can():
    cloudpickle = pytest.importorskip("cloudpickle")
    model = DigPro(**SMALL, augment=lambda x: x + 0.1 * torch.rand(len(x), 1, 1, 1))
    model.fit(X)
    again = pickle.loads(cloudpickle.dumps(model))
    assert_alike(again, model)
    np.testing.assert_array_equal(again.fit(X).labels_, model.labels_)


class Recurrent(nn.Module):
    """Rows one after the other: its layer keeps its weights in a list of its own."""

    def __init__(self):
        super().__init__()
        self.rows, self.again = nn.GRU(8, 6, batch_first=True), nn.Linear(6, 6)
        self.tied = nn.Linear(6, 6)
        self.tied.weight = self.again.weight
        self.factor = nn.Parameter(torch.ones(6, dtype=torch.bfloat16))

    def forward(self, x):
        return self.tied(self.again(self.rows(x[:, 0])[0][:, -1])) * self.factor


def test_unusual_networks_are_pickled():
    model = DigPro(**SMALL, backbone=Recurrent()).fit(X)
    again = pickled(model)
    assert_alike(again, model)
    backbone = again.net_.module_.teacher.network.backbone
    assert backbone.tied.weight is backbone.again.weight
    assert backbone.factor.dtype == torch.bfloat16


def test_an_unfitted_estimator_and_a_method_of_ones_own_are_pickled():
    model = make()
    assert pickled(model).get_params() == model.get_params()
    model = DigPro(**SMALL, backbone=Net(), callbacks=[]).fit(X)
    assert_alike(pickled(model), model)
    assert_alike(pickled(make().fit(IMAGES)), make().fit(IMAGES), IMAGES)


def test_a_fit_after_a_pickle_is_the_same_fit():
    again = pickled(fitted("SCL"))
    np.testing.assert_array_equal(again.fit(X).labels_, fitted("SCL").labels_)


def test_a_pickle_leaves_the_global_generators_alone():
    before = torch.get_rng_state()
    pickled(fitted("GCC"))
    assert torch.equal(torch.get_rng_state(), before)


# -- damage ----------------------------------------------------------------------------


def outcome(data, expected):
    """What becomes of a damaged pickle."""
    try:
        model = pickle.loads(data)
    except FileError:
        return "noticed"
    except Exception:  # the pickle itself may break anywhere
        return "broken"
    same = np.array_equal(model.predict_proba(X), expected)
    return "harmless" if same else "wrong"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["SCL", "MFCVAE"])
def test_no_flipped_bit_predicts_otherwise(name):
    model = fitted(name)
    data, expected = pickle.dumps(model), model.predict_proba(X)
    draws, found = random.Random(0), []
    for place in [
        *(draws.randrange(len(data)) for _ in range(50)),
        *(draws.randrange(6000) for _ in range(50)),  # parameters and the like
        *(len(data) - 1 - draws.randrange(6000) for _ in range(50)),
    ]:
        bit = 1 << draws.randrange(8)
        flipped = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
        found.append(outcome(flipped, expected))
    assert "wrong" not in found
    assert found.count("noticed") > 50


def changed(model, change):
    """The pickle of a model whose state was changed after it was sealed."""
    state = model.__getstate__()
    change(state)
    again = type(model).__new__(type(model))
    again.__setstate__(state)
    return again


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update(n_clusters=4),
        lambda s: s.update(cluster_centers_=s["cluster_centers_"] + 1e-6),
        lambda s: s.update(_kept=s["_kept"][::-1]),
        lambda s: s.update(labels_=s["labels_"].astype(np.int32)),
        lambda s: s.update(more_=1),
        lambda s: s.pop("image_shape_"),
        lambda s: s["history_"][-1].update(loss=0.0),
        lambda s: setattr(s["net_"]["module"].p, "temperature", 0.51),
        lambda s: setattr(s["net_"]["module"].encoder.backbone[0], "stride", (1, 2)),
        lambda s: s["net_"].update(device="meta"),
        lambda s: s["_seal"].update(digest="0"),
        lambda s: s.pop("_seal"),
        lambda s: s.update(_seal=None),
    ],
)
def test_every_part_is_sealed(change):
    model = copy.deepcopy(fitted("SCL"))
    changed(model, lambda state: None)
    with pytest.raises(FileError, match="This pickle of SCL is damaged"):
        changed(model, change)


def test_another_version_is_told():
    model = fitted("SCL")
    with pytest.warns(UserWarning, match="pickled by skdeepcluster 0.0.1 .* save"):
        changed(model, lambda state: state["_seal"].update(version="0.0.1"))


# -- digests ---------------------------------------------------------------------------


class Holds:
    def __init__(self, **held):
        vars(self).update(held)


class Moody(Holds):
    """Says itself how it is pickled."""

    def __getstate__(self):
        return {"times": 0}


CYCLE: list = [1]
CYCLE.append(CYCLE)
VALUES = [
    *(None, True, False, 0, 1, -1, 2**70, 0.0, -0.0, 1.0, np.nan, np.inf, 1j),
    *("", "1", "a", "\ud800", b"", b"a", (), (1,), (1, 2), ((1,), 2), [], [1], [1, 2]),
    *({}, {1: 2}, {2: 1}, {"1": 2}, {1}, {1, 2}, frozenset({1}), slice(1), range(1)),
    *(np.float32(1), np.float64(1), np.int64(1), np.bool_(True), np.str_("a")),
    *(np.zeros(2), np.zeros(2, "f4"), np.zeros((1, 2)), np.zeros(0), np.array("a")),
    *(np.array(["a", None], object), np.array(["a", "b"], object), np.array([-0.0, 0])),
    *(torch.zeros(2), torch.zeros(2).double(), torch.zeros(1, 2), torch.float32),
    *(torch.zeros(2, dtype=torch.bfloat16), torch.device("cpu"), np.dtype("f4")),
    *(len, print, int, Holds, Holds(), Holds(a=1), Holds(a=2), Holds(b=1), Moody(a=1)),
    *(nn.Linear(1, 1), nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(0.1)),
    *(nn.LazyLinear(3), nn.LazyLinear(3, bias=False)),
    *(DigPro(), DigPro(9), SCL(9), np.random.RandomState(0), np.random.RandomState(1)),
    CYCLE,
]


def test_other_values_have_other_digests():
    digests = [digest(value) for value in VALUES]
    assert len(set(digests)) == len(VALUES)


def test_a_value_keeps_its_digest_in_a_pickle():
    for value in VALUES:
        assert digest(pickled(value)) == digest(value), value
    assert digest(np.arange(6).reshape(2, 3).T) == digest(
        np.array([[0, 3], [1, 4], [2, 5]])
    )


def test_what_an_object_leaves_out_of_its_pickle_is_no_damage():
    model = make(callbacks=[]).fit(IMAGES)
    model.callbacks = [Moody(times=5)]
    assert pickled(model).callbacks[0].times == 0


# -- CUDA ------------------------------------------------------------------------------


@pytest.mark.gpu
@each_estimator
def test_a_pickle_from_a_gpu_is_opened_without_one(estimator, monkeypatch):
    model = clone(estimator).set_params(device="cuda").fit(X)
    data = pickle.dumps(model)
    assert pickle.loads(data).net_.device.startswith("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    again = pickle.loads(data)
    assert again.net_.device == "cpu"
    np.testing.assert_allclose(again.transform(X), model.transform(X), atol=1e-3)
