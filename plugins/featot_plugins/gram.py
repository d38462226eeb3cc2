"""Gatys' Gram loss: the second moments of the points."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from featot.interfaces import Loss, LossValue
from featot.ot import Measure


class GramLoss(Loss):
    """``‖G − G'‖² / ‖G'‖`` in the Frobenius norm, ``G = Σ_i a_i x_i x_iᵀ`` (Gatys et al. 2015, Eq. 3–4).

    Divided by ``‖G'‖``, that of the target, to be in squared units as the other losses; Gatys' weights of the layers
    are left to `FeatureExtractor.unitless`. It says how often responses occur together and nothing else of their
    distribution: enough for the many features of a network, too little for patches.
    """

    thorough = True

    def __init__(self, options: object, target: Measure, generator: torch.Generator) -> None:
        super().__init__(options, target, generator)
        self._target = (target.points * target.weights[:, None]).t() @ target.points
        self._size = torch.linalg.matrix_norm(self._target).clamp(min=torch.finfo(target.points.dtype).tiny)

    def __call__(self, points: Float[Tensor, "n d"], *, improve: bool = True) -> LossValue:
        gram = points.t() @ points / len(points)
        return LossValue((gram - self._target).square().sum() / self._size)
