"""Random numbers of a training's own: no other thread draws from them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

# what is known to draw nothing, but for the layers in RANDOM, if their rate is not 0
KNOWN = (
    *("skdeepcluster.", "diffusers.", "torch.nn."),
    *("torchvision.models.", "torchvision.ops."),
)
RANDOM = (
    *("Dropout", "StochasticDepth", "DropBlock", "RReLU", "FractionalMaxPool"),
    *("MultiheadAttention", "RNN", "LSTM", "GRU"),
)
RATES = ("p", "dropout")  # names of the rate, where a layer has one


class Generators:
    """One torch generator a device, all from the same seed.

    Parameters
    ----------
    seed : int
    """

    def __init__(self, seed: int):
        self.seed = seed
        self.of: dict[str, torch.Generator] = {}

    def on(self, device) -> torch.Generator:
        """Return the generator of a device."""
        device = torch.device(device)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        name = str(device)
        if name not in self.of:
            self.of[name] = torch.Generator(device).manual_seed(self.seed)
        return self.of[name]

    def state(self) -> dict:
        """Capture the state of every generator, by device."""
        return {name: one.get_state() for name, one in self.of.items()}

    def load_state(self, state: dict) -> None:
        """Take what :meth:`state` captured, on the devices that are there."""
        for name, value in state.items():
            if torch.device(name).type != "cuda" or torch.cuda.is_available():
                self.on(name).set_state(value)


# of a context, so that threads and asynchronous tasks have their own
_current: ContextVar[Generators | None] = ContextVar("generators", default=None)


def generators() -> Generators:
    """Return the generators of the block of :func:`seeded` that runs."""
    current = _current.get()
    assert current is not None, "only a seeded block has generators"
    return current


def generator(device="cpu") -> torch.Generator | None:
    """Return what to draw from on a device: torch's own outside of a seeded block."""
    current = _current.get()
    return None if current is None else current.on(device)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from generators of a seed inside the block, in this thread alone.

    What passes ``generator=generator(device)`` draws from them; so does what others
    wrote, within :class:`OwnDraws`. Torch's own generators are neither read nor moved.
    """
    with drawing_from(Generators(seed)):
        yield


@contextlib.contextmanager
def drawing_from(own: Generators) -> Iterator[None]:
    """Draw from these generators inside the block, in this thread alone."""
    token = _current.set(own)
    try:
        yield
    finally:
        _current.reset(token)


@contextlib.contextmanager
def forked() -> Iterator[None]:
    """Draw as ever inside the block, and after it as if it had drawn nothing."""
    if _current.get() is None:
        with torch.random.fork_rng():
            yield
        return
    inner = Generators(generators().seed)
    inner.load_state(generators().state())
    with drawing_from(inner):
        yield


def make_seed(random_state) -> int:
    """Draw a seed; None gives fresh entropy, since numpy's generator is not ours."""
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    return int(check_random_state(random_state).randint(2**31 - 1))


def draw_seed() -> int:
    """Draw a seed for what draws by another generator, such as scikit-learn."""
    return int(torch.randint(2**31 - 1, (), generator=generator()))


# -- what others wrote: initial weights, dropout, augmentations ------------------------


class OwnDraws(TorchDispatchMode):
    """Operations that draw without a generator take the one of the seeded block.

    It sees every operation of this thread, so it costs some microseconds for each: the
    package's own code names its generators instead.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        like = FILLS.get(func.overloadpacket)
        if like is not None and kwargs.get("generator") is None:
            return like(*args, **{k: v for k, v in kwargs.items() if k != "generator"})
        if TAKES_GENERATOR.get(func) is None:
            names = [argument.name for argument in func._schema.arguments]
            TAKES_GENERATOR[func] = "generator" in names
        if TAKES_GENERATOR[func] and kwargs.get("generator") is None:
            kwargs = {**kwargs, "generator": generator(_device_of(args, kwargs))}
        return func(*args, **kwargs)


TAKES_GENERATOR: dict = {}  # by operation; filled as they come


def _device_of(args, kwargs):
    for value in args:
        if isinstance(value, torch.Tensor):
            return value.device
    return kwargs.get("device") or "cpu"


def _dropout(x, p, train):
    """``native_dropout``: the output and the mask that the gradient needs."""
    if not train or p == 0:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    kept = torch.empty_like(x, dtype=torch.bool)
    kept.bernoulli_(1 - p, generator=generator(x.device))
    return x * kept / (1 - p if p < 1 else 1.0), kept


def _filled(fill: str, like: bool) -> Callable:
    """Stand in for an operation that has no argument for a generator."""

    def draw(*args, **kwargs):
        start = kwargs.pop("memory_format", None)
        layout = {"memory_format": start} if start is not None else {}
        if like:
            x, *bounds = args
            out = torch.empty_like(x, **kwargs, **layout)
        else:
            *bounds, size = args
            out = torch.empty(size, **kwargs)
        return getattr(out, fill)(*bounds, generator=generator(out.device))

    return draw


def _integers(*args, dtype=None, **kwargs):
    *bounds, size = args
    kwargs = {"dtype": dtype or torch.int64, **kwargs}
    low, high = (0, *bounds)[-2:]
    out = torch.empty(size, **kwargs)
    return out.random_(low, high, generator=generator(out.device))


def _integers_like(x, *bounds, **kwargs):
    low, high = (0, *bounds)[-2:]
    out = torch.empty_like(x, **kwargs)
    return out.random_(low, high, generator=generator(out.device))


def _permutation(n, **kwargs):
    kwargs = {key: kwargs[key] for key in ("dtype", "device") if kwargs.get(key)}
    device = kwargs.get("device", "cpu")
    return torch.randperm(n, generator=generator(device), **kwargs)


FILLS = {
    aten.rand: _filled("uniform_", like=False),
    aten.randn: _filled("normal_", like=False),
    aten.rand_like: _filled("uniform_", like=True),
    aten.randn_like: _filled("normal_", like=True),
    aten.randint: _integers,
    aten.randint_like: _integers_like,
    aten.randperm: _permutation,
    aten.native_dropout: _dropout,
}


def own_draws(wanted: bool = True):
    """Return :class:`OwnDraws`, or nothing that costs time where it is not wanted."""
    inside = _current.get() is not None
    return OwnDraws() if wanted and inside else contextlib.nullcontext()


def may_draw(network) -> bool:
    """Whether calling a network may draw random numbers that name no generator."""
    if not isinstance(network, nn.Module):
        return not type(network).__module__.startswith("skdeepcluster.")
    return any(map(_draws, network.modules()))


def _draws(part):
    if not type(part).__module__.startswith(KNOWN):
        return True
    then = vars(part).get("then")  # a function that Neighbors was given
    if then is not None and may_draw(then):
        return True
    rates = [vars(part)[name] for name in RATES if name in vars(part)]
    named = any(name in type(part).__name__ for name in RANDOM)
    return named and (not rates or any(rates))
