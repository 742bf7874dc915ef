"""Fitted estimators in files: written by ``save``, read by :func:`load`."""

from __future__ import annotations

import importlib
import math
import os
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from .._engine.device import resolve_device
from .._engine.guard import pinned
from .._engine.protocol import DataFacts
from .._engine.randomness import own_draws, seeded
from .._input.images import Images
from .._input.scaling import Scaling
from ..pretrained.backbone import backbone_in_training
from ..pretrained.frozen import make_structure, split_state, state_of
from ..pretrained.networks import structure_only
from .container import FileError, read, write
from .encoding import pack, unpack
from .pickling import LEFT_OUT, prediction_net
from .trimming import drop_training_only, trimmed

# what a file may name: no other class is ever looked up
ESTIMATORS = {
    "DigPro": "skdeepcluster.digpro",
    "GCC": "skdeepcluster.gcc",
    "MFCVAE": "skdeepcluster.mfcvae",
    "SCL": "skdeepcluster.scl",
    "StatDEC": "skdeepcluster.statdec",
}
PARTS = {"estimator", "params", "own", "resolved", "attributes", "data", "module"}
# parameters of the training alone, which may be bound to its machine
TRAINING = {"callbacks", "checkpoint"}
# attributes that are no result of a fit
NO_RESULTS = {*LEFT_OUT, "net_", "encoder_", "_metadata_request"}
NETWORK = (
    " For one of load_network, that is load_network(model, image_size=...) with the "
    "same arguments; its weights come from the file."
)
MAX_NUMBER = 2**31
MAX_LIST = 10**6  # numbers of epochs and of facets, which become lists of that length


# -- writing ---------------------------------------------------------------------------


def write_model(estimator, path, per_sample: bool) -> None:
    """Write a fitted estimator: see :meth:`.Storable.save`."""
    check_is_fitted(estimator)
    cls = type(estimator)
    module = estimator.net_.module_
    params, own = _split(estimator)
    left_out = set() if per_sample else {*estimator._per_sample, "skipped_"}
    left_out |= NO_RESULTS | set(estimator.get_params(deep=False))
    tree = {
        "estimator": {"name": cls.__name__, "package": _is_listed(cls)},
        "params": params,
        "own": own,
        "resolved": _resolved(module.p, params, own),
        "attributes": {
            name: value
            for name, value in vars(estimator).items()
            if name not in left_out and not name.startswith("_sklearn_callback")
        },
        "data": {
            "n_samples": module.n_samples,
            "scaling": _plain(module.scaling),
        },
        "module": {**_state_of(module), **state_of(estimator.encoder_)},
    }
    _check_numbers(tree["resolved"])
    write(path, "model", *pack(tree, cls.__name__))


def _is_listed(cls) -> bool:
    module = ESTIMATORS.get(cls.__name__)
    return module is not None and cls is getattr(
        importlib.import_module(module), cls.__name__
    )


def _split(estimator) -> tuple[dict, dict]:
    """Parameters that a file can hold, and the types of those that it cannot."""
    params, own = {}, {}
    for name, value in estimator.get_params(deep=False).items():
        if name in TRAINING:
            continue
        value = _without_path(value)
        try:
            pack(value)
        except TypeError:
            if name != "net_params":
                kind = type(value)
                own[name] = getattr(value, "__qualname__", kind.__qualname__)
        else:
            params[name] = value
    return params, own


def _without_path(value):
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _resolved(p, params, own) -> dict[str, Any]:
    """What the networks were built by, where it is another value than the parameter."""
    found = {}
    for name, value in p.get_params(deep=False).items():
        # the module forgets objects of the user's own, and what does not shape it
        if name in TRAINING | {"augment", "net_params", "device"} or name in own:
            continue
        if name == "backbone" and value is None:  # a network that has its weights here
            continue
        value = _without_path(value)
        known = name in params and type(params[name]) is type(value)
        if not known or pack(value)[0] != pack(params[name])[0]:
            found[name] = value
    return found


def _state_of(module) -> dict[str, Any]:
    return dict(trimmed(module).state_dict())


# -- reading ---------------------------------------------------------------------------


def load(path, *, device="auto", estimator: type | None = None, **objects):
    """Read a fitted estimator that its method ``save`` wrote.

    No code of the file runs: it holds numbers and text. Names, shapes, types and hashes
    are checked before anything is used, and no network is asked for anything.

    Parameters
    ----------
    path : str or PathLike
        Name of a regular file.
    device : str or torch.device, default="auto"
        Where to predict: ``"auto"`` is CUDA where there is one, else the CPU, wherever
        the estimator was trained.
    estimator : class, default=None
        Class of a method of your own. The methods of the package are found by name.
    **objects : objects
        Modules and callables that the estimator was made with, by the name of the
        parameter: ``backbone=module`` has the structure of the networks, and its
        weights come from the file. A file does not hold such objects.

    Returns
    -------
    estimator : DeepClusterer
        Fitted: it predicts what the one that was saved did, on a CPU bit for bit.

    Raises
    ------
    FileError
        If the file is damaged, foreign or newer, or needs an object that was not
        passed.
    TypeError
        If an object was passed that the file does not ask for.
    ValueError
        If ``device`` cannot be used.
    OSError
        If there is no such file.

    Examples
    --------
    >>> import os, tempfile, skdeepcluster
    >>> from skdeepcluster.datasets import load_digits_images
    >>> X, _ = load_digits_images()
    >>> model = skdeepcluster.DigPro(10, max_epochs=1, random_state=0).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "digits.safetensors")
    ...     model.save(path)
    ...     again = skdeepcluster.load(path, device="cpu")
    >>> bool((again.predict(X) == model.labels_).all())
    True
    """
    with pinned(), seeded(0):
        device = resolve_device(device)
        document, tensors = read(path, "model")
        try:
            tree = unpack(document, tensors)
            _check_parts(tree)
            cls = _find_class(tree["estimator"], estimator)
            _check_objects(cls, tree["own"], objects)
            return _rebuild(cls, tree, objects, device)
        except FileError as error:
            raise FileError(f"{str(path)!r} cannot be used: {error}") from error
        except _PassedWrongly as error:
            raise TypeError(str(error)) from None
        except Exception as error:  # a forged document may go wrong anywhere
            raise FileError(
                f"{str(path)!r} cannot be used: its networks cannot be built "
                f"({type(error).__name__}: {str(error)[:500]})."
            ) from error


class _PassedWrongly(Exception):
    """What was passed beside the path does not belong to the file."""


def _check_parts(tree):
    right = isinstance(tree, dict) and tree.keys() == PARTS
    if not right or not all(isinstance(part, dict) for part in tree.values()):
        raise FileError("it lacks a part of an estimator, or has one too many.")
    for name in tree["attributes"]:
        named = name[-1:] == "_" or name[:1] == "_"
        if name in tree["params"] or name in NO_RESULTS or not named:
            raise FileError(f"{name[:80]!r} is no name of a fitted attribute.")
    for name in TRAINING & tree["params"].keys():
        raise FileError(f"{name} is a parameter that no file holds.")
    _check_numbers(tree["resolved"])


def _check_numbers(resolved):
    """Refuse sizes of networks that no memory holds."""
    for name, value in resolved.items():
        values = value if isinstance(value, (tuple, list)) else [value]
        most = MAX_LIST if name in ("max_epochs", "n_facets") else MAX_NUMBER
        for number in values:
            if isinstance(number, int) and number > most and name != "random_state":
                raise FileError(
                    f"{name}={number} is more than {most}, the most allowed."
                )


def _find_class(facts, given):
    name, listed = facts["name"], facts["package"]
    if listed is True and name in ESTIMATORS and given is None:
        return getattr(importlib.import_module(ESTIMATORS[name]), name)
    if listed is True and name in ESTIMATORS:
        raise _PassedWrongly(
            f"estimator={given!r} was passed, but the file holds a {name} of the "
            "package. Leave it out."
        )
    if given is None or given.__name__ != name:
        raise FileError(
            f"it holds a method of another origin, {str(name)[:80]!r}. Pass its class: "
            "load(path, estimator=TheClass)."
        )
    return given


def _check_objects(cls, own, objects):
    known = set(cls._get_param_names())
    for name, kind in own.items():
        if name not in known or not isinstance(kind, str):
            raise FileError(f"{cls.__name__} has no parameter {name[:80]!r}.")
        if name not in objects:
            raise FileError(
                f"it was saved with an object of your own as {name} ({kind[:80]}), "
                f"which no file holds. Pass one like it: load(path, {name}=...)."
                + (NETWORK if kind == "Pretrained" else "")
            )
    for name in objects.keys() - own.keys() - {"callbacks", "net_params"}:
        raise _PassedWrongly(
            f"{name} was passed, but the file does not ask for it"
            + (f"; it asks for {sorted(own)}." if own else ". Leave it out.")
        )


def _rebuild(cls, tree, objects, device):
    """Build the estimator, and its networks: without memory first, then the weights."""
    made = cls(**tree["params"], **objects)
    made._validate_params()
    for name in tree["attributes"]:
        if hasattr(cls, name):
            raise FileError(f"{name[:80]!r} is no name of a fitted attribute.")
    vars(made).update(tree["attributes"])
    if math.prod(made.layout_.shape) != made.n_features_in_:
        raise FileError("its images have two sizes.")
    p = cls(**{**tree["params"], **objects, **tree["resolved"], "device": device})
    state, of_encoder = split_state(tree["module"])
    shape = made.layout_.shape
    made.encoder_ = make_structure(made, shape)
    if made.encoder_ is not None:
        _check_state(made.encoder_, of_encoder)
        made.encoder_.load_state_dict(of_encoder, assign=True)
        made.encoder_.to(device)
        shape = (1, 1, state["scaling.low"].numel())
    with structure_only():
        p.backbone = backbone_in_training(p)
    scaling = _scaling(tree["data"]["scaling"], state)
    data = DataFacts(
        image_shape=scaling.shape(shape),
        n_samples=tree["data"]["n_samples"],
        scaling=scaling,
        augmentation=nn.Identity(),
    )
    # a class that was passed is trusted, and may compute with what it initialises
    ours = tree["estimator"]["package"]
    with own_draws(not ours), torch.device("meta" if ours else "cpu"):
        module = cls.module(p, data)
    for part in module.modules():
        drop_training_only(part)
    _check_state(module, state)
    module.load_state_dict(state, assign=True)
    module.requires_grad_(False)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta:
            raise FileError(
                f"{name} of its networks is in no state_dict, and cannot be restored. "
                "Register it as a persistent buffer, and save the estimator again."
            )
    params = {name: getattr(p, name) for name in ("lr", "max_epochs", "batch_size")}
    made.net_ = prediction_net(module, device, **params)
    return made


def _scaling(attributes, state) -> Scaling:
    """Restore a Scaling: one of other data, to which everything else is given."""
    scaling = Scaling(Images(np.zeros((2, 1), np.float32), (1, 1, 1)))
    buffers = {
        name.removeprefix("scaling."): value
        for name, value in state.items()
        if name.startswith("scaling.") and isinstance(value, Tensor)
    }
    if attributes.keys() != _plain(scaling).keys() or buffers.keys() != {
        name for name, _ in scaling.named_buffers()
    }:
        raise FileError("it does not say how to scale images.")
    vars(scaling).update(attributes)
    scaling._buffers.update(buffers)
    return scaling.eval()


def _plain(scaling):
    return {name: value for name, value in vars(scaling).items() if name[0] != "_"}


def _check_state(module, state):
    """Compare what the networks hold with what the file has for them."""
    expected = module.state_dict()
    names = sorted(expected.keys() ^ state.keys())
    if names:
        raise FileError(
            f"its networks and its parameters do not go together: {names[0][:80]!r} is "
            "in one of them only. Pass an object of the same structure as a backbone "
            "of your own; else use another copy of the file."
        )
    for name, value in expected.items():
        found = state[name]
        if isinstance(value, Tensor) and isinstance(found, Tensor):
            same = (value.shape, value.dtype) == (found.shape, found.dtype)
        elif isinstance(value, dict) and isinstance(found, dict):
            same = value.keys() == found.keys()
        else:
            same = type(value) is type(found)
        if not same:
            raise FileError(
                f"its networks and its parameters do not go together: {name[:80]!r} "
                f"has {_shape(found)}, where {_shape(value)} was expected. Pass an "
                "object of the same structure as a backbone of your own; else use "
                "another copy of the file."
            )


def _shape(value):
    return f"the shape {tuple(value.shape)}" if isinstance(value, Tensor) else "facts"
