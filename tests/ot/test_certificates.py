"""Every claim of a result against brute force and the exact optimum: bounds, plan, potentials, flags."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featot.ot import solve_semidiscrete

COSTS = ["sqeuclidean", "euclidean", 0.5, 1.5, "cosine"]
SIZES = [(60, 40, 2), (200, 120, 3), (20, 150, 2), (150, 20, 2), (150, 150, 8), (1, 30, 2), (30, 1, 2), (1, 1, 1)]
METHODS = ["newton", "drag", "asgd"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [False, True], ids=["uniform", "weighted"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_size_is_certified(size, weighted, dtype, device, oracle):
    x, y, a, b = oracle.clouds(*size, weighted=weighted, dtype=dtype, device=device)
    result = solve_semidiscrete(x, y, a, b, tol=1e-3)
    oracle.check(result, x, y, a, b, tol=1e-3)
    assert result.converged


@pytest.mark.parametrize("cost", COSTS, ids=str)
@pytest.mark.parametrize("size", [(90, 60, 3), (40, 120, 4), (100, 100, 5)], ids=str)
def test_every_cost_is_certified(size, cost, oracle):
    x, y, a, b = oracle.clouds(*size)
    result = solve_semidiscrete(x, y, a, b, cost=cost, tol=1e-3)
    oracle.check(result, x, y, a, b, cost, tol=1e-3)
    assert result.converged


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6])
def test_a_tighter_tolerance_is_honoured(tol, oracle):
    x, y, a, b = oracle.clouds(200, 50, 3)
    result = solve_semidiscrete(x, y, a, b, tol=tol, max_iter=1000)
    oracle.check(result, x, y, a, b, tol=tol)
    assert result.converged
    assert result.value == pytest.approx(oracle.optimum(x, y, a, b), rel=tol)


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 15), m=st.integers(1, 15), d=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_never_on_the_wrong_side_of_the_optimum(oracle, n, m, d, seed):
    x, y, a, b = oracle.clouds(n, m, d, seed=seed)
    for method in METHODS:
        oracle.check(solve_semidiscrete(x, y, a, b, method=method, max_iter=5), x, y, a, b)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_every_method_and_backend_passes_one_comparator(method, backend, device, oracle):
    if backend == "faiss":
        pytest.importorskip("faiss", reason="faiss is not installed")
        if device.type != "cpu":
            pytest.skip("the faiss backend searches on the CPU")
    x, y, a, b = oracle.clouds(90, 60, 3, dtype=torch.float32, device=device)
    result = solve_semidiscrete(x, y, a, b, method=method, backend=backend)
    oracle.check(result, x, y, a, b)
    assert result.value >= 0.8 * oracle.optimum(x, y, a, b)


def _clusters(points, generator):
    centers = 3 * torch.randn(4, points.shape[1], generator=generator, dtype=points.dtype)
    return centers[torch.randint(4, (len(points),), generator=generator)] + 0.01 * points


def _outlier(points, generator):
    return torch.cat([1e3 * points[:1], points[1:]])


def _heavy_tails(points, generator):
    return points / torch.rand(len(points), 1, generator=generator, dtype=points.dtype)


def _nearly_a_line(points, generator):
    return points * torch.tensor([1.0] + [1e-9] * (points.shape[1] - 1), dtype=points.dtype)


@pytest.mark.parametrize("cost", COSTS, ids=str)
@pytest.mark.parametrize("shape", [_clusters, _outlier, _heavy_tails, _nearly_a_line])
def test_hard_clouds_are_certified_whether_or_not_they_converge(shape, cost, oracle):
    x, y, a, b = oracle.clouds(70, 50, 3)
    generator = torch.Generator().manual_seed(0)
    x, y = shape(x, generator), shape(y, generator)
    oracle.check(solve_semidiscrete(x, y, a, b, cost=cost, max_iter=40), x, y, a, b, cost)


@settings(deadline=None, max_examples=40)
@given(power=st.sampled_from([2, 6, 8, 10, 12]), seed=st.integers(0, 10**6))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_of_many_magnitudes_are_certified(oracle, dtype, power, seed):
    """The lightest of them is 1e-24 or so, far below the rounding of the heaviest."""
    x, y, *_ = oracle.clouds(60, 40, 2, dtype=dtype, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    a, b = ((power * torch.randn(k, generator=generator, dtype=torch.float64)).softmax(0).to(dtype) for k in (60, 40))
    oracle.check(solve_semidiscrete(x, y, a, b, max_iter=40), x, y, a, b)


@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean"])
@pytest.mark.parametrize("scale", [2.0**-50, 2.0**-33, 2.0**33, 2.0**50], ids=["1e-15", "1e-10", "1e10", "1e15"])
def test_float32_points_of_any_scale_take_the_same_steps(scale, cost, oracle):
    """A power of two changes no digit; costs run from 1e-30 to 1e30."""
    x, y, a, b = oracle.clouds(200, 150, 3, dtype=torch.float32)
    result = solve_semidiscrete(x, y, a, b, cost=cost, tol=1e-3)
    scaled = solve_semidiscrete(scale * x, scale * y, a, b, cost=cost, tol=1e-3)
    unit = scale**2 if cost == "sqeuclidean" else scale
    assert scaled.converged
    assert scaled.n_iter == result.n_iter
    assert scaled.value / unit == pytest.approx(result.value, rel=1e-5)
    assert scaled.value_upper / unit == pytest.approx(result.value_upper, rel=1e-5)


def test_roots_of_small_distances_are_certified_in_float32(oracle):
    _, y, a, b = oracle.clouds(60, 40, 4, dtype=torch.float32)
    for seed in range(8):
        noise = torch.randn(60, 4, generator=torch.Generator().manual_seed(seed))
        x = y[torch.arange(60) % 40] + 1e-3 * noise
        oracle.check(solve_semidiscrete(x, y, a, b, cost=0.5, max_iter=60), x, y, a, b, 0.5)


def _repeated_y(x, y, a, b):
    y[10:25] = y[:15].clone()
    return x, y, a, b


def _repeated_x(x, y, a, b):
    x[10:40] = x[:30].clone()
    return x, y, a, b


def _massless_y(x, y, a, b):
    y[::3] = x[: len(y[::3])]  # as tempting as can be
    b[::3] = 0
    return x, y, a, b / b.sum()


def _massless_x(x, y, a, b):
    a[:25] = 0
    return x, y, a / a.sum(), b


def _constant_y(x, y, a, b):
    return x, torch.ones_like(y), a, b


def _all_constant(x, y, a, b):
    return torch.zeros_like(x), torch.ones_like(y), a, b


def _massless_and_repeated(x, y, a, b):
    return _massless_y(*_repeated_y(x, y, a, b))


def _same(x, y, a, b):
    return y.clone(), y, b.clone(), b


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(80, 30, 2), (40, 70, 2)], ids=["n > m", "n < m"])
@pytest.mark.parametrize(
    "change",
    [
        _repeated_y,
        _repeated_x,
        _massless_y,
        _massless_x,
        _massless_and_repeated,
        _constant_y,
        _all_constant,
        _same,
    ],
)
def test_odd_clouds_are_certified(change, size, dtype, oracle):
    x, y, a, b = change(*oracle.clouds(*size, dtype=dtype))
    result = solve_semidiscrete(x, y, a, b)
    oracle.check(result, x, y, a, b)
    assert result.converged
    assert torch.isfinite(result.potential_b).all()


def test_repeated_y_have_one_potential_and_share_by_weight(oracle):
    x, y, a, b = _repeated_y(*oracle.clouds(80, 30, 2))
    result = solve_semidiscrete(x, y, a, b)
    assert torch.equal(y[10:20], y[:10])
    assert torch.equal(result.potential_b[10:20], result.potential_b[:10])
    torch.testing.assert_close((result.marginal_b / b)[10:20], (result.marginal_b / b)[:10])
    assert not bool(((result.assignment >= 10) & (result.assignment < 20)).any())  # the first of each is named


def test_too_few_steps_are_not_called_converged(oracle):
    x, y, a, b = oracle.clouds(300, 300, 8)
    short = solve_semidiscrete(x, y, a, b, tol=1e-4, max_iter=1)
    oracle.check(short, x, y, a, b, tol=1e-4)
    assert not short.converged
    assert short.n_iter == 1
    assert short.gap > 1e-4
    almost = solve_semidiscrete(x, y, a, b, tol=0.7 * short.gap, max_iter=1)
    assert almost.gap == short.gap
    assert not almost.converged
    long = solve_semidiscrete(x, y, a, b, tol=1e-4)
    assert long.converged
    assert long.n_iter > 1


def test_bounds_only_get_better_and_the_last_are_the_result_s(oracle):
    x, y, a, b = oracle.clouds(300, 200, 4)
    result = solve_semidiscrete(x, y, a, b, tol=1e-4)
    iterations, lower, upper = zip(*result.log, strict=True)
    assert list(iterations) == sorted(iterations)
    assert list(lower) == sorted(lower)
    assert list(upper) == sorted(upper, reverse=True)
    assert lower[-1] == pytest.approx(result.value, rel=1e-9)
    assert upper[-1] == result.value_upper
    assert upper[0] == math.inf
