"""What GCC does beyond the contract: rounds, guards, the bank, drawing."""

import pickle
import re
import subprocess
import sys
import textwrap
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SMALL_GCC
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import pairwise_distances_argmin
from skorch.callbacks import Callback
from torch import nn

from skdeepcluster import GCC, gcc
from skdeepcluster._bank import Bank
from skdeepcluster.diffusion import DiffusionModule
from skdeepcluster.metrics import clustering_accuracy

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def squares(sizes=(100, 40, 10), size=16, seed=0):
    """Bright squares in as many positions, (n, size, size) uint8, and the positions."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    images = rng.integers(0, 40, (len(y), size, size))
    for row, (top, left) in enumerate([(1, 1), (1, 9), (9, 5)]):
        images[y == row, top : top + 6, left : left + 6] += 180
    return images.astype(np.uint8), y


ROUNDS = {
    "n_rounds": 2,
    "reliable_share": 0.7,
    "calibration_lr": 1e-3,
    "assign": "head",
}


def make(**params):
    return GCC(**{**SMALL_GCC, **ROUNDS, **params})


@pytest.fixture(scope="module")
def fitted():
    X, y = squares((20, 20, 20))
    return X, y, make(max_epochs=4, tol=0.0, diffusion_steps=200).fit(X)


# -- the whole method ------------------------------------------------------------------


@pytest.mark.parametrize("denoiser", ["nano", "mlp"])
def test_squares_of_three_sizes_of_cluster(denoiser):
    X, y = squares()
    model = GCC(
        3,
        max_epochs=30,
        batch_size=64,
        denoiser=denoiser,
        diffusion_steps=100,
        diffusion_batch_size=32,
        samples_per_cluster=20,
        sampling_steps=8,
        random_state=0,
    ).fit(X)
    first = clustering_accuracy(y, model.pretrain_labels_)
    assert first > 0.95
    assert clustering_accuracy(y, model.labels_) >= first
    drawn, labels = model.sample(60, random_state=0)
    flat = X.reshape(len(X), -1).astype(float)
    nearest = pairwise_distances_argmin(drawn.reshape(60, -1).astype(float), flat)
    for cluster in range(3):
        own = model.labels_[nearest[labels == cluster]] == cluster
        assert own.mean() > 0.8


def test_attributes_of_rounds(fitted):
    X, _, model = fitted
    assert model.n_rounds_ == 2 and model.bank_agreement_.shape == (2, 3)
    assert ((model.bank_agreement_ >= 0) & (model.bank_agreement_ <= 1)).all()
    assert model.reliable_mask_.shape == (len(X),) and model.reliable_mask_.any()
    assert not model.reliable_mask_.all()
    assert model.pretrain_labels_.shape == (len(X),)
    assert model.pretrain_labels_.dtype == np.int64
    np.testing.assert_allclose(np.linalg.norm(model.anchors_, axis=1), 1, rtol=1e-5)
    assert [row["round"] for row in model.history_] == [0, 0, 1, 2]
    assert "changed" not in model.history_[1] and "changed" in model.history_[2]
    assert "loss_alignment" not in model.history_[1]


def test_history_of_stages(fitted):
    model = fitted[2]
    expected = ["pretraining"] + 2 * ["diffusion", "sampling", "calibration"]
    assert [row["stage"] for row in model.stages_] == expected
    assert [row["round"] for row in model.stages_] == [0, 1, 1, 1, 2, 2, 2]
    assert all(row["seconds"] > 0 for row in model.stages_)
    assert model.stages_[1]["loss"] > 0 and not model.stages_[3]["undone"]


def test_labels_of_stage_one_are_those_of_stage_one_alone(fitted):
    X, _, model = fitted
    alone = make(max_epochs=2, warmup=1.0).fit(X)
    np.testing.assert_array_equal(model.pretrain_labels_, alone.labels_)
    assert alone.n_rounds_ == 0 and alone.bank_agreement_.shape == (0, 3)
    assert [row["stage"] for row in alone.stages_] == ["pretraining"]


def test_the_control_has_the_same_stage_one(fitted):
    X, _, model = fitted
    control = make(max_epochs=4, bank="real").fit(X)
    np.testing.assert_array_equal(model.pretrain_labels_, control.pretrain_labels_)
    # reliable images are recognised by the head that called them so
    np.testing.assert_allclose(control.bank_agreement_, 1)
    assert control.net_.module_.generator is None
    assert "diffusion" not in {row["stage"] for row in control.stages_}


@pytest.mark.parametrize("max_epochs", [1, 2, 3, 7])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("n_rounds", [1, 2, 5])
def test_epochs_of_rounds(max_epochs, warmup, n_rounds):
    model = make(warmup=warmup, n_rounds=n_rounds)
    first, rounds = model._epochs(SimpleNamespace(max_epochs=max_epochs))
    assert first + sum(rounds) == max_epochs
    if warmup != 0.9:
        assert first == round(warmup * max_epochs)
    else:  # of two epochs or more, one is left
        assert first == max(1, min(round(warmup * max_epochs), max_epochs - 1))
    assert len(rounds) == min(n_rounds, max_epochs - first)
    assert all(length >= 1 for length in rounds)
    assert max(rounds, default=0) - min(rounds, default=0) <= 1


def test_rounds_without_a_first_stage():
    X, _ = squares((20, 20, 20))
    model = make(warmup=0.0, bank="real", max_epochs=1).fit(X)
    assert [row["round"] for row in model.history_] == [1]
    assert model.stages_[0]["epochs"] == 0


def test_kmeans_assignment(fitted):
    X, y, _ = fitted
    model = make(max_epochs=4, assign="kmeans", bank="real").fit(X)
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    # a fixed point: the centres are the directions of their clusters
    z = model.transform(X)
    for k, center in enumerate(model.cluster_centers_):
        mean = z[model.labels_ == k].mean(0)
        np.testing.assert_allclose(center, mean / np.linalg.norm(mean), atol=1e-4)
    assert clustering_accuracy(y, model.labels_) > 0.9


# -- guards ----------------------------------------------------------------------------


def test_a_round_that_changes_too_much_is_undone():
    X = np.random.default_rng(0).integers(0, 256, (60, 8, 8)).astype(np.uint8)
    strict = make(max_epochs=6, max_change=0.0, warmup=0.3, bank="real")
    with pytest.warns(ConvergenceWarning, match=r"undone.*max_change=0\)") as caught:
        model = strict.fit(X)
    assert len([w for w in caught if "undone" in str(w.message)]) == 1
    np.testing.assert_array_equal(model.labels_, model.pretrain_labels_)
    np.testing.assert_array_equal(model.predict(X), model.pretrain_labels_)
    assert model.stages_[-1]["undone"] and model.n_rounds_ == 1
    assert sum(model.history_[-1]["cluster_sizes"]) == len(X)


def assert_undone_at_once(monkeypatch, name, spoil):
    """A round that is spoilt is undone in its first epoch, with a warning."""
    look_after = gcc.GCCModule.look_after

    def spoilt(self, z, over):
        spoil(self)
        return look_after(self, z, over)

    monkeypatch.setattr(gcc.GCCModule, "look_after", spoilt)
    X, _ = squares((20, 20, 20))
    with pytest.warns(ConvergenceWarning, match=name):
        model = make(max_epochs=6, bank="real").fit(X)
    np.testing.assert_array_equal(model.labels_, model.pretrain_labels_)
    # at once, in the first epoch of the round
    assert model.n_iter_ == 4


def test_an_emptied_cluster_ends_the_round(monkeypatch):
    def spoil(module):
        module.prototypes[1] = -module.prototypes.sum(0)

    assert_undone_at_once(monkeypatch, r"emptied the clusters \[1\]", spoil)


def test_anchors_that_meet_end_the_round(monkeypatch):
    def spoil(module):
        module.anchors[1] = module.anchors[0]

    assert_undone_at_once(monkeypatch, "anchors of two clusters met", spoil)


def test_clusters_that_are_not_recognised_are_left_out():
    X, _ = squares((20, 20, 20))
    with pytest.warns(ConvergenceWarning, match=r"clusters \[0, 1, 2\], less than"):
        model = make(min_agreement=1.0, diffusion_steps=1).fit(X)
    assert model.bank_agreement_.max() < 1
    parts = {key for row in model.history_ for key in row if key.startswith("loss_")}
    assert parts == {"loss_contrast", "loss_real_metric"}
    assert model.history_[-1]["loss_real_metric"] == 0  # there is nothing to learn from
    np.testing.assert_array_equal(model.anchors_.shape, model.cluster_centers_.shape)
    assert np.isfinite(model.transform(X)).all()


def test_prototypes_have_a_rate_of_their_own():
    rates = []

    class Look(Callback):
        def on_train_begin(self, net, **kwargs):
            rates.extend(group["initial_lr"] for group in net.optimizer_.param_groups)

    X, _ = squares((20, 20, 20))
    make(lr=0.003, callbacks=[Look()]).fit(X)
    assert rates == pytest.approx([0.03, 0.003])


def test_a_good_round_ends_training_when_nothing_changes():
    X, _ = squares((20, 20, 20))
    model = make(max_epochs=12, n_rounds=3, tol=1.0, bank="real").fit(X)
    assert model.n_rounds_ == 1 and model.n_iter_ == 8


def test_the_diffusion_model_goes_on_from_round_to_round(monkeypatch):
    calls, train = [], gcc.train_diffusion

    def watched(average, *args, **kwargs):
        before = [p.clone() for p in average.parameters()]
        train(average, *args, **kwargs)
        after = [p.clone() for p in average.parameters()]
        calls.append((before, after, kwargs["steps"], kwargs["lr"]))
        return 0.0

    monkeypatch.setattr(gcc, "train_diffusion", watched)
    X, _ = squares((20, 20, 20))
    make(max_epochs=4, tol=0.0).fit(X)
    (first, second) = calls
    assert all(map(torch.equal, first[1], second[0]))
    assert not any(map(torch.equal, second[0], second[1]))
    assert first[2:] == (60, 5e-3) and second[2:] == (20, 1.25e-3)


def test_only_reliable_labels_condition_the_diffusion_model(monkeypatch):
    seen = []
    monkeypatch.setattr(
        gcc,
        "train_diffusion",
        lambda average, images, scaling, labels, **k: seen.append(labels) or 0.0,
    )
    X, _ = squares((20, 20, 20))
    model = make(warmup=0.5, max_epochs=2).fit(X)
    (labels,) = seen
    reliable = model.reliable_mask_
    np.testing.assert_array_equal(labels[reliable], model.pretrain_labels_[reliable])
    assert (labels[~reliable] == 3).all() and 0 < reliable.sum() < len(X)


# -- the bank --------------------------------------------------------------------------


def test_filter_of_the_bank():
    bank = Bank((1, 2, 2), 3, 100, 30)
    predicted = bank.labels.clone()
    predicted[:40] = 1  # 60 of cluster 0 agree
    predicted[100:195] = 2  # 5 of cluster 1
    in_use = torch.tensor([True, True, False])
    agreement, kept = bank.judge(predicted, in_use, 0.2, filtered=True)
    np.testing.assert_allclose(agreement, [0.6, 0.05, 1.0])
    assert kept.nonzero().flatten().tolist() == list(range(40, 100))
    _, kept = bank.judge(predicted, in_use, 0.0, filtered=True)
    # too few of cluster 1 agree: all of it stay
    assert kept.view(3, 100).sum(1).tolist() == [60, 100, 0]
    _, kept = bank.judge(predicted, in_use, 0.2, filtered=False)
    assert kept.view(3, 100).sum(1).tolist() == [100, 0, 0]
    bank.judge(predicted, ~in_use & False, 0.0, filtered=False)
    assert not bank.in_use


def test_batches_of_the_bank_are_balanced():
    bank = Bank((1, 2, 2), 3, 100, 300)
    predicted = bank.labels.clone()
    predicted[:80] = 1
    bank.images = torch.zeros(300, 1, 2, 2)
    torch.manual_seed(0)
    bank.judge(predicted, torch.ones(3, dtype=bool), 0.1, filtered=True)
    drawn = torch.cat([bank.draw()[1] for _ in range(50)])
    counts = np.bincount(drawn)
    np.testing.assert_allclose(counts, 5000, rtol=0.05)


def test_a_real_bank_holds_reliable_images():
    labels = torch.tensor([0] * 10 + [1] * 5)
    reliable = torch.arange(15) % 2 == 0
    rows = Bank((1, 2, 2), 3, 50, 30).rows_of(labels, reliable)
    by_cluster = [set(part.tolist()) for part in rows.split(50)]
    assert by_cluster[0] == {0, 2, 4, 6, 8} and by_cluster[1] == {10, 12, 14}
    assert by_cluster[2] <= set(range(15))


def test_state_of_a_round_can_be_loaded(fitted):
    X, _, _ = fitted
    states = []

    class Keep(Callback):
        def on_epoch_end(self, net, **kwargs):
            states.append((net, pickle.dumps(net.module_.state_dict())))

    make(max_epochs=4, tol=0.0, callbacks=[Keep()]).fit(X)
    net, state = states[2]
    module = net.module_
    assert len(module.bank.images) == 0  # of a fit that is over
    module.load_state_dict(pickle.loads(state))
    assert len(module.bank.images) == 36 and module.round == 2 and module.bank.in_use
    assert module.before is not None and len(module.stages) == 6
    # each buffer has a memory of its own, so that none is loaded over another
    saved = pickle.loads(state)
    for name, value in module.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, saved[name]), name


# -- drawing ---------------------------------------------------------------------------


def test_samples_look_like_the_training_data(fitted):
    X, _, model = fitted
    drawn, labels = model.sample(7, random_state=0)
    assert drawn.shape == (7, 16, 16) and drawn.dtype == np.uint8
    assert labels.dtype == np.int64 and labels.tolist() == [0, 0, 0, 1, 1, 2, 2]
    again, _ = model.sample(7, random_state=0)
    np.testing.assert_array_equal(drawn, again)
    other, _ = model.sample(7)
    assert not np.array_equal(drawn, other)


@pytest.mark.parametrize(
    "layout", ["channels first", "channels last", "rows", "vectors", "0 to 1"]
)
def test_samples_come_in_the_layout_of_the_data(layout):
    rng = np.random.default_rng(0)
    X, params = rng.integers(0, 256, (40, 3, 8, 8)).astype(np.uint8), {}
    if layout == "channels last":
        X = np.ascontiguousarray(X.transpose(0, 2, 3, 1))
    elif layout == "rows":
        X, params = (
            X.reshape(40, -1).astype(np.float64) - 100,
            {"image_shape": (3, 8, 8)},
        )
    elif layout == "vectors":
        X = 50 + 10 * rng.normal(size=(40, 6))
    elif layout == "0 to 1":
        X = X / np.float32(255)
    drawn, labels = make(**params).fit(X).sample(5, random_state=0)
    assert drawn.shape == (5, *X.shape[1:]) and len(labels) == 5
    assert drawn.dtype == (np.uint8 if X.dtype == np.uint8 else np.float32)
    if layout != "vectors":
        assert drawn.min() >= X.min() - 1e-3 and drawn.max() <= X.max() + 1e-3
    else:
        assert abs(drawn.mean() - 50) < 20


def test_guidance_and_cluster_of_samples(fitted):
    X, _, model = fitted
    drawn, labels = model.sample(30, cluster=1, random_state=0)
    assert (labels == 1).all()
    assert (model.predict(drawn) == 1).mean() > 0.8
    without, _ = model.sample(30, cluster=1, guidance_scale=0, random_state=0)
    assert len(set(model.predict(without))) > 1
    quick, _ = model.sample(30, cluster=1, sampling_steps=2, random_state=0)
    assert not np.array_equal(quick, drawn)


def test_samples_of_an_unpickled_model(fitted):
    _, _, model = fitted
    again = pickle.loads(pickle.dumps(model))
    one, other = (m.sample(4, random_state=3)[0] for m in (model, again))
    np.testing.assert_array_equal(one, other)


def test_samples_of_clusters_that_are_left():
    # labels leave out an empty cluster, and samples follow them
    X, y = squares((30, 30))
    model = make(n_clusters=3, max_epochs=4).fit(X)
    model._kept = np.array([0, 2])
    asked, draw = [], model.net_.module_.generator.sample_all

    def watched(classes, *args):
        asked.extend(classes.tolist())
        return draw(classes, *args)

    model.net_.module_.generator.sample_all = watched
    _, labels = model.sample(4, random_state=0)
    assert labels.tolist() == [0, 0, 1, 1] and asked == [0, 0, 2, 2]
    with pytest.raises(ValueError, match="cluster=2 should be None or .* 0 to 1"):
        model.sample(1, cluster=2)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"n_samples": 0}, "n_samples=0 should be an integer >= 1"),
        ({"n_samples": 1.5}, "n_samples=1.5 should be an integer"),
        ({"cluster": 3}, "cluster=3 should be None or an integer from 0 to 2"),
        ({"cluster": -1}, "cluster=-1 should be"),
        ({"cluster": "a"}, "cluster='a' should be"),
        ({"cluster": True}, "cluster=True should be"),
        ({"n_samples": True}, "n_samples=True should be"),
        ({"guidance_scale": -1}, "guidance_scale=-1 should be a finite number >= 0"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan should be"),
        ({"sampling_steps": 0}, "sampling_steps=0 should be an integer from 1 to 1000"),
    ],
)
def test_bad_arguments_of_sample(fitted, params, match):
    with pytest.raises(ValueError, match=match):
        fitted[2].sample(**params)


def test_nothing_to_draw_with(fitted):
    X, _, _ = fitted
    with pytest.raises(NotFittedError):
        make().sample(3)
    for params in ({"bank": "real"}, {"warmup": 1.0}, {"max_epochs": 1, "warmup": 0.9}):
        with pytest.raises(ValueError, match="no trained diffusion model to draw with"):
            make(**params).fit(X).sample(3)


# -- bad parameters, and what goes wrong in training -----------------------------------


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"denoiser": "huge"}, "denoiser='huge' is unknown. Pass one of 'auto', 'mlp'"),
        ({"bank": "both"}, "'bank' parameter of GCC"),
        ({"warmup": 1.1}, "'warmup' parameter of GCC"),
        ({"n_rounds": 0}, "'n_rounds' parameter of GCC"),
        ({"sampler": "euler"}, "'sampler' parameter of GCC"),
        ({"sampler": "ddim", "sampling_steps": 15}, "=15 does not divide 1000, .*ddim"),
        ({"reliable_share": 0}, "'reliable_share' parameter of GCC"),
    ],
)
def test_bad_parameters(params, match):
    X, _ = squares((20, 20, 20))
    with pytest.raises(ValueError, match=match):
        make(**params).fit(X)


def test_a_denoiser_for_images_and_vectors():
    rows = np.random.default_rng(0).normal(size=(30, 6))
    with pytest.raises(ValueError, match="'nano' needs images, but X holds vectors"):
        make(denoiser="nano").fit(rows)


def test_a_diffusion_model_that_diverges_names_its_rate():
    X, _ = squares((20, 20, 20))
    with pytest.raises(
        FloatingPointError, match=r"Lower diffusion_lr=1e\+30"
    ) as caught:
        make(diffusion_lr=1e30).fit(X)
    assert "loss part: diffusion" in str(caught.value)


def test_interrupt_while_the_diffusion_model_trains(monkeypatch):
    losses, seen = DiffusionModule.losses, []

    def interrupted(self, batch):
        seen.append(1)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return losses(self, batch)

    monkeypatch.setattr(DiffusionModule, "losses", interrupted)
    X, _ = squares((20, 20, 20))
    with pytest.warns(ConvergenceWarning, match="interrupted in epoch 3 of 6"):
        model = make(max_epochs=6).fit(X)
    assert len(seen) == 5  # it did not go on with the next stage
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    np.testing.assert_array_equal(model.pretrain_labels_, model.labels_)


def test_times_are_shown(capsys):
    X, _ = squares((20, 20, 20))
    make(max_epochs=2, verbose=1).fit(X)
    out, err = capsys.readouterr()
    assert out == ""
    for words in (
        r"GCC, round 0: pretraining took \d+\.\d s",
        r"GCC, round 1: diffusion took",
        r"GCC, round 1: sampling took",
        r"GCC, round 1: calibration took",
        r"GCC, diffusion model, round 1: 100%",
        r"GCC, generated images, round 1: 100%",
    ):
        assert re.search(words, err), words


def test_mirrored_views_make_a_mirroring_diffusion_model(monkeypatch):
    flips = []
    monkeypatch.setattr(
        gcc, "train_diffusion", lambda *a, flip, **k: flips.append(flip) or 0.0
    )
    colour = np.random.default_rng(0).integers(0, 255, (40, 3, 8, 8)).astype(np.uint8)
    for X, augment in ((colour, "auto"), (colour, "weak"), (colour[:, 0], "auto")):
        make(augment=augment).fit(X)
    assert flips == [True, False, False]


# -- diffusers -------------------------------------------------------------------------


def python(code):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_diffusers_is_imported_by_those_who_need_it():
    done = python(
        """
        import sys
        import numpy as np
        from skdeepcluster import GCC, DigPro
        X = np.random.default_rng(0).normal(size=(40, 4))
        DigPro(2, max_epochs=1).fit(X)
        GCC(2, max_epochs=2, bank="real").fit(X)
        GCC(2, max_epochs=2, warmup=1.0).fit(X)
        print("diffusers" in sys.modules)
        GCC(2, max_epochs=2, diffusion_steps=1, sampling_steps=1).fit(X)
        print("diffusers" in sys.modules)
        """
    )
    assert done.stdout.split() == ["False", "True"], done.stderr


@pytest.mark.parametrize(
    "error",
    [
        ImportError("No module named 'diffusers'"),
        RuntimeError("operator torchvision::nms does not exist"),
    ],
)
def test_a_missing_or_broken_diffusers(monkeypatch, error):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "diffusers":
                raise error

    for name in [n for n in sys.modules if n.split(".")[0] == "diffusers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    X, _ = squares((20, 20, 20))
    steps = []
    model = make(augment=Counting(steps))
    with pytest.raises(ImportError) as caught:
        model.fit(X)
    message = str(caught.value)
    assert str(error) in message and "pip install --upgrade diffusers" in message
    assert caught.value.__cause__ is error
    assert steps == [] and not hasattr(model, "labels_")  # before minutes of training
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make(bank="real").fit(X)


class Counting(nn.Module):
    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def __deepcopy__(self, memo):
        return self

    def forward(self, x):
        self.calls.append(len(x))
        return x
