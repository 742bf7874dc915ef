"""Where to compute, and in which precision."""

from __future__ import annotations

import torch

from .._input.layouts import is_vector
from .distributed import local_device


def resolve_device(device) -> torch.device:
    """Turn ``"auto"`` or the name of a device into one that is there.

    ``"auto"`` and ``"cuda"`` are another device in each process of a training.

    Raises
    ------
    ValueError
        If torch does not know the device or cannot use it.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if str(device) == "cuda":
        device = local_device()
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
