"""Sources that can only be drawn from, and ascent on batches."""

from __future__ import annotations

import math

import pytest
import torch

from featot.errors import UsageError
from featot.ot import Measure, SemiDiscreteSolver, solve_semidiscrete

Y = torch.randn(40, 2, generator=torch.Generator().manual_seed(1)) + 0.5


def normal(count, generator):
    return torch.randn(count, 2, generator=generator)


@pytest.mark.parametrize(("method", "share"), [("auto", 0.985), ("drag", 0.985), ("asgd", 0.88)])
def test_a_sampler_is_solved_like_a_large_sample_of_it(method, share, device):
    y = Y.to(device)

    def sampler(count, generator):
        return normal(count, generator).to(device)

    result = solve_semidiscrete(sampler, y, method=method, max_iter=600)
    large = normal(40_000, torch.Generator().manual_seed(9)).to(device)
    expected = solve_semidiscrete(large, y, tol=1e-3)
    # Below the optimum by what ascent leaves, above by what sampling adds.
    assert result.value <= expected.value_upper + 4 * result.value_error
    assert result.value >= share * expected.value - 4 * result.value_error
    assert 0 < result.value_error < 0.02
    assert result.potential_a is None
    assert result.assignment is None
    assert result.sparse_plan is None
    assert result.gap == result.value_upper == math.inf
    assert not result.converged
    assert float(result.marginal_b.sum()) == pytest.approx(1, abs=1e-5)
    assert float((result.marginal_b - 1 / 40).abs().sum()) < 0.5


def test_the_standard_error_says_how_far_estimates_are_apart():
    values, errors = [], []
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        # A rate that leaves ψ where it is: only the draws differ.
        solver = SemiDiscreteSolver(method="asgd", rate=1e-12, max_iter=1, generator=generator)
        result = solver.solve(normal, Measure(Y))
        values.append(result.value)
        errors.append(result.value_error)
    spread = float(torch.tensor(values).std())
    assert 0.4 * max(errors) < spread < 2.5 * min(errors)


def test_a_value_is_estimated_on_fresh_draws():
    counts = []

    def sampler(count, generator):
        counts.append(count)
        return normal(count, generator)

    solve_semidiscrete(sampler, Y, max_iter=7, batch_size=50)
    assert counts == [16_384, *[50] * 7, 16_384]


def test_batches_follow_the_weights_of_the_points(oracle):
    x, y, a, b = oracle.clouds(200, 12, 2)
    a[:150] = 0
    a /= a.sum()
    result = solve_semidiscrete(x, y, a, b, method="drag", max_iter=400)
    oracle.check(result, x, y, a, b)
    assert result.value >= 0.97 * oracle.optimum(x, y, a, b)


def test_falling_smoothing_beats_hard_assignments_on_clusters():
    generator = torch.Generator().manual_seed(0)
    centers = 3 * torch.randn(8, 6, generator=generator)
    x = centers[torch.randint(8, (4000,), generator=generator)] + 0.1 * torch.randn(4000, 6, generator=generator)
    y = centers[torch.randint(8, (400,), generator=generator)] + 0.1 * torch.randn(400, 6, generator=generator)
    best = solve_semidiscrete(x, y).value
    drag, asgd = (
        solve_semidiscrete(x, y, method=method, max_iter=200, batch_size=256).value for method in ("drag", "asgd")
    )
    assert asgd < drag <= best * (1 + 1e-6)
    assert best - drag < 0.5 * (best - asgd)


def test_the_rate_and_the_last_smoothing_are_honoured(oracle):
    x, y, a, b = oracle.clouds(300, 30, 2)
    plain, blurred = (solve_semidiscrete(x, y, a, b, method="drag", reg=reg) for reg in (None, 5.0))
    assert blurred.value < plain.value
    slow = SemiDiscreteSolver(method="drag", rate=1e-6).solve(Measure(x, a), Measure(y, b))
    assert slow.value < plain.value


def _message(sampler, **options):
    with pytest.raises(UsageError) as caught:
        solve_semidiscrete(sampler, Y, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_bad_sampler_is_refused():
    assert "(16384, d), got (3, 2)" in _message(lambda count, generator: torch.zeros(3, 2))
    assert "got (16384,)" in _message(lambda count, generator: torch.zeros(count))
    assert "got list" in _message(lambda count, generator: [0.0] * count)
    assert "one dimension, got 3 and 2" in _message(lambda count, generator: torch.zeros(count, 3))
    assert "torch.float64" in _message(lambda count, generator: torch.zeros(count, 2, dtype=torch.float64))
    assert "NaN" in _message(lambda count, generator: torch.full((count, 2), torch.nan))
    assert "choose 'drag'" in _message(normal, method="newton")
    assert "no weights a beside a sampler" in _message(normal, a=torch.full((40,), 1 / 40))
