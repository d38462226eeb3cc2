"""The semi-dual loss: its value, its gradient, its bound, and how ψ follows the points."""

from __future__ import annotations

import pytest
import torch

from featot.ot import Measure, c_transform, semidual, solve_semidiscrete
from featot_plugins.options import OTLossOptions
from featot_plugins.ot import OTLoss


def _clouds(n=60, m=45, d=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator, dtype=dtype)
    y = 0.5 * torch.randn(m, d, generator=generator, dtype=dtype) + 0.3
    return x, y


def _loss(y, weights=None, seed=0, **options):
    target = Measure(y) if weights is None else Measure(y, weights)
    return OTLoss(OTLossOptions(**options), target, torch.Generator().manual_seed(seed))


def _improved(x, loss, calls=3):
    for _ in range(calls):
        loss(x)
    assert loss.psi.abs().max() > 0
    return loss


def _uneven(m):
    weights = torch.rand(m, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.1
    return weights / weights.sum()


@pytest.mark.parametrize("weights", [None, _uneven(45)])
def test_the_squared_value_is_the_semidual_at_psi(weights):
    x, y = _clouds()
    loss = _improved(x, _loss(y, weights, exponent=2))
    expected = semidual(x, y, loss.psi, b=weights)
    torch.testing.assert_close(loss(x, improve=False).value, expected)


def test_the_value_after_improving_is_that_of_the_last_psi_searched():
    """One search serves the last step of ψ and the value: the ψ that it saw is one step behind."""
    x, y = _clouds()
    behind, loss = _loss(y, exponent=2, psi_steps=3), _loss(y, exponent=2, psi_steps=4)
    behind(x)
    torch.testing.assert_close(loss(x).value, semidual(x, y, behind.psi))
    assert not torch.equal(loss.psi, behind.psi)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_a_smaller_exponent_charges_the_same_assignment_otherwise(exponent):
    x, y = _clouds()
    loss = _improved(x, _loss(y, exponent=exponent))
    assignment = c_transform(x, y, loss.psi)[1]
    expected = (x - y[assignment]).norm(dim=1).pow(exponent).mean()
    torch.testing.assert_close(loss(x, improve=False).value, expected, rtol=1e-4, atol=0)


def test_psi_climbs():
    """The step goes along ∂F/∂ψ = b − marginal, and raises F, call after call, up to near its maximum."""
    x, y = _clouds()
    loss = _loss(y, exponent=2, psi_steps=1, psi_rate=0.004)
    values = []
    for _ in range(60):
        psi = loss.psi.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(semidual(x, y, psi), psi)
        values.append(float(semidual(x, y, loss.psi)))
        loss(x)
        step = loss.psi - psi.detach()
        torch.testing.assert_close(step, gradient * (step.norm() / gradient.norm()))
    assert values[0] < values[10] < values[-1]
    for _ in range(300):
        loss(x)
    gained, most = float(semidual(x, y, loss.psi)) - values[0], solve_semidiscrete(x, y).value - values[0]
    assert 0.85 * most < gained < 1.01 * most


def test_psi_does_not_depend_on_the_exponent():
    x, y = _clouds()
    torch.testing.assert_close(
        _improved(x, _loss(y, exponent=1)).psi, _improved(x, _loss(y, exponent=2)).psi, rtol=0, atol=0
    )


def test_the_gradient_holds_psi_and_the_assignment_fixed():
    """∂/∂x_i = 2 a_i (x_i − y_σ(i))."""
    x, y = _clouds()
    loss = _improved(x, _loss(y, exponent=2))
    points = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(points, improve=False).value, points)
    assignment = c_transform(x, y, loss.psi)[1]
    assert len(assignment.unique()) > 5
    torch.testing.assert_close(gradient, 2 / len(x) * (x - y[assignment]))


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5, 2.0])
def test_gradient(exponent):
    x, y = _clouds(n=8, m=6)
    loss = _improved(x, _loss(y, exponent=exponent))
    points = x.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, improve=False).value, points)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5, 2.0])
def test_the_curvature_majorises(exponent):
    """``loss(x + d) ≤ loss(x) + ⟨g, d⟩ + Σ w_i ‖d_i‖²`` for every d, the assignment held fixed."""
    x, y = _clouds()
    loss = _improved(x, _loss(y, exponent=exponent))
    assignment = c_transform(x, y, loss.psi)[1]
    x[:5] = y[assignment[:5]]  # some points have arrived already
    assignment = c_transform(x, y, loss.psi)[1]
    points = x.clone().requires_grad_()
    result = loss(points, improve=False)
    (gradient,) = torch.autograd.grad(result.value, points)
    assert result.curvature.shape == (len(x),)

    def frozen(z):
        squared = (z - y[assignment]).square().sum(1)
        if exponent == 2:
            return squared.mean() - loss.psi[assignment].mean() + loss.psi.mean()
        return (squared + 1e-6 * loss.spread).pow(exponent / 2).mean()

    torch.testing.assert_close(result.value.detach(), frozen(x))
    generator = torch.Generator().manual_seed(1)
    for scale in (1e-3, 1e-2, 0.1, 1.0, 10.0):
        for _ in range(20):
            d = scale * torch.randn(x.shape, generator=generator, dtype=x.dtype)
            bound = result.value.detach() + (gradient * d).sum() + result.curvature @ d.square().sum(1)
            assert frozen(x + d) <= bound + 1e-12
    # It is tight: mirrored in its y, every x_i is as far from it as before, and the bound touches the loss again.
    d = 2 * (y[assignment] - x)
    bound = result.value.detach() + (gradient * d).sum() + result.curvature @ d.square().sum(1)
    torch.testing.assert_close(frozen(x + d), bound)


def test_improve_false_leaves_psi():
    x, y = _clouds()
    loss = _improved(x, _loss(y))
    psi = loss.psi.clone()
    first, second = loss(x, improve=False), loss(x, improve=False)
    assert torch.equal(loss.psi, psi)
    assert torch.equal(first.value, second.value)


def _steps_taken(x, y, **options):
    """How many ψ steps of one call bring the same ψ as so many calls of one step."""
    wanted = _loss(y, **options)
    wanted(x)
    single = _loss(y, psi_steps=1)
    for steps in range(30):
        if torch.equal(single.psi, wanted.psi):
            return steps
        single(x)
    raise AssertionError("no number of steps gives this ψ")


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 10),
        ({"psi_steps": 0}, 0),
        ({"psi_steps": 3}, 3),
        ({"psi_steps": 7, "psi_pairs": 5 * 60 * 45}, 5),
        ({"psi_steps": 7, "psi_pairs": 5 * 60 * 45 - 1}, 4),
        ({"psi_steps": 7, "psi_pairs": 0}, 1),
        ({"psi_steps": 0, "psi_pairs": 0}, 0),
    ],
)
def test_number_of_psi_steps(options, steps):
    assert _steps_taken(*_clouds(), **options) == steps


def test_the_step_is_in_units_of_the_problem():
    """Scaling all points by s scales ψ by s², as it does the costs."""
    x, y = _clouds()
    psi = _improved(x, _loss(y)).psi
    torch.testing.assert_close(_improved(3 * x, _loss(3 * y)).psi, 9 * psi)
    one, two = (_improved(x, _loss(y, psi_rate=rate, psi_steps=1), 1).psi for rate in (0.004, 0.008))
    torch.testing.assert_close(two, 2 * one)


def test_targets_are_drawn_by_the_generator():
    _, y = _clouds()
    first, again, other = (_loss(y, seed=seed, targets=20).target.points for seed in (1, 1, 2))
    assert len(first) == 20
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert all((point == y).all(1).any() for point in first)
    assert _loss(y, targets=45).target.points is y


def test_points_that_have_arrived_have_a_finite_gradient():
    for y in (_clouds()[1], torch.full((7, 3), 0.3)):
        points = y.clone().requires_grad_()
        result = _loss(y, exponent=1)(points)
        (gradient,) = torch.autograd.grad(result.value, points)
        assert gradient.isfinite().all()
        assert result.curvature.isfinite().all()


def test_a_constant_target_pulls_straight_to_it():
    y = torch.full((9, 3), 0.5)
    points = torch.tensor([[0.0, 0.5, 0.5], [1.0, 1.0, 0.5]], requires_grad=True)
    result = _loss(y, exponent=2)(points)
    assert float(result.value.detach()) == pytest.approx((0.25 + 0.5) / 2)
    (gradient,) = torch.autograd.grad(result.value, points)
    torch.testing.assert_close(gradient, points.detach() - 0.5)
