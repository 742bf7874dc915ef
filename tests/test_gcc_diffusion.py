"""The diffusion model of GCC: noise, guidance, samplers, networks, training."""

import math

import numpy as np
import pytest
import torch
from small_gcc import DATA, N, diffusion
from torch import nn

from skdeepcluster._engine.protocol import Batch
from skdeepcluster._input.images import Images
from skdeepcluster._input.scaling import Scaling
from skdeepcluster.gcc import diffusion_training
from skdeepcluster.gcc.denoisers import DENOISERS, UNet, resolve_denoiser
from skdeepcluster.gcc.diffusion_training import DiffusionObjective, train_diffusion


@pytest.fixture(autouse=True)
def seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# -- noise and guidance ----------------------------------------------------------------


def test_algebra_of_the_noise():
    model = diffusion()
    a, x0, eps = 0.3, 1.7, -0.4
    x_t = math.sqrt(a) * x0 + math.sqrt(1 - a) * eps
    v = math.sqrt(a) * eps - math.sqrt(1 - a) * x0
    assert math.sqrt(a) * x_t - math.sqrt(1 - a) * v == pytest.approx(x0)
    assert math.sqrt(1 - a) * x_t + math.sqrt(a) * v == pytest.approx(eps)
    # the scheduler has no such step: give it one
    model.scheduler.alphas_cumprod[7] = a
    at, one = torch.tensor([7]), torch.ones(1, 1)
    noisy = model.scheduler.add_noise(x0 * one, eps * one, at)
    velocity = model.scheduler.get_velocity(x0 * one, eps * one, at)
    assert noisy.item() == pytest.approx(x_t, rel=1e-5)
    assert velocity.item() == pytest.approx(v, rel=1e-5)


def test_the_loss_is_the_error_of_the_velocity(monkeypatch):
    model, seen = diffusion(), {}

    def denoise(x, t, labels):
        seen.update(x=x, t=t, labels=labels)
        return torch.zeros_like(x)

    monkeypatch.setattr(model, "denoise", denoise)
    images, labels = torch.rand(32, 1, 8, 8), torch.arange(32) % 4
    loss = model.loss(images, labels)
    a = model.scheduler.alphas_cumprod[seen["t"]].view(-1, 1, 1, 1)
    x0 = 2 * images - 1
    eps = (seen["x"] - a.sqrt() * x0) / (1 - a).sqrt()
    v = a.sqrt() * eps - (1 - a).sqrt() * x0
    torch.testing.assert_close(loss, v.square().mean(), rtol=1e-3, atol=0)
    assert torch.equal(seen["labels"], labels)
    assert len(seen["t"].unique()) > 20 and seen["t"].max() < 1000


@pytest.mark.parametrize("denoiser", ["mlp", "nano"])
def test_guidance(denoiser):
    model = diffusion(denoiser=denoiser)
    x, t = torch.randn(6, 1, 8, 8), torch.tensor(500)
    labels = torch.arange(6) % 3
    with torch.no_grad():
        v = {g: model.guided(x, t, labels, g) for g in (0, 0.5, 1, 1.5, 2)}
        conditional = model.denoise(x, t.expand(6), labels)
        unconditional = model.denoise(x, t.expand(6), torch.full((6,), 3))
    torch.testing.assert_close(v[1], conditional)
    torch.testing.assert_close(v[0], unconditional)
    assert not torch.allclose(v[0], v[1], atol=1e-4)
    torch.testing.assert_close(v[0.5], (v[0] + v[1]) / 2, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(v[2] - v[1.5], (v[1] - v[0]) / 2, rtol=1e-3, atol=1e-5)


def test_ranges():
    images, vectors = diffusion(), diffusion((1, 1, 8))
    x = torch.tensor([0.0, 0.25, 1.0])
    assert images.from_unit(x).tolist() == [-1, -0.5, 1]
    assert images.to_unit(torch.tensor([-3.0, -0.5, 1.0])).tolist() == [0, 0.25, 1]
    assert vectors.from_unit(x) is x
    assert vectors.to_unit(torch.tensor([-9.0])).item() == -9


# -- samplers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "n_steps"), [("dpm-solver++", 15), ("ddim", 20), ("ddpm", 1000)]
)
def test_samplers_of_a_perfect_denoiser(monkeypatch, sampler, n_steps):
    model, constant = diffusion(), 0.37
    alphas = model.scheduler.alphas_cumprod
    assert alphas[999] == pytest.approx(2.4e-9, rel=0.05)
    times = []

    def guided(x, t, labels, scale):
        # of a constant image: v by way of the noise that x must hold
        times.append(int(t))
        a = alphas[t].double()
        eps = (x.double() - a.sqrt() * constant) / (1 - a).sqrt()
        return (a.sqrt() * eps - (1 - a).sqrt() * constant).float()

    monkeypatch.setattr(model, "guided", guided)
    drawn = model.sample(torch.zeros(4).long(), 1.5, n_steps, sampler)
    assert times[0] == 999 and len(times) == n_steps
    np.testing.assert_allclose(2 * drawn - 1, constant, atol=1e-4)


def test_samples_are_drawn_again_by_the_same_seed():
    model, labels = diffusion(), torch.arange(6) % 3
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(model.sample(labels, 1.5, 3, "dpm-solver++"))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


# -- networks --------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 5, 9), (1, 2, 1), (3, 70, 33)])
def test_unets_of_any_size(shape):
    network = UNet(shape, 4, DENOISERS["nano"])
    network.network = Echo()
    x = torch.randn(2, *shape)
    # padded, cut into patches and put together again: each pixel stays where it was
    assert torch.equal(network(x, torch.zeros(2), torch.zeros(2).long()), x)
    height, width = network.network.seen[2:]
    assert height % 2 == 0 and width % 2 == 0 and max(height, width) <= 18


class Echo(nn.Module):
    def forward(self, x, t, labels):
        self.seen = x.shape
        return type("Output", (), {"sample": x})


@pytest.mark.parametrize(
    ("name", "shape", "millions"),
    [
        ("nano", (1, 28, 28), 0.64),
        ("micro", (1, 28, 28), 1.4),
        ("tiny", (1, 28, 28), 1.05),
        ("small", (1, 28, 28), 4.4),
        ("base32", (3, 32, 32), 6.5),
        ("mid32", (3, 32, 32), 14.6),
        ("ddpm32", (3, 32, 32), 35.8),
    ],
)
def test_sizes_of_the_unets(name, shape, millions):
    with torch.device("meta"):  # sizes without weights
        network = UNet(shape, 11, DENOISERS[name])
    count = sum(p.numel() for p in network.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.03)


@pytest.mark.parametrize("denoiser", ["mlp", "nano"])
def test_the_class_embedding_has_a_row_for_no_class(denoiser):
    model = diffusion(k=5, denoiser=denoiser)
    (rows,) = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    assert rows.num_embeddings == 6


def test_denoiser_of_auto():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert resolve_denoiser("auto", (1, 28, 28), cpu) == "nano"
    assert resolve_denoiser("auto", (1, 1, 50), cuda) == "mlp"
    assert resolve_denoiser("auto", (1, 28, 28), cuda) == "small"
    assert resolve_denoiser("auto", (3, 32, 32), cuda) == "mid32"
    with pytest.raises(
        ValueError, match="'huge' is unknown. Pass one of 'auto', 'mlp'"
    ):
        resolve_denoiser("huge", (1, 28, 28), cpu)
    with pytest.raises(ValueError, match="'nano' needs images, but X holds vectors"):
        resolve_denoiser("nano", (1, 1, 50), cpu)


# -- training --------------------------------------------------------------------------


def make_objective(labels, dropout=0.1, steps=100):
    return DiffusionObjective(DATA, diffusion(), labels, steps, dropout)


def told(module, index):
    """Rows of the class embedding that a step of these images moves."""
    module.zero_grad()
    batch = Batch(index, [torch.rand(len(index), 1, 8, 8)])
    module.losses(batch)["diffusion"].backward()
    return module.trained.denoiser.class_embedding.weight.grad.abs().sum(1) > 0


def test_the_model_learns_images_as_they_are(monkeypatch):
    module, seen = make_objective(torch.arange(N) % 3, dropout=0.0), []
    monkeypatch.setattr(
        module.trained, "loss", lambda unit, labels: seen.extend([unit, labels])
    )
    monkeypatch.setattr(module, "run_whole", lambda network, x: network(x))
    batch = Batch(torch.tensor([5, 3]), [torch.rand(2, 1, 8, 8)])
    module.losses(batch)
    assert torch.equal(seen[0], batch.views[0]) and seen[1].tolist() == [2, 0]


def test_unreliable_images_teach_no_class():
    module = make_objective(torch.full((N,), 3))
    seen = [told(module, torch.randint(N, (16,))) for _ in range(5)]
    assert torch.equal(torch.stack(seen).any(0), torch.tensor([False] * 3 + [True]))


@pytest.mark.parametrize(
    ("dropout", "rows"), [(0.0, [True] * 3 + [False]), (1.0, [False] * 3 + [True])]
)
def test_dropout_of_classes(dropout, rows):
    module = make_objective(torch.arange(N) % 3, dropout)
    assert told(module, torch.arange(N)).tolist() == rows


def test_the_average_of_the_weights():
    module = make_objective(torch.zeros(N, dtype=torch.int64))
    average, batch = module.average.network, Batch(torch.arange(2), [])
    (expected, *_) = [p.detach().clone() for p in average.parameters()]
    for step in range(1, 4):
        (weight, *_) = module.trained.parameters()
        weight.data += torch.randn_like(weight)
        module.advance(batch)
        momentum = (1 + step) / (10 + step)
        expected = momentum * expected + (1 - momentum) * weight.detach()
    torch.testing.assert_close(next(average.parameters()), expected)
    module.clock.step = 10**6
    module.advance(batch)
    expected = 0.999 * expected + 0.001 * weight.detach()
    torch.testing.assert_close(next(average.parameters()), expected)


@pytest.mark.parametrize(
    ("steps", "epochs", "an_epoch", "rise"),
    [(1, 1, 1, 0.2), (60, 1, 60, 12), (130, 3, 44, 26), (500, 10, 50, 50)],
)
def test_steps_of_a_training(steps, epochs, an_epoch, rise):
    module = make_objective(torch.zeros(N, dtype=torch.int64), steps=steps)
    assert module.clock.max_epochs == epochs
    assert module.clock.steps_per_epoch == an_epoch
    schedule = module.schedule()
    assert schedule.warmup == pytest.approx(rise)
    assert schedule.period == epochs * an_epoch


def test_the_model_is_left_with_the_average(monkeypatch):
    made, drawn = [], []

    class Watched(DiffusionObjective):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    def batches(weights, *sizes):
        drawn.append(weights)
        return WeightedBatches(weights, *sizes)

    WeightedBatches = diffusion_training.WeightedBatches
    monkeypatch.setattr(diffusion_training, "DiffusionObjective", Watched)
    monkeypatch.setattr(diffusion_training, "WeightedBatches", batches)
    model = diffusion(k=2).requires_grad_(False)
    before = [p.clone() for p in model.parameters()]
    labels = torch.tensor([0] * 10 + [1] * 27 + [2] * 3)
    raw = np.random.default_rng(0).random((N, 64), np.float32)
    train_diffusion(
        model,
        Images(raw, (1, 8, 8)),
        DATA.scaling,
        labels,
        steps=4,
        batch_size=8,
        lr=1e-3,
        dropout=0.1,
    )
    (module,), (weights,) = made, drawn
    parameters = [*model.parameters()]
    assert all(map(torch.equal, parameters, module.average.network.parameters()))
    assert not any(map(torch.equal, parameters, module.trained.parameters()))
    assert not any(map(torch.equal, parameters, before))
    assert not any(p.requires_grad for p in parameters)
    # each class as often, and twice as many images without one
    mass = [weights[labels == k].sum().item() for k in range(3)]
    np.testing.assert_allclose(mass, [1, 1, 2], rtol=1e-5)


def test_a_diffusion_model_learns_two_constant_classes():
    rows = np.repeat([[0.1], [0.8]], [10, 60], 0) * np.ones((70, 64))
    images = Images(rows.astype(np.float32), (1, 8, 8))
    labels = torch.tensor([0] * 10 + [1] * 60)
    model = diffusion(k=2)
    before = [p.clone() for p in model.parameters()]
    loss = train_diffusion(
        model.requires_grad_(False),
        images,
        Scaling(images),
        labels,
        steps=200,
        batch_size=32,
        lr=3e-3,
        dropout=0.1,
    )
    assert loss < 0.1
    assert not any(map(torch.equal, before, model.parameters()))
    drawn = model.sample(torch.tensor([0, 1] * 8), 1.0, 15, "dpm-solver++")
    means = drawn.mean((1, 2, 3))
    np.testing.assert_allclose(means[0::2], 0.1, atol=0.08)
    np.testing.assert_allclose(means[1::2], 0.8, atol=0.08)
