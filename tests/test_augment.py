"""Augmentations that draw their numbers, and the recipes made of them."""

import copy
import math
import pickle
import random

import numpy as np
import pytest
import torch
from test_augment_functions import COLOUR_OPERATIONS, SHAPES, noise_and_edges
from torch import nn

from skdeepcluster import augment
from skdeepcluster.augment import _random

IMAGE_MODULES = [
    augment.RandomResizedCrop(degrees=15.0, flip=0.5),
    augment.RandomHorizontalFlip(),
    augment.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
    augment.RandomGrayscale(p=0.5),
    augment.GaussianBlur(5),
]
VECTOR_MODULES = [augment.GaussianNoise(), augment.FeatureMask()]
IMAGE_RECIPES = [
    augment.simclr(),
    augment.simclr(min_area=0.08, blur=3),
    augment.digits(),
    augment.weak(),
]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(params=SHAPES, ids=str)
def images(request):
    return noise_and_edges(request.param)


# --- Modules


def same_images(module, shape=(3, 16, 16), n=64):
    """Many copies of one image, so that only the parameters tell views apart."""
    x = torch.rand(1, *shape).expand(n, *shape).contiguous()
    return module(x)


class Composed:
    """As torchvision's Compose, which is no module."""

    def __init__(self, transforms):
        self.transforms = transforms

    def __call__(self, x):
        for transform in self.transforms:
            x = transform(x)
        return x


@pytest.mark.parametrize(
    ("module", "least"),
    [
        (augment.RandomResizedCrop(), 60),
        (augment.RandomResizedCrop((1.0, 1.0), (1.0, 1.0), degrees=10), 60),
        (augment.RandomHorizontalFlip(), 2),
        (augment.ColorJitter(brightness=0.4), 60),
        (augment.ColorJitter(contrast=0.4), 60),
        (augment.ColorJitter(saturation=0.4), 60),
        (augment.ColorJitter(hue=0.1), 60),
        (augment.RandomGrayscale(p=0.5), 2),
        (augment.GaussianBlur(3, p=1.0), 60),
    ],
    ids=lambda value: str(value),
)
def test_parameters_differ_from_image_to_image(module, least):
    assert len(torch.unique(same_images(module), dim=0)) >= least


@pytest.mark.parametrize("module", IMAGE_MODULES + IMAGE_RECIPES, ids=str)
def test_image_modules_keep_shape_range_and_input(module, images):
    before = images.clone()
    out = module(images)
    assert torch.equal(images, before)
    assert out.shape == images.shape
    assert out.dtype == torch.float32
    assert out.min() >= 0
    assert out.max() <= 1 + 1e-6


@pytest.mark.parametrize("module", [*VECTOR_MODULES, augment.vector()], ids=str)
def test_vector_modules_keep_shape_and_input(module):
    x = torch.randn(16, 1, 1, 40)
    before = x.clone()
    out = module(x)
    assert torch.equal(x, before)
    assert out.shape == x.shape
    assert out.dtype == torch.float32
    assert (out != x).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("module", IMAGE_MODULES + VECTOR_MODULES, ids=str)
def test_one_seed_one_view_and_no_other_randomness(module):
    x = torch.rand(8, 3, 12, 12)
    numpy_state, python_state = np.random.get_state(), random.getstate()
    torch.manual_seed(3)
    first = module(x)
    torch.manual_seed(3)
    assert torch.equal(module(x), first)
    assert not torch.equal(module(x), first)
    np.testing.assert_equal(np.random.get_state(), numpy_state)
    assert random.getstate() == python_state


@pytest.mark.parametrize("module", IMAGE_MODULES + IMAGE_RECIPES, ids=str)
def test_mixed_precision_leaves_views_in_float32(module):
    x = torch.rand(8, 3, 12, 12)
    torch.manual_seed(3)
    expected = module(x)
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16):
        actual = module(x)
    assert actual.dtype == torch.float32
    assert torch.equal(actual, expected)


@pytest.mark.parametrize(
    "module",
    [
        augment.RandomHorizontalFlip(),
        augment.ColorJitter(0.4, 0.4, 0.4, p=0.5),
        augment.RandomGrayscale(),
        augment.GaussianBlur(3),
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [3, 4])
def test_channels_last_is_kept(module, channels):
    x = torch.rand(8, channels, 12, 12).contiguous(memory_format=torch.channels_last)
    assert module(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "module", [m for m in IMAGE_MODULES if not hasattr(m, "degrees")], ids=str
)
def test_probability_zero_changes_nothing(module):
    module = copy.deepcopy(module)
    module.p = 0.0
    x = torch.rand(8, 3, 12, 12)
    torch.testing.assert_close(module(x), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "module",
    [
        augment.RandomHorizontalFlip(p=0.3),
        augment.ColorJitter(brightness=0.4, p=0.3),
        augment.RandomGrayscale(p=0.3),
        augment.GaussianBlur(3, p=0.3),
        augment.RandomResizedCrop((1.0, 1.0), (1.0, 1.0), flip=0.3),
    ],
    ids=str,
)
def test_probability_is_the_share_of_changed_images(module):
    x = torch.rand(4000, 3, 6, 6)
    changed = ((module(x) - x).abs() > 1e-4).flatten(1).any(dim=1)
    # Five standard errors of a share of 0.3 among 4000.
    assert abs(changed.double().mean() - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 4000)


def test_jitter_factors_span_their_range():
    x = torch.full((4000, 3, 2, 2), 0.5)
    factor = augment.ColorJitter(brightness=0.4)(x)[:, 0, 0, 0] / 0.5
    assert 0.6 <= factor.min() < 0.61
    assert 1.39 < factor.max() <= 1.4 + 1e-6
    # Five standard errors of the mean of a uniform variable.
    assert abs(factor.mean() - 1) < 5 * 0.8 / math.sqrt(12 * 4000)


def test_jitter_draws_the_order_once_a_batch(monkeypatch):
    names, calls = [operation.__name__ for operation in COLOUR_OPERATIONS], []

    def recorded(operation):
        def call(x, factor):
            calls.append(operation.__name__)
            return operation(x, factor)

        return call

    for name in names:
        monkeypatch.setattr(_random, name, recorded(getattr(augment, name)))
    module, orders = augment.ColorJitter(0.4, 0.4, 0.4, 0.1), set()
    for _ in range(20):
        calls.clear()
        module(torch.rand(4, 3, 6, 6))
        assert sorted(calls) == sorted(names)
        orders.add(tuple(calls))
    assert len(orders) > 5


@pytest.mark.parametrize("strengths", [{"brightness": -0.1}, {"hue": 0.6}])
def test_jitter_refuses_strengths(strengths):
    with pytest.raises(ValueError, match="strength out of range"):
        augment.ColorJitter(**strengths)


def test_noise_and_mask_have_their_strengths():
    x = torch.ones(500, 1, 1, 200)
    noise = augment.GaussianNoise(std=0.3)(x) - x
    # Five standard errors of mean and standard deviation of 1e5 values.
    assert abs(noise.mean()) < 5 * 0.3 / math.sqrt(1e5)
    assert abs(noise.std() - 0.3) < 5 * 0.3 / math.sqrt(2e5)
    masked = augment.FeatureMask(p=0.2)(x)
    assert set(masked.unique().tolist()) == {0.0, 1.0}
    assert abs((masked == 0).double().mean() - 0.2) < 5 * math.sqrt(0.16 / 1e5)


# --- Recipes


@pytest.mark.parametrize("name", augment.RECIPES)
def test_recipes_are_modules_to_pickle_and_copy(name):
    module = augment.RECIPES[name]()
    assert isinstance(module, nn.Module)
    assert not list(module.parameters())
    x = torch.rand(6, 3, 12, 12)
    torch.manual_seed(5)
    expected = module(x)
    for twin in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        torch.manual_seed(5)
        assert torch.equal(twin(x), expected)
        assert repr(twin) == repr(module)


def mirrored(module):
    """Whether views of an image that is bright on the left are bright on the right."""
    x = torch.full((400, 1, 28, 28), 0.2)
    x[..., :14] = 0.8
    out = module(x)
    inner = out[:, 0, 6:22, 6:22]
    difference = inner[..., 8:].mean((1, 2)) - inner[..., :8].mean((1, 2))
    return (difference > 1e-3).any().item()


def test_only_simclr_mirrors():
    assert mirrored(augment.simclr())
    assert not mirrored(augment.digits())
    assert not mirrored(augment.weak())


def test_weak_and_digits_keep_colour():
    colours = torch.tensor([0.7, 0.2, 0.4]).view(1, 3, 1, 1)
    x = colours.expand(64, 3, 16, 16).contiguous()
    torch.testing.assert_close(augment.weak()(x), x)
    out = augment.digits()(x)[:, :, 8, 8]
    assert (out[:, 0] > out[:, 2]).all() and (out[:, 2] > out[:, 1]).all()
    assert out.std(dim=0).min() > 0.01


@pytest.mark.parametrize(
    ("augmentation", "shape", "recipe"),
    [
        ("auto", (1, 1, 64), "neighbors"),
        ("auto", (1, 28, 28), "digits"),
        ("auto", (3, 32, 32), "simclr"),
        ("auto", (4, 32, 32), "simclr"),
        ("auto", (2, 32, 32), "simclr"),
        ("auto", (3, 1, 8), "simclr"),
        ("weak", (1, 28, 28), "weak"),
        ("digits", (3, 32, 32), "digits"),
        ("simclr", (1, 28, 28), "simclr"),
        ("vector", (1, 1, 64), "vector"),
        ("neighbors", (1, 1, 64), "neighbors"),
    ],
)
def test_make_augmentation_chooses(augmentation, shape, recipe):
    module = augment.make_augmentation(augmentation, shape)
    recipes = {**augment.RECIPES, "neighbors": augment.Neighbors}
    assert repr(module) == repr(recipes[recipe]())
    x = torch.rand(4, *shape)
    assert module(x).shape == x.shape


@pytest.mark.parametrize("own", [nn.Identity(), torch.clone])
def test_make_augmentation_returns_a_callable_as_it_is(own):
    assert augment.make_augmentation(own, (3, 8, 8)) is own


@pytest.mark.parametrize(
    ("augmentation", "shape", "error", "message"),
    [
        (
            "strong",
            (3, 8, 8),
            ValueError,
            r"augment='strong' is no recipe .*'auto', .*'digits', 'simclr', 'weak'",
        ),
        (
            "simclr",
            (1, 1, 9),
            ValueError,
            r"augment='simclr' is no recipe for vectors; pass "
            r"'auto', one of \['neighbors', 'vector'\].* flattened images need "
            "image_shape",
        ),
        (
            "vector",
            (1, 8, 8),
            ValueError,
            r"augment='vector' is no recipe for images; pass "
            r"'auto', one of \['digits', 'simclr', 'weak'\]",
        ),
        (
            None,
            (3, 8, 8),
            TypeError,
            r"augment=None is neither .*'none' or a callable",
        ),
        (
            augment.Neighbors,
            (1, 1, 9),
            TypeError,
            r"augment is the class Neighbors; pass an instance, such as Neighbors\(\)",
        ),
        (3, (3, 8, 8), TypeError, r"augment=3 is neither a string nor callable"),
    ],
)
def test_make_augmentation_refuses(augmentation, shape, error, message):
    with pytest.raises(error, match=message):
        augment.make_augmentation(augmentation, shape)


@pytest.mark.parametrize(
    "own",
    [
        augment.simclr(),
        augment.digits(),
        augment.weak(),
        augment.RandomHorizontalFlip(),
        augment.Neighbors(then=augment.GaussianBlur(3)),
        nn.Sequential(nn.Identity(), nn.Sequential(augment.ColorJitter())),
        Composed([augment.vector(), augment.RandomGrayscale()]),
    ],
)
def test_modules_for_images_are_refused_for_vectors(own):
    with pytest.raises(ValueError, match=r"which is for images, but .*'none'\)"):
        augment.make_augmentation(own, (1, 1, 9))
    if not isinstance(own, augment.Neighbors | Composed):
        assert augment.make_augmentation(own, (3, 8, 8)) is own


@pytest.mark.parametrize("then", ["vector", 3, augment.FeatureMask])
def test_what_is_done_to_neighbors_is_a_callable(then):
    with pytest.raises(TypeError, match="then=.* should be a callable.* or None"):
        augment.Neighbors(5, then=then)


def test_modules_for_vectors_are_refused_for_images():
    with pytest.raises(ValueError, match="which is for vectors, but X holds images"):
        augment.make_augmentation(augment.vector(), (3, 8, 8))
    for own in (augment.vector(), augment.Neighbors(then=augment.vector())):
        assert augment.make_augmentation(own, (1, 1, 9)) is own
    noise = augment.GaussianNoise()
    assert augment.make_augmentation(noise, (3, 8, 8)) is noise


# --- On the GPU


@pytest.mark.gpu
@pytest.mark.parametrize("name", augment.RECIPES)
def test_recipes_run_there_without_waiting(name):
    x = torch.rand(32, 3, 24, 24, device="cuda")
    module = augment.RECIPES[name]()
    torch.cuda.manual_seed(0)
    module(x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = module(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert out.device == x.device
    assert out.shape == x.shape
    assert not torch.equal(out, x)
