"""The semi-dual of optimal transport: pure functions of (x, y, ψ, weights).

``F(ψ) = Σ_i a_i min_j [c(x_i, y_j) − ψ_j] + Σ_j b_j ψ_j ≤ OT(a, b)``, concave, with equality at the best ψ
(Houdard et al. 2021, Eq. 5; Santambrogio 2015, Ch. 1).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from featot.ot.cost import SQEUCLIDEAN, Cost, as_cost
from featot.ot.search import nearest, require_match


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


def marginal(assignment: Int[Tensor, " n"], m: int, a: Float[Tensor, " n"] | None = None) -> Float[Tensor, " m"]:
    """The mass that each y receives: ``Σ_i a_i 1[σ(i) = j]``. ``∂F/∂ψ`` is ``b`` less this.

    Its dtype is that of ``a``; for the uniform ``a=None``, torch's default.
    """
    if a is None:
        return torch.bincount(assignment, minlength=m) / len(assignment)
    return torch.bincount(assignment, weights=a, minlength=m).to(a.dtype)
