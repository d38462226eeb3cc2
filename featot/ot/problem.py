"""A transport problem made ready for a method, and a method's answer told in the user's terms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from featot.errors import UsageError
from featot.ot.cost import Cost
from featot.ot.measure import Measure
from featot.ot.plan import northwest
from featot.ot.search import nearest, nearest_by_differences

Sampler = Callable[[int, torch.Generator], Tensor]
"""A source that can only be drawn from: ``sampler(count, generator)`` returns ``(count, d)`` points."""

_SAMPLES = 16_384  # drawn from a sampler to estimate F


@dataclass(frozen=True, kw_only=True, eq=False)
class SemiDiscreteResult:
    """What a solve found.

    ``value``: F(ψ), a lower bound of the transport cost, tight at the best ψ. ``value_upper``: the cost of
    ``sparse_plan``, a feasible plan. ``gap``: ``(value_upper − value) / value_upper``. ``converged``: whether the gap
    is at most the tolerance that was asked for; never claimed without both bounds.

    ``potential_a`` ``(n,)``: the c-transform of ψ; ``potential_b`` ``(m,)``: ψ, of b-mean zero; ``assignment``
    ``(n,)``: σ(i); ``sparse_plan``: coalesced sparse ``(n, m)``; ``marginal_b`` ``(m,)``: the mass each y receives
    under σ (repeated y share it); ``n_iter``: steps of ψ; ``log``: (iteration, value, value_upper) whenever a bound
    was computed.

    The stochastic methods know no upper bound: ``value_upper`` and ``gap`` are infinite and ``sparse_plan`` is None.
    For a sampler nothing is tabulated over x either (None); ``value`` and ``marginal_b`` are estimates from fresh
    draws, and ``value_error`` is the value's standard error (0 where the value is exact).
    """

    value: float
    value_upper: float
    gap: float
    value_error: float
    potential_a: Float[Tensor, " n"] | None
    potential_b: Float[Tensor, " m"]
    assignment: Int[Tensor, " n"] | None
    sparse_plan: Tensor | None = field(repr=False)
    marginal_b: Float[Tensor, " m"]
    n_iter: int
    converged: bool
    log: list[tuple[int, float, float]] = field(repr=False)


class Problem:
    """Points embedded for the cost and centred, points without mass left out, repeated y once.

    ``source`` is None where only ``draw`` gives points. ``unit``: of the cost. ``potential``: what was given to start
    from, over ``target``.
    """

    def __init__(
        self,
        source: Measure | Sampler,
        target: Measure,
        potential_init: Tensor | None,
        cost: Cost,
        backend: str,
        generator: torch.Generator,
    ) -> None:
        self.cost, self.backend, self.generator = cost, backend, generator
        self._given = target
        y = cost.embed(target.points.detach())
        self._center = y.mean(0)
        self._y = y - self._center
        self._carried = (target.weights > 0).nonzero()[:, 0]  # a y without mass must not be chosen
        weights = target.weights.detach()
        self.target, self._group = Measure(self._y[self._carried], weights[self._carried]).merged()
        self._sampler = None if isinstance(source, Measure) else source
        self.source: Measure | None = None
        if isinstance(source, Measure):
            _check_alike(source.points, target.points)
            self._x = cost.embed(source.points.detach()) - self._center
            self._a = source.weights.detach()
            self._rows = (self._a > 0).nonzero()[:, 0]
            self.source = Measure(self._x[self._rows], self._a[self._rows])
        self._sample = self._draw_to_evaluate()
        spread = max(self.target.spread(), self._sample.spread())
        self.unit = cost.unit(max(spread, torch.finfo(self._y.dtype).tiny))
        farthest = float(self._sample.points.square().sum(1).max() + self._y.square().sum(1).max())
        if not math.isfinite(4 * farthest):
            raise UsageError(f"expected points whose squared distances fit in {self._y.dtype}; rescale them")
        self.potential = None if potential_init is None else self._start(potential_init)

    def _start(self, potential_init: Tensor) -> Tensor:
        weights = self._given.weights
        if (potential_init.shape, potential_init.dtype) != (weights.shape, weights.dtype):
            got = f"{potential_init.dtype} of shape {tuple(potential_init.shape)}"
            raise UsageError(f"expected potential_init of {weights.dtype} and shape ({len(weights)},), got {got}")
        if not torch.isfinite(potential_init).all():
            raise UsageError("expected a finite potential_init, got NaN or infinity")
        lowest = torch.full_like(self.target.weights, -torch.inf)
        return lowest.scatter_reduce(0, self._group, potential_init.detach()[self._carried], "amax")

    def draw(self, count: int) -> Float[Tensor, "k d"]:
        """A batch of the source's points, drawn by their weights."""
        if self.source is not None:
            ends = self.source.weights.double().cumsum(0)
            at = torch.rand(count, generator=self.generator, dtype=torch.float64).to(ends.device) * ends[-1]
            return self.source.points[torch.searchsorted(ends, at).clamp_(max=len(ends) - 1)]
        assert self._sampler is not None
        points = self._sampler(count, self.generator)
        if not isinstance(points, Tensor) or points.ndim != 2 or len(points) != count:
            shape = tuple(points.shape) if isinstance(points, Tensor) else type(points).__name__
            raise UsageError(f"expected the sampler to draw points of shape ({count}, d), got {shape}")
        _check_alike(points, self._given.points)
        if not torch.isfinite(points).all():
            raise UsageError("expected the sampler to draw finite points, got NaN or infinity")
        return self.cost.embed(points.detach()) - self._center

    def _draw_to_evaluate(self) -> Measure:
        return self.source if self.source is not None else Measure(self.draw(_SAMPLES))

    def evaluate(self, psi: Float[Tensor, " m"]) -> float:
        """F(ψ): exact for a measure, on one and the same set of draws for a sampler."""
        x, y = self._sample.points, self.target.points
        least = nearest_by_differences(x, y, psi, cost=self.cost, backend=self.backend)[0][:, 0]
        return float(self._sample.weights.double() @ least.double() + self.target.weights.double() @ psi.double())

    def result(
        self,
        psi: Float[Tensor, " m"],
        *,
        value_upper: float = math.inf,
        plan: tuple[Tensor, Tensor, Tensor] | None = None,
        floor: float = 0.0,
        tol: float,
        n_iter: int,
        log: list[tuple[int, float, float]],
    ) -> SemiDiscreteResult:
        """The answer over all the given points. ``floor``: the least upper bound that a gap is relative to."""
        psi = psi - self.target.weights @ psi
        sampled = self.source is None
        x = self.draw(_SAMPLES) if sampled else self._x
        a = x.new_full((len(x),), 1 / len(x)) if sampled else self._a
        reduced, cell = nearest_by_differences(x, self.target.points, psi, cost=self.cost, backend=self.backend)
        reduced, cell = reduced[:, 0], cell[:, 0]
        value = float(a.double() @ reduced.double() + self.target.weights.double() @ psi.double())
        gap = math.inf
        if math.isfinite(value_upper):
            gap = max(0.0, value_upper - value) / max(value_upper, floor, torch.finfo(x.dtype).tiny)
        return SemiDiscreteResult(
            value=value,
            value_upper=value_upper,
            gap=gap,
            value_error=float(reduced.std()) / math.sqrt(len(x)) if sampled else 0.0,
            potential_a=None if sampled else reduced,
            potential_b=self._over_all_y(psi, x, reduced),
            assignment=None if sampled else self._first_of_group()[cell],
            sparse_plan=None if plan is None else self._over_all_pairs(*plan),
            marginal_b=self._shared(torch.zeros_like(psi).index_add(0, cell, a)),
            n_iter=n_iter,
            converged=gap <= tol,
            log=log,
        )

    def _first_of_group(self) -> Tensor:
        first = torch.full((len(self.target),), len(self._y), device=self._y.device)
        return first.scatter_reduce(0, self._group, self._carried, "amin")

    def _over_all_y(self, psi: Tensor, x: Tensor, reduced: Tensor) -> Tensor:
        potential = psi.new_empty(len(self._y))
        potential[self._carried] = psi[self._group]
        missing = self._given.weights == 0
        if bool(missing.any()):
            # −∞ would say "never"; the other side's transform says the same with finite numbers.
            potential[missing] = nearest(self._y[missing], x, reduced, cost=self.cost, backend=self.backend)[0][:, 0]
        return potential

    def _shared(self, received: Tensor) -> Tensor:
        """What a group of equal y receives, shared by their weights."""
        weights = self._given.weights.detach()
        shares = torch.zeros_like(weights)
        shares[self._carried] = (received / self.target.weights)[self._group] * weights[self._carried]
        return shares

    def _over_all_pairs(self, rows: Tensor, columns: Tensor, mass: Tensor) -> Tensor:
        if len(self.target) < len(self._carried):
            by_column, by_group = columns.argsort(stable=True), self._group.argsort(stable=True)
            entries, members, mass = northwest(mass[by_column], self._given.weights[self._carried][by_group])
            rows, columns = rows[by_column][entries], self._carried[by_group[members]]
        else:
            columns = self._first_of_group()[columns]
        indices = torch.stack([self._rows[rows], columns])
        return torch.sparse_coo_tensor(indices, mass, (len(self._x), len(self._y))).coalesce()


def _check_alike(x: Tensor, y: Tensor) -> None:
    if x.shape[1] != y.shape[1]:
        raise UsageError(f"expected x and y of one dimension, got {x.shape[1]} and {y.shape[1]}")
    if (x.dtype, x.device) != (y.dtype, y.device):
        raise UsageError(f"expected x and y alike, got {x.dtype} on {x.device} and {y.dtype} on {y.device}")
