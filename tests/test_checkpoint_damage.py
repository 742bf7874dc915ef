"""A damaged or forged checkpoint is one clear error, and never trained on."""

import copy
import shutil
import sys
import time

import numpy as np
import pytest
import torch
from damaged import cut_and_grown, flipped, foreign, rearranged
from estimators import ESTIMATORS, NAMES, make_stripes
from sklearn.base import clone

from skdeepcluster import FileError
from skdeepcluster._engine import checkpoint as checkpoints
from skdeepcluster._engine.protocol import Clock
from skdeepcluster._storage import pack, read, unpack, write
from skdeepcluster.gcc import diffusion_training

X = make_stripes()[0][:24]
CODE = ("os.exec", "os.fork", "os.posix_spawn", "os.system", "pickle.find_class")
CODE += ("socket.connect", "subprocess.Popen")
heard: list = []
sys.addaudithook(lambda event, args: heard.append(event) if event in CODE else None)


def make(name, folder, **params):
    estimator = clone(ESTIMATORS[NAMES.index(name)])
    return estimator.set_params(checkpoint=folder, checkpoint_every=0, **params)


@pytest.fixture(scope="module", params=["DigPro", "GCC"])
def whole(request, tmp_path_factory):
    """Name of a method, its parameters, and the file of its training."""
    folder = tmp_path_factory.mktemp("training")
    make(request.param, folder).fit(X)
    return request.param, folder / "training.safetensors"


def refused(name, path, what):
    """The message of the one error of a fit that finds this file."""
    model = make(name, path.parent)
    before, content, began = dict(vars(model)), path.read_bytes(), time.process_time()
    heard.clear()
    try:
        model.fit(X)
    except FileError as error:
        message = str(error)
    except Exception as error:
        pytest.fail(f"{what}: {type(error).__name__}: {error}")
    else:
        pytest.fail(f"{what} was trained on")
    assert time.process_time() - began < 1, what
    assert str(path) in message and len(message) < 1000, what
    assert heard == [], what
    assert vars(model) == before and path.read_bytes() == content, what
    return message


def test_every_damage_is_one_clear_error(whole, tmp_path):
    name, source = whole
    data, path = source.read_bytes(), tmp_path / source.name
    header, count = 8 + int.from_bytes(data[:8], "little"), 0
    for what, damaged in (
        *cut_and_grown(data),
        *foreign(data),
        *rearranged(data),
        *flipped(data, 10, 0, header, seed=0),
        *flipped(data, 10, header, len(data), seed=1),
    ):
        path.write_bytes(damaged)
        refused(name, path, what)
        count += 1
    assert count > 80


# -- well-formed files, whose hashes are right, of what is no training of this kind ----


def changed(state, *keys, to):
    """A copy of a tree in which one place holds something else; DROP leaves it out."""
    new = copy.deepcopy(state)
    *way, last = keys
    place = new
    for key in way:
        place = vars(place)[key] if isinstance(place, Clock) else place[key]
    if to is DROP:
        del place[last]
    elif isinstance(place, Clock):
        setattr(place, last, to)
    else:
        place[last] = to
    return new


DROP = object()
CLOCK = ("module", "_extra_state", "clock")


def forgeries(state):
    """Names of changes, and states that are none of this training."""
    for part in state:
        for value in (DROP, None, 5, "x", [], {}, {"a": 1}, [1], torch.ones(2)):
            if part == "ended" or value is not state[part]:
                yield f"{part}={value}", changed(state, part, to=value)
    yield "a part too many", {**state, "more": 1}
    yield "ended=1", changed(state, "ended", to=1)
    for count in ("max_epochs", "steps_per_epoch", "step", "epoch"):
        for value in (-1, 10**12, 2**70, 0.5, "1", None, True, float("nan")):
            yield f"{count}={value}", changed(state, *CLOCK, count, to=value)
    for value in ([0], [-1], [10**12], [2, 1], ["2"], 2, [1, 1], [[2]]):
        yield f"ends={value}", changed(state, *CLOCK, "ends", to=value)
    for value in (None, 1, {}, {"max_epochs": 2}, DROP):
        yield f"clock={value}", changed(state, *CLOCK, to=value)
    yield from forged_history(state)
    yield from forged_networks(state)
    yield from forged_optimizers(state)
    good = state["generators"]["cpu"]
    for value in (good[:-1], good.float(), good[:0], good[None], None, 1, 0 * good):
        yield f"generator={value}", changed(state, "generators", "cpu", to=value)
    yield "a device", changed(state, "generators", "nowhere:1", to=good)
    yield "no device", changed(state, "generators", 1, to=good)


def forged_history(state):
    for value in (None, 1, [], {}, {"epoch": 1}, DROP):
        yield f"a row {value}", changed(state, "history", 0, to=value)
    for name in ("loss", "lr", "seconds", "epoch"):
        for value in ("x", None, [1.0], DROP):
            if value is not DROP or name in ("loss", "epoch"):
                yield f"{name}={value}", changed(state, "history", 0, name, to=value)
    yield "rows", {**state, "history": state["history"] * 2}


def forged_networks(state):
    tensors = [key for key, v in state["module"].items() if isinstance(v, torch.Tensor)]
    for key in (tensors[0], tensors[-1]):
        value = state["module"][key]
        for other in (value[None], value.reshape(-1)[:0], value.bool(), 1, None, DROP):
            if not (
                isinstance(other, torch.Tensor) and other.shape == value.shape == ()
            ):
                yield f"{key}={other}", changed(state, "module", key, to=other)
    yield "one more", changed(state, "module", "more", to=torch.ones(1))
    for key, value in state["module"]["_extra_state"].items():
        if value is not None:
            for other in ("x", None, torch.ones(2), DROP):
                facts = ("module", "_extra_state", key)
                yield f"{key}={other}", changed(state, *facts, to=other)
    yield "a fact more", changed(state, "module", "_extra_state", "forward", to=1)


def forged_optimizers(state):
    optimizer, here = state["optimizer"], ("optimizer", "param_groups")
    for part in ("state", "param_groups"):
        for value in (None, [], {}, 1, DROP):
            yield (
                f"optimizer: {part}={value}",
                changed(state, "optimizer", part, to=value),
            )
    for key in ("params", "lr", "betas", "initial_lr", "weight_decay"):
        for value in ("x", None, [99], [1.5], DROP):
            yield f"{key}={value}", changed(state, *here, 0, key, to=value)
    more = optimizer["param_groups"] * 2
    yield "groups", changed(state, *here, to=more)
    number = next(iter(optimizer["state"]))
    for key in ("exp_avg", "exp_avg_sq", "step"):
        for value in (torch.ones(99, 98), None, "x", DROP):
            yield (
                f"{key}={value}",
                changed(state, "optimizer", "state", number, key, to=value),
            )
    moments = optimizer["state"][number]
    for key in (10**6, -1, "x"):
        yield f"moments of {key}", changed(state, "optimizer", "state", key, to=moments)


def forged_rounds(state):
    facts, number = ("module", "_extra_state"), state["module"]["_extra_state"]["round"]
    for key, value in (
        *(("ends", value) for value in ([], [1], ["x"], [3, 2], [2, 10**12], [0, 0])),
        *(("round", value) for value in (-1, number + 1, 10**12, 0.5)),
        *(("before", value) for value in ({}, {"online": {}, "prototypes": 1})),
        *(("agreement", value) for value in ([1], [[1]], [["x"] * 3], [None])),
    ):
        yield f"{key}={value}", changed(state, *facts, key, to=value)
    bank = state["module"]["bank.images"]
    yield "images", changed(state, "module", "bank.images", to=bank[:-1])


def saved(path):
    return unpack(*read(path, "checkpoint"))


def test_every_forgery_is_one_clear_error(whole, tmp_path):
    name, source = whole
    content, path, count = saved(source), tmp_path / source.name, 0
    state = content["state"]
    of = {"DigPro": [forgeries], "GCC": [forged_networks, forged_rounds]}[name]
    every = [forgery for forge in of for forgery in forge(state)]
    for what, forged in every:
        write(path, "checkpoint", *pack({**content, "state": forged}))
        refused(name, path, what)
        count += 1
    for other in (None, 1, "x", {}, {"X": 1}, {1: "x"}):
        forged = {"identity": other, "state": state}
        write(path, "checkpoint", *pack(forged))
        if other == {}:  # of another training
            with pytest.raises(ValueError, match="another one"):
                make(name, tmp_path).fit(X)
        else:
            refused(name, path, f"identity={other}")
    for other in (None, [], {"state": state}, {**content, "more": 1}):
        write(path, "checkpoint", *pack(other))
        refused(name, path, "another tree")
    assert count > {"DigPro": 180, "GCC": 50}[name]


def test_an_unchanged_copy_is_gone_on_from(whole, tmp_path):
    # else every forgery could be refused for having been written by the test
    name, source = whole
    write(tmp_path / source.name, "checkpoint", *pack(saved(source)))
    again = make(name, tmp_path).fit(X)
    np.testing.assert_array_equal(again.labels_, make(name, None).fit(X).labels_)


# -- the training of a diffusion model within that of GCC ------------------------------


@pytest.fixture(scope="module")
def inner(tmp_path_factory):
    """A folder in which GCC was ended while its diffusion model trained."""
    folder = tmp_path_factory.mktemp("inner")

    class Enough(Exception):
        pass

    save = checkpoints.Checkpoint.save

    def end(self, state):
        save(self, state)
        if self.path.name.startswith("diffusion"):
            raise Enough

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Enough):
        patch.setattr(checkpoints.Checkpoint, "save", end)
        make("GCC", folder, max_epochs=4).fit(X)
    assert {path.name for path in folder.iterdir()} == {
        "training.safetensors",
        "diffusion.safetensors",
    }
    return folder


def test_damage_to_the_diffusion_model_is_one_clear_error(inner, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(inner, folder)
    path = folder / "diffusion.safetensors"
    data, content = path.read_bytes(), saved(path)
    steps = []
    losses = diffusion_training.DiffusionObjective.losses
    monkeypatch.setattr(
        diffusion_training.DiffusionObjective,
        "losses",
        lambda self, batch: steps.append(1) or losses(self, batch),
    )

    def check(what):
        model = make("GCC", folder, max_epochs=4)
        before = dict(vars(model))
        with pytest.raises(FileError) as caught:
            model.fit(X)
        assert str(path) in str(caught.value) and not steps, what
        assert vars(model) == before, what

    header = 8 + int.from_bytes(data[:8], "little")
    for what, damaged in (
        *cut_and_grown(data),
        *flipped(data, 5, 0, header, seed=0),
        *flipped(data, 5, header, len(data), seed=1),
    ):
        path.write_bytes(damaged)
        check(what)
    for what, forged in list(forgeries(content["state"]))[::9]:
        write(path, "checkpoint", *pack({**content, "state": forged}))
        check(what)
    # one that began with another model is of an earlier round: it begins anew
    write(path, "checkpoint", *pack({**content, "identity": {"beginning": "x"}}))
    again = make("GCC", folder, max_epochs=4).fit(X)
    assert steps
    whole = make("GCC", None, max_epochs=4).fit(X)
    np.testing.assert_array_equal(again.labels_, whole.labels_)
