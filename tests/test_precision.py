"""In which precision networks compute, in which memory format, and compiled or not."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toy import IMAGES, ToyModule, data_facts, make, make_images, spied

from skdeepcluster._engine.device import resolve_precision
from skdeepcluster._engine.protocol import Clock, Objective


@pytest.mark.parametrize(
    ("bfloat16", "inside"), [(True, torch.bfloat16), (False, torch.float32)]
)
def test_run_computes_in_the_engine_s_precision(bfloat16, inside):
    module = Objective(data_facts(), Clock(1, 1))
    module.autocast = bfloat16
    seen = []

    def network(x):
        seen.append(F.linear(x, torch.ones(2, 4)))
        return seen[0]

    out = module.run(network, torch.ones(3, 4))
    assert seen[0].dtype == inside
    assert out.dtype == torch.float32
    assert torch.equal(out, torch.full((3, 2), 4.0))


class Typed(ToyModule):
    """Keeps the type that its layer computes in, by the phase."""

    def __init__(self, p, data):
        super().__init__(p, data)
        self.phase, self.seen = None, {}
        self.backbone[-1].register_forward_hook(self.look)

    def look(self, layer, inputs, output):
        phase = "training" if self.training else self.phase or "inference"
        self.seen.setdefault(phase, set()).add(output.dtype)

    def refresh(self, embed):
        self.phase = "refresh"
        report = super().refresh(embed)
        self.phase = None
        return report

    def finish(self, embed):
        embed()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_of_training_and_of_inference(precision):
    estimator = make(Typed, precision=precision).fit(IMAGES)
    estimator.transform(IMAGES), estimator.predict_proba(IMAGES)
    trained = {getattr(torch, precision)}
    expected = {"training": trained, "refresh": trained, "inference": {torch.float32}}
    assert estimator.net_.module_.seen == expected


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_labels_come_from_float32(precision):
    estimator = make(precision=precision).fit(IMAGES)
    module = estimator.net_.module_
    with torch.no_grad():
        z = F.normalize(module.backbone(torch.from_numpy(IMAGES) / 255), dim=1)
        nearest = (z @ module.centers.T).argmax(1)
    assert all(p.dtype == torch.float32 for p in module.parameters())
    np.testing.assert_allclose(estimator.transform(IMAGES), z.numpy(), atol=1e-5)
    expected = np.unique(nearest, return_inverse=True)[1]
    np.testing.assert_array_equal(estimator.labels_, expected)
    np.testing.assert_array_equal(estimator.predict(IMAGES), expected)


class Convolves(ToyModule):
    def __init__(self, p, data):
        super().__init__(p, data)
        layers = [nn.Conv2d(data.image_shape[0], 4, 3), nn.Flatten()]
        self.backbone = nn.Sequential(*layers, nn.Linear(4 * 6 * 6, p.width))


@pytest.mark.parametrize("channels", [1, 3])
def test_weights_are_channels_last(channels):
    module = make(Convolves).fit(make_images(channels=channels))
    weight = module.net_.module_.backbone[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def compiled(net):
    modules = net.module_.named_modules()
    return {name for name, m in modules if m._compiled_call_impl is not None}


def test_compile_takes_the_backbone_only():
    net_params = {"compile": True, "compile__backend": "eager"}
    values, estimator = spied(compiled, net_params=net_params)
    assert values == [{"backbone"}]
    values, plain = spied(compiled)
    assert values == [set()]
    np.testing.assert_allclose(
        estimator.transform(IMAGES), plain.transform(IMAGES), atol=1e-4
    )


@pytest.mark.parametrize(
    "name", ["_is_avx512_bf16_supported", "_is_amx_tile_supported"]
)
def test_auto_takes_bfloat16_for_images_where_the_processor_has_it(monkeypatch, name):
    cpu = torch.device("cpu")
    for other in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, other, lambda: False, raising=False)
    assert not resolve_precision("auto", cpu, (3, 8, 8))
    assert resolve_precision("bfloat16", cpu, (3, 8, 8))
    monkeypatch.setattr(torch.cpu, name, lambda: True)
    assert resolve_precision("auto", cpu, (3, 8, 8))
    assert not resolve_precision("auto", cpu, (1, 1, 9))  # vectors
    assert not resolve_precision("float32", cpu, (3, 8, 8))
