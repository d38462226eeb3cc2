"""The softmin over candidate pairs, by the compiled kernels."""

from __future__ import annotations

import pytest
import torch

from featot.ot import graph, search, solve_semidiscrete
from featot.ot.graph import CandidateGraph

pytestmark = pytest.mark.skipif(not search.llvm_is_usable(), reason="no llvmlite, or a CPU without AVX2")


def _pairs(n, m, most, seed=0):
    """A graph with 1 to ``most`` pairs in a row, in float64; not every column has one."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(count, generator=generator, dtype=torch.float64) + 0.1 for count in (n, m))
    pairs = CandidateGraph(a / a.sum(), b / b.sum())
    counts = torch.randint(1, most + 1, (n,), generator=generator)
    rows = torch.arange(n).repeat_interleave(counts)
    columns = torch.randint(0, m, (len(rows),), generator=generator)
    pairs.extend(rows, columns, torch.rand(len(rows), generator=generator, dtype=torch.float64))
    return pairs, torch.randn(m, generator=generator, dtype=torch.float64)


def _single(pairs):
    single = CandidateGraph(pairs.a.float(), pairs.b.float())
    single.extend(pairs.rows, pairs.columns, pairs.costs.float())
    return single


@pytest.mark.parametrize("epsilon", [3.0, 0.1, 1e-3])
@pytest.mark.parametrize(("n", "m", "most"), [(1, 1, 1), (7, 40, 5), (130, 50, 33), (1000, 300, 80)])
def test_it_is_what_torch_finds_in_float64(n, m, most, epsilon, monkeypatch):
    from featot.ot import softmin

    monkeypatch.setattr(softmin, "_WORK", 100)
    pairs, psi = _pairs(n, m, most)
    expected, found = pairs.smooth(psi, epsilon), _single(pairs).smooth(psi.float(), epsilon)
    close = {"rtol": 1e-5 + 2e-6 / epsilon, "atol": 1e-9}  # the exponent's own rounding, in units of ε
    torch.testing.assert_close(found.mass.double(), expected.mass, **close)
    torch.testing.assert_close(found.received.double(), expected.received, **close)
    assert found.value == pytest.approx(expected.value, rel=1e-5, abs=1e-6)
    assert found.error == pytest.approx(expected.error, rel=1e-3, abs=1e-6)


def test_the_exponential_is_exact_to_the_last_digits():
    n = 4000
    pairs = CandidateGraph(torch.full((n,), 1 / n), torch.full((2,), 0.5))
    rows, exponents = torch.arange(n), torch.linspace(0, 27, n)
    costs = torch.stack([torch.zeros(n), exponents], 1)
    pairs.extend(rows.repeat_interleave(2), torch.arange(2).repeat(n), costs.view(-1))
    mass = pairs.smooth(torch.zeros(2), 1.0).mass.view(n, 2)
    torch.testing.assert_close(mass[:, 1] / mass[:, 0], (-exponents.double()).exp().float(), rtol=3e-7, atol=0)


def test_it_is_the_same_on_any_number_of_threads(monkeypatch):
    from featot.ot import softmin

    pairs, psi = _pairs(1000, 300, 80)
    pairs, psi = _single(pairs), psi.float()
    alone = pairs.smooth(psi, 0.1)
    monkeypatch.setattr(softmin, "_WORK", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    shared = pairs.smooth(psi, 0.1)
    assert torch.equal(alone.mass, shared.mass)
    assert torch.equal(alone.received, shared.received)


def test_the_solver_finds_the_same_without_it(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(700, 5, generator=generator), torch.rand(500, 5, generator=generator)
    found = solve_semidiscrete(x, y, tol=1e-3)
    monkeypatch.setattr(graph, "kernels_take", lambda x: False)
    other = solve_semidiscrete(x, y, tol=1e-3)
    assert found.converged
    assert other.converged
    assert found.value == pytest.approx(other.value, rel=1e-3)
