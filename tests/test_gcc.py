"""What GCC does beyond the contract: rounds, guards, the bank, what goes wrong."""

import pickle
import re

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import pairwise_distances_argmin
from skorch.callbacks import Callback
from small_gcc import fitted, make, squares

from skdeepcluster import callbacks
from skdeepcluster.gcc import GCC, Generated, diffusion
from skdeepcluster.gcc import module as gcc_module
from skdeepcluster.gcc.bank import Bank
from skdeepcluster.gcc.diffusion_training import DiffusionObjective
from skdeepcluster.gcc.module import GCCModule
from skdeepcluster.gcc.rounds import StageLog, ends_of_stages
from skdeepcluster.metrics import clustering_accuracy

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, Y = squares()


# -- the whole method ------------------------------------------------------------------


@pytest.mark.parametrize("denoiser", ["nano", "mlp"])
def test_squares_of_three_sizes_of_cluster(denoiser):
    X, y = squares((50, 20, 10))
    model = GCC(
        3,
        max_epochs=30,
        batch_size=64,
        bank=Generated(denoiser=denoiser, steps=50, batch_size=16, sampling_steps=4),
        samples_per_cluster=6,
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


def test_attributes_of_rounds():
    _, _, model = fitted()
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


def test_history_of_stages():
    model = fitted()[2]
    expected = ["pretraining"] + 2 * ["diffusion", "sampling", "calibration"]
    assert [row["stage"] for row in model.stages_] == expected
    assert [row["round"] for row in model.stages_] == [0, 1, 1, 1, 2, 2, 2]
    assert all(row["seconds"] > 0 for row in model.stages_)
    assert model.stages_[0]["epochs"] == 2
    assert model.stages_[1]["loss"] > 0 and not model.stages_[3]["undone"]


def test_labels_of_stage_one_are_those_of_stage_one_alone():
    alone = make(max_epochs=2, pretraining=1.0).fit(X)
    np.testing.assert_array_equal(fitted()[2].pretrain_labels_, alone.labels_)
    assert alone.n_rounds_ == 0 and alone.bank_agreement_.shape == (0, 3)
    assert [row["stage"] for row in alone.stages_] == ["pretraining"]


def test_the_control_has_the_same_stage_one():
    control = make("real", max_epochs=4).fit(X)
    np.testing.assert_array_equal(
        fitted()[2].pretrain_labels_, control.pretrain_labels_
    )
    # reliable images are recognised by the head that called them so
    np.testing.assert_allclose(control.bank_agreement_, 1)
    assert control.net_.module_.generator is None
    assert "diffusion" not in {row["stage"] for row in control.stages_}


@pytest.mark.parametrize("max_epochs", [1, 2, 3, 7])
@pytest.mark.parametrize("pretraining", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("n_rounds", [1, 2, 5])
def test_epochs_of_rounds(max_epochs, pretraining, n_rounds):
    ends = ends_of_stages(max_epochs, pretraining, n_rounds)
    first, *rounds = np.diff(ends, prepend=0).tolist()
    assert first + sum(rounds) == max_epochs
    if pretraining != 0.9:
        assert first == round(pretraining * max_epochs)
    else:  # of two epochs or more, one is left
        assert first == max(1, min(round(pretraining * max_epochs), max_epochs - 1))
    assert len(rounds) == min(n_rounds, max_epochs - first)
    assert all(length >= 1 for length in rounds)
    assert max(rounds, default=0) - min(rounds, default=0) <= 1


def test_rounds_without_a_first_stage():
    model = make("real", pretraining=0.0, max_epochs=1).fit(X)
    assert [row["round"] for row in model.history_] == [1]
    assert model.stages_[0]["epochs"] == 0


def test_kmeans_assignment():
    model = make("real", max_epochs=4, init="kmeans", assign="kmeans").fit(X)
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    # a fixed point: the centres are the directions of their clusters
    z = model.transform(X)
    for k, center in enumerate(model.cluster_centers_):
        mean = z[model.labels_ == k].mean(0)
        np.testing.assert_allclose(center, mean / np.linalg.norm(mean), atol=1e-4)
    assert clustering_accuracy(Y, model.labels_) > 0.9


# -- guards ----------------------------------------------------------------------------


def test_a_round_that_changes_too_much_is_undone():
    # of some draws of noise a round empties a cluster, and is undone for that
    X = np.random.default_rng(4).integers(0, 256, (60, 8, 8)).astype(np.uint8)
    strict = make("real", max_epochs=6, max_change=0.0, pretraining=0.3)
    with pytest.warns(ConvergenceWarning, match=r"undone.*max_change=0\)") as caught:
        model = strict.fit(X)
    (warning,) = [w for w in caught if "undone" in str(w.message)]
    assert warning.filename == __file__
    np.testing.assert_array_equal(model.labels_, model.pretrain_labels_)
    np.testing.assert_array_equal(model.predict(X), model.pretrain_labels_)
    assert model.stages_[-1]["undone"] and model.n_rounds_ == 1
    assert sum(model.history_[-1]["cluster_sizes"]) == len(X)


def assert_undone_at_once(monkeypatch, name, spoil):
    """A round that is spoilt is undone in its first epoch, with a warning."""
    look_after = GCCModule.look_after

    def spoilt(self, z, over):
        spoil(self)
        return look_after(self, z, over)

    monkeypatch.setattr(GCCModule, "look_after", spoilt)
    with pytest.warns(ConvergenceWarning, match=name):
        model = make("real", max_epochs=6).fit(X)
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
    with pytest.warns(
        ConvergenceWarning, match=r"clusters \[0, 1, 2\], less than"
    ) as caught:
        model = make({"steps": 1}, min_agreement=1.0).fit(X)
    assert {w.filename for w in caught if "less than" in str(w.message)} == {__file__}
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

    make("real", lr=0.003, callbacks=[Look()]).fit(X)
    assert rates == pytest.approx([0.03, 0.003])


def test_a_good_round_ends_training_when_nothing_changes():
    model = make("real", max_epochs=12, n_rounds=3, tol=1.0).fit(X)
    assert model.n_rounds_ == 1 and model.n_iter_ == 8


def test_the_diffusion_model_goes_on_from_round_to_round(monkeypatch):
    calls, train = [], gcc_module.train_diffusion

    def watched(model, *args, **kwargs):
        before = [p.clone() for p in model.parameters()]
        train(model, *args, **kwargs)
        after = [p.clone() for p in model.parameters()]
        calls.append((before, after, kwargs["steps"], kwargs["lr"]))
        return 0.0

    monkeypatch.setattr(gcc_module, "train_diffusion", watched)
    make({"steps": 12, "lr": 5e-3}, max_epochs=4, tol=0.0).fit(X)
    (first, second) = calls
    assert all(map(torch.equal, first[1], second[0]))
    assert not any(map(torch.equal, second[0], second[1]))
    assert first[2:] == (12, 5e-3) and second[2:] == (4, 1.25e-3)


def test_only_reliable_labels_condition_the_diffusion_model(monkeypatch):
    seen = []
    monkeypatch.setattr(
        gcc_module,
        "train_diffusion",
        lambda model, images, scaling, labels, **k: seen.append(labels) or 0.0,
    )
    model = make(max_epochs=2).fit(X)
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
    with torch.random.fork_rng():
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


def test_state_of_a_round_can_be_loaded():
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
    assert module.before is not None and len(module.log.rows) == 6
    # each buffer has a memory of its own, so that none is loaded over another
    saved = pickle.loads(state)
    for name, value in module.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, saved[name]), name


def test_a_stage_goes_on_in_another_process(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    log = StageLog(verbose=False)
    log.end("pretraining", 0, epochs=3)
    log.start()
    now[0] += 2.5
    saved = pickle.dumps(log)
    now[0] = 7.0  # the clock of another process began elsewhere
    log = pickle.loads(saved)
    now[0] += 1.5
    log.end("diffusion", 1)
    assert [row["seconds"] for row in log.rows] == [0.0, 4.0]
    assert [row["stage"] for row in log.rows] == ["pretraining", "diffusion"]


# -- what goes wrong in training -------------------------------------------------------


def test_a_diffusion_model_that_diverges_names_its_rate():
    with pytest.raises(FloatingPointError, match=r"Lower bank__lr=1e\+30") as caught:
        make({"lr": 1e30}).fit(X)
    assert "loss part: diffusion" in str(caught.value)


def test_interrupt_while_the_diffusion_model_trains(monkeypatch):
    losses, seen = DiffusionObjective.losses, []

    def interrupted(self, batch):
        seen.append(1)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return losses(self, batch)

    monkeypatch.setattr(DiffusionObjective, "losses", interrupted)
    with pytest.raises(KeyboardInterrupt, match="interrupted after epoch 2") as caught:
        make(max_epochs=6).fit(X)
    model = caught.value.estimator
    assert len(seen) == 5  # it did not go on with the next stage
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    np.testing.assert_array_equal(model.pretrain_labels_, model.labels_)


def test_a_callback_that_stops_in_stage_one():
    class Stop(Callback):
        def on_batch_end(self, net, **kwargs):
            if net.module_.clock.step == 3:  # of 1 a step each epoch: in the third
                raise KeyboardInterrupt

    model = make(max_epochs=8, batch_size=60, callbacks=[Stop()]).fit(X)
    (row,) = model.stages_
    assert row["stage"] == "pretraining" and row["epochs"] == model.n_iter_ == 2
    np.testing.assert_array_equal(model.pretrain_labels_, model.labels_)


STAGES = [
    r"GCC, round 0: pretraining took \d+\.\d s",
    r"GCC, round 1: diffusion took",
    r"GCC, round 1: sampling took",
    r"GCC, round 1: calibration took",
]
BARS = [
    r"GCC, diffusion model, round 1: 100%",
    r"GCC, generated images, round 1: 100%",
]


@pytest.mark.parametrize(
    ("verbose", "terminal", "shown", "missing"),
    [
        (1, True, STAGES + BARS, []),
        (1, False, [*STAGES, r"GCC, diffusion model, round 1, epoch 1/1: "], ["\r"]),
        (2, True, [*STAGES, r"GCC, epoch 1/2: loss"], ["\r"]),
    ],
)
def test_times_are_shown(capsys, monkeypatch, verbose, terminal, shown, missing):
    for module in (callbacks, diffusion):
        monkeypatch.setattr(module, "shows_bars", lambda: terminal)
    make({"steps": 2}, max_epochs=2, verbose=verbose).fit(X)
    out, err = capsys.readouterr()
    assert out == ""
    for words in shown:
        assert re.search(words, err), words
    for words in missing:
        assert words not in err


def test_mirrored_views_make_a_mirroring_diffusion_model(monkeypatch):
    flips = []
    monkeypatch.setattr(
        gcc_module,
        "train_diffusion",
        lambda *a, flip, **k: flips.append(flip) or 0.0,
    )
    colour = np.random.default_rng(0).integers(0, 255, (40, 3, 8, 8)).astype(np.uint8)
    for X, augment in ((colour, "auto"), (colour, "weak"), (colour[:, 0], "auto")):
        make(augment=augment).fit(X)
    assert flips == [True, False, False]
