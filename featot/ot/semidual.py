"""The semi-dual of optimal transport for the squared cost ‖x − y‖²: pure functions of (x, y, ψ, weights).

``F(ψ) = Σ_i a_i min_j [‖x_i − y_j‖² − ψ_j] + Σ_j b_j ψ_j ≤ OT(a, b)``, concave, with equality at the best ψ
(Houdard et al. 2021, Eq. 5; Santambrogio 2015, Ch. 1).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from featot.ot.search import nearest


def c_transform(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], psi: Float[Tensor, " m"], backend: str = "auto"
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """``min_j [‖x_i − y_j‖² − ψ_j]`` and its argmin σ(i). No gradient flows through (see `semidual`)."""
    with torch.no_grad():
        center = y.mean(0)  # far from the origin, ‖y‖² − 2⟨x, y⟩ would cancel catastrophically
        x, y = x - center, y - center
        values, assignment = nearest(x, y, y.square().sum(1) - psi, backend)
        return values + x.square().sum(1), assignment


def semidual(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    psi: Float[Tensor, " m"],
    a: Float[Tensor, " n"] | None = None,
    b: Float[Tensor, " m"] | None = None,
    *,
    assignment: Int[Tensor, " n"] | None = None,
    backend: str = "auto",
) -> Float[Tensor, ""]:
    """``F(ψ)``, differentiable in x, y and ψ: by the envelope theorem the assignment is held fixed.

    ``a``, ``b``: weights, uniform where None. ``assignment``: σ, if a search has already found it.
    """
    if assignment is None:
        assignment = c_transform(x, y, psi, backend)[1]
    reduced = (x - y[assignment]).square().sum(1) - psi[assignment]
    return (reduced.mean() if a is None else a @ reduced) + (psi.mean() if b is None else b @ psi)


def marginal(assignment: Int[Tensor, " n"], m: int, a: Float[Tensor, " n"] | None = None) -> Float[Tensor, " m"]:
    """The mass that each y receives: ``Σ_i a_i 1[σ(i) = j]``. ``∂F/∂ψ`` is ``b`` less this.

    Its dtype is that of ``a``; for the uniform ``a=None``, torch's default.
    """
    if a is None:
        return torch.bincount(assignment, minlength=m) / len(assignment)
    return torch.bincount(assignment, weights=a, minlength=m).to(a.dtype)
