"""The losses that see moments only: 'gram' and 'moments'."""

from functools import partial

import numpy as np
import pytest
import scipy.linalg
import torch

from featot.ot import Measure, solve_semidiscrete
from featot.testing import check_loss
from featot_plugins.gram import GramLoss
from featot_plugins.moments import MomentsLoss

LOSSES = [GramLoss, MomentsLoss]


def _cloud(count, dimension=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(dimension, dimension, generator=generator, dtype=dtype)
    return torch.randn(count, dimension, generator=generator, dtype=dtype) @ mixed + 0.5


def _loss(kind, target, weights=None):
    return kind(None, Measure(target) if weights is None else Measure(target, weights), torch.Generator())


@pytest.mark.parametrize("kind", LOSSES)
def test_contract(kind):
    check_loss(partial(kind, None))


@pytest.mark.parametrize("kind", LOSSES)
def test_gradient(kind):
    loss = _loss(kind, _cloud(40))
    assert torch.autograd.gradcheck(lambda x: loss(x).value, (_cloud(30, seed=1).requires_grad_(),))


@pytest.mark.parametrize("kind", LOSSES)
def test_a_cloud_is_at_no_distance_from_itself_in_any_order(kind):
    target = _cloud(50)
    near = float(_loss(kind, target)(target.flip(0)).value)
    far = float(_loss(kind, target)(_cloud(50, seed=2)).value)
    assert abs(near) < 1e-3 * far


@pytest.mark.parametrize("kind", LOSSES)
def test_twice_as_large_costs_four_times_as_much(kind):
    x, y = _cloud(30, seed=1), _cloud(40)
    assert float(_loss(kind, 2 * y)(2 * x).value) == pytest.approx(4 * float(_loss(kind, y)(x).value), rel=1e-6)


@pytest.mark.parametrize("kind", LOSSES)
def test_weights_count_as_repetitions(kind):
    x, y = _cloud(30, seed=1), _cloud(10)
    counts = torch.arange(1, 11)
    weighted = _loss(kind, y, counts / counts.sum(dtype=torch.float64))(x).value
    assert float(weighted) == pytest.approx(float(_loss(kind, y.repeat_interleave(counts, dim=0))(x).value), rel=1e-9)


def test_gram_is_gatys_up_to_his_factors():
    x, y = _cloud(30, seed=1), _cloud(40)
    gram, target = (np.einsum("ni,nj->ij", cloud, cloud) / len(cloud) for cloud in (x.numpy(), y.numpy()))
    expected = ((gram - target) ** 2).sum() / np.sqrt((target**2).sum())
    assert float(_loss(GramLoss, y)(x).value) == pytest.approx(expected)


def test_moments_is_the_distance_of_bures_and_wasserstein():
    x, y = _cloud(300, seed=1), _cloud(400)
    first, second = (np.cov(cloud.numpy().T, bias=True) for cloud in (x, y))
    root = scipy.linalg.sqrtm(second)
    between = scipy.linalg.sqrtm(root @ first @ root).real
    means = ((x.mean(0) - y.mean(0)) ** 2).sum()
    expected = float(means) + np.trace(first + second - 2 * between)
    assert float(_loss(MomentsLoss, y)(x).value) == pytest.approx(expected, rel=1e-6)


def test_moments_are_a_lower_bound_of_transport():
    x, y = _cloud(200, seed=1), _cloud(150)
    exact = solve_semidiscrete(x, y, tol=1e-6)
    assert float(_loss(MomentsLoss, y)(x).value) <= exact.value_upper * (1 + 1e-9)


def test_moments_of_a_flat_cloud_have_a_finite_gradient():
    """Constant colours, few points: the covariance is far from full rank."""
    for x in (torch.full((9, 6), 0.5), _cloud(3, 6, dtype=torch.float32)):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(_loss(MomentsLoss, _cloud(4, 6, dtype=torch.float32))(x).value, x)
        assert gradient.isfinite().all()
