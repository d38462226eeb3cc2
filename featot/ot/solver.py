"""Solves semi-discrete optimal transport by ascent on the dual potential ψ, and says how far it got."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from featot.errors import UsageError, unknown_name
from featot.ot.cost import Cost, as_cost
from featot.ot.measure import Measure
from featot.ot.newton import NewtonSinkhorn
from featot.ot.problem import Problem, Sampler, SemiDiscreteResult
from featot.ot.search import BACKENDS, nearest
from featot.ot.stochastic import StochasticAscent

METHODS = ("auto", "newton", "drag", "asgd")

_EVALUATIONS = 10  # of F during a stochastic solve


@dataclass(frozen=True, kw_only=True, eq=False)
class SolverState:
    """What a callback sees: the iteration, the best bounds so far and the ψ of the lower one.

    ψ is over the y that carry mass, repeated ones once; with fewer x than y it is the potential of x instead.
    """

    iteration: int
    value: float
    value_upper: float
    potential: Tensor


@dataclass(frozen=True, kw_only=True)
class SemiDiscreteSolver:
    """Maximises the semi-dual F(ψ) between a source (a measure, or a sampler) and a discrete target.

    ``method``:

    - "newton": smoothed Newton and Sinkhorn steps on candidate pairs while the smoothing falls, with a lower and an
      upper bound (`featot.ot.newton.NewtonSinkhorn`); needs a measure.
    - "drag", "asgd": averaged stochastic ascent on batches, with and without falling smoothing
      (`featot.ot.stochastic.StochasticAscent`).
    - "auto": "newton" for a measure, "drag" for a sampler.

    ``cost``: see `featot.ot.as_cost`. ``tol``: the relative gap at which "newton" stops. ``max_iter``: at most so
    many steps of ψ. ``reg``: the last smoothing, in units of the cost (None: one that suits ``tol``; the stochastic
    methods go on falling); whatever it is, ``value`` is the unregularised F. ``batch_size``, ``rate``: of a
    stochastic step, the rate in units of ``m · spread`` (None: 1 for "drag", 0.03 for "asgd"). ``generator``: of
    sketches and batches; None is a fixed seed.
    """

    method: str = "auto"
    cost: str | float | Cost = "sqeuclidean"
    tol: float = 1e-2
    max_iter: int = 200
    reg: float | None = None
    batch_size: int = 1024
    rate: float | None = None
    backend: str = "auto"
    callback: Callable[[SolverState], None] | None = None
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown_name("method", self.method, METHODS)
        if self.backend not in BACKENDS:
            raise unknown_name("search backend", self.backend, BACKENDS)
        as_cost(self.cost)
        if self.max_iter < 1 or self.batch_size < 1:
            raise UsageError("expected max_iter and batch_size of at least 1")
        for name in ("tol", "rate", "reg"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"expected a finite {name} above 0, got {value}")

    @torch.no_grad()
    def solve(
        self, source: Measure | Sampler, target: Measure, potential_init: Tensor | None = None
    ) -> SemiDiscreteResult:
        """Transports the source to the target, from ``potential_init`` or from a ψ of the method's own.

        Raises `featot.UsageError` where source, target and potential do not match.
        """
        generator = self.generator or torch.Generator().manual_seed(0)
        problem = Problem(source, target, potential_init, as_cost(self.cost), self.backend, generator)
        method = self.method
        if method == "auto":
            method = "newton" if problem.source is not None else "drag"
        if method == "newton":
            return self._newton(problem)
        return self._stochastic(problem, decreasing=method == "drag")

    def _newton(self, problem: Problem) -> SemiDiscreteResult:
        source, target, init = problem.source, problem.target, problem.potential
        if source is None:
            raise UsageError("the method 'newton' needs the source's points; for a sampler choose 'drag'")
        swapped = len(target) > len(source)  # the smaller side carries the potential
        if swapped:
            init = None if init is None else self._transform(source, target, init, problem.cost)
            source, target = target, source
        log: list[tuple[int, float, float]] = []
        ascent = NewtonSinkhorn(
            source,
            target,
            cost=problem.cost,
            tol=self.tol,
            max_iter=self.max_iter,
            epsilon_end=self.reg,
            backend=self.backend,
            generator=problem.generator,
            report=functools.partial(self._report, log),
        )
        ascent.run(init)
        psi, plan = ascent.psi, ascent.plan
        if swapped:
            psi = self._transform(source, target, psi, problem.cost)
            plan = None if plan is None else (plan[1], plan[0], plan[2])
        return problem.result(
            psi,
            value_upper=ascent.upper,
            plan=plan,
            floor=ascent.floor,
            tol=self.tol,
            n_iter=ascent.n_iter,
            log=log,
        )

    def _transform(self, x: Measure, y: Measure, psi: Tensor, cost: Cost) -> Tensor:
        return nearest(x.points, y.points, psi, cost=cost, backend=self.backend)[0][:, 0]

    def _report(
        self, log: list[tuple[int, float, float]], iteration: int, value: float, value_upper: float, potential: Tensor
    ) -> None:
        log.append((iteration, value, value_upper))
        if self.callback is not None:
            state = SolverState(iteration=iteration, value=value, value_upper=value_upper, potential=potential)
            self.callback(state)

    def _stochastic(self, problem: Problem, decreasing: bool) -> SemiDiscreteResult:
        psi = torch.zeros_like(problem.target.weights) if problem.potential is None else problem.potential
        ascent = StochasticAscent(
            problem.draw,
            problem.target,
            cost=problem.cost,
            unit=problem.unit,
            decreasing=decreasing,
            rate=self.rate,
            epsilon_end=self.reg or 0.0,
            batch_size=self.batch_size,
            backend=self.backend,
        )
        log: list[tuple[int, float, float]] = []
        best, best_psi = -math.inf, psi
        every = max(1, self.max_iter // _EVALUATIONS)
        for iteration in range(self.max_iter + 1):
            if iteration > 0:
                psi = ascent.step(psi, iteration)
            if iteration % every == 0 or iteration == self.max_iter:
                candidate = ascent.average if iteration > 0 else psi
                value = problem.evaluate(candidate)
                if value > best:
                    best, best_psi = value, candidate
                self._report(log, iteration, best, math.inf, best_psi)
        return problem.result(best_psi, tol=self.tol, n_iter=self.max_iter, log=log)


def solve_semidiscrete(
    x: Tensor | Sampler,
    y: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    *,
    cost: str | float | Cost = "sqeuclidean",
    method: str = "auto",
    max_iter: int = 200,
    tol: float = 1e-2,
    batch_size: int = 1024,
    potential_init: Tensor | None = None,
    reg: float | None = None,
    backend: str = "auto",
    callback: Callable[[SolverState], None] | None = None,
    generator: torch.Generator | None = None,
) -> SemiDiscreteResult:
    """Optimal transport from (x, a) to (y, b); uniform weights where None. The options: `SemiDiscreteSolver`.

    ``x``: ``(n, d)``, or a sampler that draws such points; ``y``: ``(m, d)``; ``a``: ``(n,)``; ``b`` and
    ``potential_init``: ``(m,)``.

    Raises `featot.UsageError` for points or weights that make no measure, or for shapes that do not match.
    """
    solver = SemiDiscreteSolver(
        method=method,
        cost=cost,
        tol=tol,
        max_iter=max_iter,
        reg=reg,
        batch_size=batch_size,
        backend=backend,
        callback=callback,
        generator=generator,
    )
    if isinstance(x, Tensor):
        source: Measure | Sampler = Measure(x) if a is None else Measure(x, a)
    elif a is not None:
        raise UsageError("expected no weights a beside a sampler: its draws are the source")
    else:
        source = x
    return solver.solve(source, Measure(y) if b is None else Measure(y, b), potential_init)
