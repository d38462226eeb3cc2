"""Sliced optimal transport: the distributions of the points' shadows on lines."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from featot.interfaces import Loss, LossValue
from featot.ot import Measure
from featot.ot.line import line_costs, sorted_rows
from featot_plugins.options import SlicedOptions

_LEAST_SPREAD = 0.01  # a constant target pulls too
_LAPLACE = math.sqrt(0.5)  # E |d| / √(E d²) of Laplace's distribution, which responses in images are like


class SlicedLoss(Loss):
    """The mean W1 between coordinates along a few directions (after Rabin et al. 2011), other ones each call: they
    are drawn without replacement until too few are left, so that none is forgotten for long.

    It is multiplied by the target's spread, to be in squared units as the other costs: by E d² / E |d|, so scaled
    that it is Laplace's distribution's standard deviation. For a squared cost pulls the more the farther a point is
    off, and stars are far from the mean of a black sky, whose standard deviation is small. W1 pulls no less where
    little is amiss, so contrast and mean come out right, not nearly right. On a line transport is a matter of
    sorting: every point counts, at little cost. This fixes how often each response occurs, and says nothing of which
    occur together: that is left to full transport beside it. With power 2 the value is the mean W2², whose weighted
    sums have the barycenter of the lines' distributions as minimum (those of W1 have a median).
    """

    slices = 128

    def __init__(self, options: SlicedOptions, target: Measure, generator: torch.Generator) -> None:
        super().__init__(options, target, generator)
        self._sorted = sorted_rows(target.points.t())
        deviations = self._sorted - self._sorted.mean(dim=1, keepdim=True)
        length = float(deviations.abs().mean())
        spread = _LAPLACE * float(deviations.square().mean()) / length if length > 0 else 0.0
        self._spread = max(spread, _LEAST_SPREAD)
        self._drawn = torch.arange(len(self._sorted))
        self._queue = self._drawn[:0]  # directions whose turn is still to come

    def draw(self) -> Int[Tensor, " k"]:
        few = self.options.directions
        if len(self._queue) < few:
            self._queue = torch.randperm(len(self._sorted), generator=self.generator)
        self._drawn, self._queue = self._queue[:few], self._queue[few:]
        return self._drawn

    def state_dict(self) -> dict[str, Tensor]:
        return {"queue": self._queue}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        self._queue = tensors["queue"]

    def __call__(self, points: Float[Tensor, "n d"], *, improve: bool = True) -> LossValue:
        power = self.options.power
        cost = line_costs(points.t(), self._sorted, self._drawn.to(points.device), power)
        return LossValue(cost if power == 2 else self._spread * cost)
