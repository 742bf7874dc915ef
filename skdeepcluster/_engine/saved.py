"""What a training in a file has to be, before anything of it is taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

PARTS = {"module", "optimizer", "history", "generators", "ended"}
TIMES = ("lr", "seconds", "images_per_second", "feature_spread")  # numbers in a row


def check_training(state: Any) -> None:
    """Refuse what is no training, before a net is built by it.

    Parameters
    ----------
    state : object
        As ``training_state`` of a net gave it, or anything else.

    Raises
    ------
    ValueError
        If a part is missing, of another kind, or contradicts another one.
    """
    if not isinstance(state, dict) or state.keys() != PARTS:
        refuse("it lacks a part of a training, or has one too many")
    module = state["module"]
    facts = module.get("_extra_state") if isinstance(module, Mapping) else None
    clock = facts.get("clock") if isinstance(facts, dict) else None
    if type(clock).__name__ != "Clock" or type(state["ended"]) is not bool:
        refuse("it does not say where the training stands")
    _check_history(state["history"])
    _check_clock(clock, state["history"])
    _check_generators(state["generators"])


def _check_clock(clock, history):
    counts = [clock.max_epochs, clock.steps_per_epoch, clock.step, clock.epoch]
    ends = clock.ends
    if (
        not isinstance(ends, list)
        or not all(type(n) is int and n >= 0 for n in [*counts, *ends])
        or clock.steps_per_epoch == 0
        or ends[0] != clock.max_epochs
        or sorted(set(ends)) != ends
    ):
        refuse("its clock is none of a training")
    done = sum("loss" in row for row in history)
    least, most = (n * clock.steps_per_epoch for n in (done, len(history)))
    if not (clock.epoch == done <= ends[-1] and least <= clock.step <= most):
        refuse(
            f"its clock stands at epoch {clock.epoch} of {ends[-1]}, step "
            f"{clock.step}, and its history has {done} epochs"
        )


def _check_history(history):
    rows = history if isinstance(history, list) else [None]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or row.get("epoch") != number:
            refuse("its history is no list of epochs")
        for name, value in row.items():
            counted = str(name).startswith("loss") or name in TIMES
            if counted and not isinstance(value, int | float):
                refuse(f"its history has a {name} that is no number")


def _check_generators(states):
    if not isinstance(states, dict) or "cpu" not in states:
        refuse("it has no random generators")
    for name, value in states.items():
        device = torch.device(str(name))
        if device.type == "cuda" and not torch.cuda.is_available():
            continue
        generator = torch.Generator(device)
        compare(value, generator.get_state(), "its random generator")
        generator.set_state(value)  # which refuses what is no state


def check_fits(state: dict, fresh: dict) -> None:
    """Refuse a training that does not fit a net.

    Parameters
    ----------
    state : dict
        That passed :func:`check_training`.
    fresh : dict
        ``training_state`` of the net, before it trained.

    Raises
    ------
    ValueError
        If the two differ in more than values.
    """
    clock, new = (one["module"]["_extra_state"]["clock"] for one in (state, fresh))
    plan = (clock.max_epochs, clock.steps_per_epoch)
    if plan != (new.max_epochs, new.steps_per_epoch):
        refuse(f"it was planned for {plan[0]} epochs of {plan[1]} steps")
    compare(state["module"], fresh["module"], "its networks")
    found = state["optimizer"]
    if not isinstance(found, dict) or found.keys() != {"state", "param_groups"}:
        refuse("it has no optimizer")
    groups, new = found["param_groups"], fresh["optimizer"]["param_groups"]
    compare(groups, new, "its optimizer")
    if [group["params"] for group in groups] != [group["params"] for group in new]:
        refuse("its optimizer has other parameters")


def check_moments(state: dict, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Refuse moments that are not those of the parameters of an optimizer.

    Parameters
    ----------
    state : dict
        Of an optimizer, with the groups of this one.
    optimizer : Optimizer
    step : int
        Steps that are done.

    Raises
    ------
    ValueError
        If they are missing, or of other shapes.
    """
    moments, groups = state["state"], optimizer.param_groups
    parameters = dict(enumerate(p for group in groups for p in group["params"]))
    adam = "betas" in optimizer.defaults
    if not isinstance(moments, dict) or not moments.keys() <= parameters.keys():
        refuse("its optimizer has the moments of other parameters")
    if not moments and step and adam:
        refuse("its optimizer lacks its moments")
    for number, one in moments.items():
        if not isinstance(one, dict) or (
            adam and not {"step", "exp_avg"} <= one.keys()
        ):
            refuse("its optimizer lacks some moments")
        for name, value in one.items():
            shape = value.shape if isinstance(value, Tensor) else None
            right = () if name == "step" else parameters[number].shape
            if shape != right and (adam or shape is not None):
                refuse(f"its optimizer has a {name} that does not fit its parameter")
        if one.keys() != next(iter(moments.values())).keys():
            refuse("its optimizer has moments of several kinds")


def compare(found: Any, fresh: Any, where: str, grows: bool = False) -> None:
    """Refuse another structure: names, shapes, and types of what is no tensor.

    Parameters
    ----------
    found, fresh : object
        Trees of dicts and lists. Where the fresh one has None, anything may be; a list
        may have grown, and a tensor that has no rows yet.
    where : str
        What errors call it.
    grows : bool
        Whether a dict may have other keys: plain attributes of a module fill theirs.

    Raises
    ------
    ValueError
        If the two differ in more than values.
    """
    if isinstance(fresh, Tensor) and isinstance(found, Tensor):
        rows = (fresh.ndim and len(fresh) == 0) or None  # then as many as come
        same = found.shape[rows:] == fresh.shape[rows:] and found.ndim == fresh.ndim
        if not same or found.dtype != fresh.dtype:
            refuse(
                f"{where} has the shape {tuple(found.shape)} and type {found.dtype}, "
                f"where {tuple(fresh.shape)} and {fresh.dtype} were expected"
            )
    elif isinstance(fresh, Mapping) and isinstance(found, Mapping):
        if grows:
            fresh = {name: fresh[name] for name in fresh if name in found}
        elif found.keys() != fresh.keys():
            odd = sorted(map(str, found.keys() ^ fresh.keys()))[0]
            refuse(f"{where}: {odd[:80]!r} is missing, or was added")
        plain = str(where).endswith("_extra_state'")
        for name, value in fresh.items():
            compare(found[name], value, f"{where}: {name!r}", grows=grows or plain)
    elif isinstance(fresh, list) and isinstance(found, list):
        if len(found) < len(fresh):
            refuse(f"{where} has {len(found)} values, {len(fresh)} were expected")
        for one, value in zip(found, fresh, strict=False):
            compare(one, value, where)
    elif fresh is not None and type(found) is not type(fresh):
        refuse(
            f"{where} is of type {type(found).__name__}, where "
            f"{type(fresh).__name__} was expected"
        )


def refuse(reason: str) -> NoReturn:
    """Raise what the checkpoint turns into an error that names the file."""
    raise ValueError(reason)
