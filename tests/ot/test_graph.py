"""Smoothed transport on candidate pairs, and plans made feasible."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featot.ot.graph import CandidateGraph
from featot.ot.plan import northwest, repaired
from featot.ot.smoothed import AllPairs


def _complete(n, m, oracle, **options):
    x, y, a, b = oracle.clouds(n, m, 2, **options)
    graph = CandidateGraph(a, b)
    rows, columns = torch.arange(n).repeat_interleave(m), torch.arange(m).repeat(n)
    matrix = (x[:, None] - y[None]).square().sum(2)
    order = torch.randperm(n * m, generator=torch.Generator().manual_seed(1))
    graph.extend(rows[order], columns[order], matrix.view(-1)[order])
    return graph, matrix, x, y


def _dense(graph, values):
    dense = torch.zeros(len(graph.a), len(graph.b), dtype=values.dtype)
    dense[graph.rows, graph.columns] = values
    return dense


@pytest.mark.parametrize("epsilon", [10.0, 0.3, 1e-3])
def test_the_smoothed_plan_is_a_softmin_of_every_row(epsilon, oracle):
    graph, matrix, *_ = _complete(12, 7, oracle)
    psi = torch.linspace(-1, 1, 7, dtype=torch.float64)
    smoothed = graph.smooth(psi, epsilon)
    scores = (psi - matrix) / epsilon
    expected = graph.a[:, None] * scores.softmax(1)
    torch.testing.assert_close(_dense(graph, smoothed.mass), expected)
    torch.testing.assert_close(smoothed.received, expected.sum(0))
    value = graph.a @ (-epsilon * scores.logsumexp(1)) + graph.b @ psi
    assert smoothed.value == pytest.approx(float(value))
    assert smoothed.error == pytest.approx(float((graph.b - expected.sum(0)).abs().sum()))


def test_the_gradient_of_the_smoothed_value_is_what_the_columns_lack(oracle):
    graph, matrix, *_ = _complete(12, 7, oracle)
    psi = torch.zeros(7, dtype=torch.float64, requires_grad=True)
    (graph.a @ (-0.3 * ((psi - matrix) / 0.3).logsumexp(1)) + graph.b @ psi).backward()
    torch.testing.assert_close(psi.grad, graph.b - graph.smooth(psi.detach(), 0.3).received)


def test_equations_without_a_solution_are_given_up():
    """Four pairs that share no point: no ψ moves mass from the one to the other."""
    graph = CandidateGraph(torch.full((4,), 0.25), torch.full((4,), 0.25))
    graph.extend(torch.arange(4), torch.arange(4), torch.ones(4))
    found = graph.solve(graph.a, graph.b, torch.tensor([1.0, -1.0, 0.0, 0.0]), tolerance=1e-3)
    assert bool(found.isfinite().all())


def test_pairs_are_added_once_and_dropped(oracle):
    graph, matrix, *_ = _complete(6, 5, oracle)
    assert len(graph) == 30
    graph.extend(torch.tensor([0, 5]), torch.tensor([0, 4]), matrix[[0, 5], [0, 4]])
    assert len(graph) == 30
    torch.testing.assert_close(_dense(graph, graph.costs), matrix)
    graph.keep(graph.columns != 2)
    assert len(graph) == 24
    assert 2 not in graph.columns
    torch.testing.assert_close(graph.row_sums(graph.costs), matrix[:, [0, 1, 3, 4]].sum(1))
    torch.testing.assert_close(graph.column_sums(graph.costs), matrix.sum(0) * (torch.arange(5) != 2))


def test_newton_s_direction_solves_its_equations(oracle):
    graph, *_ = _complete(30, 8, oracle)
    epsilon = 0.5
    plan = graph.smooth(torch.zeros(8, dtype=torch.float64), epsilon)
    direction = graph.newton_direction(plan, epsilon)
    mass, received = _dense(graph, plan.mass), plan.received
    damping = 1 + 0.1 * min(plan.error, 1)
    hessian = torch.diag(received * damping) - mass.t() @ (mass / graph.a[:, None])
    residual = received * (graph.b / received).log()
    residual = epsilon * (residual - received * residual.sum())
    # CG stops at a thousandth of the squared error: 3 %.
    error = residual - hessian @ direction
    assert float(error @ (error / received)) <= 1e-3 * float(residual @ (residual / received))


@pytest.mark.parametrize("epsilons", [(1.0,), (0.1,), (0.1, 0.03, 0.01)])
def test_ascent_reaches_the_marginal_and_the_greater_value(epsilons, oracle):
    graph, *_ = _complete(80, 30, oracle)
    psi = torch.zeros(30, dtype=torch.float64)
    for epsilon in epsilons:
        before = graph.smooth(psi, epsilon).value
        psi, plan, steps = graph.ascend(psi, epsilon, 1e-6, 50)
        assert plan.error <= 1e-6
        assert 0 < steps < 50
        assert plan.value > before
    again = graph.ascend(psi, epsilon, 1e-6, 50)
    assert again[2] == 0
    assert torch.equal(again[0], psi)


def test_ascent_ends_where_the_pairs_allow_no_plan(oracle):
    """Three y share one x that has less than they want: the value grows for ever."""
    graph, *_ = _complete(20, 10, oracle)
    graph.keep((graph.columns > 2) | (graph.rows == 0))
    lacking = float(graph.b[:3].sum() - graph.a[0])
    assert lacking > 0.01
    _, plan, steps = graph.ascend(torch.zeros(10, dtype=torch.float64), 1.0, 1e-6, 50)
    assert steps < 15
    assert plan.error == pytest.approx(2 * lacking, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("epsilon", [10.0, 0.3, 1e-3])
def test_all_pairs_are_a_complete_graph(epsilon, dtype, oracle):
    graph, matrix, *_ = _complete(30, 8, oracle, dtype=dtype)
    pairs = AllPairs(graph.a, graph.b, matrix)
    psi = torch.linspace(-1, 1, 8, dtype=dtype)
    ours, theirs = pairs.smooth(psi, epsilon), graph.smooth(psi, epsilon)
    torch.testing.assert_close(ours.mass, _dense(graph, theirs.mass))
    torch.testing.assert_close(ours.received, theirs.received)
    assert (ours.value, ours.error) == pytest.approx((theirs.value, theirs.error), rel=1e-4)
    residual = ours.received * torch.linspace(-1, 1, 8, dtype=dtype)
    direction = pairs.solve(ours.mass, pairs.damped(ours.received, 0.1), residual, 1e-10)
    mass = ours.mass.double()
    hessian = torch.diag(1.1 * ours.received.double()) - mass.t() @ (mass / graph.a[:, None])
    torch.testing.assert_close(hessian @ direction.double(), residual.double(), rtol=1e-3, atol=1e-6)


def test_without_damping_all_pairs_fall_back_on_the_diagonal(oracle):
    """Two y that share all they receive: rounding leaves the equations no definite matrix."""
    a, b = torch.full((3,), 1 / 3), torch.full((2,), 0.5)
    pairs = AllPairs(a, b, torch.zeros(3, 2))
    plan = pairs.smooth(torch.zeros(2), 1.0)
    less = plan.received * (1 - 1e-6)
    residual = torch.tensor([0.1, -0.1])
    torch.testing.assert_close(pairs.solve(plan.mass, less, residual, 1e-3), residual / less)


def test_no_mass_is_subnormal(oracle):
    """A product with subnormal numbers takes a hundred times as long."""
    graph, matrix, *_ = _complete(30, 8, oracle, dtype=torch.float32)
    for pairs in (graph, AllPairs(graph.a, graph.b, matrix)):
        mass = pairs.smooth(torch.zeros(8), 1e-2).mass
        assert float((mass.double() ** 2).min()) >= torch.finfo(torch.float32).tiny


@pytest.mark.parametrize("scale", [2.0**-40, 2.0**40])
def test_newton_s_direction_has_the_unit_of_the_costs(scale, oracle):
    """In float32 the squares of such costs are 0 or infinite."""
    graph, *_ = _complete(30, 8, oracle, dtype=torch.float32)
    scaled = CandidateGraph(graph.a, graph.b)
    scaled.extend(graph.rows, graph.columns, scale**2 * graph.costs)
    psi = torch.zeros(8)
    direction = graph.newton_direction(graph.smooth(psi, 0.5), 0.5)
    other = scaled.newton_direction(scaled.smooth(psi, 0.5 * scale**2), 0.5 * scale**2)
    torch.testing.assert_close(other / scale**2, direction)


def test_balance_gives_the_columns_what_they_lack(oracle):
    graph, *_ = _complete(40, 20, oracle)
    before = graph.smooth(torch.zeros(20, dtype=torch.float64), 1.0)
    assert before.error > 0.1
    mass = graph.balance(before.mass, rounds=30)
    assert float(mass.min()) >= 0
    torch.testing.assert_close(graph.row_sums(mass), graph.a)
    assert float((graph.column_sums(mass) - graph.b).abs().sum()) < 1e-3 * before.error


@pytest.mark.parametrize("light", [1e-4, 1e-7, 1e-20])
def test_balance_keeps_a_light_row_that_alone_reaches_a_heavy_column(light):
    """What column 0 lacks cannot come: the step is so large that float32 rounds all of row 0 away."""
    a, b = torch.tensor([light, 0.5, 0.5]), torch.full((3,), 1 / 3)
    graph = CandidateGraph(a / a.sum(), b)
    rows, columns = torch.tensor([0, 1, 1, 2, 2]), torch.tensor([0, 1, 2, 1, 2])
    graph.extend(rows, columns, torch.tensor([1.0, 1, 2, 2, 1]))
    mass = graph.balance(graph.smooth(torch.zeros(3), 1.0).mass)
    torch.testing.assert_close(graph.row_sums(mass), graph.a)


masses = st.lists(st.floats(0, 1) | st.just(0.0), min_size=1, max_size=12).filter(lambda v: sum(v) > 0.01)


@settings(deadline=None, max_examples=100)
@given(p=masses, q=masses)
def test_the_north_west_corner_couples_any_two_masses(p, q):
    p, q = (torch.tensor(v, dtype=torch.float64) for v in (p, q))
    rows, columns, mass = northwest(p, q)
    q = q * (p.sum() / q.sum())  # what it is stretched to
    assert len(mass) <= len(p) + len(q) - 1
    assert (mass > 0).all()
    torch.testing.assert_close(torch.zeros_like(p).index_add(0, rows, mass), p, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.zeros_like(q).index_add(0, columns, mass), q, rtol=0, atol=1e-12)
    assert (rows.diff() >= 0).all()
    assert (columns.diff() >= 0).all()


@pytest.mark.parametrize("level", [0.0, 1e6, torch.nan])
@pytest.mark.parametrize("pairs", ["all", "too few"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_repaired_plan_is_feasible_whatever_the_pairs_and_the_potential(pairs, dtype, level, oracle):
    graph, _, x, y = _complete(40, 20, oracle, dtype=dtype)
    if pairs == "too few":
        graph.keep(graph.columns < 5)
    psi = torch.zeros(20, dtype=dtype)
    psi[3] = level
    rows, columns, mass = repaired(graph, psi, 0.1, x, y)
    assert float(mass.min()) >= 0
    torch.testing.assert_close(torch.zeros_like(graph.a).index_add(0, rows, mass), graph.a, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.zeros_like(graph.b).index_add(0, columns, mass), graph.b, rtol=0, atol=1e-6)
