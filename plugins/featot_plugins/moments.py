"""Bures–Wasserstein: transport between the normal distributions with the points' mean and covariance."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from featot.interfaces import Loss, LossValue
from featot.ot import Measure


class MomentsLoss(Loss):
    """``‖μ − μ'‖² + tr(C + C' − 2 (C'^½ C C'^½)^½)`` (Gelbrich 1990): a lower bound of the transport cost.

    It is what the Gram loss sees, as a distance: cheap, and blind to everything but mean and covariance.
    """

    thorough = True

    def __init__(self, options: object, target: Measure, generator: torch.Generator) -> None:
        super().__init__(options, target, generator)
        self._mean = target.weights @ target.points
        centred = target.points - self._mean
        covariance = (centred * target.weights[:, None]).t() @ centred
        values, vectors = torch.linalg.eigh(covariance.double())
        self._root = ((vectors * values.clamp(min=0).sqrt()) @ vectors.t()).to(covariance)
        self._trace = covariance.trace()

    def __call__(self, points: Float[Tensor, "n d"], *, improve: bool = True) -> LossValue:
        mean = points.mean(0)
        centred = points - mean
        # The trace of the root is the sum of the singular values of C^½ C'^½, of which one factor will do.
        covariance = centred.t() @ centred / len(points)
        between = (self._root @ covariance @ self._root).double()
        values = torch.linalg.eigvalsh((between + between.t()) / 2)
        # The root has no derivative at 0; a part in 10⁸ of the largest is below what float32 tells apart.
        roots = (values.clamp(min=0) + 1e-8 * values[-1].detach().clamp(min=1e-30)).sqrt().sum()
        return LossValue((mean - self._mean).square().sum() + covariance.trace() + self._trace - 2 * roots.to(points))
