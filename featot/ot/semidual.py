"""The semi-dual of optimal transport: pure functions of (x, y, ψ, weights).

``F(ψ) = Σ_i a_i min_j [c(x_i, y_j) − ψ_j] + Σ_j b_j ψ_j ≤ OT(a, b)``, concave, with equality at the best ψ
(Houdard et al. 2021, Eq. 5; Santambrogio 2015, Ch. 1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from featot.ot.cost import SQEUCLIDEAN, Cost, as_cost
from featot.ot.search import kernels_take, nearest, require_match

_DENSE_PAIRS = 2**20  # up to which `ascend` keeps the whole matrix


def c_transform(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    psi: Float[Tensor, " m"],
    backend: str = "auto",
    *,
    cost: str | float | Cost = SQEUCLIDEAN,
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """``min_j [c(x_i, y_j) − ψ_j]`` and its argmin σ(i). No gradient flows through (see `semidual`).

    ``cost``: see `as_cost`. Raises `featot.UsageError` for inputs that do not match or an unknown backend or cost.
    """
    cost = as_cost(cost)
    require_match(x, y, psi)  # centring would broadcast what does not match
    with torch.no_grad():
        x, y = cost.embed(x), cost.embed(y)
        values, assignment = nearest(x, y, psi, cost=cost, center=y.mean(0), backend=backend)
        return values[:, 0], assignment[:, 0]


def semidual(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    psi: Float[Tensor, " m"],
    a: Float[Tensor, " n"] | None = None,
    b: Float[Tensor, " m"] | None = None,
    *,
    cost: str | float | Cost = SQEUCLIDEAN,
    assignment: Int[Tensor, " n"] | None = None,
    backend: str = "auto",
) -> Float[Tensor, ""]:
    """``F(ψ)``, differentiable in x, y and ψ: by the envelope theorem the assignment is held fixed.

    ``a``, ``b``: weights, uniform where None. ``assignment``: σ, if a search has already found it.
    """
    cost = as_cost(cost)
    if assignment is None:
        assignment = c_transform(x, y, psi, backend, cost=cost)[1]
    reduced = cost.pairs(cost.embed(x), cost.embed(y)[assignment]) - psi[assignment]
    return (reduced.mean() if a is None else a @ reduced) + (psi.mean() if b is None else b @ psi)


def ascend(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    psi: Float[Tensor, " m"],
    b: Float[Tensor, " m"],
    *,
    steps: int,
    rate: float,
    backend: str = "auto",
    share: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"], Int[Tensor, " n"]]:
    """``steps`` supergradient steps ``ψ ← ψ + rate · (b − marginal)`` for the squared cost and uniform x.

    ``share``: brings together what several processes' x give to y, as the mean of their marginals.
    Returns the new ψ, and the ψ of the last search with the assignment it found (with no steps, the given ψ).
    """
    dense = steps > 1 and backend == "auto" and len(x) * len(y) <= _DENSE_PAIRS
    search = _kept_costs(x, y) if dense else lambda psi: c_transform(x, y, psi, backend)[1]
    before = psi
    for step in range(max(1, steps)):
        assignment, before = search(psi), psi
        if step < steps:
            received = marginal(assignment, len(y))
            psi = psi + rate * (b - (received if share is None else share(received)))
    return psi, before, assignment


def _kept_costs(x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """The search for one ψ after the other, with costs that stay in the cache, less ‖x‖², which decides nothing."""
    bias = y.square().sum(1)
    if kernels_take(x):
        from featot.ot.compiled import LANES  # late: llvmlite is optional
        from featot.ot.rows import smallest_in_rows

        more = -len(y) % LANES  # columns that are never the smallest
        costs = torch.addmm(F.pad(bias, (0, more), value=torch.inf), x, F.pad(y, (0, 0, 0, more)).t(), alpha=-2)
        return lambda psi: smallest_in_rows(costs, F.pad(psi, (0, more)))
    costs = torch.addmm(bias, x, y.t(), alpha=-2)
    reduced = torch.empty_like(costs)
    return lambda psi: torch.sub(costs, psi, out=reduced).min(dim=1).indices


def marginal(assignment: Int[Tensor, " n"], m: int, a: Float[Tensor, " n"] | None = None) -> Float[Tensor, " m"]:
    """The mass that each y receives: ``Σ_i a_i 1[σ(i) = j]``. ``∂F/∂ψ`` is ``b`` less this.

    Its dtype is that of ``a``; for the uniform ``a=None``, torch's default.
    """
    if a is None:
        return torch.bincount(assignment, minlength=m) / len(assignment)
    return torch.bincount(assignment, weights=a, minlength=m).to(a.dtype)
