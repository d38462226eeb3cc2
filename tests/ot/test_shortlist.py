"""The short list of candidates: the same answer as the full search, from fewer rows."""

from __future__ import annotations

import itertools

import pytest
import torch

from featot.ot import Shortlist, c_transform, marginal

COSTS = ["sqeuclidean", "euclidean", "cosine", 0.5]


def _clouds(n, m, d=5, device="cpu", dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    y = torch.randn(m, d, generator=generator, dtype=torch.float64) + 0.5
    return x.to(device, dtype), y.to(device, dtype)


def _weights(n, device="cpu", seed=1):
    weights = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    return (weights / weights.sum()).to(device)


def _ascent(search, n, m, rate, a=None, b=None, steps=30, device="cpu"):
    """Every ψ and σ(ψ) of gradient ascent, whose steps shrink."""
    a = torch.full((n,), 1 / n, dtype=torch.float64, device=device) if a is None else a
    b = torch.full((m,), 1 / m, dtype=torch.float64, device=device) if b is None else b
    psi = torch.zeros(m, dtype=torch.float64, device=device)
    path = []
    for t in range(steps):
        assignment = search(psi)[1]
        path.append((psi, assignment))
        psi = psi + rate / (1 + t) * (b - marginal(assignment, m, a))
    return path


def _assert_same_path(path, expected):
    for (psi, assignment), (psi_expected, assignment_expected) in zip(path, expected, strict=True):
        assert torch.equal(psi, psi_expected)
        assert torch.equal(assignment, assignment_expected)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("size", [1, 8, 299, 1000])
@pytest.mark.parametrize("rate", [0.3, 30], ids=lambda rate: f"rate={rate}")
def test_ascent_takes_the_very_path_of_the_full_search(cost, size, rate, device):
    n, m = 700, 300
    x, y = _clouds(n, m, device=device)
    path = _ascent(Shortlist(x, y, size, cost=cost), n, m, rate, device=device)
    _assert_same_path(path, _ascent(lambda psi: c_transform(x, y, psi, cost=cost), n, m, rate, device=device))


@pytest.mark.parametrize(("n", "m"), [(1, 40), (40, 1), (40, 2), (1, 1), (2100, 257)])
def test_any_number_of_points(n, m, device):
    x, y = _clouds(n, m, device=device)
    path = _ascent(Shortlist(x, y, 4), n, m, 10, device=device)
    _assert_same_path(path, _ascent(lambda psi: c_transform(x, y, psi), n, m, 10, device=device))


def test_weighted_clouds():
    n, m = 600, 200
    x, y = _clouds(n, m)
    a, b = _weights(n), _weights(m, seed=2)
    path = _ascent(Shortlist(x, y, 8), n, m, 10, a, b)
    _assert_same_path(path, _ascent(lambda psi: c_transform(x, y, psi), n, m, 10, a, b))


@pytest.mark.parametrize("cost", COSTS)
def test_small_steps_search_few_rows(cost):
    n, m = 2000, 500
    x, y = _clouds(n, m)
    shortlist, searched = Shortlist(x, y, 16, cost=cost), []

    def search(psi):
        found = shortlist(psi)
        searched.append(shortlist.searched)
        return found

    path = _ascent(search, n, m, 1)
    assert len({tuple(assignment.tolist()) for _, assignment in path}) > 15  # steps small enough to change nothing
    assert searched[0] == n
    assert sum(searched[1:]) < 0.1 * n * len(searched[1:])


def test_an_unchanged_potential_searches_nothing():
    x, y = _clouds(200, 100)
    shortlist = Shortlist(x, y, 8)
    first = shortlist(torch.zeros(100, dtype=torch.float64))
    values, assignment = shortlist(torch.full((100,), 3.0, dtype=torch.float64))
    assert shortlist.searched == 0
    assert torch.equal(assignment, first[1])
    torch.testing.assert_close(values, first[0] - 3)


@pytest.mark.parametrize("cost", COSTS)
def test_potentials_that_jump(cost, device):
    x, y = _clouds(500, 300, device=device)
    shortlist = Shortlist(x, y, 8, cost=cost)
    generator = torch.Generator().manual_seed(3)
    for jump in (0, 0.01, 0.3, 100, 0.3, 1e4, 0, 1):
        psi = jump * torch.randn(300, generator=generator, dtype=torch.float64).to(device)
        values, assignment = shortlist(psi)
        expected, argmin = c_transform(x, y, psi, cost=cost)
        assert torch.equal(assignment, argmin)
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-11 * (1 + jump))


@pytest.mark.parametrize("risen", [1, 3, 40])
def test_a_few_y_that_rise_far(risen):
    """They take rows whose lists do not name them: as the y that have risen most, or as more than those."""
    x, y = _clouds(500, 300)
    shortlist = Shortlist(x, y, 4)
    psi = torch.zeros(300, dtype=torch.float64)
    before = shortlist(psi)[1]
    psi[torch.arange(risen) * 7] = 4  # in place: the short list keeps its own reference
    assignment = shortlist(psi)[1]
    assert torch.equal(assignment, c_transform(x, y, psi)[1])
    assert (assignment != before).any()
    assert (shortlist.searched == 0) == (risen <= 300 // 64)


def test_the_next_call_may_go_back():
    """Lists that were made under different potentials stay right for an earlier one."""
    x, y = _clouds(800, 300)
    shortlist = Shortlist(x, y, 8)
    generator = torch.Generator().manual_seed(4)
    path = [0.2 * torch.randn(300, generator=generator, dtype=torch.float64) for _ in range(6)]
    steps = [torch.lerp(start, end, t / 8) for start, end in itertools.pairwise(path) for t in range(8)]
    partly = 0
    for psi in steps + steps[::-1]:
        assert torch.equal(shortlist(psi)[1], c_transform(x, y, psi)[1])
        partly += 0 < shortlist.searched < 800
    assert partly > 10  # rows of several references at once


def test_duplicate_y_tie_but_cost_the_same():
    x, y = _clouds(300, 100)
    y = torch.cat([y, y, y])
    shortlist = Shortlist(x, y, 4)
    generator = torch.Generator().manual_seed(5)
    psi = torch.zeros(300, dtype=torch.float64)
    for _ in range(10):
        values, assignment = shortlist(psi)
        expected, _ = c_transform(x, y, psi)
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-11)
        costs = (x - y[assignment]).square().sum(1)
        torch.testing.assert_close(costs - psi[assignment], expected, rtol=0, atol=1e-11)
        psi = psi + 0.05 * torch.randn(100, generator=generator, dtype=torch.float64).repeat(3)


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_single_precision_is_as_good_as_its_full_search(backend, device):
    x, y = _clouds(600, 300, device=device, dtype=torch.float32)
    x, y = x + 100, y + 100
    shortlist = Shortlist(x, y, 8, backend=backend)
    generator = torch.Generator().manual_seed(6)
    psi = torch.zeros(300, device=device)
    for _ in range(12):
        values, assignment = shortlist(psi)
        exact = torch.cdist(x.double(), y.double()).square() - psi
        chosen = exact.gather(1, assignment[:, None])[:, 0]
        assert (chosen - exact.amin(1)).max() < 1e-4
        torch.testing.assert_close(values.double(), chosen, rtol=0, atol=1e-4)
        psi = psi + 0.05 * torch.randn(300, generator=generator).to(device)


def test_an_unknown_backend_is_refused_by_the_first_call():
    x, y = _clouds(20, 10)
    with pytest.raises(ValueError, match="did you mean 'torch'"):
        Shortlist(x, y, 4, backend="torhc")(torch.zeros(10, dtype=torch.float64))
