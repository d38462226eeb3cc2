"""The deterministic method: Newton and Sinkhorn steps on candidate pairs while ε falls, between two bounds."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from featot.ot.cost import Cost
from featot.ot.graph import CandidateGraph
from featot.ot.measure import Measure
from featot.ot.plan import fitting, leftover, repaired
from featot.ot.search import nearest, nearest_by_differences
from featot.ot.smoothed import AllPairs, SmoothedDual

_COARSE = 512  # points of the coarsest sketch, whose candidates are all pairs
_REFINE = 4  # points of the next sketch, in those of the last
_COARSE_EPSILONS = (1.0, 0.1, 0.01)  # in units of the cost
_FINE_EPSILONS = (5e-3, 5e-3 / 3)
_FALL = 3.0  # of ε from one level to the next
# Candidates that each x and each y names: at first, where a level is repeated, and at every other level.
_FIRST_LISTS, _REPEAT_LISTS, _NEXT_LISTS = (16, 16), (8, 8), (2, 0)
_PAIRS = 2**24  # pairs at once
_ERROR, _COARSE_ERROR = 2e-3, 0.05  # at which a level ends, or a coarse one
_STEPS, _LAST_STEPS, _COARSE_STEPS = 10, 20, 6  # Newton steps of a level, of the last, of a coarse one
_REPEATS = 3  # of one level
_SHARPNESS = 0.6  # the last ε, in units of the gap that is asked for
_WARM_ERROR = 0.5  # a given ψ is improved from the smallest ε at which it errs by less
_NEGLIGIBLE = 1e-9  # share of a row's mass below which a candidate is dropped
_RESOLUTION = 1e4  # machine epsilons of the cost's unit: costs below cannot be told apart relatively


class NewtonSinkhorn:
    """Maximises F between two measures of positive weights, embedded, centred and with no more y than x.

    The smoothed semi-dual is maximised by damped Newton steps in the logarithm of the marginal, each followed by two
    of Sinkhorn's, on a graph of candidate pairs: each x names the y of least ``c − ψ``, each y the x of least
    ``c − φ``. After every level of ε the whole clouds are searched again, which gives F itself (the lower bound) and
    new candidates. Where the pairs allow no plan, a level is repeated with those of what is left over (bridges). At
    the last ε the smoothed plan is repaired to a feasible one (the upper bound). Sketches of both clouds give the
    first ψ (Mérigot 2011; Schmitzer 2019).

    ``report(iteration, lower, upper, psi)`` is called whenever a bound may have improved. ``epsilon_end``: the last
    ε, or None for one that suits ``tol``.
    """

    def __init__(
        self,
        source: Measure,
        target: Measure,
        *,
        cost: Cost,
        tol: float,
        max_iter: int,
        epsilon_end: float | None,
        backend: str,
        generator: torch.Generator | None,
        report: Callable[[int, float, float, Tensor], None],
    ) -> None:
        self.source, self.target, self.cost, self.backend = source, target, cost, backend
        self.tol, self.max_iter, self.epsilon_end = tol, max_iter, epsilon_end
        self.generator, self.report = generator, report
        tiny = torch.finfo(target.points.dtype).tiny
        self.unit = max(cost.unit(max(source.spread(), target.spread())), tiny)
        self.floor = _RESOLUTION * torch.finfo(target.points.dtype).eps * self.unit
        self.graph = CandidateGraph(source.weights, target.weights)
        self.lower, self.upper = -math.inf, math.inf
        self.psi = torch.zeros_like(target.weights)
        self.plan: tuple[Tensor, Tensor, Tensor] | None = None
        self.n_iter = 0

    @property
    def gap(self) -> float:
        """``(upper − lower) / upper``, where upper is at least what the dtype can resolve."""
        return (self.upper - self.lower) / max(self.upper, self.floor)

    def run(self, psi: Float[Tensor, " m"] | None) -> None:
        """Improves ψ, ``psi`` or one from sketches, until the gap is at most ``tol`` or the steps are used up."""
        warm = psi is not None
        if psi is None:
            psi = self._from_sketches()
        self._search(psi, *_FIRST_LISTS)
        epsilon = self._warm_epsilon(psi) if warm else _FINE_EPSILONS[0] * self.unit
        sharpness, rise, gap = _SHARPNESS, _FALL**2, math.inf
        while True:
            psi, epsilon = self._sweep(psi, epsilon, sharpness)
            stuck = self.gap > 0.9 * gap
            if self.gap <= self.tol or self.n_iter >= self.max_iter or (stuck and self.epsilon_end is not None):
                return
            if stuck:  # start again from a wider smoothing, and end at a finer one
                sharpness, rise = sharpness / 2, rise * _FALL**2
            gap = self.gap
            self._search(psi, *_NEXT_LISTS)
            epsilon = min(rise * epsilon, _FINE_EPSILONS[0] * self.unit)

    def _sweep(self, psi: Tensor, epsilon: float, sharpness: float) -> tuple[Tensor, float]:
        """Levels of falling ε down to the last, which is certified; where pairs were wanting a level is repeated with
        more of them."""
        repeated = 0
        while True:
            end = self._last_epsilon(sharpness)
            epsilon = max(epsilon, end)
            last = epsilon <= end
            error = min(_ERROR, self.tol * max(self.lower, self.floor) / self.unit) if last else _ERROR
            steps = min(_LAST_STEPS if last else _STEPS, self.max_iter - self.n_iter)
            psi, plan, steps = self.graph.ascend(psi, epsilon, error, steps)
            self.n_iter += max(steps, 1)
            repeat = plan.error > error and repeated < _REPEATS
            out_of_steps = self.n_iter >= self.max_iter
            if last or out_of_steps:
                self._certify(psi, epsilon)
                if not repeat or out_of_steps or self.gap <= self.tol:
                    return psi, epsilon
            graph = self.graph
            kept = (plan.mass > _NEGLIGIBLE * graph.a.take(graph.rows)) | (
                plan.mass > 100 * _NEGLIGIBLE * graph.b.take(graph.columns)
            )
            graph.keep(kept)
            if repeat:
                self._bridge(plan.mass[kept])
            self._search(psi, *(_REPEAT_LISTS if repeat else _NEXT_LISTS))
            repeated = repeated + 1 if repeat else 0
            if not repeat:
                epsilon /= _FALL

    def _bridge(self, mass: Tensor) -> None:
        """Adds pairs along which the mass can move that the graph has no way for."""
        x, y = self.source.points, self.target.points
        rows, columns, _ = leftover(self.graph, fitting(self.graph, mass), x, y)
        self.graph.extend(rows, columns, self._costs(rows, columns))

    def _costs(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Of pairs, some at a time: their points are as large as d times as many."""
        x, y = self.source.points, self.target.points
        chosen = torch.arange(len(rows), device=rows.device).split(2**18)
        return torch.cat([self.cost.pairs(x[rows[part]], y[columns[part]]) for part in chosen])

    def _last_epsilon(self, sharpness: float) -> float:
        if self.epsilon_end is not None:
            return self.epsilon_end
        return sharpness * max(self.tol, 1e-6) * max(self.lower, self.floor)

    def _warm_epsilon(self, psi: Tensor) -> float:
        epsilon = self._last_epsilon(_SHARPNESS)
        while epsilon < _FINE_EPSILONS[0] * self.unit and self.graph.smooth(psi, epsilon).error > _WARM_ERROR:
            epsilon *= _FALL
        return epsilon

    def _search(self, psi: Tensor, per_row: int, per_column: int) -> None:
        """Evaluates F at ψ by searching everything, and adds each point's best candidates to the graph."""
        x, y = self.source.points, self.target.points
        self._note(psi, *name_candidates(self.graph, x, y, psi, per_row, per_column, self.cost, self.backend))

    def _note(self, psi: Tensor, reduced: Tensor, assignment: Tensor) -> None:
        value = float(self.source.weights.double() @ reduced.double() + self.target.weights.double() @ psi.double())
        if value > self.lower:
            self.lower, self.psi = value, psi
        self.report(self.n_iter, self.lower, self.upper, self.psi)

    def _certify(self, psi: Tensor, epsilon: float) -> None:
        """Both bounds, at ψ."""
        x, y = self.source.points, self.target.points
        rows, columns, mass = repaired(self.graph, psi, epsilon, x, y)
        upper = float(mass.double() @ self._costs(rows, columns).double())
        if upper < self.upper:
            self.upper, self.plan = upper, (rows, columns, mass)
        reduced, best = nearest_by_differences(x, y, psi, cost=self.cost, backend=self.backend)
        self._note(psi, reduced[:, 0], best[:, 0])

    def _from_sketches(self) -> Tensor:
        """A first ψ: exact enough on small sketches, extended to larger ones and improved there."""
        size, largest = _COARSE, max(len(self.source), len(self.target))
        x, y = self._sketch(self.source, size), self._sketch(self.target, size)
        costs = self.cost.from_squared_(torch.cdist(x.points, y.points).square_())
        psi = self._improved(AllPairs(x.weights, y.weights, costs), self._translation(y.points), _COARSE_EPSILONS)
        while size * _REFINE**2 < largest:
            size *= _REFINE
            coarse = x, y
            x, y = self._sketch(self.source, size), self._sketch(self.target, size)
            psi = self._extend(psi, *coarse, y.points)
            graph = CandidateGraph(x.weights, y.weights)
            name_candidates(graph, x.points, y.points, psi, *_FIRST_LISTS, self.cost, self.backend)
            psi = self._improved(graph, psi, _FINE_EPSILONS)
        return self._extend(psi, x, y, self.target.points)

    def _improved(self, pairs: SmoothedDual, psi: Tensor, epsilons: tuple[float, ...]) -> Tensor:
        for epsilon in epsilons:
            psi, _, _ = pairs.ascend(psi, epsilon * self.unit, _COARSE_ERROR, _COARSE_STEPS)
        return psi

    def _translation(self, y: Tensor) -> Tensor:
        """For a squared cost, the ψ that makes up for the distance between the means."""
        if not self.cost.squared:
            return y.new_zeros(len(y))
        shift = self.source.weights @ self.source.points - self.target.weights @ self.target.points
        return -2 * self.cost.scale * (y @ shift)

    def _sketch(self, measure: Measure, size: int) -> Measure:
        """At most ``size`` of the points, each with the mass of those that are nearest to it."""
        if size >= len(measure):
            return measure
        chosen = torch.randperm(len(measure), generator=self.generator)[:size].to(measure.points.device)
        points = measure.points[chosen]
        zeros = measure.weights.new_zeros(size)
        cell = nearest(measure.points, points, zeros, cost=self.cost, backend=self.backend)[1][:, 0]
        weights = zeros.index_add(0, cell, measure.weights)
        there = weights > 0
        return Measure(points[there], weights[there] / weights.sum())

    def _extend(self, psi: Tensor, x: Measure, y: Measure, more: Tensor) -> Tensor:
        """From ψ on a sketch y to ψ on ``more`` points: the c-transform to the sketch x, and back."""
        phi = nearest(x.points, y.points, psi, cost=self.cost, backend=self.backend)[0][:, 0]
        return nearest(more, x.points, phi, cost=self.cost, backend=self.backend)[0][:, 0]


def name_candidates(
    graph: CandidateGraph,
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    psi: Float[Tensor, " m"],
    per_row: int,
    per_column: int,
    cost: Cost,
    backend: str,
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Adds every x's ``per_row`` best y and every y's ``per_column`` best x; returns ψ's transform and its argmin."""
    n, m = len(x), len(y)
    per_row = max(1, min(per_row, m, _PAIRS // n))
    per_column = min(per_column, n, max(1, _PAIRS // m))
    search = nearest if cost.squared else nearest_by_differences
    reduced, columns = search(x, y, psi, per_row, cost=cost, backend=backend)
    least, at = reduced.min(dim=1)
    best = columns.gather(1, at[:, None])[:, 0]
    owners = torch.arange(n, device=x.device).repeat_interleave(per_row)
    named = [(owners, columns.view(-1), (reduced + psi[columns]).view(-1))]
    if per_column:
        back, rows = search(y, x, least, per_column, cost=cost, backend=backend)
        owners = torch.arange(m, device=x.device).repeat_interleave(per_column)
        named.append((rows.view(-1), owners, (back + least[rows]).view(-1)))
    in_rows, in_columns, costs = (torch.cat(parts) for parts in zip(*named, strict=True))
    graph.extend(in_rows, in_columns, costs.clamp_(min=0))
    return cost.pairs(x, y[best]) - psi[best], best
