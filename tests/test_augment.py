import copy
import math
import pickle
import random

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import RandomResizedCrop as TorchvisionResizedCrop
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from skdeepcluster import augment
from skdeepcluster.augment import _random

SHAPES = [(1, 28, 28), (3, 32, 32), (3, 17, 23), (1, 24, 9)]
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
    """Noise, with plain images and edges of the colour cube among it."""
    x = torch.rand(9, *request.param)
    x[0] = 0
    x[1] = 1
    x[2] = 0.3
    x[3] = x[3].round()
    x[4, 0] = 0.5
    x[5] = x[5, :1]
    return x


def assert_equals_reference(actual, operation, x, *parameters, atol=1e-6):
    """Compare with a torchvision function that sees one image at a time."""
    expected = [operation(*image) for image in zip(x, *parameters, strict=True)]
    torch.testing.assert_close(actual, torch.stack(expected), rtol=0, atol=atol)


def uniform(n, low, high):
    return torch.empty(n).uniform_(low, high)


# --- Functions against torchvision, image by image


@pytest.mark.parametrize("size", [None, (20, 31), (7, 5)])
def test_resized_crop_and_flip(images, size):
    n, _, height, width = images.shape
    boxes = augment.random_boxes(n, height, width)
    boxes[0] = torch.tensor([0, 0, height, width])
    boxes[6] = torch.tensor([height - 1, width - 1, 1, 1])
    flip = torch.arange(n) % 2 == 0

    def operation(image, box, mirror):
        out = reference.resized_crop(
            image, *box.tolist(), size or (height, width), antialias=False
        )
        return reference.horizontal_flip(out) if mirror else out

    actual = augment.resized_crop(images, boxes, size=size, flip=flip)
    assert_equals_reference(actual, operation, images, boxes, flip, atol=1e-5)


def whole(x):
    return torch.tensor([0, 0, *x.shape[2:]]).expand(len(x), 4)


def test_rotation(images):
    angle = uniform(len(images), -180, 180)
    angle[0], angle[1], angle[2], angle[6] = 0, 45, 180, -7.5

    def operation(image, degrees):
        bilinear = v2.InterpolationMode.BILINEAR
        return reference.rotate(image, degrees.item(), bilinear, fill=0)

    actual = augment.resized_crop(images, whole(images), angle=angle)
    assert_equals_reference(actual, operation, images, angle, atol=1e-5)


def test_rotation_then_crop_then_flip():
    # Quarter turns are exact in torchvision, so its three steps resample only once.
    x = torch.rand(8, 3, 19, 19)
    angle = torch.tensor([0.0, 90.0, 180.0, 270.0] * 2)
    flip = torch.arange(8) < 4
    boxes = augment.random_boxes(8, 19, 19)

    def operation(image, degrees, box, mirror):
        out = reference.rotate(image, degrees.item())
        out = reference.resized_crop(out, *box.tolist(), (19, 19), antialias=False)
        return reference.horizontal_flip(out) if mirror else out

    actual = augment.resized_crop(x, boxes, angle=angle, flip=flip)
    assert_equals_reference(actual, operation, x, angle, boxes, flip, atol=1e-5)


def test_whole_box_is_the_identity(images):
    actual = augment.resized_crop(images, whole(images))
    torch.testing.assert_close(actual, images, rtol=0, atol=1e-5)


def test_horizontal_flip(images):
    flip = torch.arange(len(images)) % 3 == 0

    def operation(image, mirror):
        return reference.horizontal_flip(image) if mirror else image

    actual = augment.horizontal_flip(images, flip)
    assert_equals_reference(actual, operation, images, flip, atol=0)


@pytest.mark.parametrize(
    "name", ["adjust_brightness", "adjust_contrast", "adjust_saturation"]
)
def test_colour_factors(images, name):
    factor = uniform(len(images), 0, 2)
    factor[5], factor[6], factor[7] = 0, 1, 3

    def operation(image, value):
        return getattr(reference, name)(image, value.item())

    actual = getattr(augment, name)(images, factor)
    assert_equals_reference(actual, operation, images, factor)


def test_hue(images):
    shift = uniform(len(images), -0.5, 0.5)
    shift[6], shift[7], shift[8] = 0, 0.5, -0.5

    def operation(image, value):
        return reference.adjust_hue(image, value.item())

    actual = augment.adjust_hue(images, shift)
    assert_equals_reference(actual, operation, images, shift, atol=5e-6)
    assert actual.min() >= 0
    assert actual.max() <= 1


def test_hue_of_the_whole_colour_cube():
    levels = torch.tensor([0.0, 1e-6, 0.2, 0.5, 0.5 + 1e-6, 0.8, 1.0])
    cube = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 7, 49)
    x = cube.expand(25, -1, -1, -1)
    shift = torch.linspace(-0.5, 0.5, 25)

    def operation(image, value):
        return reference.adjust_hue(image, value.item())

    actual = augment.adjust_hue(x, shift)
    assert_equals_reference(actual, operation, x, shift, atol=5e-6)


def test_grayscale(images):
    actual = augment.rgb_to_grayscale(images)
    assert_equals_reference(actual, reference.rgb_to_grayscale, images)


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 9])
def test_gaussian_blur(images, kernel_size):
    sigma = uniform(len(images), 0.1, 2.5)

    def operation(image, value):
        return reference.gaussian_blur(image, kernel_size, [value.item()])

    actual = augment.gaussian_blur(images, sigma, kernel_size)
    assert_equals_reference(actual, operation, images, sigma, atol=2e-6)


@pytest.mark.parametrize("kernel_size", [4, 19])
def test_gaussian_blur_refuses_kernels(kernel_size):
    with pytest.raises(ValueError, match=r"kernel_size=.* odd number below 18"):
        augment.gaussian_blur(torch.rand(2, 1, 12, 9), torch.ones(2), kernel_size)


# --- Other numbers of channels

COLOUR_OPERATIONS = [
    augment.adjust_brightness,
    augment.adjust_contrast,
    augment.adjust_saturation,
    augment.adjust_hue,
]


@pytest.mark.parametrize("operation", COLOUR_OPERATIONS)
def test_alpha_is_left_alone(operation):
    x = torch.rand(6, 4, 10, 11)
    factor = uniform(6, 0.1, 0.5)
    out = operation(x, factor)
    assert torch.equal(out[:, 3], x[:, 3])
    assert torch.equal(out[:, :3], operation(x[:, :3], factor))
    assert not torch.equal(out[:, :3], x[:, :3])


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_colourless_images(channels):
    x = torch.rand(4, channels, 8, 8)
    factor = uniform(4, 0.1, 0.5)
    assert torch.equal(augment.adjust_saturation(x, factor), x)
    assert torch.equal(augment.adjust_hue(x, factor), x)
    assert torch.equal(augment.RandomGrayscale(p=1.0)(x), x)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    expected = mean + factor[:, None, None, None] * (x - mean)
    actual = augment.adjust_contrast(x, factor)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


# --- Crops: the distribution of torchvision's


@pytest.mark.parametrize(
    ("size", "scale"),
    [((32, 32), (0.08, 1.0)), ((28, 28), (0.5, 1.0)), ((20, 45), (0.3, 1.0))],
)
def test_boxes_are_distributed_as_in_torchvision(size, scale):
    height, width = size
    boxes = augment.random_boxes(20_000, height, width, scale)
    image, ratio = torch.empty(1, height, width), (3 / 4, 4 / 3)
    drawn = [
        TorchvisionResizedCrop.get_params(image, scale, ratio) for _ in range(4_000)
    ]

    def statistics(sample):
        top, left, h, w = sample.double().unbind(1)
        first = torch.stack((top, left, h, w, h * w, (w / h).log()), dim=1)
        return torch.cat((first, first**2), dim=1)  # means and spreads

    ours, theirs = statistics(boxes), statistics(torch.tensor(drawn))
    error = (ours.var(0) / len(ours) + theirs.var(0) / len(theirs)).sqrt()
    # 12 statistics: a deviation of 5 standard errors has a chance below 1e-5.
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 5 * error).all()


def test_boxes_keep_their_ranges():
    height, width, scale, ratio = 64, 80, (0.2, 0.7), (0.5, 2.0)
    top, left, h, w = augment.random_boxes(5_000, height, width, scale, ratio).T
    assert (top >= 0).all() and (top + h <= height).all()
    assert (left >= 0).all() and (left + w <= width).all()
    # Each side is rounded to a pixel, by half a pixel at most.
    h, w = h.double(), w.double()
    assert ((h + 0.5) * (w + 0.5) >= scale[0] * height * width).all()
    assert ((h - 0.5) * (w - 0.5) <= scale[1] * height * width).all()
    assert ((w + 0.5) / (h - 0.5) >= ratio[0]).all()
    assert ((w - 0.5) / (h + 0.5) <= ratio[1]).all()
    assert len(torch.unique(torch.stack((top, left, h, w)), dim=1).T) > 4_000
    assert top.min() == 0 and left.min() == 0
    assert (top + h).max() == height and (left + w).max() == width


@pytest.mark.parametrize("size", [(8, 64), (64, 8), (3, 9)])
def test_boxes_fall_back_to_the_centre(size):
    ratio = (3 / 4, 4 / 3)
    expected = TorchvisionResizedCrop.get_params(
        torch.empty(1, *size), (1.0, 1.0), ratio
    )
    boxes = augment.random_boxes(50, *size, (1.0, 1.0), ratio)
    assert boxes.dtype == torch.int64
    assert boxes.tolist() == [list(expected)] * 50


# --- Modules


def same_images(module, shape=(3, 16, 16), n=64):
    """Many copies of one image, so that only the parameters tell views apart."""
    x = torch.rand(1, *shape).expand(n, *shape).contiguous()
    return module(x)


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
        ("auto", (1, 1, 64), "vector"),
        ("auto", (1, 28, 28), "digits"),
        ("auto", (3, 32, 32), "simclr"),
        ("auto", (4, 32, 32), "simclr"),
        ("auto", (2, 32, 32), "simclr"),
        ("auto", (3, 1, 8), "simclr"),
        ("weak", (1, 28, 28), "weak"),
        ("digits", (3, 32, 32), "digits"),
        ("simclr", (1, 28, 28), "simclr"),
        ("vector", (1, 1, 64), "vector"),
    ],
)
def test_make_augmentation_chooses(augmentation, shape, recipe):
    module = augment.make_augmentation(augmentation, shape)
    assert repr(module) == repr(augment.RECIPES[recipe]())
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
            r"augment='simclr' is no recipe for vectors of shape \(1, 1, 9\); pass "
            r"'auto', one of \['vector'\].* flattened images need image_shape",
        ),
        (
            "vector",
            (1, 8, 8),
            ValueError,
            r"augment='vector' is no recipe for images of shape \(1, 8, 8\); pass "
            r"'auto', one of \['digits', 'simclr', 'weak'\]",
        ),
        (
            None,
            (3, 8, 8),
            TypeError,
            r"augment=None is neither .*'none' or a callable",
        ),
        (3, (3, 8, 8), TypeError, r"augment=3 is neither a string nor callable"),
    ],
)
def test_make_augmentation_refuses(augmentation, shape, error, message):
    with pytest.raises(error, match=message):
        augment.make_augmentation(augmentation, shape)


# --- On the GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestGPU:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_functions_equal_those_on_the_cpu(self, channels):
        x = torch.rand(16, channels, 21, 30)
        boxes = augment.random_boxes(16, 21, 30)
        angle, factor = uniform(16, -30, 30), uniform(16, 0.5, 1.5)
        flip, shift = torch.rand(16) < 0.5, uniform(16, -0.5, 0.5)
        calls = [
            (augment.resized_crop, (x, boxes, None, angle, flip)),
            (augment.horizontal_flip, (x, flip)),
            (augment.adjust_brightness, (x, factor)),
            (augment.adjust_contrast, (x, factor)),
            (augment.adjust_saturation, (x, factor)),
            (augment.adjust_hue, (x, shift)),
            (augment.gaussian_blur, (x, factor, 5)),
        ]
        for function, arguments in calls:
            on_gpu = [a.cuda() if torch.is_tensor(a) else a for a in arguments]
            actual, expected = function(*on_gpu), function(*arguments)
            torch.testing.assert_close(actual.cpu(), expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("name", augment.RECIPES)
    def test_recipes_run_there_without_waiting(self, name):
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
