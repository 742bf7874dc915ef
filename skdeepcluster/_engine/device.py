"""Where to compute, in which precision, and from which random numbers."""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from sklearn.utils import check_random_state

from .._input.layouts import is_vector


def resolve_device(device) -> torch.device:
    """Turn ``"auto"`` or the name of a device into one that is there.

    Raises
    ------
    ValueError
        If torch does not know the device or cannot use it.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(1, device=resolved).cpu()  # what "meta" cannot do
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device={device!r} cannot be used: {reason}. Pass 'cpu', 'auto' or a "
            f"device that is there (CUDA devices found: {torch.cuda.device_count()})."
        ) from None
    return resolved


def resolve_precision(precision: str, device: torch.device, image_shape) -> bool:
    """Tell whether networks train under bfloat16 autocast.

    ``"auto"`` takes it on CUDA, and for images on processors with bfloat16
    instructions, where ``bench_engine.py`` measured it to be faster. It depends on
    the hardware alone, never on a timing: two fits with one seed choose alike.
    """
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or is_vector(image_shape):
        return False
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def make_seed(random_state) -> int:
    """Draw a seed; None gives fresh entropy, since numpy's generator is not ours."""
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    return int(check_random_state(random_state).randint(2**31 - 1))


def seed_of_torch() -> int:
    """Draw a seed from torch's generator, for what draws by another one."""
    return int(torch.randint(2**31 - 1, ()))


@contextlib.contextmanager
def seeded(seed, device="cpu"):
    """Seed torch inside the block; the caller's generators are left as they were."""
    cuda = torch.device(device).type == "cuda"
    devices = list(range(torch.cuda.device_count())) if cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
