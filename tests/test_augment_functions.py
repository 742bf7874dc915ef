"""Augmentations of each image by its own numbers, against torchvision's."""

import pytest
import torch
from torchvision.transforms import RandomResizedCrop as TorchvisionResizedCrop
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from skdeepcluster import augment

SHAPES = [(1, 28, 28), (3, 32, 32), (3, 17, 23), (1, 24, 9)]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def noise_and_edges(shape):
    """Noise, with plain images and edges of the colour cube among it."""
    x = torch.rand(9, *shape)
    x[0] = 0
    x[1] = 1
    x[2] = 0.3
    x[3] = x[3].round()
    x[4, 0] = 0.5
    x[5] = x[5, :1]
    return x


@pytest.fixture(params=SHAPES, ids=str)
def images(request):
    return noise_and_edges(request.param)


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


# --- On the GPU


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [1, 3])
def test_functions_equal_those_on_the_cpu(channels):
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
