"""Free pixels: how they start, and how they grow."""

from __future__ import annotations

import pytest
import torch

from featot.resample import halve
from featot_plugins.image import Image
from featot_plugins.options import ImageOptions


def _started(exemplar, size, seed=0, **options):
    param = Image(ImageOptions(**options))
    param.initialize(exemplar, size, torch.Generator().manual_seed(seed))
    return param


def _image(param, size):
    return param(size, torch.Generator()).detach()


def _colors(*shape):
    """An exemplar whose channels are correlated, each with its own mean and contrast."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    mixing = torch.tensor([[0.2, 0.0, 0.0], [-0.1, 0.05, 0.0], [0.03, 0.02, 0.1]])[: shape[1], : shape[1]]
    mean = torch.tensor([0.3, 0.5, 0.8])[: shape[1]]
    return mean[:, None, None] + torch.einsum("ij,bjhw->bihw", mixing, noise)


@pytest.mark.parametrize("channels", [1, 3])
def test_starts_with_the_colors_of_the_exemplar(channels):
    """Mean and covariance: within five standard errors of those of 128² samples."""
    exemplar = _colors(1, channels, 40, 30)
    start = _image(_started(exemplar, (128, 128)), (128, 128))
    assert start.dtype == exemplar.dtype
    found, expected = (x[0].flatten(1).double() for x in (start, exemplar))
    deviation = expected.std(1, correction=0)
    assert ((found.mean(1) - expected.mean(1)).abs() < 5 * deviation / 128).all()
    covariances = [torch.cov(x, correction=0).reshape(channels, channels) for x in (found, expected)]
    error = (covariances[0] - covariances[1]).abs()
    assert (error < 5 * 2**0.5 / 128 * deviation[:, None] * deviation).all()


def test_starts_as_white_noise():
    start = _image(_started(_colors(1, 1, 20, 20), (64, 64)), (64, 64))
    start = (start - start.mean()) / start.std()
    for shift in ((0, 1), (1, 0), (1, 1)):
        assert abs(float((start * start.roll(shift, (2, 3))).mean())) < 5 / 64


def test_noise_scales_the_contrast():
    exemplar = _colors(1, 3, 20, 20)
    plain, half, none = (_image(_started(exemplar, (9, 8), noise=noise), (9, 8)) for noise in (1.0, 0.5, 0.0))
    mean = exemplar.mean((2, 3), keepdim=True)
    torch.testing.assert_close(half - mean, (plain - mean) / 2)
    torch.testing.assert_close(none, mean.expand_as(none))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_constant_exemplar_gives_its_constant(channels):
    start = _image(_started(torch.full((1, channels, 8, 8), 0.25), (6, 7)), (6, 7))
    torch.testing.assert_close(start, torch.full((1, channels, 6, 7), 0.25))


def test_a_grey_exemplar_in_three_channels_stays_grey():
    start = _image(_started(_colors(1, 1, 20, 20).expand(1, 3, 20, 20), (16, 16)), (16, 16))
    torch.testing.assert_close(start[:, 0], start[:, 1], atol=1e-5, rtol=0)
    assert float(start.std()) > 0.1


def test_equal_seeds_give_equal_noise():
    exemplar = _colors(1, 3, 10, 10)
    first, again, other = (_image(_started(exemplar, (12, 9), seed), (12, 9)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_the_image_is_the_parameters():
    param = _started(_colors(1, 3, 10, 10), (5, 6))
    (theta,) = param.parameters()
    assert theta.is_leaf
    assert theta.requires_grad
    assert param((5, 6), torch.Generator()) is theta
    assert Image.linear


@pytest.mark.parametrize("size", [(16, 20), (9, 11), (4, 3)])
def test_resize_keeps_size_mean_and_leaf(size):
    param = _started(_colors(1, 3, 10, 10), (8, 10))
    before = _image(param, (8, 10))
    param.resize(size)
    (theta,) = param.parameters()
    assert theta.shape == (1, 3, *size)
    assert theta.is_leaf
    assert theta.requires_grad
    if size == (16, 20):  # a whole multiple: exact on the torus
        torch.testing.assert_close(theta.mean((2, 3)), before.mean((2, 3)))
    else:
        assert (theta.mean((2, 3)) - before.mean((2, 3))).abs().max() < 0.1


def test_halving_leads_back_from_a_resize():
    param = _started(torch.rand(1, 1, 8, 8), (16, 16))
    wave = torch.linspace(0, 2 * torch.pi, 17)[:-1].sin()
    wave = wave + wave[:, None]
    with torch.no_grad():
        param.parameters()[0].copy_(wave)
    param.resize((32, 32))
    torch.testing.assert_close(halve(_image(param, (32, 32)), "periodic")[0, 0], wave, atol=0.1, rtol=0)


def test_confined_to_black_and_white():
    param = _started(_colors(1, 1, 20, 20), (4, 5))
    param.assign(torch.tensor([-0.5, 0.0, 0.25, 1.0, 1.5]).expand(1, 1, 4, 5))
    param.confine()
    assert torch.equal(_image(param, (4, 5)), torch.tensor([0.0, 0.0, 0.25, 1.0, 1.0]).expand(1, 1, 4, 5))
    assert param.parameters()[0].is_leaf
