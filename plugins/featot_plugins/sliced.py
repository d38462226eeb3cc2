"""Sliced optimal transport: the distributions of the points' shadows on lines."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from featot.interfaces import Loss, LossValue
from featot.ot import Measure
from featot_plugins.options import SlicedOptions

_LEAST_SPREAD = 0.01  # a constant target pulls too


class SlicedLoss(Loss):
    """The mean W1 between coordinates along a few directions, drawn anew each call (after Rabin et al. 2011).

    It is multiplied by the target's spread, to be in squared units as the other costs. W1 pulls no less where little
    is amiss, so contrast and mean come out right, not nearly right. On a line transport is a matter of sorting: every
    point counts, at little cost. This fixes how often each response occurs, and says nothing of which occur together:
    that is left to full transport beside it. With power 2 the value is the mean W2², whose weighted sums have the
    barycenter of the lines' distributions as minimum (those of W1 have a median).
    """

    slices = 128

    def __init__(self, options: SlicedOptions, target: Measure, generator: torch.Generator) -> None:
        super().__init__(options, target, generator)
        self._sorted = target.points.t().contiguous().sort(dim=1).values
        spread = float(self._sorted.std(dim=1, unbiased=False).square().mean().sqrt())
        self._spread = max(spread, _LEAST_SPREAD)
        self._drawn = torch.arange(len(self._sorted))

    def draw(self) -> Int[Tensor, " k"]:
        self._drawn = torch.randperm(len(self._sorted), generator=self.generator)[: self.options.directions]
        return self._drawn

    def __call__(self, points: Float[Tensor, "n d"], *, improve: bool = True) -> LossValue:
        values = points.t().contiguous().sort(dim=1).values
        apart = values - self._quantiles(len(points))
        if self.options.power == 2:
            return LossValue(apart.square().mean())
        return LossValue(self._spread * apart.abs().mean())

    def _quantiles(self, count: int) -> Float[Tensor, "k count"]:
        """The target's coordinates at ``count`` evenly spread ranks."""
        chosen = self._sorted[self._drawn.to(self._sorted.device)]
        if count == chosen.shape[1]:
            return chosen
        ranks = (torch.arange(count, device=chosen.device) + 0.5) * (chosen.shape[1] / count) - 0.5
        ranks = ranks.clamp_(0, chosen.shape[1] - 1)
        below = ranks.floor()
        above = below.long().add_(1).clamp_(max=chosen.shape[1] - 1)
        return chosen[:, below.long()].lerp(chosen[:, above], (ranks - below).to(chosen))
