"""The networks of MFCVAE: those of the paper's code, and of images of any shape."""

import pytest
import torch
from torch import nn

from skdeepcluster.mfcvae.ladders import ELU, conv_ladder, mlp_ladder


def shapes_within(network, *inputs):
    """Output shape of every module, by its name."""
    shapes, handles = {}, []
    for name, module in network.named_modules():

        def keep(module, args, out, name=name):
            shapes[name] = tuple(out.shape[1:])

        handles.append(module.register_forward_hook(keep))
    network(*inputs)
    for handle in handles:
        handle.remove()
    return shapes


def n_parameters(*networks):
    return sum(p.numel() for network in networks for p in network.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_elu_and_its_gradient_are_those_of_torch(dtype):
    x = torch.cat(
        [torch.linspace(-40, 5, 400), torch.tensor([0.0, -1e-4, 1e30, -1e30])]
    )
    ours, theirs = (x.to(dtype).clone().requires_grad_() for _ in range(2))
    found, expected = ELU()(ours), nn.functional.elu(theirs)
    assert found.dtype == dtype
    tolerance = {"rtol": 1e-6, "atol": 2e-7} if dtype != torch.bfloat16 else {}
    torch.testing.assert_close(found, expected, **tolerance)
    weights = torch.linspace(0.5, 2, len(x)).to(dtype)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, **tolerance)
    assert ELU()(torch.tensor([torch.nan])).isnan().all()


def test_ladder_of_mnist_has_the_weights_of_the_papers_code():
    encoder, decoder = mlp_ladder((1, 28, 28), (5, 5), (500, 2000))
    assert n_parameters(encoder, decoder) == 3_078_304
    assert not [m for m in encoder.modules() if isinstance(m, nn.BatchNorm1d)]


def test_merge_of_the_mnist_ladder_is_a_gate_of_a_tenth():
    _, decoder = mlp_ladder((1, 28, 28), (5, 5), (500, 2000))
    z = torch.randn(4, 10)
    with torch.no_grad():
        rung, top = decoder.rungs[0](z[:, :5]), decoder.rungs[1](z[:, 5:])
        expected = decoder.blocks[0](0.1 * 0.3 * rung + decoder.blocks[1](top))
        torch.testing.assert_close(decoder(z, [0.3, 1.0]), expected)


PAPER_LAYERS = {  # of the table in section 3.3
    2: {
        "encoder": {
            "blocks.0": (64, 16, 16),
            "rungs.0.0": (64, 8, 8),
            "rungs.0.1": (64, 7, 7),
            "rungs.0": (3136,),
            "heads.0": (2 * 20,),
            "blocks.1": (128, 8, 8),
            "rungs.1.0": (128, 4, 4),
            "rungs.1.1": (256, 2, 2),
            "rungs.1": (1024,),
            "heads.1": (2 * 2,),
        },
        "decoder": {
            "rungs.1": (256, 8, 8),
            "blocks.1.0": (128, 16, 16),
            "blocks.1": (64, 16, 16),
            "rungs.0": (64, 16, 16),
            "blocks.0": (3, 32, 32),
        },
    },
    3: {
        "encoder": {
            "blocks.2": (256, 4, 4),
            "rungs.2.0": (256, 2, 2),
            "rungs.2.1": (512, 1, 1),
            "rungs.2": (512,),
            "heads.2": (2 * 7,),
            "blocks.1": (128, 8, 8),
            "rungs.1": (1024,),
            "rungs.0": (3136,),
        },
        "decoder": {
            "rungs.2": (512, 4, 4),
            "blocks.2": (256, 8, 8),
            "rungs.1": (256, 8, 8),
            "blocks.1.0": (128, 16, 16),
            "blocks.1": (64, 16, 16),
            "rungs.0": (64, 16, 16),
            "blocks.0": (3, 32, 32),
        },
    },
}


@pytest.mark.parametrize("n_facets", [2, 3])
def test_convolutional_ladder_has_the_layers_of_the_papers_code(n_facets):
    dims, widths = (20, 2, 7)[:n_facets], (64, 128, 256)[:n_facets]
    encoder, decoder = conv_ladder((3, 32, 32), dims, widths)
    x, z = torch.rand(2, 3, 32, 32), torch.randn(2, sum(dims))
    layers = PAPER_LAYERS[n_facets]
    assert shapes_within(encoder, x).items() >= layers["encoder"].items()
    decoded = shapes_within(decoder, z, [1.0] * n_facets)
    assert decoded.items() >= layers["decoder"].items()
    # the rung of facet 0 comes first, then what comes from above: 64 + 64
    first = next(m for m in decoder.blocks[0].modules() if hasattr(m, "in_channels"))
    assert (first.in_channels, first.kernel_size, first.stride) == (128, (4, 4), (2, 2))


def test_convolutional_ladder_normalises_its_output_on_request_only():
    for normalize, kind in ((True, nn.Sequential), (False, nn.ConvTranspose2d)):
        _, decoder = conv_ladder((3, 8, 8), (2, 2), (4, 8), normalize_output=normalize)
        assert isinstance(decoder.blocks[0], kind)
    assert [m for m in decoder.modules() if isinstance(m, nn.BatchNorm2d)]


SHAPES = [(1, 29, 31), (4, 8, 8), (3, 7, 5), (1, 1, 9), (1, 2, 1), (3, 32, 32)]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("n_facets", [1, 2, 3])
@pytest.mark.parametrize("image_shape", SHAPES, ids=str)
@pytest.mark.parametrize("ladder", [mlp_ladder, conv_ladder])
def test_images_of_any_shape_come_back_in_it(ladder, image_shape, n_facets, shared):
    dims = (4, 1, 3)[:n_facets]
    encoder, decoder = ladder(image_shape, dims, (6, 8, 10)[:n_facets], shared=shared)
    posterior = encoder(torch.rand(5, *image_shape))
    assert posterior.shape == (5, 2 * sum(dims))
    out = decoder(posterior[:, : sum(dims)], [1.0] * n_facets)
    assert out.shape == (5, *image_shape)
    out.sum().backward()
    for network in (encoder, decoder):
        for name, parameter in network.named_parameters():
            if network is decoder or "heads" not in name:
                assert parameter.grad is not None, name


def test_means_come_first_and_facets_leave_at_their_depth():
    encoder, _ = mlp_ladder((1, 4, 4), (3, 2), (6, 8))
    x = torch.rand(7, 1, 4, 4)
    with torch.no_grad():
        h0 = encoder.blocks[0](x)
        h1 = encoder.blocks[1](h0)
        parts = [h(u) for h, u in zip(encoder.heads, (h0, h1), strict=True)]
        expected = [parts[0][:, :3], parts[1][:, :2], parts[0][:, 3:], parts[1][:, 2:]]
        torch.testing.assert_close(encoder(x), torch.cat(expected, 1))


def test_log_variances_are_bounded():
    encoder, _ = mlp_ladder((1, 4, 4), (3, 2), (6, 8))
    out = encoder(1e6 * torch.randn(50, 1, 4, 4))
    assert out[:, 5:].abs().max() <= 10 < out[:, :5].abs().max()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("ladder", [mlp_ladder, conv_ladder])
@pytest.mark.parametrize("off", [0, 1, 2])
def test_image_does_not_depend_on_a_facet_that_is_faded_out(ladder, off, shared):
    # oracle 12
    torch.manual_seed(0)
    dims = (3, 2, 4)
    _, decoder = ladder((3, 8, 8), dims, (8, 8, 8), shared=shared)
    z = torch.randn(6, 9, requires_grad=True)
    alpha = [0.0 if j == off else 1.0 for j in range(3)]
    weight = torch.randn(6, 3, 8, 8)  # a sum over a batch norm has no gradient
    (gradient,) = torch.autograd.grad((weight * decoder(z, alpha)).sum(), z)
    for j, part in enumerate(gradient.split(dims, 1)):
        assert (part.abs().max() == 0) == (j == off)
    moved = z.detach().clone()
    moved.split(dims, 1)[off].add_(5.0)
    with torch.no_grad():
        torch.testing.assert_close(decoder(moved, alpha), decoder(z, alpha))
        assert not torch.allclose(decoder(moved, [1.0] * 3), decoder(z, [1.0] * 3))
    if not shared:
        decoder.zero_grad()
        (weight * decoder(z, alpha)).sum().backward()
        assert all(not p.grad.any() for p in decoder.rungs[off].parameters())


@pytest.mark.parametrize("ladder", [mlp_ladder, conv_ladder])
def test_shared_networks_join_at_the_top_only(ladder):
    encoder, decoder = ladder((3, 8, 8), (3, 2), (8, 16), shared=True)
    assert len(encoder.heads) == 1
    x = torch.rand(4, 3, 8, 8)
    z = torch.randn(4, 5)
    assert shapes_within(encoder, x)["heads.0"] == (10,)
    assert decoder(z, [1.0, 1.0]).shape == x.shape
