"""Transport on lines: by sorting, and by the compiled kernel."""

from __future__ import annotations

import ot
import pytest
import torch

from featot.ot import search
from featot.ot.line import line_costs, sorted_rows
from featot.ot.search import llvm_is_usable

compiled = pytest.mark.skipif(not llvm_is_usable(), reason="no llvmlite, or a CPU without AVX2")
KINDS = [torch.float64, pytest.param(torch.float32, marks=compiled)]


def _normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _both(x, y, chosen, power, monkeypatch):
    """Value and gradient by the kernel, and by sorting."""
    found = []
    for usable in (True, False):
        monkeypatch.setattr(search, "llvm_is_usable", lambda usable=usable: usable)
        points = x.clone().requires_grad_()
        value = line_costs(points, y, chosen, power)
        found.append((value.detach(), *torch.autograd.grad(value, points)))
    return found


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("n", [1, 5, 700, 40_000])
def test_it_is_exact_transport_of_equally_many(n, power, dtype):
    x, y = _normal(3, n, dtype=dtype), 2 * _normal(3, n, seed=1, dtype=dtype) + 1
    expected = ot.wasserstein_1d(x.double().numpy().T, y.double().numpy().T, p=power).mean()
    assert float(line_costs(x, sorted_rows(y), torch.arange(3), power)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", KINDS)
def test_it_goes_by_the_chosen_rows(dtype):
    x, y, chosen = _normal(2, 30, dtype=dtype), sorted_rows(_normal(7, 40, seed=1, dtype=dtype)), torch.tensor([5, 2])
    assert torch.equal(line_costs(x, y, chosen, 1), line_costs(x, y[chosen], torch.arange(2), 1))


@pytest.mark.parametrize("dtype", KINDS)
def test_it_takes_rows_that_are_columns_elsewhere(dtype):
    x, y, all_rows = _normal(30, 4, dtype=dtype), sorted_rows(_normal(4, 30, seed=1, dtype=dtype)), torch.arange(4)
    columns = y.t().contiguous().t()
    assert torch.equal(line_costs(x.t(), columns, all_rows, 1), line_costs(x.t().contiguous(), y, all_rows, 1))


@compiled
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 9), (9, 1), (50, 80), (80, 50), (33_000, 20_000), (65_536, 64_009)])
def test_the_kernel_does_what_sorting_does(n, m, power, monkeypatch):
    x, y = _normal(5, n), sorted_rows(_normal(6, m, seed=1))
    (value, gradient), (expected, by_sorting) = _both(x, y, torch.tensor([5, 0, 1, 3, 3]), power, monkeypatch)
    assert float(value) == pytest.approx(float(expected), rel=1e-4)
    if power == 2:
        torch.testing.assert_close(gradient, by_sorting, rtol=1e-4, atol=2e-3 / gradient.numel())
    else:  # where both are as good as equal, rounding may tell above from below
        assert float((gradient != by_sorting).float().mean()) < 1e-3


@compiled
def test_the_kernel_sorts_whatever_a_float_can_be(monkeypatch):
    tiny = torch.finfo(torch.float32).smallest_normal
    numbers = [0.0, -0.0, tiny / 2, -tiny / 2, 1e38, -1e38, 1.0, 1.0 + 2**-23, -1.0, -1.0 - 2**-23, 3e-20, -7e20]
    x = torch.tensor(numbers)[None]
    y = sorted_rows(x.clone())
    (value, _), (expected, _) = _both(x, y, torch.zeros(1, dtype=torch.long), 1, monkeypatch)
    assert float(value) == float(expected) == 0


@compiled
@pytest.mark.parametrize("what", [torch.nan, torch.inf])
def test_what_is_no_number_is_told(what, monkeypatch):
    x = _normal(2, 100)
    x[1, 7] = what
    for value, _ in _both(x, sorted_rows(_normal(2, 90, seed=1)), torch.arange(2), 1, monkeypatch):
        assert not value.isfinite()


@compiled
def test_equal_numbers_keep_their_order(monkeypatch):
    """So the same points have the same gradient, on any number of threads."""
    x, y = torch.zeros(1, 4), torch.tensor([[-2.0, -1.0, 1.0, 2.0]])
    (_, gradient), _ = _both(x, y, torch.zeros(1, dtype=torch.long), 2, monkeypatch)
    assert (gradient * 2).tolist() == [[2.0, 1.0, -1.0, -2.0]]


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("n", [6, 9])
def test_gradient(n, power):
    y = sorted_rows(_normal(3, 6, dtype=torch.float64))
    x = _normal(3, n, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda points: line_costs(points, y, torch.arange(3), power), x)
