"""Stochastic ascent of ψ, for a source that can only be sampled: the paper's ASGD, and DRAG."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from featot.ot.cost import Cost
from featot.ot.measure import Measure
from featot.ot.search import nearest

_ENTRIES = 2**22  # of the smoothed batch × m plan at once
_ASGD_RATE, _DRAG_RATE, _DRAG_EPSILON = 0.03, 1.0, 0.3  # measured: docs/solver.md


class StochasticAscent:
    """Averaged stochastic supergradient ascent: ``ψ += γ_k (b − plan's marginal on a fresh batch)``.

    "asgd": hard assignments and ``γ_k = rate · m · unit / √k``, all iterates averaged (Houdard et al. 2021, Alg. 1,
    after Genevay et al. 2016). "drag" (``decreasing``): soft assignments whose smoothing falls like
    ``0.3 unit / √k``, and ``γ_k = rate · m · unit / k^⅔``, later iterates weighing more (Genans et al. 2025).
    """

    def __init__(
        self,
        draw: Callable[[int], Float[Tensor, "k d"]],
        target: Measure,
        *,
        cost: Cost,
        unit: float,
        decreasing: bool,
        rate: float | None,
        epsilon_end: float,
        batch_size: int,
        backend: str,
    ) -> None:
        self.draw, self.target, self.cost, self.unit = draw, target, cost, unit
        self.decreasing, self.epsilon_end = decreasing, epsilon_end
        if rate is None:
            rate = _DRAG_RATE if decreasing else _ASGD_RATE
        self.scale = rate * len(target) * unit
        self.batch_size, self.backend = batch_size, backend
        self.average = torch.zeros_like(target.weights)

    def step(self, psi: Float[Tensor, " m"], iteration: int) -> Float[Tensor, " m"]:
        """ψ after step ``iteration`` (from 1); the running average is in ``average``."""
        x = self.draw(self.batch_size)
        if self.decreasing:
            received = self._soft_marginal(
                x, psi, max(_DRAG_EPSILON * self.unit / math.sqrt(iteration), self.epsilon_end)
            )
            rate, weight = self.scale / iteration ** (2 / 3), 3 / (iteration + 2)
        else:
            assignment = nearest(x, self.target.points, psi, cost=self.cost, backend=self.backend)[1][:, 0]
            received = torch.bincount(assignment, minlength=len(psi)).to(psi.dtype) / len(x)
            rate, weight = self.scale / math.sqrt(iteration), 1 / iteration
        psi = psi + rate * (self.target.weights - received)
        self.average = self.average.lerp(psi, weight)
        return psi

    def _soft_marginal(self, x: Tensor, psi: Tensor, epsilon: float) -> Tensor:
        y, received = self.target.points, torch.zeros_like(psi)
        for rows in x.split(max(1, _ENTRIES // len(y))):
            costs = torch.addmm(y.square().sum(1), rows, y.t(), alpha=-2).add_(rows.square().sum(1, keepdim=True))
            received += (psi - self.cost.from_squared_(costs)).div_(epsilon).softmax(dim=1).sum(0)
        return received / len(x)
