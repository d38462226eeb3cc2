"""The semi-dual optimal transport loss: ψ is the discriminator's part."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from featot.interfaces import Loss, LossValue
from featot.ot import Measure, ascend, solve_semidiscrete
from featot.parallel import average, world
from featot_plugins.options import OTLossOptions

_CLOSE = 0.03  # relative gap of the distance
_YOUTH, _WARM_STEPS = 128, 2  # after so many calls so few steps of ψ keep up with points that move ever less


class OTLoss(Loss):
    """``max_ψ F(ψ)`` between the points and the target, ψ following the points by a few ascent steps a call.

    With exponent p = 2 the value is F(ψ) (Houdard et al. 2021, Eq. 5). With p < 2 the plan is still that of the
    squared cost, but the points are charged ``‖x − y_σ‖^p`` for it: a robust pull, which keeps the contrast that
    the squared one averages away (Kwatra et al. 2005).
    """

    def __init__(self, options: OTLossOptions, target: Measure, generator: torch.Generator) -> None:
        super().__init__(options, target.subset(options.targets, generator), generator)
        self.psi = torch.zeros_like(self.target.weights)
        self.spread = self.target.spread()
        self.age = 0

    def __call__(self, points: Float[Tensor, "n d"], *, improve: bool = True) -> LossValue:
        y, weights, p = self.target.points, self.target.weights, self.options.exponent
        count = len(points) * world()[1]
        affordable = max(1, self.options.psi_pairs // (len(points) * len(y)))
        wanted = self.options.psi_steps if self.age < _YOUTH else min(self.options.psi_steps, _WARM_STEPS)
        num_psi_steps = min(wanted, affordable) if improve else 0
        self.age += improve
        rate = self.options.psi_rate * min(count, len(y)) * self.spread
        # One search serves the last step of ψ and the pull on the points.
        self.psi, psi, assignment = ascend(
            points.detach(),
            y,
            self.psi,
            weights,
            steps=num_psi_steps,
            rate=rate,
            backend=self.options.backend,
            share=average,
        )
        squared = (points - y.index_select(0, assignment)).square().sum(1)
        if p == 2:
            value = squared.mean() - psi[assignment].mean() + weights @ psi
            return LossValue(value, squared.detach().new_full(squared.shape, 1 / len(points)))
        # The derivative of ‖·‖^p has no limit at 0, where a constant target (of spread 0) is met exactly.
        softened = squared + max(1e-6 * self.spread, torch.finfo(squared.dtype).tiny)
        curvature = p / 2 * softened.detach() ** (p / 2 - 1) / len(points)
        return LossValue((softened ** (p / 2)).mean(), curvature)

    def state_dict(self) -> dict[str, Tensor]:
        return {"psi": self.psi, "age": torch.tensor(self.age)}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        self.psi, self.age = tensors["psi"].to(self.psi), int(tensors["age"])

    def distance(self, points: Float[Tensor, "n d"]) -> float:
        """The transport cost for the squared cost to within a few per cent: ψ lags behind, its F says too little."""
        target = self.target
        return solve_semidiscrete(points, target.points, None, target.weights, tol=_CLOSE, max_iter=100).value
