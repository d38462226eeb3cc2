"""Ground costs: their values, their names, and their gradients where points meet."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.distance import cdist

from featot.errors import UsageError
from featot.ot import COSTS, Cost, as_cost

NAMES = ["sqeuclidean", "euclidean", "cosine", 0.5, 1.0, 1.5, 2]


def _clouds(device="cpu", dtype=torch.float64, n=7):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 4, generator=generator, dtype=torch.float64).to(device, dtype) for _ in range(2)]


def _costs(x, y, name):
    """All pairs by SciPy."""
    x, y = x.double().cpu().numpy(), y.double().cpu().numpy()
    return torch.as_tensor(cdist(x, y, name) if isinstance(name, str) else cdist(x, y) ** name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_pairs_agree_with_scipy(name, dtype, device):
    (x, y), cost = _clouds(device, dtype), as_cost(name)
    pairs = cost.pairs(cost.embed(x), cost.embed(y))
    assert pairs.dtype == dtype
    torch.testing.assert_close(pairs.cpu(), _costs(x, y, name).diag().to(dtype))


@pytest.mark.parametrize("name", NAMES)
def test_from_squared_agrees_with_scipy_and_mends_rounding(name):
    (x, y), cost = _clouds(), as_cost(name)
    squared = torch.cdist(cost.embed(x), cost.embed(y)).square()
    torch.testing.assert_close(cost.from_squared_(squared.clone()), _costs(x, y, name))
    assert cost.from_squared_(torch.tensor([-1e-9, 0.0])).tolist() == [0, 0]


@pytest.mark.parametrize("exponent", [0.5, 1, 2])
def test_scale_is_one_factor_everywhere(exponent):
    (x, y), one, three = _clouds(), Cost("one", exponent), Cost("three", exponent, scale=3.0)
    torch.testing.assert_close(three.pairs(x, y), 3 * one.pairs(x, y))
    squared = (x - y).square().sum(1)
    torch.testing.assert_close(three.from_squared_(squared.clone()), three.pairs(x, y))
    assert three.unit(5.0) == pytest.approx(3 * 5 ** (exponent / 2))


@pytest.mark.parametrize("name", NAMES)
def test_unit_has_the_dimension_of_the_cost(name):
    """Clouds twice as large cost as much more as the unit is larger; the cosine sees directions only."""
    cost = as_cost(name)
    x, y = (cost.embed(points) for points in _clouds())
    grown = cost.pairs(2 * x, 2 * y).sum() / cost.pairs(x, y).sum()
    assert cost.unit(4.0) / cost.unit(1.0) == pytest.approx(float(grown))


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck_of_pairs(name):
    cost = as_cost(name)
    inputs = [t.requires_grad_() for t in _clouds()]
    assert torch.autograd.gradcheck(lambda x, y: cost.pairs(cost.embed(x), cost.embed(y)), inputs)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_vanishes_where_points_meet(name):
    cost = as_cost(name)
    x, y = _clouds()
    y[:3] = x[:3]
    x.requires_grad_()
    y.requires_grad_()
    pairs = cost.pairs(cost.embed(x), cost.embed(y))
    assert (pairs[:3] == 0).all()
    pairs.sum().backward()
    for grad in (x.grad, y.grad):
        assert (grad[:3] == 0).all()
        assert torch.isfinite(grad).all()
        assert (grad[3:].abs().sum(1) > 0).all()


def test_cosine_sees_directions_only():
    cost = as_cost("cosine")
    x = torch.tensor([[3.0, 0.0], [0.0, 0.1], [1.0, 0.0]])
    y = torch.tensor([[1.0, 0.0], [0.0, -7.0], [0.0, 2.0]])
    torch.testing.assert_close(cost.pairs(cost.embed(x), cost.embed(y)), torch.tensor([0.0, 2.0, 1.0]))


@pytest.mark.parametrize("bad", [0.0, math.nan])
def test_cosine_of_a_point_without_direction_is_refused(bad):
    points = torch.ones(3, 2)
    points[1] = bad
    with pytest.raises(UsageError, match="zero vector"):
        as_cost("cosine").embed(points)
    assert as_cost("euclidean").embed(points) is points


def test_as_cost_knows_names_numbers_and_costs():
    assert {name: as_cost(name) for name in COSTS} == COSTS
    assert set(COSTS) == {"sqeuclidean", "euclidean", "cosine"}
    cost = Cost("mine", 1.2)
    assert as_cost(cost) is cost
    assert (as_cost(1.5).exponent, as_cost(1.5).name) == (1.5, "‖x − y‖^1.5")
    assert as_cost(2).squared
    assert not as_cost(1.99).squared


@pytest.mark.parametrize(
    ("name", "near"), [("euclidian", "euclidean"), ("sq_euclidean", "sqeuclidean"), ("cosin", "cosine")]
)
def test_unknown_name_suggests_the_near_miss(name, near):
    with pytest.raises(UsageError, match=f"unknown cost '{name}'; did you mean '{near}'"):
        as_cost(name)


@pytest.mark.parametrize("p", [0, -1, 2.5, math.inf, math.nan])
def test_exponents_outside_0_to_2_are_refused(p):
    with pytest.raises(UsageError, match=f"0 < p ≤ 2, got p = {p}"):
        as_cost(p)
