"""Trees of plain values in files: all of them come back, to the bit and to the type."""

import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from estimators import each_estimator, make_stripes
from sklearn.base import clone
from toy import Spy

from skdeepcluster import FileError
from skdeepcluster._engine.protocol import Clock
from skdeepcluster._input.layouts import Layout
from skdeepcluster._storage import pack, read_tree, unpack, write_tree
from skdeepcluster.gcc import Generated


def assert_same(one, other, where=""):
    """Equal values of equal types, nested in any way."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert (one.dtype, one.shape) == (other.dtype, other.shape), where
        dense = one.ndim < 2 or not one.is_contiguous()
        assert dense or one.stride() == other.stride(), where
        one, other = (t.contiguous().view(-1).view(torch.uint8) for t in (one, other))
        assert torch.equal(one, other), where
    elif isinstance(one, np.ndarray):
        assert (one.dtype, one.shape) == (other.dtype, other.shape), where
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}[{key!r}]")
        if isinstance(one, OrderedDict):
            assert_same(vars(one), vars(other), f"{where} metadata")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}[{i}]")
    elif type(one).__module__.startswith("skdeepcluster"):
        states = [
            {k: v for k, v in vars(value).items() if k != "began"}  # a clock that runs
            for value in (one, other)
        ]
        assert_same(*states, where)
    elif isinstance(one, np.random.RandomState):
        assert_same(one.get_state(legacy=False), other.get_state(legacy=False), where)
    else:
        assert repr(one) == repr(other), where


NUMBERS = "?bBhHiIlLqQefdgFDG"
TREE = {
    "plain": [
        None,
        True,
        0,
        -1,
        2**62,
        2**200,
        -(2**63),
        0.1,
        -0.0,
        1e-310,
        "",
        "ü\ud800",
    ],
    "not finite": [math.nan, math.inf, -math.inf],
    "nested": {"a": [[], {}, (), (1, (2, [3])), {"b": {}}], "$": 1, "": 2},
    "keys": {1: 2, (1, 2): 3, None: 4, False: 5, "$": 6, 0.5: 7},
    "scalars": [
        np.float32(0.1),
        np.int8(-3),
        np.str_("ab"),
        np.bool_(True),
        np.float64(1),
    ],
    "times": [
        np.datetime64("2020-01-01"),
        np.timedelta64(3, "s"),
        np.longdouble(1) / 3,
    ],
    "numbers": [np.arange(5).astype(code) for code in NUMBERS],
    "texts": [np.array(["a", "bcd"]), np.array(["a", "b"], object), np.array("x")],
    "bytes": [np.array([b"ab"]), np.arange(3).astype(">i4"), b"", b"\0\xff"],
    "shapes": [
        np.array(3.0),
        np.zeros((0, 3)),
        np.zeros((2, 0), "U3"),
        np.zeros(1, bool),
    ],
    "strides": [np.arange(12).reshape(3, 4).T, np.arange(6)[::-2], np.zeros((1, 1))],
    "tensors": [
        torch.tensor(3.0),
        torch.zeros(0, 4),
        torch.arange(10)[2:4],
        torch.ones(1),
    ],
    "kinds": [
        torch.ones(2, 3).to(dtype)
        for dtype in (torch.bfloat16, torch.float16, torch.uint16, torch.bool)
        + (torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.int8)
    ],
    "orders": [
        torch.arange(24.0).view(2, 3, 2, 2).to(memory_format=torch.channels_last),
        torch.arange(8.0).view(2, 1, 2, 2).to(memory_format=torch.channels_last),
        torch.arange(6).view(2, 3).T,
        torch.arange(6).view(6, 1, 1),
    ],
    "facts": [torch.float32, torch.device("cuda:1"), np.dtype("<f4"), np.dtype("U3")],
    "slices": [slice(1, None), slice(None, 3, 2)],
    "state": torch.nn.Sequential(torch.nn.BatchNorm1d(3)).state_dict(),
    "classes": [
        Clock(5, 3, 2, 1),
        Layout((1, 8, 8), True, (8, 8), np.dtype("u1")),
        Generated(steps=7, guidance_scale=0.1),
        np.random.RandomState(3),
    ],
    "__metadata__": torch.ones(2),
    "a.b": torch.ones(1),
    "a": {"b": torch.zeros(1)},
}


@pytest.mark.parametrize("name", TREE)
def test_every_value_comes_back(name, tmp_path):
    tree = {name: TREE[name]}
    write_tree(tmp_path / "tree", "checkpoint", tree)
    assert_same(read_tree(tmp_path / "tree", "checkpoint"), tree)


def test_the_whole_tree_comes_back(tmp_path):
    write_tree(tmp_path / "tree", "checkpoint", TREE)
    again = read_tree(tmp_path / "tree", "checkpoint")
    assert_same(again, TREE)
    write_tree(tmp_path / "again", "checkpoint", again)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "tree").read_bytes()


def test_a_view_is_written_without_what_it_views(tmp_path):
    write_tree(tmp_path / "tree", "checkpoint", torch.zeros(10**6)[:10])
    assert (tmp_path / "tree").stat().st_size < 1000


def test_what_was_read_can_be_written_to(tmp_path):
    write_tree(tmp_path / "tree", "checkpoint", [np.zeros(2), torch.zeros(2)])
    array, tensor = read_tree(tmp_path / "tree", "checkpoint")
    array += 1
    tensor += 1
    assert array.tolist() == tensor.tolist() == [1, 1]


class Dict(dict):
    """No plain dict: it may behave otherwise."""


CYCLE: list = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (len, r"state\['a'\]\[0\] is of type builtins.builtin_function"),
        ({1}, "is of type builtins.set"),
        (Dict(), "is of type .*Dict"),
        (1j, "is of type builtins.complex"),
        (torch.nn.ReLU(), "is of type .*ReLU"),
        (np.array([1, None]), "array of objects"),
        (np.zeros(2, "i4,f4"), "array of dtype"),
        (torch.zeros(2, device="meta"), "without plain values"),
        (torch.zeros(2, 2).to_sparse(), "without plain values"),
        (CYCLE, "nested too deeply"),
    ],
)
def test_what_cannot_be_written_is_told_with_its_place(value, told):
    with pytest.raises(TypeError, match=told):
        pack({"a": [value]})


@pytest.mark.parametrize(
    "document",
    [
        {"$": "RandomState", "state": {"bit_generator": "PCG64"}},
        {"$": "float", "text": "1"},
        {"$": "tensor", "name": "a", "order": [0, 0]},
        {"$": "array", "name": "a", "dtype": "<f8", "shape": [3]},
        {"$": "array", "name": "a", "dtype": "|O", "shape": [1]},
        {"$": "dict", "items": [[[], 1]]},
        {"$": "Clock", "state": {"max_epochs": 1, "system": 2}},
        {"$": "torch.dtype", "text": "nn"},
        [{"$": "tensor", "name": "a"}, {"$": "tensor", "name": "a"}],
        None,
    ],
)
def test_what_was_never_written_is_refused(document):
    with pytest.raises(FileError):
        unpack(document, {"a": torch.zeros(2)})


def test_a_forged_generator_is_refused():
    document, tensors = pack(np.random.RandomState(0))
    document["state"]["state"]["pos"] = 10**6  # numpy would read behind its end
    with pytest.raises(FileError, match="no state of a RandomState"):
        unpack(document, tensors)


@each_estimator
def test_a_training_between_two_epochs_comes_back(estimator, tmp_path):
    n = 0

    def check(net):
        nonlocal n
        state = net.training_state()
        write_tree(tmp_path / "state", "checkpoint", state)
        assert_same(read_tree(tmp_path / "state", "checkpoint"), state)
        n += 1

    model = clone(estimator).set_params(callbacks=[Spy("on_epoch_end", check)])
    model.fit(make_stripes()[0])
    assert n == model.n_iter_ > 1
