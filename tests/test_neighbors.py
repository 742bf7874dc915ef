"""Neighbours as views of vectors."""

import copy
import os
import pickle
import signal
import sys
import types

import numpy as np
import pytest
import torch
from estimators import each_estimator
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.neighbors import NearestNeighbors
from torch import nn
from toy import IMAGES, Spy, ToyModule, make

import skdeepcluster
from skdeepcluster import SCL, neighbors
from skdeepcluster._engine.checkpoint import identity_of
from skdeepcluster._engine.interrupts import Interrupted
from skdeepcluster._input.images import Images
from skdeepcluster._input.layouts import as_images
from skdeepcluster._input.scaling import Scaling
from skdeepcluster.augment import Neighbors, make_augmentation, vector
from skdeepcluster.neighbors import nearest_neighbors, normalized_association

X, KINDS = make_blobs(60, n_features=6, centers=3, random_state=0)
CPU = torch.device("cpu")
SMALL = {"max_epochs": 2, "feature_dim": 8, "hidden_dim": 8, "random_state": 0}


def random_rows(n=70, d=5, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d))).float()


def of_sklearn(rows, k):
    search = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute")
    return search.fit(rows.numpy()).kneighbors(return_distance=False)


# -- how far clusters keep neighbours together -----------------------------------------


def test_association_by_hand():
    labels = torch.tensor([0, 0, 2, 2, 2])  # cluster 1 is empty
    nearest = torch.tensor([[1], [0], [0], [2], [3]])
    # one of the five pairs joins the clusters: each has four ends of its own, of five
    expected = ((2 + 2) / 5 + (2 + 2) / 5) / 2
    assert normalized_association(labels, nearest) == pytest.approx(expected)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_association_is_one_minus_the_mean_normalised_cut(seed):
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.integers(4, size=50))
    nearest = nearest_neighbors(random_rows(50, seed=seed), 3)
    weights = np.zeros((50, 50))
    for i, row in enumerate(nearest.tolist()):
        for j in row:
            weights[i, j] += 1
            weights[j, i] += 1
    cuts = [
        weights[labels == k][:, labels != k].sum() / weights[labels == k].sum()
        for k in range(4)
    ]
    found = normalized_association(labels, nearest)
    assert found == pytest.approx(1 - np.mean(cuts), abs=1e-12)


# -- the search ------------------------------------------------------------------------


@pytest.mark.parametrize("rows_at_once", [70, 32, 9, 1])
@pytest.mark.parametrize("k", [1, 7, 69])
def test_neighbors_are_those_of_scikit_learn(monkeypatch, k, rows_at_once):
    monkeypatch.setattr(neighbors, "MAX_ENTRIES", 70 * rows_at_once)
    rows = random_rows()
    found = nearest_neighbors(rows, k)
    assert found.dtype == torch.int64
    np.testing.assert_array_equal(found, of_sklearn(rows, k))


def test_lengths_do_not_matter():
    rows = random_rows()
    longer = rows * torch.linspace(0.01, 50, len(rows))[:, None]
    assert torch.equal(nearest_neighbors(longer, 5), nearest_neighbors(rows, 5))


def test_equal_rows_are_neighbors_but_none_is_its_own():
    rows = random_rows(8, 4).repeat(3, 1)
    found = nearest_neighbors(rows, 2)
    for i, row in enumerate(found.tolist()):
        assert set(row) == {i % 8, i % 8 + 8, i % 8 + 16} - {i}


@pytest.mark.parametrize("rows", [torch.zeros(20, 3), torch.ones(2, 3)])
def test_rows_that_are_all_alike(rows):
    found = nearest_neighbors(rows, 1)
    assert found.shape == (len(rows), 1)
    assert 0 <= found.min() and found.max() < len(rows)
    assert not (found[:, 0] == torch.arange(len(rows))).any()


def test_many_rows_are_searched_exactly_without_faiss(monkeypatch):
    rows = random_rows()
    monkeypatch.setattr(neighbors, "MAX_EXACT", 69)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.warns(UserWarning, match="of 70 rows .* all pairs.* Install faiss-cpu"):
        found = nearest_neighbors(rows, 4)
    np.testing.assert_array_equal(found, of_sklearn(rows, 4))


def test_few_rows_need_no_faiss(monkeypatch, recwarn):
    monkeypatch.setattr(neighbors, "MAX_EXACT", 70)
    monkeypatch.setitem(sys.modules, "faiss", None)
    nearest_neighbors(random_rows(), 4)
    assert not recwarn.list


class FakeIndex:
    """What faiss answers: mostly the nearest rows, those of each row among them."""

    def __init__(self, width, links):
        self.width, self.hnsw = width, types.SimpleNamespace()

    def add(self, values):
        assert values.shape[1] == self.width and values.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, rtol=1e-5)
        self.values = values

    def search(self, values, k):
        assert self.hnsw.efSearch >= k
        found = np.argsort(-(values @ self.values.T), axis=1, kind="stable")[:, :k]
        found[0] = np.roll(found[0], 1)  # the row itself second
        found[1] = np.r_[found[1][1:], -1]  # not at all, and one fewer
        return None, found


def test_what_faiss_finds_is_without_the_row_itself(monkeypatch):
    rows = random_rows()
    monkeypatch.setattr(neighbors, "MAX_EXACT", 10)
    faiss = types.SimpleNamespace(IndexHNSWFlat=FakeIndex)
    monkeypatch.setitem(sys.modules, "faiss", faiss)
    found, expected = nearest_neighbors(rows, 4).numpy(), of_sklearn(rows, 4)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found[1:], expected[1:])
    np.testing.assert_array_equal(np.sort(found[0]), np.sort(expected[0]))


def test_a_row_stands_in_for_neighbors_that_faiss_misses(monkeypatch):
    class Misses(FakeIndex):
        def search(self, values, k):
            found = np.full((len(values), k), -1)
            found[:, 0] = np.arange(len(values))
            return None, found

    monkeypatch.setattr(neighbors, "MAX_EXACT", 10)
    faiss = types.SimpleNamespace(IndexHNSWFlat=Misses)
    monkeypatch.setitem(sys.modules, "faiss", faiss)
    found = nearest_neighbors(random_rows(12), 2)
    assert torch.equal(found, torch.arange(12)[:, None].expand(12, 2))


def test_faiss_finds_most_of_them(monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(neighbors, "MAX_EXACT", 100)
    rows = random_rows(600, 8)
    rows[300:310] = rows[0]
    found, expected = nearest_neighbors(rows, 8).numpy(), of_sklearn(rows, 8)
    assert not (found == np.arange(600)[:, None]).any()
    common = [
        len(set(a) & set(b))
        for a, b in zip(found[310:], expected[310:], strict=True)  # no equal ones
    ]
    assert np.mean(common) > 0.95 * 8


def test_faiss_finds_all_where_it_looks_at_all(monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(neighbors, "MAX_EXACT", 100)
    rows, k = random_rows(150, 8), 40
    assert 4 * k + 16 > len(rows)  # candidates that are kept
    found, expected = nearest_neighbors(rows, k).numpy(), of_sklearn(rows, k)
    np.testing.assert_array_equal(np.sort(found), np.sort(expected))


# -- the graph of an estimator ---------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "n_clusters", "expected"),
    [(60, 3, 7), (60, 5, 6), (60, 60, 1), (12, 3, 2), (3, 1, 1), (2, 2, 1)],
)
def test_neighbors_are_half_a_cluster_at_most(n, n_clusters, expected):
    images = Images(X[:n], (1, 1, 6))
    graph = Neighbors(7).graph(images, Scaling(images), n_clusters, CPU)
    assert graph.shape == (n, expected)


def test_neighbors_are_those_of_what_networks_see():
    rows = np.random.default_rng(0).normal(9, [50, 1, 1, 1, 1, 1], size=(1500, 6))
    images = Images(rows, (1, 1, 6))
    scaling = Scaling(images, standardize=True, n_components=4)
    graph = Neighbors(3).graph(images, scaling, 2, CPU)
    unit = scaling(torch.from_numpy(rows).reshape(-1, 1, 1, 6)).flatten(1)
    same = graph.numpy() == of_sklearn(unit, 3)
    assert same.mean() > 0.999  # but for the last bits of two batches


# -- views -----------------------------------------------------------------------------


def seen_in_training(augment, data=X, **params):
    """Batches of a fit of three views, and the fit."""
    seen = []

    class Sees(ToyModule):
        n_views = 3

        def losses(self, batch):
            seen.append((batch.index, [view.flatten(1) for view in batch.views]))
            return super().losses(batch)

    model = make(Sees, augment=augment, **{"batch_size": 16, **params})
    return seen, model.fit(data)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, "tensor"])
def test_views_are_rows_of_the_neighborhood(dtype):
    data = (10 * (X - X.min())).round()
    data = torch.from_numpy(data) if dtype == "tensor" else data.astype(dtype)
    seen, model = seen_in_training(Neighbors(4), data, max_epochs=6)
    scaling = model.net_.module_.scaling
    unit = scaling(torch.as_tensor(data).reshape(-1, 1, 1, 6)).flatten(1)
    images, _ = as_images(make(), data)
    graph = Neighbors(4).graph(images, scaling, 3, CPU)
    candidates = torch.cat([torch.arange(60)[:, None], graph], dim=1)
    drawn = []
    for index, views in seen:
        which = torch.stack([torch.cdist(view, unit).argmin(1) for view in views], 1)
        for view, rows in zip(views, which.T, strict=True):
            torch.testing.assert_close(view, unit[rows])
        assert (which[:, :, None] == candidates[index][:, None]).any(2).all()
        drawn.append(which)
        assert index.ndim == 1 and len(index.unique()) == len(index)
    one, two, _ = torch.cat(drawn).T
    assert 0.05 < (one == two).float().mean() < 0.5  # each view is drawn by its own
    own = torch.cat([index for index, _ in seen])
    assert 0.05 < (one == own).float().mean() < 0.5


def test_what_is_done_to_the_rows_drawn():
    augment = Neighbors(4, then=lambda x: x + 100)
    seen, model = seen_in_training(augment)
    assert all((view > 50).all() for _, views in seen for view in views)
    assert np.abs(model.cluster_centers_).max() < 10  # none of it in what is predicted
    np.testing.assert_array_equal(model.predict(X), model.labels_)


def test_noise_on_neighbors():
    torch.manual_seed(0)
    noisy, x = Neighbors(5, then=vector()), torch.randn(8, 1, 1, 6)
    assert noisy(x).shape == x.shape and not torch.equal(noisy(x), x)
    assert Neighbors(5)(x) is x
    one, other = (SCL(3, augment=noisy, **SMALL).fit(X) for _ in range(2))
    np.testing.assert_array_equal(one.transform(X), other.transform(X))
    plain = SCL(3, augment=Neighbors(5), **SMALL).fit(X)
    assert not np.array_equal(plain.transform(X), one.transform(X))


def test_a_function_on_neighbors_draws_from_the_training():
    def shaken(x):
        return x + torch.randn_like(x)

    before = torch.get_rng_state()
    fits = []
    for seed in range(2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        model = SCL(3, augment=Neighbors(5, then=shaken), **SMALL).fit(X)
        fits.append(model.transform(X))
        assert torch.equal(torch.get_rng_state(), state)
    torch.set_rng_state(before)
    np.testing.assert_array_equal(*fits)


def test_a_bad_function_on_neighbors_is_told():
    with pytest.raises(ValueError, match=r"augment returned .* shape \(30, 1, 1, 6\)"):
        make(augment=Neighbors(5, then=lambda x: x[:, :, :, :2])).fit(X)


# -- estimators ------------------------------------------------------------------------


def test_they_are_the_views_of_vectors():
    assert isinstance(make_augmentation("auto", (1, 1, 6)), Neighbors)
    assert make_augmentation("neighbors", (1, 1, 6)).n_neighbors == 10
    auto, named = (make(augment=name).fit(X) for name in ("auto", "neighbors"))
    np.testing.assert_array_equal(auto.transform(X), named.transform(X))
    one, other = (make(augment=Neighbors(k)).fit(X) for k in (10, 11))  # half of 20
    np.testing.assert_array_equal(one.transform(X), other.transform(X))
    np.testing.assert_array_equal(one.transform(X), auto.transform(X))
    assert "n_neighbors=11" in repr(Neighbors(11))


@each_estimator
def test_every_method_takes_them(estimator):
    model = clone(estimator).set_params(augment="neighbors").fit(X)
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    other = clone(model).set_params(augment="vector").fit(X)
    assert not np.array_equal(other.transform(X), model.transform(X))


def test_another_seed_is_another_draw():
    one, other = (seen_in_training("neighbors", random_state=s)[0] for s in range(2))
    assert not torch.equal(one[0][0], other[0][0])
    one, other = (seen_in_training("neighbors", random_state=0)[0] for _ in range(2))
    for (index, views), (same, too) in zip(one, other, strict=True):
        assert torch.equal(index, same)
        assert all(map(torch.equal, views, too))


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_workers_change_nothing(workers):
    plain = make(augment="neighbors").fit(X)
    params = {"iterator_train__num_workers": workers}
    model = make(augment="neighbors", net_params=params).fit(X)
    np.testing.assert_array_equal(model.labels_, plain.labels_)
    np.testing.assert_array_equal(model.transform(X), plain.transform(X))


def test_a_training_goes_on_with_the_same_draws(tmp_path):
    def dies(net):
        if len(net.history) == 3:
            raise RuntimeError("out of power")

    whole = make(augment="neighbors", max_epochs=4).fit(X)
    model = clone(whole).set_params(checkpoint=tmp_path, checkpoint_every=0)
    with pytest.raises(RuntimeError, match="out of power"):
        clone(model).set_params(callbacks=[Spy("on_batch_end", dies)]).fit(X)
    begun = []
    spy = Spy("on_train_begin", lambda net: begun.append(len(net.history)))
    model.set_params(callbacks=[spy]).fit(X)
    assert begun == [2]
    np.testing.assert_array_equal(model.labels_, whole.labels_)
    np.testing.assert_array_equal(model.transform(X), whole.transform(X))


def test_a_training_of_other_neighbors_is_another_one():
    images, _ = as_images(make(), X)
    augments = ["neighbors", Neighbors(3), Neighbors(4), Neighbors(4, then=vector())]
    found = [identity_of(make(augment=a), images) for a in augments]
    assert all(one != other for one in found for other in found if one is not other)
    assert identity_of(make(augment=Neighbors(3)), images) == found[1]


def test_stored_vectors(tmp_path):
    h5py = pytest.importorskip("h5py")
    plain = make(augment="neighbors").fit(X)
    with h5py.File(tmp_path / "X.h5", "w") as file:
        stored = file.create_dataset("X", data=X, chunks=(7, 6))
        model = make(augment="neighbors").fit(stored)
        np.testing.assert_array_equal(model.labels_, plain.labels_)
        np.testing.assert_array_equal(model.transform(stored), plain.transform(X))


@pytest.mark.parametrize("n", [2, 3, 4])
def test_few_rows(n):
    model = make(n_clusters=2, augment="neighbors").fit(X[:n])
    assert model.labels_.shape == (n,)


def test_copies_and_files_of_a_fit_with_neighbors(tmp_path):
    model = make(augment=Neighbors(3)).fit(X)
    assert clone(model).augment.n_neighbors == 3
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.transform(X), model.transform(X))
    fitted = SCL(3, **SMALL).fit(X)
    fitted.save(tmp_path / "model")
    again = skdeepcluster.load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(again.transform(X), fitted.transform(X))
    refitted = clone(again).fit(X)
    np.testing.assert_array_equal(refitted.labels_, fitted.labels_)


def arrays_in(value, seen):
    """Arrays and tensors that an object of ours leads to."""
    if id(value) in seen:
        return
    seen[id(value)] = value
    if isinstance(value, (np.ndarray, torch.Tensor)):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from arrays_in(item, seen)
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from arrays_in(item, seen)
    elif type(value).__module__.startswith(
        ("skdeepcluster", "skorch", "torch.", "toy")
    ):
        yield from arrays_in(getattr(value, "__dict__", {}), seen)


def test_a_fitted_estimator_holds_no_rows():
    rows = np.random.default_rng(0).normal(size=(300, 20)).astype(np.float32)
    model = make(augment="neighbors", n_components=5).fit(rows)
    found = list(arrays_in(model, {}))
    assert any(array is model.labels_ for array in found)
    weights = model.net_.module_.backbone[-1].weight
    assert any(array is weights for array in found)
    assert all(len(array) < 300 for array in found if array.ndim > 1)


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)],
)
def test_a_signal_in_the_search_leaves_the_estimator_as_it_was(
    monkeypatch, number, error
):
    def signalled(rows, n_neighbors):
        os.kill(os.getpid(), number)
        return nearest_neighbors(rows, n_neighbors)

    monkeypatch.setattr("skdeepcluster.augment._neighbors.nearest_neighbors", signalled)
    default = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }
    before = signal.signal(number, default[number])
    model = make(augment="neighbors")
    state = copy.copy(vars(model))
    try:
        with pytest.raises(error) as caught:
            model.fit(X)
    finally:
        assert signal.signal(number, before) is default[number]
    assert not isinstance(caught.value, Interrupted)
    assert vars(model) == state


# -- refusals --------------------------------------------------------------------------


@pytest.mark.parametrize("n_neighbors", [0, -1, 2.0, "5", None])
def test_a_bad_number_of_neighbors(n_neighbors):
    with pytest.raises(ValueError, match="n_neighbors=.* an integer >= 1"):
        Neighbors(n_neighbors)


def test_a_number_of_numpy():
    assert Neighbors(np.int64(3)).n_neighbors == 3


@pytest.mark.parametrize(
    ("augment", "match"),
    [
        (Neighbors(3), r"n_neighbors=3.* for vectors, but X holds images .*1, 8, 8"),
        ("neighbors", "augment='neighbors' is no recipe for images"),
        (nn.Sequential(Neighbors(3)), "no neighbour is looked up"),
    ],
)
def test_images_have_no_neighbors(augment, match):
    model = make(augment=augment)
    before = dict(vars(model))
    with pytest.raises(ValueError, match=match):
        model.fit(IMAGES)
    assert vars(model) == before


def test_they_are_no_view_of_pixels():
    flat = IMAGES.reshape(len(IMAGES), -1)
    with pytest.raises(ValueError, match="for vectors"):
        make(augment=Neighbors(3), image_shape=(1, 8, 8)).fit(flat)
    assert make(augment=Neighbors(3)).fit(flat).image_shape_ == (1, 1, 64)


@pytest.mark.gpu
def test_cuda():
    rows = random_rows()
    found = nearest_neighbors(rows.cuda(), 5)
    assert found.device == CPU
    np.testing.assert_array_equal(found, of_sklearn(rows, 5))
    model = make(augment="neighbors", device="cuda").fit(X)
    np.testing.assert_array_equal(model.predict(X), model.labels_)
