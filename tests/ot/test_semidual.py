"""The semi-dual: its value, its gradients, its bound; the c-transform and the marginal."""

from __future__ import annotations

import dataclasses
import inspect

import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featot.errors import UsageError
from featot.ot import as_cost, ascend, c_transform, marginal, semidual

COSTS = ["sqeuclidean", "euclidean", "cosine", 0.5, 1.5]


def _problem(n=12, m=9, d=3, dtype=torch.float64, seed=0, device="cpu"):
    """Clouds, a potential of the size of the costs, and weights of which none is uniform."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    x, y, psi, a, b = rand(n, d), 2 * rand(m, d) + 0.3, rand(m), rand(n) + 0.1, rand(m) + 0.1
    return [t.to(device, dtype) for t in (x, y, psi, a / a.sum(), b / b.sum())]


def _costs(x, y, cost="sqeuclidean"):
    if cost == "cosine":
        return 1 - torch.nn.functional.cosine_similarity(x[:, None], y[None], dim=2)
    exponent = {"sqeuclidean": 2, "euclidean": 1}.get(cost, cost)
    return (x[:, None] - y[None]).square().sum(2) ** (exponent / 2)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_c_transform_is_the_least_reduced_cost(dtype, tolerance, cost, device):
    x, y, psi, *_ = _problem(50, 40, dtype=dtype, device=device)
    values, assignment = c_transform(x, y, psi, cost=cost)
    expected, argmin = (_costs(x, y, cost) - psi).min(dim=1)
    assert values.dtype == dtype
    torch.testing.assert_close(values, expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(assignment, argmin)


def test_c_transform_of_a_shifted_potential_is_shifted_back():
    x, y, psi, *_ = _problem()
    values, assignment = c_transform(x, y, psi)
    shifted, same = c_transform(x, y, psi + 5)
    torch.testing.assert_close(shifted, values - 5)
    assert torch.equal(assignment, same)


def test_c_transform_carries_no_gradient_and_leaves_its_inputs():
    x, y, psi, *_ = _problem()
    before = x.clone(), y.clone(), psi.clone()
    values, _ = c_transform(x.requires_grad_(), y.requires_grad_(), psi.requires_grad_())
    assert not values.requires_grad
    assert all(torch.equal(t, was) for t, was in zip((x, y, psi), before, strict=True))


@pytest.mark.parametrize("cost", COSTS)
def test_value_is_its_definition(cost, device):
    x, y, psi, a, b = _problem(device=device)
    reduced = (_costs(x, y, cost) - psi).min(dim=1).values
    torch.testing.assert_close(semidual(x, y, psi, a, b, cost=cost), a @ reduced + b @ psi)
    torch.testing.assert_close(semidual(x, y, psi, cost=cost), reduced.mean() + psi.mean())


def test_inputs_that_do_not_match_are_refused_before_they_are_centred():
    x, y, psi, *_ = _problem()
    transform = inspect.unwrap(c_transform)  # without the type checks of conftest.py, which no user has
    for says, inputs in (
        (r"\(12, 3\), \(9, 2\), \(9,\)", (x, y[:, :2], psi)),
        (r"\(12, 1\), \(9, 3\), \(9,\)", (x[:, :1], y, psi)),  # would be broadcast
        (r"\(12, 3\), \(9, 3\), \(8,\)", (x, y, psi[1:])),
        (r"\(3,\), \(9, 3\), \(9,\)", (x[0], y, psi)),
        (r"points to search, got shapes \(12, 3\) and \(0, 3\)", (x, y[:0], psi[:0])),
        (r"got torch\.float32 on cpu, torch\.float64 on cpu, torch\.float64", (x.float(), y, psi)),
    ):
        for cost in ("sqeuclidean", "cosine"):
            with pytest.raises(UsageError, match=says):
                transform(*inputs, cost=cost)


def test_unknown_costs_and_points_without_direction_are_refused():
    x, y, psi, *_ = _problem()
    for function in (c_transform, semidual):
        with pytest.raises(UsageError, match="did you mean 'euclidean'"):
            function(x, y, psi, cost="euclidian")
        with pytest.raises(UsageError, match="zero vector"):
            function(x, 0 * y, psi, cost="cosine")


def test_value_does_not_see_a_constant_in_psi():
    x, y, psi, a, b = _problem()
    torch.testing.assert_close(semidual(x, y, psi + 7, a, b), semidual(x, y, psi, a, b))


def test_a_known_assignment_saves_the_search(monkeypatch):
    x, y, psi, a, b = _problem()
    assignment = c_transform(x, y, psi)[1]
    expected = semidual(x, y, psi, a, b)
    # A backend that does not exist would raise if anything were searched.
    torch.testing.assert_close(semidual(x, y, psi, a, b, assignment=assignment, backend="none"), expected)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("weighted", [False, True])
def test_gradcheck_in_x_y_and_psi(weighted, cost, device):
    x, y, psi, a, b = _problem(device=device)
    weights = (a, b) if weighted else (None, None)
    inputs = [t.requires_grad_() for t in (x, y, psi)]
    assert torch.autograd.gradcheck(lambda x, y, psi: semidual(x, y, psi, *weights, cost=cost), inputs)


@pytest.mark.parametrize("cost", COSTS)
def test_points_that_have_arrived_are_left_alone(cost, device):
    """Where x_i = y_σ(i) the gradient is 0, also of costs with a cusp there."""
    _, y, psi, *_ = _problem(device=device)
    x, psi = y.clone().requires_grad_(), psi * 1e-6
    assignment = c_transform(x, y, psi, cost=cost)[1]
    assert torch.equal(assignment, torch.arange(len(y), device=device))
    semidual(x, y.requires_grad_(), psi, cost=cost).backward()
    assert (x.grad == 0).all()
    assert (y.grad == 0).all()


def test_gradients_are_those_of_the_envelope_theorem():
    x, y, psi, a, b = _problem()
    semidual(x.requires_grad_(), y, psi.requires_grad_(), a, b).backward()
    assignment = c_transform(x, y, psi)[1]
    torch.testing.assert_close(x.grad, 2 * a[:, None] * (x - y[assignment]).detach())
    torch.testing.assert_close(psi.grad, b - marginal(assignment, len(y), a))


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 12),
    m=st.integers(1, 12),
    d=st.integers(1, 4),
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.0, 0.1, 1.0, 30.0]),
)
def test_any_potential_gives_a_lower_bound(n, m, d, seed, scale):
    x, y, psi, a, b = _problem(n, m, d, seed=seed)
    optimum = ot.emd2(a.numpy(), b.numpy(), _costs(x, y).numpy())
    assert float(semidual(x, y, scale * psi, a, b)) <= optimum + 1e-9 * (1 + scale)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), cost=st.sampled_from(COSTS))
def test_the_optimal_potential_attains_the_cost(seed, cost):
    x, y, _, a, b = _problem(seed=seed)
    optimum, log = ot.emd2(a.numpy(), b.numpy(), _costs(x, y, cost).numpy(), log=True)
    psi = torch.as_tensor(log["v"])
    assert float(semidual(x, y, psi, a, b, cost=cost)) == pytest.approx(optimum, rel=1e-9)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), t=st.floats(0, 1))
def test_concave_in_psi(seed, t):
    x, y, psi, a, b = _problem(seed=seed)
    other = psi.flip(0) * 3
    between = semidual(x, y, t * psi + (1 - t) * other, a, b)
    assert between >= t * semidual(x, y, psi, a, b) + (1 - t) * semidual(x, y, other, a, b) - 1e-12


def test_a_cost_of_ones_own():
    x, y, psi, a, b = _problem()
    once, thrice = as_cost(1.5), dataclasses.replace(as_cost(1.5), scale=3.0)
    torch.testing.assert_close(semidual(x, y, 3 * psi, a, b, cost=thrice), 3 * semidual(x, y, psi, a, b, cost=once))


def test_zero_potential_is_the_mean_distance_to_the_nearest():
    x = torch.tensor([[0.0], [3.0], [9.0]])
    y = torch.tensor([[1.0], [10.0]])
    assert semidual(x, y, torch.zeros(2)).item() == pytest.approx((1 + 4 + 1) / 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_marginal_counts_the_mass_that_arrives(dtype, device):
    assignment = torch.tensor([0, 2, 2, 0, 2], device=device)
    a = torch.tensor([0.1, 0.2, 0.3, 0.1, 0.3], dtype=dtype, device=device)
    received = marginal(assignment, 4, a)
    assert received.dtype == dtype
    torch.testing.assert_close(received, torch.tensor([0.2, 0, 0.8, 0], dtype=dtype, device=device))
    uniform = marginal(assignment, 4)
    assert uniform.dtype == torch.float32  # torch's default
    torch.testing.assert_close(uniform, torch.tensor([0.4, 0, 0.6, 0], device=device))


# Ascent


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize(
    ("shape", "backend"),
    [((30, 20), "auto"), ((30, 20), "torch"), ((1100, 1000), "auto")],  # the matrix; no matrix; too large a matrix
)
def test_ascend_is_a_loop_of_searches_and_steps(shape, backend, steps, device):
    x, y, psi, _, b = _problem(*shape, d=4, device=device)
    psi = 0.1 * psi
    found, before, assignment = ascend(x, y, psi, b, steps=steps, rate=0.5, backend=backend)
    for step in range(steps):
        expected_before, expected = psi, c_transform(x, y, psi)[1]
        psi = psi + 0.5 * (b - marginal(expected, len(y)))
        assert step == 0 or not torch.equal(psi, expected_before)
    torch.testing.assert_close(found, psi)
    torch.testing.assert_close(before, expected_before)
    assert torch.equal(assignment, expected)


def test_no_step_of_ascent_is_a_search_alone():
    x, y, psi, _, b = _problem()
    found, before, assignment = ascend(x, y, psi, b, steps=0, rate=0.5)
    assert torch.equal(found, psi)
    assert torch.equal(before, psi)
    assert torch.equal(assignment, c_transform(x, y, psi)[1])


def test_ascend_raises_the_semidual_and_leaves_its_inputs():
    x, y, psi, _, b = _problem(60, 40)
    inputs = x.clone(), y.clone(), psi.clone(), b.clone()
    found, before, _ = ascend(x, y, psi, b, steps=50, rate=0.05)
    start, last, end = (float(semidual(x, y, potential, b=b)) for potential in (psi, before, found))
    assert start < min(last, end)
    assert all(torch.equal(t, was) for t, was in zip((x, y, psi, b), inputs, strict=True))
