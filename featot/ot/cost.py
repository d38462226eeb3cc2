"""Ground costs: ``scale · ‖e(x) − e(y)‖^exponent`` between points that ``embed`` has prepared."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from featot.errors import UsageError, unknown_name


@dataclass(frozen=True)
class Cost:
    """A ground cost ``c(x, y) = scale · ‖e(x) − e(y)‖^exponent`` with 0 < exponent ≤ 2.

    ``normalised``: e divides by the norm, so that half the squared distance is ``1 − cos(x, y)``.
    """

    name: str
    exponent: float
    scale: float = 1.0
    normalised: bool = False

    @property
    def squared(self) -> bool:
        """Whether the c-transform is a plain nearest-neighbour search with biased norms."""
        return self.exponent == 2

    def embed(self, points: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """e(points). Raises `featot.UsageError` where a point has no direction and the cost needs one."""
        if not self.normalised:
            return points
        norms: Tensor = torch.linalg.vector_norm(points, dim=1, keepdim=True)
        if not bool((norms > 0).all()):
            raise UsageError("expected points of a norm above 0: the cosine of the zero vector is not defined")
        return points / norms

    def pairs(self, x: Float[Tensor, "n d"], y: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """``c(x_i, y_i)`` of embedded points, differentiable; its gradient is 0 where x_i = y_i."""
        squared = (x - y).square().sum(1)
        if self.squared:
            return self.scale * squared
        apart = squared > 0  # the derivative of ‖·‖^p has no limit at 0
        return self.scale * torch.where(apart, torch.where(apart, squared, 1) ** (self.exponent / 2), 0)

    def from_squared_(self, squared: Tensor) -> Tensor:
        """``c`` from the squared distances of embedded points, in place; rounding below 0 is mended."""
        squared.clamp_(min=0)
        if self.exponent == 1:
            squared.sqrt_()
        elif not self.squared:
            squared.pow_(self.exponent / 2)
        return squared if self.scale == 1 else squared.mul_(self.scale)

    def unit(self, spread: float) -> float:
        """The natural unit of the cost, where ``spread`` is the mean squared distance to the mean."""
        return self.scale * float(spread ** (self.exponent / 2))


SQEUCLIDEAN = Cost("sqeuclidean", 2)
COSTS = {cost.name: cost for cost in (SQEUCLIDEAN, Cost("euclidean", 1), Cost("cosine", 2, 0.5, normalised=True))}


def as_cost(cost: str | float | Cost) -> Cost:
    """The cost of that name ("sqeuclidean", "euclidean", "cosine"), or ``‖x − y‖^p`` for a number p in (0, 2].

    Raises `featot.UsageError` for an unknown name or another p.
    """
    if isinstance(cost, Cost):
        return cost
    if isinstance(cost, str):
        if cost not in COSTS:
            raise unknown_name("cost", cost, COSTS)
        return COSTS[cost]
    if not 0 < cost <= 2:
        raise UsageError(f"expected a cost ‖x − y‖^p with 0 < p ≤ 2, got p = {cost}")
    return Cost(f"‖x − y‖^{cost:g}", float(cost))
