"""Transport between Gaussians, which has a closed form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

_LEAST = 1e-8  # variance that is added along every axis, so that a flat cloud can be mapped


def gaussian_map(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]
) -> Callable[[Float[Tensor, "k d"]], Float[Tensor, "k d"]]:
    """The optimal map for the squared cost between the Gaussians with the moments of ``x`` and of ``y``.

    ``T(z) = m_y + A (z − m_x)``, ``A = Σ_x^{−1/2} (Σ_x^{1/2} Σ_y Σ_x^{1/2})^{1/2} Σ_x^{−1/2}`` (Peyré and Cuturi,
    Computational Optimal Transport, 2019, Eq. 2.40).
    """
    mean_x, mean_y = x.double().mean(0), y.double().mean(0)
    forth, back = _powers(_covariance(x))
    middle, _ = _powers(forth @ _covariance(y) @ forth)
    matrix = back @ middle @ back
    return lambda z: (mean_y + (z.double() - mean_x) @ matrix).to(z)


def _covariance(x: Tensor) -> Tensor:
    centred = x.double() - x.double().mean(0)
    return centred.t() @ centred / len(x) + _LEAST * torch.eye(x.shape[1], dtype=torch.float64, device=x.device)


def _powers(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The square root of a positive matrix, and its inverse."""
    values, axes = torch.linalg.eigh(matrix)
    roots = values.clamp(min=1e-24).sqrt()
    return axes * roots @ axes.t(), axes / roots @ axes.t()
