"""What the tests share: small settings, tiny images, real images where they are."""

import gc
import os
import sys
from pathlib import Path

# before torch is imported: tiny nets lose by threads, and xdist runs several workers
os.environ.setdefault("OMP_NUM_THREADS", "1")

gc.disable()  # until all is imported: it would walk a million objects again and again

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

collect_ignore = ["typing"]  # read by the type checker, not run
PACKS = Path(__file__).parents[2] / "shared" / "data"


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    try:
        return (yield)
    finally:
        gc.freeze()  # what was imported and collected stays: the tests' garbage is new
        gc.enable()


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def stripes():
    """60 grey images, (60, 8, 8) uint8, of three kinds, and their kinds."""
    from estimators import make_stripes

    return make_stripes()


@pytest.fixture(scope="session")
def two_factors():
    """64 images (64, 3, 8, 8), uint8, of three bright corners and of three colours.

    The kinds are in an array (64, 2): each says nothing about the other.
    """
    rng = np.random.default_rng(0)
    corner, colour = np.arange(64) % 3, np.arange(64) // 3 % 3
    images = rng.integers(0, 60, (64, 3, 8, 8))
    images[np.arange(64), colour] += 90
    images[corner == 0, :, :4, :4] += 90
    images[corner == 1, :, :4, 4:] += 90
    images[corner == 2, :, 4:, 4:] += 90
    return images.astype(np.uint8), np.column_stack([corner, colour])


@pytest.fixture
def packs():
    """The function that reads the packs of real images, or a skip."""
    if not (PACKS / "read_packs.py").exists():
        pytest.skip("the packs of real images are not beside the checkout")
    sys.path.insert(0, str(PACKS))
    try:
        from read_packs import load
    finally:
        sys.path.remove(str(PACKS))
    return lambda name: load(str(PACKS / name))
