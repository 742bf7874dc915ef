"""The nested parameters of a generated bank: what can be told, checked, searched."""

import sys

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from small_gcc import BANK, SMALL, fitted, make, squares
from torch import nn

from skdeepcluster.gcc import GCC, Generated

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, _ = squares()
DEFAULTS = {
    "denoiser": "auto",
    "steps": "auto",
    "batch_size": 64,
    "lr": "auto",
    "class_dropout": 0.1,
    "guidance_scale": 1.5,
    "sampling_steps": 15,
    "sampler": "dpm-solver++",
}


# -- a parameter of GCC that has parameters --------------------------------------------


def test_nested_parameters_are_shown():
    assert Generated().get_params() == DEFAULTS
    params = GCC(bank=Generated(steps=7)).get_params()
    nested = {k.removeprefix("bank__"): v for k, v in params.items() if "bank__" in k}
    assert nested == {**DEFAULTS, "steps": 7}
    for params in (GCC().get_params(), GCC(bank=Generated()).get_params(deep=False)):
        assert not any(key.startswith("bank__") for key in params)


def test_nested_parameters_are_set():
    model = GCC(bank=Generated(steps=7))
    assert model.set_params(bank__steps=9, n_init=2) is model
    assert (model.bank.steps, model.n_init) == (9, 2)
    model.set_params(bank=Generated(lr=0.1), bank__denoiser="mlp", net__compile=True)
    assert model.bank.get_params() == {**DEFAULTS, "lr": 0.1, "denoiser": "mlp"}
    assert model.net_params == {"compile": True}


def test_nested_parameters_are_set_on_the_word():
    model, other = GCC(), GCC()
    model.set_params(bank__steps=9)
    assert model.bank.get_params() == {**DEFAULTS, "steps": 9}
    assert other.bank == GCC().bank == "generated"
    real = GCC(bank="real").set_params(bank="generated", bank__lr=0.1)
    assert real.bank.lr == 0.1


@pytest.mark.parametrize(
    ("bank", "params", "match"),
    [
        ("real", {"bank__steps": 9}, "bank__steps is a parameter of .* bank='real'"),
        ("generated", {"bank": "real", "bank__lr": 1.0}, "bank__lr .* bank='real'"),
        ("generated", {"bank__depth": 9}, "'depth' for estimator Generated"),
    ],
)
def test_nested_parameters_that_are_not_there(bank, params, match):
    model = GCC(bank=bank)
    with pytest.raises(ValueError, match=match):
        model.set_params(**params)


def test_a_clone_has_a_bank_of_its_own():
    model = GCC(bank=Generated(steps=7))
    other = clone(model).set_params(bank__steps=8)
    assert other.bank is not model.bank
    assert (model.bank.steps, other.bank.steps) == (7, 8)
    assert repr(model) == "GCC(bank=Generated(steps=7))"


@pytest.mark.parametrize("bank", [Generated(**BANK), "generated"])
def test_grid_search_of_nested_parameters(bank):
    grid = {
        "bank__denoiser": ["mlp"],
        "bank__sampling_steps": [2],
        "bank__steps": [1, 3],
    }
    search = GridSearchCV(GCC(**{**SMALL, "bank": bank}), grid, cv=2).fit(X)
    assert search.best_params_["bank__steps"] in (1, 3)
    assert search.best_estimator_.bank.steps == search.best_params_["bank__steps"]
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert bank == "generated" or bank.get_params() == Generated(**BANK).get_params()


# -- checks ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"bank": "both"}, "'bank' parameter of GCC must be .*Generated.*Got 'both'"),
        ({"bank": Generated}, "'bank' parameter of GCC"),
        ({"pretraining": 1.1}, "'pretraining' parameter of GCC"),
        ({"n_rounds": 0}, "'n_rounds' parameter of GCC"),
        ({"reliable_share": 0}, "'reliable_share' parameter of GCC"),
        ({"bank": {"steps": 0}}, "'steps' parameter of Generated must be .*Got 0"),
        ({"bank": {"batch_size": 0}}, "'batch_size' parameter of Generated"),
        ({"bank": {"lr": 0.0}}, "'lr' parameter of Generated"),
        ({"bank": {"lr": "fast"}}, "'lr' parameter of Generated must be .*'auto'"),
        ({"bank": {"class_dropout": 1.1}}, "'class_dropout' parameter of Generated"),
        ({"bank": {"guidance_scale": -1.0}}, "'guidance_scale' parameter of Generated"),
        ({"bank": {"sampling_steps": 1001}}, "'sampling_steps' .*Generated.*1000"),
        ({"bank": {"sampler": "euler"}}, "'sampler' parameter of Generated"),
        (
            {"bank": {"sampler": "ddim", "sampling_steps": 15}},
            "=15 does not divide 1000, .*ddim",
        ),
        ({"bank": {"denoiser": 3}}, "'denoiser' parameter of Generated"),
        (
            {"bank": {"denoiser": "huge"}},
            "denoiser='huge' is unknown. Pass one of 'auto', 'mlp'",
        ),
        # parameters of a bank that no round would ask for
        ({"bank": {"steps": 0}, "pretraining": 1.0}, "'steps' parameter of Generated"),
    ],
)
def test_bad_parameters(monkeypatch, params, match):
    monkeypatch.setattr(GCC, "module", None)  # nothing is built, still less fitted
    with pytest.raises(ValueError, match=match):
        make(**params).fit(X)


def test_bad_parameters_come_before_the_data():
    with pytest.raises(ValueError, match="'steps' parameter of Generated"):
        make({"steps": 0}).fit("no data at all")


def test_a_denoiser_for_images_and_vectors():
    rows = np.random.default_rng(0).normal(size=(30, 6))
    with pytest.raises(ValueError, match="'nano' needs images, but X holds vectors"):
        make({"denoiser": "nano"}).fit(rows)


# -- what fit reads --------------------------------------------------------------------


def test_auto_is_replaced_in_a_copy():
    bank = Generated(class_dropout=0.2)
    cpu, cuda = (
        bank.resolved((1, 28, 28), torch.device(name)).get_params()
        for name in ("cpu", "cuda")
    )
    rest = {**DEFAULTS, "class_dropout": 0.2}
    assert cpu == {**rest, "denoiser": "nano", "steps": 500, "lr": 2e-3}
    assert cuda == {**rest, "denoiser": "small", "steps": 6000, "lr": 2e-4}
    assert bank.get_params() == rest
    given = Generated(denoiser="mlp", steps=3, lr=0.1)
    resolved = given.resolved((1, 1, 9), torch.device("cpu"))
    assert resolved is not given and resolved.get_params() == given.get_params()
    rates = {"mlp": 2e-3, "micro": 2e-3, "tiny": 2e-3, "base32": 2e-4, "ddpm32": 2e-4}
    for denoiser, lr in rates.items():
        bank = Generated(denoiser=denoiser)
        assert bank.resolved((3, 32, 32), torch.device("cpu")).lr == lr


def test_later_rounds_are_shorter_and_slower():
    bank = Generated(steps=100, lr=4e-3)
    assert bank.in_round(1) == (100, 4e-3)
    assert bank.in_round(2) == bank.in_round(3) == (34, 1e-3)


def test_fit_leaves_the_bank_alone():
    bank = Generated(**{**BANK, "lr": "auto"})
    before, model = bank.get_params(), make(bank)
    model.fit(X)
    assert model.bank is bank and bank.get_params() == before
    used = model.net_.module_.p.bank
    assert used is not bank and used.lr == 2e-3


def test_the_word_and_the_defaults_are_one_bank(monkeypatch):
    monkeypatch.setattr(Generated, "auto_steps", (2, 2))
    small = {**SMALL, "samples_per_cluster": 2}
    one, other = (
        GCC(**{**small, "bank": b}).fit(X) for b in ("generated", Generated())
    )
    assert one.bank == "generated"
    np.testing.assert_array_equal(one.transform(X), other.transform(X))
    drawn = [model.sample(2, random_state=0)[0] for model in (one, other)]
    np.testing.assert_array_equal(*drawn)


def test_samples_per_cluster_of_auto():
    assert fitted()[2].net_.module_.bank.per_cluster == 12
    for n_clusters, expected in ((3, 20), (7, 9)):  # the mean size of a cluster
        model = make("real", n_clusters=n_clusters, samples_per_cluster="auto").fit(X)
        assert model.net_.module_.bank.per_cluster == expected


# -- diffusers -------------------------------------------------------------------------


class Broken:
    """Import hook that notes who asks for diffusers, and raises."""

    def __init__(self, error):
        self.error, self.asked = error, []

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "diffusers":
            self.asked.append(name)
            raise self.error


@pytest.fixture
def forget():
    """A function that forgets packages; they are as they were after the test."""
    before = dict(sys.modules)

    def forget(*packages):
        for name in [n for n in sys.modules if n.split(".")[0] in packages]:
            del sys.modules[name]

    yield forget
    forget("skdeepcluster", "diffusers")
    sys.modules.update(before)


def test_diffusers_is_imported_by_those_who_need_it(monkeypatch, forget):
    forget("skdeepcluster", "diffusers")
    hook = Broken(ImportError("not now"))
    monkeypatch.setattr(sys, "meta_path", [hook, *sys.meta_path])
    from skdeepcluster import GCC, DigPro
    from skdeepcluster.gcc import Generated

    assert Generated is not globals()["Generated"]  # imported anew
    small = {"max_epochs": 2, "feature_dim": 4, "hidden_dim": 4}
    DigPro(2, **small).fit(X)
    GCC(2, bank="real", **small).fit(X)
    GCC(2, pretraining=1.0, **small).fit(X)
    assert hook.asked == []
    with pytest.raises(ImportError, match="not now"):
        GCC(2, bank=Generated(steps=1), **small).fit(X)
    assert hook.asked == ["diffusers"]


@pytest.mark.parametrize(
    "error",
    [
        ImportError("No module named 'diffusers'"),
        RuntimeError("operator torchvision::nms does not exist"),
    ],
)
def test_a_missing_or_broken_diffusers(monkeypatch, forget, error):
    forget("diffusers")
    monkeypatch.setattr(sys, "meta_path", [Broken(error), *sys.meta_path])
    steps = []
    model = make(augment=Counting(steps))
    with pytest.raises(ImportError) as caught:
        model.fit(X)
    message = str(caught.value)
    assert str(error) in message and "pip install --upgrade diffusers" in message
    assert caught.value.__cause__ is error
    assert steps == [] and not hasattr(model, "labels_")  # before minutes of training
    make("real").fit(X)


class Counting(nn.Module):
    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def __deepcopy__(self, memo):
        return self

    def forward(self, x):
        self.calls.append(len(x))
        return x


def test_parameters_of_a_bank_that_is_none_are_refused():
    with pytest.raises(ValueError, match="bank__steps is a parameter of generated"):
        GCC(3, bank=None).set_params(bank__steps=1)
