"""Solves semi-discrete optimal transport by ascent on the dual potential ψ."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from featot.errors import UsageError, unknown_name
from featot.ot.measure import Measure
from featot.ot.semidual import c_transform, marginal

METHODS = ("annealed", "ascent")

_ROWS = 512  # rows of the n×m problem that the annealed method keeps at once


@dataclass(frozen=True, kw_only=True, eq=False)
class SemiDiscreteResult:
    """What a solve found. ``value`` is F(ψ): a lower bound of OT(a, b), tight at the best ψ.

    ``potential_a`` ``(n,)``: the c-transform of ψ; ``potential_b`` ``(m,)``: ψ, of b-mean zero;
    ``assignment`` ``(n,)``: σ(i); ``marginal_b`` ``(m,)``: the mass each y receives under σ;
    ``log``: F at each evaluation, as (iteration, value).
    """

    value: float
    potential_a: Float[Tensor, " n"]
    potential_b: Float[Tensor, " m"]
    assignment: Int[Tensor, " n"]
    marginal_b: Float[Tensor, " m"]
    n_iter: int
    log: list[tuple[int, float]] = field(repr=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class SolverState:
    """What a callback sees: the iteration, the best value of F so far and its ψ, over the y that carry mass."""

    iteration: int
    value: float
    potential_b: Float[Tensor, " m"]


@dataclass(frozen=True, kw_only=True)
class SemiDiscreteSolver:
    """Maximises the semi-dual ``F(ψ)`` of the squared cost between two discrete measures.

    ``method``:

    - "annealed": Sinkhorn's update of ψ, ``ψ += ε (log b − log marginal)``, while ε falls geometrically from the
      spread of y to ``epsilon`` times it (Schmitzer 2019). Whatever ε was, F is evaluated without smoothing.
    - "ascent": the paper's averaged stochastic ascent (Alg. 1, line 4), its step scaled to the problem:
      ``rate · m · spread / √k``.

    ``max_iter``: steps of ψ. ``evaluate_every``: steps between two evaluations of F; the best ψ is returned.
    """

    method: str = "annealed"
    max_iter: int = 200
    epsilon: float = 1e-3
    rate: float = 0.1
    evaluate_every: int = 20
    backend: str = "auto"
    callback: Callable[[SolverState], None] | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown_name("method", self.method, METHODS)
        if self.max_iter < 1 or self.evaluate_every < 1:
            raise UsageError("expected max_iter and evaluate_every of at least 1")
        if not 0 < self.epsilon <= 1:
            raise UsageError(f"expected epsilon in (0, 1], in units of the spread of y, got {self.epsilon}")
        if not self.rate > 0:
            raise UsageError(f"expected a rate above 0, got {self.rate}")

    @torch.no_grad()
    def solve(self, source: Measure, target: Measure, potential_init: Tensor | None = None) -> SemiDiscreteResult:
        """Transports ``source`` (x, a) to ``target`` (y, b), from ``potential_init`` ``(m,)`` or from ψ = 0."""
        _check_pair(source, target, potential_init)
        carried = target.weights > 0  # a y without mass must not be chosen: it takes no part
        if not bool(carried.all()):
            return self._solve_carried(source, target, carried, potential_init)
        psi = torch.zeros_like(target.weights) if potential_init is None else potential_init.clone()
        best, best_psi, log = -math.inf, psi, []
        update = _Annealed(self, source, target) if self.method == "annealed" else _Ascent(self, source, target)
        for iteration in range(self.max_iter + 1):
            if iteration % self.evaluate_every == 0 or iteration == self.max_iter:
                for candidate in update.candidates(psi):
                    reduced, _ = c_transform(source.points, target.points, candidate, self.backend)
                    value = float(source.weights @ reduced + target.weights @ candidate)
                    if value > best:
                        best, best_psi = value, candidate
                log.append((iteration, best))
                if self.callback is not None:
                    self.callback(SolverState(iteration=iteration, value=best, potential_b=best_psi))
            if iteration < self.max_iter:
                psi = update(psi, iteration)
        return self._result(source, target, best_psi, log)

    def _result(
        self, source: Measure, target: Measure, psi: Tensor, log: list[tuple[int, float]]
    ) -> SemiDiscreteResult:
        psi = psi - target.weights @ psi
        reduced, assignment = c_transform(source.points, target.points, psi, self.backend)
        return SemiDiscreteResult(
            value=float(source.weights @ reduced + target.weights @ psi),
            potential_a=reduced,
            potential_b=psi,
            assignment=assignment,
            marginal_b=marginal(assignment, len(target), source.weights),
            n_iter=self.max_iter,
            log=log,
        )

    def _solve_carried(
        self, source: Measure, target: Measure, carried: Tensor, init: Tensor | None
    ) -> SemiDiscreteResult:
        reduced = Measure(target.points[carried], target.weights[carried])
        inner = self.solve(source, reduced, None if init is None else init[carried])
        # −∞ would say "never"; the other side's transform says the same with finite numbers.
        psi = c_transform(target.points, source.points, inner.potential_a, self.backend)[0]
        psi[carried] = inner.potential_b
        indices = carried.nonzero()[:, 0]
        received = torch.zeros_like(target.weights)
        received[carried] = inner.marginal_b
        return SemiDiscreteResult(
            value=inner.value,
            potential_a=inner.potential_a,
            potential_b=psi,
            assignment=indices[inner.assignment],
            marginal_b=received,
            n_iter=inner.n_iter,
            log=inner.log,
        )


def solve_semidiscrete(
    x: Tensor,
    y: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    *,
    method: str = "annealed",
    max_iter: int = 200,
    potential_init: Tensor | None = None,
    backend: str = "auto",
    callback: Callable[[SolverState], None] | None = None,
) -> SemiDiscreteResult:
    """Optimal transport from (x, a) to (y, b) for the cost ``‖x − y‖²``; uniform weights where None.

    ``x``: ``(n, d)``; ``y``: ``(m, d)``; ``a``: ``(n,)``; ``b`` and ``potential_init``: ``(m,)``.

    Raises `featot.UsageError` for points or weights that make no measure, or for shapes that do not match.
    """
    solver = SemiDiscreteSolver(method=method, max_iter=max_iter, backend=backend, callback=callback)
    source = Measure(x) if a is None else Measure(x, a)
    target = Measure(y) if b is None else Measure(y, b)
    return solver.solve(source, target, potential_init)


class _Ascent:
    """Stochastic ascent's step, ``ψ + γ_k ∂F``, and the running average of ψ (weights growing linearly)."""

    def __init__(self, solver: SemiDiscreteSolver, source: Measure, target: Measure) -> None:
        self.source, self.target, self.backend = source, target, solver.backend
        self.scale = solver.rate * len(target) * target.spread()
        self.average = torch.zeros_like(target.weights)

    def __call__(self, psi: Tensor, iteration: int) -> Tensor:
        assignment = c_transform(self.source.points, self.target.points, psi, self.backend)[1]
        gradient = self.target.weights - marginal(assignment, len(self.target), self.source.weights)
        psi = psi + self.scale / math.sqrt(iteration + 1) * gradient
        self.average = self.average.lerp(psi, 2 / (iteration + 2))
        return psi

    def candidates(self, psi: Tensor) -> list[Tensor]:
        return [psi, self.average]


class _Annealed:
    """Sinkhorn's update of ψ in log domain, row block by row block, with falling ε."""

    def __init__(self, solver: SemiDiscreteSolver, source: Measure, target: Measure) -> None:
        center = target.weights @ target.points
        self.x, self.y = source.points - center, target.points - center
        self.log_a, self.log_b = source.weights.log(), target.weights.log()
        self.norms = self.y.square().sum(1)
        self.start = max(target.spread(), source.spread(), torch.finfo(self.y.dtype).tiny)
        self.end = self.start * solver.epsilon
        # The last third of the steps stay at the smallest ε.
        self.steps = max(1, (2 * solver.max_iter) // 3)

    def __call__(self, psi: Tensor, iteration: int) -> Tensor:
        fraction = min(1.0, iteration / self.steps)
        epsilon = self.start * (self.end / self.start) ** fraction
        log_marginal = torch.full_like(psi, -math.inf)
        offset = psi - self.norms
        for i in range(0, len(self.x), _ROWS):
            # ‖x‖² is the same for a whole row and cancels in the softmax.
            scores = torch.addmm(offset, self.x[i : i + _ROWS], self.y.t(), alpha=2).div_(epsilon)
            log_plan = scores.log_softmax(dim=1) + self.log_a[i : i + _ROWS, None]
            log_marginal = torch.logaddexp(log_marginal, log_plan.logsumexp(dim=0))
        step: Tensor = epsilon * (self.log_b - log_marginal)
        return psi + step

    def candidates(self, psi: Tensor) -> list[Tensor]:
        return [psi]


def _check_pair(source: Measure, target: Measure, potential_init: Tensor | None) -> None:
    x, y = source.points, target.points
    if x.shape[1] != y.shape[1]:
        raise UsageError(f"expected x and y of one dimension, got {x.shape[1]} and {y.shape[1]}")
    if (x.dtype, x.device) != (y.dtype, y.device):
        raise UsageError(f"expected x and y alike, got {x.dtype} on {x.device} and {y.dtype} on {y.device}")
    center = target.weights @ y
    farthest = float((x - center).square().sum(1).max() + (y - center).square().sum(1).max())
    if not math.isfinite(4 * farthest):
        raise UsageError(f"expected points whose squared distances fit in {x.dtype}; rescale them")
    if potential_init is None:
        return
    if (potential_init.shape, potential_init.dtype) != (target.weights.shape, y.dtype):
        got = f"{potential_init.dtype} of shape {tuple(potential_init.shape)}"
        raise UsageError(f"expected potential_init of {y.dtype} and shape ({len(y)},), got {got}")
    if not torch.isfinite(potential_init).all():
        raise UsageError("expected a finite potential_init, got NaN or infinity")
