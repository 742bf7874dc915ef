"""Random parameters, drawn by hypothesis: numbers, other types, and odd values."""

import decimal
import fractions
import random
from pathlib import Path

import numpy as np
import torch
from estimators import SMALL_BANK
from fuzzed import often
from hypothesis import strategies as st
from skorch.callbacks import EarlyStopping, EpochScoring
from torch import nn

from skdeepcluster.augment import Neighbors
from skdeepcluster.gcc import Generated

ODD = [
    *(None, True, False, 0, 1, -1, 2, 3, 0.5, 1.0, -0.5, 1e-300, 1e38, 1e300),
    *(float("nan"), float("inf"), -float("inf"), 2**62, 2**63, 2**70, 10**400),
    *("", "auto", "none", "no such thing", b"auto", [], (), {}, [1], (2, 2), {"a": 1}),
    *(object(), int, nn.Linear, np.int64(2), np.float32(0.5), np.float64("nan")),
    *(np.bool_(True), np.array(3), np.array([1, 2]), np.str_("none"), np.uint8(1)),
    *(np.longdouble(0.5), np.float16(0.5), torch.tensor(2), torch.tensor(0.5), 1j),
    *(fractions.Fraction(1, 2), decimal.Decimal("0.5"), Path("x"), slice(2)),
    *(["a", "b"], (None, None), [np.int64(2)] * 2, range(2), {1, 2}, Ellipsis),
]
FEW = [0, 1, 2, -1, 1.5, np.int64(2), np.uint8(1), "auto", None, True, "many", [2]]
bank = {**SMALL_BANK, "steps": 2}
OF = {
    "n_clusters": [1, 2, 5, 40, (2, 3), np.int64(2), [2, 2], (2, -3), "3", 2.0, (1, 1)],
    "max_epochs": [value for value in FEW if value != "auto"],
    "n_init": FEW,
    "n_rounds": [*FEW, 2**62],
    "callbacks": [
        *([1], [int], [("a",)], [None], "x", 5, (), [("a", object())], {}, [[]]),
        *([EarlyStopping()], [("a", EarlyStopping(monitor="none"))], [EarlyStopping]),
        *([EpochScoring("accuracy")], [("collapse", 1)]),
        *([("", EarlyStopping())], [(1, EarlyStopping())], [("a", "b", "c")]),
        [("a", EarlyStopping()), ("a", EarlyStopping())],
    ],
    "net_params": [
        *("x", [], 5, {}, {"lr": 1}, {1: 2}, {"foo": 1}, {"optimizer__foo": 1}),
        *({"optimizer__weight_decay": -1}, {"optimizer__betas": (2, 3)}, {"": 1}),
        *({"optimizer": "adam"}, {"optimizer": torch.optim.SGD}, {"optimizer": None}),
        *({"iterator_train__num_workers": -1}, {"iterator_train__foo": 1}),
        *({"iterator_train__num_workers": "a"}, {"iterator_train__timeout": -1}),
        *({"optimizer__param_groups": [("no", {})]}, {"optimizer__lr": 1e38}),
        *({"optimizer__lr": "x"}, {"callbacks__a__b": 1}, {"warm_start": True}),
        *({"criterion": 5}, {"predict_nonlinearity": 5}, {"history": 3}, {"rate": 1}),
        *({"checkpoint": 1}, {"classes": 1}, {"torch_load_kwargs": 1}, {"compile": 0}),
        *({"use_caching": "x"}, {"optimizer": torch.optim.LBFGS}, {"optimizer__": 1}),
        *({"iterator_train": list}, {"iterator_train": None}, {"iterator_valid": 1}),
        *({"optimizer": torch.optim.SGD, "optimizer__momentum": -1}, {"module__x": 1}),
        {"optimizer__weight_decay": 1e38},
    ],
    "checkpoint": [
        *("", b"x", 5, "folder", "a\0b", "x" * 300, "/proc/none", Path("file"), Path()),
        *(True, ["folder"], "file/folder", "/dev/null", "\ud800", "~nobody/x"),
    ],
    "checkpoint_every": [0, -1, 1e300, "often", None, np.float32(1)],
    "device": [
        *("cuda", "gpu", "cpu:7", "meta", torch.device("meta"), 0, "", None, "CPU"),
        *(
            torch.device("cpu"),
            "cpu",
            "mps",
            "xpu",
            b"cpu",
            "cuda:-1",
            "cuda:99",
            "auto",
        ),
    ],
    "backbone": [
        *("resnet18", "no", "", "../x", "list_models", "mlp", "conv", "auto", None, 5),
        *(nn.Linear, nn.Linear(6, 4), nn.Identity(), nn.Flatten(), nn.Sequential()),
        *(nn.Sequential(nn.Flatten(), nn.LazyLinear(5)), nn.ModuleList(), len, b"mlp"),
        *(nn.Flatten(0), nn.Softmax(1)),
        *(
            nn.Sequential(nn.Flatten(), nn.Dropout(1.0)),
            nn.LSTM(6, 5),
            nn.Conv2d(3, 4, 3),
        ),
        *(nn.Linear(6, 4).double(), nn.Linear(6, 4, device="meta"), "inception_v3"),
    ],
    "augment": [
        *(
            "simclr",
            "digits",
            "weak",
            "vector",
            "none",
            "no",
            "",
            None,
            5,
            nn.Identity(),
        ),
        *("neighbors", Neighbors(3), Neighbors, Neighbors(1, then=lambda x: x[:1])),
        *(nn.Identity, lambda x: x, lambda x: None, lambda x: x[:1], len),
        *(lambda x: x * float("nan"), lambda x: x.double(), lambda x: x.numpy()),
        *(
            lambda x: x.long(),
            lambda x: (x, x),
            lambda x: x.flip(-1),
            lambda x: x * 1e38,
        ),
        *(lambda x: x.bfloat16(), lambda x: x.to("meta"), lambda x: x.to_sparse()),
    ],
    "image_shape": [
        *((1, 8, 8), (8, 8), (3, 8, 8), (0, 8, 8), (-1, 8, 8), ("a", 8, 8), [1, 6, 5]),
        *((1.0, 8, 8), np.array([1, 8, 8]), (1, 1, 64), (1, 1, 6), (1, 8, 8, 8), "188"),
        *(
            (True, 6, 5),
            (2**40, 1, 1),
            (1, 10**12, 10**12),
            (),
            5,
            (1, 2, 3),
            (6, 1, 1),
        ),
        *(
            (np.int64(1), np.uint8(6), 5),
            (None, 6, 5),
            (2, 3, 1),
            (1, 4, 16),
            (1, 64, 1),
        ),
    ],
    "random_state": [
        *(None, -1, 0, 2**31, 2**32, 2**32 - 1, "x", 1.5, np.random, [0], np.int64(5)),
        *(np.random.default_rng(0), np.random.RandomState(0), True, np.uint8(3)),
        random.Random(0),
    ],
    "verbose": [0, -1, "x", None, False, np.int64(0), 1.5, 2**70],
    "bank": [
        *("real", "no", None, 5, Generated, {}, Generated(**bank)),
        *(Generated(**{**bank, "steps": -1}), Generated(**{**bank, "lr": "x"})),
        *(Generated(**{**bank, "denoiser": "no"}), Generated(**{**bank, "lr": 1e30})),
        *(Generated(**{**bank, "batch_size": 2**62}), Generated(steps=np.int64(2))),
        *(Generated(**{**bank, "sampler": s}) for s in ("ddpm", "ddim", "none", 1)),
        *(Generated(**{**bank, "sampling_steps": s}) for s in (0, 1, 1000, 2000, "x")),
        Generated(**{**bank, "denoiser": "auto"}),
        Generated(**{**bank, "guidance_scale": 1e38}),
    ],
    "stage_shares": [
        (0.5, 0.5),
        (1, 0),
        (0, 0),
        (2, -1),
        (0.1,),
        "x",
        [float("nan")] * 2,
    ],
    "hidden_dims": [1, (4, 4), [4], (0, 4), ((4, 4), (4, 4)), 2**62, (2**62, 4)],
    "latent_dims": [1, (2, 2), [2], (0, 2), (2, 2**62), 2**62, (1, 1), (30, 30)],
    "n_facets": [1, 2, 3, 5, 0, 2**62, np.int64(2), "two"],
    "primary_facet": [0, 1, 2, -3, 2**62, 1.0, np.int64(-1), None],
}


def choices_of(estimator):
    """One parameter and a value of it; sizes that take hours or any memory are out."""
    names = list(estimator.get_params(deep=False))
    return st.sampled_from(names).flatmap(
        lambda name: st.tuples(
            st.just(name),
            st.sampled_from(OF[name])
            if name in ("max_epochs", "n_init", "augment")
            else often(OF[name], ODD)
            if name in OF
            else st.sampled_from(ODD),
        )
    )


def parameters_of(estimator):
    """A dict of one to three parameters."""
    return st.lists(
        choices_of(estimator), min_size=1, max_size=3, unique_by=lambda pair: pair[0]
    ).map(dict)
