"""The solver on problems whose answer is known, its symmetries, and what it refuses."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment

import featot.ot.newton as newton
import featot.ot.tiles as tiles
from featot.errors import UsageError
from featot.ot import Measure, SemiDiscreteSolver, SolverState, c_transform, solve_semidiscrete

METHODS = ["newton", "drag", "asgd"]
ROUNDING = 1e-3  # of ψ when points move: conjugate gradients that stop early turn 1e-16 into 3e-4 at most (measured)


def _points(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Known answers


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_diracs(method, dtype, device):
    x, y = (torch.tensor([point], dtype=dtype, device=device) for point in ([0.0, 3.0], [4.0, 0.0]))
    assert solve_semidiscrete(x, y, method=method).value == pytest.approx(25)
    assert solve_semidiscrete(x, y, method=method, cost="euclidean").value == pytest.approx(5)
    assert solve_semidiscrete(x, y, method=method, cost="cosine").value == pytest.approx(1)
    assert solve_semidiscrete(x.expand(6, 2), y.expand(4, 2), method=method).value == pytest.approx(25)
    assert solve_semidiscrete(x, x, method=method).value == pytest.approx(0, abs=1e-6)


@settings(deadline=None, max_examples=15)
@given(n=st.integers(1, 60), d=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_a_permutation_costs_nothing(n, d, seed):
    x = _points(n, d, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    result = solve_semidiscrete(x, x[order])
    assert result.value == pytest.approx(0, abs=1e-12)
    assert result.value_upper == pytest.approx(0, abs=1e-6)
    assert result.converged


@settings(deadline=None, max_examples=15)
@given(n=st.integers(2, 60), d=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_the_gradient_of_a_convex_function_is_optimal(n, d, seed):
    """Brenier: x ↦ A x + v with A symmetric positive definite matches each x to its own image."""
    x = _points(n, d, seed)
    factor = _points(d, d, seed + 1)
    y = x @ (factor @ factor.t() / d + 0.3 * torch.eye(d, dtype=x.dtype)) + 2
    expected = float((x - y).square().sum(1).mean())
    result = solve_semidiscrete(x, y, tol=1e-3)
    assert result.value <= expected * (1 + 1e-10)
    assert result.value == pytest.approx(expected, rel=1e-3)
    assert result.converged


@pytest.mark.parametrize("shift", [(0.3, -0.2, 0.1), (30.0, -20.0, 10.0)], ids=["near", "far"])
def test_a_translation_costs_its_length(shift):
    x, shift = _points(80, 3), torch.tensor(shift, dtype=torch.float64)
    result = solve_semidiscrete(x, x + shift)
    assert result.value == pytest.approx(float(shift.square().sum()), rel=1e-9)
    assert result.assignment.tolist() == list(range(80))
    euclidean = solve_semidiscrete(x, x + shift, cost="euclidean", tol=1e-3)
    assert euclidean.value == pytest.approx(float(shift.norm()), rel=1e-3)


@pytest.mark.parametrize("n", [5, 40, 200])
def test_on_the_line_the_optimum_sorts(n):
    x, y = _points(n, 1), 2 * _points(n, 1, 1) + 1
    for cost, power in (("sqeuclidean", 2), ("euclidean", 1), (1.5, 1.5)):
        optimum = float((x.sort(dim=0).values - y.sort(dim=0).values).abs().pow(power).mean())
        result = solve_semidiscrete(x, y, cost=cost, tol=1e-3)
        assert result.value == pytest.approx(optimum, rel=1e-3)
        assert result.converged


def test_equal_numbers_of_points_are_an_assignment_problem(oracle):
    x, y, *_ = oracle.clouds(100, 100, 5)
    costs = oracle.costs(x, y).numpy()
    rows, columns = linear_sum_assignment(costs)
    assert solve_semidiscrete(x, y, tol=1e-3).value == pytest.approx(costs[rows, columns].mean(), rel=1e-3)


def test_clusters_of_unlike_mass_exchange_it(oracle):
    """The nearest of a point are all of its own cluster: no plan has both marginals on such pairs alone."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(10, 2, generator=generator)
    clouds = []
    for _ in range(2):
        mass = torch.rand(len(centers), generator=generator) ** 2 + 0.02
        cluster = torch.multinomial(mass, 1500, replacement=True, generator=generator)
        clouds.append(centers[cluster] + 0.02 * torch.randn(1500, 2, generator=generator))
    x, y = clouds
    uniform = torch.full((1500,), 1 / 1500)
    result = solve_semidiscrete(x, y, max_iter=100)
    assert result.converged
    optimum = oracle.optimum(x, y, uniform, uniform)
    assert 0.99 * optimum <= result.value <= optimum * (1 + 1e-5)


def test_gaussians_come_near_the_bures_distance():
    covariance = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    mean = torch.tensor([3.0, -1.0], dtype=torch.float64)
    x, y = _points(4000, 2), _points(1000, 2, 1) @ torch.linalg.cholesky(covariance).t() + mean
    bures = float(mean @ mean) + 2 + 3 - 2 * float(np.trace(np.real(sqrtm(covariance.numpy()))))
    # Sampling: the means alone differ by 0.05 or so.
    assert solve_semidiscrete(x, y, tol=1e-3).value == pytest.approx(bures, rel=0.05)


# Symmetries


@settings(deadline=None, max_examples=8)
@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 1000))
@pytest.mark.parametrize(("cost", "power"), [("sqeuclidean", 2), ("euclidean", 1), (0.5, 0.5), ("cosine", 0)])
def test_the_cost_scales_with_its_power(oracle, cost, power, scale, seed):
    x, y, a, b = oracle.clouds(30, 20, 2, seed=seed)
    for method in METHODS:
        result = solve_semidiscrete(x, y, a, b, method=method, cost=cost, max_iter=20)
        scaled = solve_semidiscrete(scale * x, scale * y, a, b, method=method, cost=cost, max_iter=20)
        assert scaled.value == pytest.approx(scale**power * result.value, rel=1e-5)
        assert scaled.n_iter == result.n_iter
        torch.testing.assert_close(scaled.potential_b / scale**power, result.potential_b, rtol=0, atol=ROUNDING)


@settings(deadline=None, max_examples=8)
@given(offset=st.floats(-100, 100), seed=st.integers(0, 1000))
@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean", 1.5])
def test_a_common_translation_changes_nothing(oracle, cost, offset, seed):
    x, y, a, b = oracle.clouds(30, 20, 2, seed=seed)
    for method in METHODS:
        result = solve_semidiscrete(x, y, a, b, method=method, cost=cost, max_iter=20)
        moved = solve_semidiscrete(x + offset, y + offset, a, b, method=method, cost=cost, max_iter=20)
        assert moved.value == pytest.approx(result.value, rel=1e-5)
        torch.testing.assert_close(moved.potential_b, result.potential_b, rtol=0, atol=ROUNDING)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000))
@pytest.mark.parametrize("size", [(40, 25, 2), (25, 40, 2)], ids=["n > m", "n < m"])
def test_the_order_of_the_points_permutes_the_answer(oracle, size, seed):
    x, y, a, b = oracle.clouds(*size, seed=seed)
    rows, columns = (torch.randperm(k, generator=torch.Generator().manual_seed(seed)) for k in size[:2])
    result = solve_semidiscrete(x, y, a, b)
    other = solve_semidiscrete(x[rows], y[columns], a[rows], b[columns])
    assert other.value == pytest.approx(result.value, rel=1e-5)
    torch.testing.assert_close(other.potential_a, result.potential_a[rows], rtol=0, atol=ROUNDING)
    torch.testing.assert_close(other.potential_b, result.potential_b[columns], rtol=0, atol=ROUNDING)
    plan = result.sparse_plan.to_dense()[rows][:, columns]
    torch.testing.assert_close(other.sparse_plan.to_dense(), plan, rtol=0, atol=1e-3)


def test_far_from_the_origin_float32_holds(device, oracle):
    x, y, a, b = oracle.clouds(100, 80, 3, dtype=torch.float32, device=device)
    x, y = x + 1000, y + 1000
    result = solve_semidiscrete(x, y, a, b)
    assert result.value == pytest.approx(oracle.optimum(x, y, a, b), rel=1e-2)
    assert result.converged


def test_roles_may_be_swapped(oracle):
    x, y, a, b = oracle.clouds(90, 40, 3)
    there = solve_semidiscrete(x, y, a, b, tol=1e-4)
    back = solve_semidiscrete(y, x, b, a, tol=1e-4)
    assert back.value == pytest.approx(there.value, rel=1e-4)
    assert back.value_upper == pytest.approx(there.value_upper, rel=1e-4)


# Repeatable, and independent of how the work is cut


@pytest.mark.parametrize("method", METHODS)
def test_equal_calls_give_equal_results(method, oracle):
    x, y, a, b = oracle.clouds(900, 700, 3, dtype=torch.float32)
    first, second = (
        solve_semidiscrete(x, y, a, b, method=method, max_iter=30, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert first.value == second.value
    assert torch.equal(first.potential_b, second.potential_b)
    assert first.log == second.log
    other = solve_semidiscrete(x, y, a, b, method=method, max_iter=30, generator=torch.Generator().manual_seed(4))
    assert not torch.equal(first.potential_b, other.potential_b)


def test_small_tiles_and_few_pairs_still_converge(monkeypatch, oracle):
    x, y, a, b = oracle.clouds(600, 300, 3)
    whole = solve_semidiscrete(x, y, a, b)
    for name in ("_CPU_TILE", "_CUDA_TILE", "_INDEXED_TILE", "_TOPK_TILE"):
        monkeypatch.setattr(tiles, name, (64, 32))
    for name, size in {"_BLOCK": 16, "_SMALL_BLOCK": 8, "_KEPT": 5000, "_FEW": 1, "_FEW_PAIRS": 1}.items():
        monkeypatch.setattr(tiles, name, size)
    assert solve_semidiscrete(x, y, a, b).value == pytest.approx(whole.value, rel=1e-9)
    monkeypatch.setattr(newton, "_PAIRS", 6000)
    few = solve_semidiscrete(x, y, a, b)
    assert few.converged
    assert few.value == pytest.approx(whole.value, rel=1e-2)


def test_larger_clouds_go_through_several_sketches(monkeypatch, oracle):
    x, y, a, b = oracle.clouds(700, 500, 3)
    monkeypatch.setattr(newton, "_COARSE", 20)
    result = solve_semidiscrete(x, y, a, b, tol=1e-3)
    oracle.check(result, x, y, a, b, tol=1e-3)
    assert result.converged


def test_no_matrix_of_all_pairs_is_ever_in_memory():
    code = """
import torch
from featot.ot import solve_semidiscrete

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

torch.set_num_threads(1)
x, y = torch.rand(12000, 4), torch.rand(12000, 4)
solve_semidiscrete(x[:600], y[:600], max_iter=2)
before = peak()
solve_semidiscrete(x, y, max_iter=1)
print(peak() - before)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert int(run.stdout) * 1024 < 0.6 * 4 * 12000**2


@pytest.mark.parametrize("method", METHODS)
def test_inputs_stay_and_no_graph_is_kept(method, oracle):
    inputs = [t.requires_grad_() for t in oracle.clouds(20, 15, 2)]
    before = [t.detach().clone() for t in inputs]
    init = torch.ones(15, dtype=torch.float64, requires_grad=True)
    result = solve_semidiscrete(*inputs, method=method, potential_init=init, max_iter=20)
    assert all(torch.equal(t, was) for t, was in zip(inputs, before, strict=True))
    assert torch.equal(init, torch.ones_like(init))
    assert not any(t.requires_grad for t in (result.potential_a, result.potential_b, result.marginal_b))


# Warm starts, callbacks, options


@pytest.mark.parametrize("size", [(900, 300, 4), (300, 900, 4)], ids=["n > m", "n < m"])
def test_a_warm_start_takes_few_steps(size, oracle):
    x, y, a, b = oracle.clouds(*size)
    cold = solve_semidiscrete(x, y, a, b, tol=1e-3)
    again = solve_semidiscrete(x, y, a, b, tol=1e-3, potential_init=cold.potential_b + 3)  # constants are nothing
    assert again.converged
    assert again.n_iter <= cold.n_iter / 3
    moved = solve_semidiscrete(x + 1e-3, y, a, b, tol=1e-3, potential_init=cold.potential_b)
    assert moved.converged
    assert moved.n_iter < cold.n_iter


@pytest.mark.parametrize("method", METHODS)
def test_the_callback_sees_the_log_and_the_best_potential(method, oracle):
    x, y, a, b = oracle.clouds(80, 30, 2)
    seen: list[SolverState] = []
    result = solve_semidiscrete(x, y, a, b, method=method, max_iter=30, callback=seen.append)
    assert [(s.iteration, s.value, s.value_upper) for s in seen] == result.log
    assert len(seen) >= 2
    for state in seen:
        values, _ = c_transform(x, y, state.potential)
        assert float(a @ values + b @ state.potential) == pytest.approx(state.value, rel=1e-9)


def test_with_fewer_x_the_callback_sees_the_potential_of_x(oracle):
    x, y, a, b = oracle.clouds(30, 80, 2)
    seen: list[SolverState] = []
    solve_semidiscrete(x, y, a, b, callback=seen.append)
    for state in seen:
        values, _ = c_transform(y, x, state.potential)
        assert float(b @ values + a @ state.potential) == pytest.approx(state.value, rel=1e-9)


def test_reg_is_the_last_smoothing_and_ends_the_solve(oracle):
    x, y, a, b = oracle.clouds(300, 100, 3)
    exact, blurred = (solve_semidiscrete(x, y, a, b, tol=1e-3, reg=reg) for reg in (None, 1.0))
    oracle.check(blurred, x, y, a, b, tol=1e-3)
    assert exact.converged
    assert not blurred.converged
    assert blurred.n_iter < 30
    assert blurred.value < exact.value


@pytest.mark.parametrize("max_iter", [1, 2, 7])
def test_max_iter_is_honoured(max_iter, oracle):
    x, y, a, b = oracle.clouds(300, 300, 5)
    for method in METHODS:
        result = solve_semidiscrete(x, y, a, b, tol=1e-6, method=method, max_iter=max_iter)
        assert result.n_iter <= max_iter
        oracle.check(result, x, y, a, b, tol=1e-6)


# Bad input


def _message(*args, **kwargs):
    with pytest.raises(UsageError) as caught:
        solve_semidiscrete(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bad_points_and_weights_are_refused(oracle):
    x, y, a, b = oracle.clouds(6, 5, 2)
    assert "(0, 2)" in _message(x[:0], y)
    assert "(6,)" in _message(x[:, 0], y)
    assert "NaN" in _message(x, y * torch.nan)
    assert "infinity" in _message(x / 0, y)
    assert "torch.int64" in _message(x.long(), y)
    assert "at least 0" in _message(x, y, a - 1, b)
    assert "sum to 1" in _message(x, y, 2 * a, b)
    assert "6 weights" in _message(x, y, a[1:], b)
    assert "torch.float32" in _message(x, y, a.float(), b)


def test_a_pair_that_does_not_match_is_refused(oracle):
    x, y, *_ = oracle.clouds(6, 5, 2)
    assert "one dimension, got 2 and 1" in _message(x, y[:, :1])
    assert "got torch.float64 on cpu and torch.float32 on cpu" in _message(x, y.float())
    assert "squared distances fit in torch.float32; rescale" in _message(1e19 * x.float(), 1e19 * y.float())
    assert "squared distances fit" in _message(x.float(), y.float() + 3e19)
    assert "zero vector" in _message(0 * x, y, cost="cosine")


def test_a_bad_potential_init_is_refused(oracle):
    x, y, *_ = oracle.clouds(6, 5, 2)
    zeros = torch.zeros(5, dtype=torch.float64)
    assert "shape (5,), got torch.float64 of shape (6,)" in _message(x, y, potential_init=x[:, 0])
    assert "shape (5, 1)" in _message(x, y, potential_init=zeros[:, None])
    assert "torch.float32" in _message(x, y, potential_init=zeros.float())
    assert "NaN" in _message(x, y, potential_init=zeros / 0)


def test_unknown_names_suggest_the_near_miss(oracle):
    x, y, *_ = oracle.clouds(6, 5, 2)
    assert "did you mean 'newton'" in _message(x, y, method="newtn")
    assert "did you mean 'faiss'" in _message(x, y, backend="fais")
    assert "did you mean 'sqeuclidean'" in _message(x, y, cost="squeuclidean")


@pytest.mark.parametrize(
    ("option", "bad"),
    [
        ("max_iter", 0),
        ("batch_size", 0),
        ("tol", 0.0),
        ("tol", math.nan),
        ("rate", 0.0),
        ("rate", math.inf),
        ("reg", 0.0),
        ("reg", -1.0),
        ("cost", 2.5),
        ("cost", math.nan),
    ],
)
def test_bad_options_are_refused(option, bad):
    with pytest.raises(UsageError, match="p = " if option == "cost" else option):
        SemiDiscreteSolver(**{option: bad})


def test_a_solver_is_used_again(oracle):
    x, y, a, b = oracle.clouds(60, 40, 2)
    solver = SemiDiscreteSolver(tol=1e-3)
    first, second = (solver.solve(Measure(x, a), Measure(y, b)) for _ in range(2))
    assert first.value == second.value
    assert torch.equal(first.assignment, c_transform(x, y, first.potential_b)[1])
