"""Backbones: what each name and each module of the user turns images into."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from skdeepcluster import DigPro
from skdeepcluster.backbones import (
    BACKBONES,
    conv,
    make_backbone,
    resolve_backbone,
)

SHAPES = [(1, 16, 16), (1, 28, 28), (3, 32, 32), (4, 33, 20)]
VECTORS = (1, 1, 12)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def check(network, width, shape, b=3):
    x = torch.randn(b, *shape)
    out = network.train()(x)
    assert out.shape == (b, width)
    assert out.dtype == torch.float32
    assert torch.isfinite(out).all()
    out.sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    network.eval()
    with torch.no_grad():
        torch.testing.assert_close(network(x[:1]), network(x)[:1])


# -- built in --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "conv", "resnet18"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_built_in(name, shape):
    network, width = make_backbone(name, shape)
    check(network, width, shape)


@pytest.mark.parametrize(
    ("name", "expected"), [("mlp", 512), ("conv", 512), ("resnet18", 512)]
)
def test_widths(name, expected):
    assert make_backbone(name, (3, 32, 32))[1] == expected


def test_vectors():
    network, width = make_backbone("mlp", VECTORS)
    check(network, width, VECTORS)
    (layer,) = (part for part in network if isinstance(part, nn.Linear))  # one is left
    assert layer.weight.shape == (512, math.prod(VECTORS))


@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 3, 3), (1, 4, 1)], ids=str)
def test_tiny_images(shape):
    network, width = conv(shape)
    check(network, width, shape)


def test_options_of_conv():
    network, width = conv((3, 32, 32), channels=(4, 8), grid=3)
    assert width == 8 * 9
    check(network, width, (3, 32, 32))


def test_conv_tells_where_a_stroke_lies():
    network, _ = conv((1, 16, 16))
    here, there = torch.zeros(2, 1, 1, 16, 16)
    here[..., :8, :], there[..., 8:, :] = 1.0, 1.0
    network.eval()
    assert (network(here) - network(there)).abs().max() > 1e-3


def test_resnet_has_the_stem_of_small_images():
    network, _ = make_backbone("resnet18", (4, 32, 32))
    stem = network.conv1
    assert (stem.in_channels, stem.kernel_size, stem.stride) == (4, (3, 3), (1, 1))
    assert stem.bias is None
    assert isinstance(network.maxpool, nn.Identity)
    assert isinstance(network.fc, nn.Identity)


def test_weights_come_from_the_generator():
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        network, _ = make_backbone("conv", (1, 16, 16))
        weights.append(network[0].weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# -- names -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "device", "expected"),
    [
        (VECTORS, CPU, "mlp"),
        (VECTORS, CUDA, "mlp"),
        ((1, 28, 28), CPU, "conv"),
        ((3, 32, 32), CPU, "conv"),
        ((3, 33, 20), CPU, "resnet18"),
        ((3, 20, 33), CPU, "resnet18"),
        ((3, 32, 32), CUDA, "resnet18"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*wants a GPU")
def test_auto(shape, device, expected):
    assert resolve_backbone("auto", shape, device) == expected


def test_large_images_on_a_cpu_are_warned_of():
    with pytest.warns(
        UserWarning, match="33x20 .* wants a GPU.* image_shape"
    ) as caught:
        resolve_backbone("auto", (3, 33, 20), CPU)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_known_names_are_kept(name):
    assert resolve_backbone(name, (3, 32, 32), CPU) == name


@pytest.mark.parametrize("name", ["resnet", "Conv", "", "fasterrcnn_resnet50_fpn"])
def test_unknown_names_list_the_known_ones(name):
    with pytest.raises(ValueError, match="is unknown") as caught:
        resolve_backbone(name, (3, 32, 32), CPU)
    message = str(caught.value)
    assert repr(name) in message
    for word in ("'auto'", "torchvision", "nn.Module", *map(repr, BACKBONES)):
        assert word in message


@pytest.mark.parametrize("name", ["conv", "resnet18", "mobilenet_v3_small"])
def test_vectors_need_the_mlp(name):
    with pytest.raises(ValueError, match="backbone='mlp'.*image_shape"):
        resolve_backbone(name, VECTORS, CPU)


def test_modules_are_kept_by_resolve():
    module = nn.Flatten()
    assert resolve_backbone(module, VECTORS, CPU) is module


# -- torchvision -----------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_torchvision_name(channels):
    shape = (channels, 32, 32)
    name = resolve_backbone("mobilenet_v3_small", shape, CPU)
    network, width = make_backbone(name, shape)
    assert width == 576
    check(network.eval(), width, shape)


def test_grey_images_are_repeated():
    network, _ = make_backbone("mobilenet_v3_small", (1, 32, 32))
    network.eval()
    grey = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(network(grey), network(grey.repeat(1, 3, 1, 1)))


def test_torchvision_weights_are_not_downloaded(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    assert make_backbone("mobilenet_v3_small", (3, 32, 32))[1] == 576


@pytest.mark.parametrize("channels", [2, 4])
def test_torchvision_takes_one_or_three_channels(channels):
    with pytest.raises(ValueError, match="1 or 3 channels.*'conv' or 'resnet18'"):
        make_backbone("mobilenet_v3_small", (channels, 32, 32))


# -- modules of the user ---------------------------------------------------------------


class Own(nn.Module):
    def __init__(self, forward=None):
        super().__init__()
        self.norm = nn.BatchNorm1d(64)
        self.linear = nn.Linear(64, 7)
        self.how = forward

    def forward(self, x):
        x = self.linear(self.norm(x.flatten(1)))
        return x if self.how is None else self.how(x)


def states(module):
    return copy.deepcopy(module.state_dict())


def equal(a, b):
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("training", [True, False])
def test_a_module_is_copied(training):
    own = Own().train(training)
    before = states(own)
    network, width = make_backbone(own, (1, 8, 8))
    assert width == 7
    assert network is not own
    assert own.training == training
    assert equal(states(network), before)  # trying it out moves no statistics
    addresses = {p.data_ptr() for p in own.parameters()}
    assert addresses.isdisjoint(p.data_ptr() for p in network.parameters())
    check(network, width, (1, 8, 8))
    assert equal(states(own), before)


def test_a_module_is_not_trained_itself(stripes):
    images, _ = stripes
    own = Own()
    before = states(own)
    params = {"feature_dim": 8, "hidden_dim": 16, "batch_size": 32, "max_epochs": 2}
    estimator = DigPro(
        3, backbone=own, instance="contrast", lr=0.01, random_state=0, **params
    ).fit(images)
    assert equal(states(own), before)
    assert own.training
    assert all(p.grad is None for p in own.parameters())
    assert estimator.backbone is own
    trained = estimator.net_.module_.online.backbone
    assert isinstance(trained, Own)
    assert not torch.equal(trained.linear.weight.cpu(), own.linear.weight)
    assert np.array_equal(estimator.predict(images), estimator.labels_)


def test_a_module_keeps_its_weights_at_the_start():
    own = Own()
    network, _ = make_backbone(own, (1, 8, 8))
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(network.eval()(x), own.eval()(x))


def test_a_module_without_parameters():
    network, width = make_backbone(nn.Flatten(), (2, 3, 4))
    assert width == 24
    assert network(torch.zeros(5, 2, 3, 4)).shape == (5, 24)


@pytest.mark.parametrize(
    ("how", "got"),
    [
        (lambda x: x[:, :, None, None], r"\(2, 7, 1, 1\)"),
        (lambda x: x.sum(1), r"\(2,\)"),
        (lambda x: x[:1], r"\(1, 7\)"),
        (lambda x: (x, x), "tuple"),
        (lambda x: {"features": x}, "dict"),
        (lambda x: None, "NoneType"),
    ],
    ids=["map", "scalar", "one row", "tuple", "dict", "nothing"],
)
def test_a_module_with_a_bad_output(how, got):
    with pytest.raises(ValueError, match=f"returned {got} for 2 images.*nn.Flatten"):
        make_backbone(Own(how), (1, 8, 8))


class Asserts(nn.Module):
    """Refuses sizes as torchvision's vision transformers do."""

    def forward(self, x):
        torch._assert(x.shape[2] == 224, "Wrong image height!")
        return x.flatten(1)


@pytest.mark.parametrize(
    "module", [nn.Linear(5, 3), nn.Conv2d(3, 8, 3), Asserts()], ids=str
)
def test_a_module_that_cannot_read_the_images(module):
    with pytest.raises(ValueError, match=r"cannot read images of shape \(1, 8, 8\)"):
        make_backbone(module, (1, 8, 8))


@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_cuda(name):
    network, width = make_backbone(name, (3, 32, 32))
    x = torch.randn(4, 3, 32, 32)
    expected = network.eval()(x)
    got = network.cuda()(x.cuda())
    assert got.shape == (4, width)
    torch.testing.assert_close(got.cpu(), expected, atol=1e-2, rtol=1e-2)
