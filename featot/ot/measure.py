"""A discrete probability measure: points and weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from featot.errors import UsageError


@dataclass(frozen=True, eq=False)
class Measure:
    """``points`` ``(m, d)`` carrying ``weights`` ``(m,)`` that sum to 1 (uniform where none are given).

    Raises `featot.UsageError` for an empty cloud, a value that is not finite, or weights that are negative, of
    another length, dtype or device than the points, or do not sum to 1.
    """

    points: Tensor
    weights: Tensor = None  # type: ignore[assignment]  # filled in below, never None afterwards

    def __post_init__(self) -> None:
        points = self.points
        if points.ndim != 2 or 0 in points.shape:
            raise UsageError(f"expected points of shape (m, d), none of them 0, got {tuple(points.shape)}")
        if not points.dtype.is_floating_point:
            raise UsageError(f"expected points of a floating dtype, got {points.dtype}")
        if not torch.isfinite(points).all():
            raise UsageError("expected finite points, got NaN or infinity")
        if self.weights is None:
            object.__setattr__(self, "weights", points.new_full((len(points),), 1 / len(points)))
            return
        weights = self.weights
        if weights.shape != points.shape[:1]:
            raise UsageError(f"expected {len(points)} weights, one a point, got shape {tuple(weights.shape)}")
        if (weights.dtype, weights.device) != (points.dtype, points.device):
            like = f"{points.dtype} on {points.device}"
            raise UsageError(f"expected weights like the points, {like}, got {weights.dtype} on {weights.device}")
        if not torch.isfinite(weights).all() or (weights < 0).any():
            raise UsageError("expected finite weights of at least 0")
        mass = float(weights.detach().double().sum())
        if abs(mass - 1) > 1e-4:
            raise UsageError(f"expected weights that sum to 1, got {mass:.6g}")

    def __len__(self) -> int:
        return len(self.points)

    @property
    def dim(self) -> int:
        """d, the dimension of the points."""
        return self.points.shape[1]

    def spread(self) -> float:
        """The mean squared distance to the mean: the natural unit of the squared cost."""
        points, weights = self.points.detach(), self.weights.detach()
        return float(weights @ (points - weights @ points).square().sum(1))

    def merged(self) -> tuple[Measure, Tensor]:
        """Without repeated points: the measure of the distinct ones, and which of them each point is, ``(m,)``.

        Equal points are found by sorting a random projection, in double precision.
        """
        direction = torch.randn(self.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        order = (self.points.detach().double() @ direction.to(self.points.device)).argsort(stable=True)
        ordered = self.points[order]
        first = torch.ones_like(order, dtype=torch.bool)
        first[1:] = (ordered[1:] != ordered[:-1]).any(dim=1)
        group = torch.empty_like(order)
        group[order] = first.cumsum(0) - 1
        if bool(first.all()):
            return self, torch.arange(len(self), device=group.device)
        weights = torch.zeros_like(self.weights[: int(first.sum())]).index_add(0, group, self.weights)
        return Measure(ordered[first], weights / weights.sum()), group

    def subset(self, size: int, generator: torch.Generator | None = None) -> Measure:
        """At most ``size`` of the points, drawn without replacement (weights renormalised)."""
        if size >= len(self):
            return self
        chosen = torch.randperm(len(self), generator=generator)[:size].to(self.points.device)
        weights = self.weights[chosen]
        return Measure(self.points[chosen], weights / weights.sum())
