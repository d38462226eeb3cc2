"""The smoothed semi-dual and the steps that maximise it, over whatever pairs of points there are."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_UNDERFLOW = 1e-8  # of b: a y that receives less has its update bounded
_FARTHEST = 30.0  # that a Newton step moves a ψ, in units of ε
_STALLED = 0.8  # of the error two steps ago: with more than that, steps lead nowhere


@dataclass(frozen=True, eq=False)
class Smoothed:
    """The plan that ψ induces at smoothing ε: ``mass`` of every pair, its row sums a; ``received``: its column sums.

    ``value``: the smoothed semi-dual; ``error``: ``Σ_j |b_j − received_j|``.
    """

    mass: Tensor
    received: Float[Tensor, " m"]
    value: float
    error: float


class SmoothedDual(ABC):
    """The weights ``a`` ``(n,)`` and ``b`` ``(m,)``, all above 0, of points of which some pairs have a cost."""

    def __init__(self, a: Float[Tensor, " n"], b: Float[Tensor, " m"]) -> None:
        self.a, self.b = a, b

    @abstractmethod
    def smooth(self, psi: Float[Tensor, " m"], epsilon: float) -> Smoothed:
        """Each row spreads its mass over its pairs by a softmin of ``c − ψ`` at ``epsilon``."""

    @abstractmethod
    def solve(self, mass: Tensor, diagonal: Tensor, residual: Tensor, tolerance: float) -> Float[Tensor, " m"]:
        """Solves ``[diag(diagonal) − Pᵀ diag(1/a) P] d = residual``, P being the mass."""

    def damped(self, received: Float[Tensor, " m"], damping: float) -> Float[Tensor, " m"]:
        """The diagonal of `solve` for the mass that is ``received``."""
        return received * (1 + damping) + 1e-9 * self.b

    def induced(
        self, psi: Tensor, epsilon: float, *, mass: Tensor, received: Tensor, least: Tensor, sums: Tensor
    ) -> Smoothed:
        """What `smooth` returns, given each row's least ``c − ψ`` and its sum of exponentials too."""
        row_values = least.double() - epsilon * sums.double().log()
        value = float(self.a.double() @ row_values + self.b.double() @ psi.double())
        return Smoothed(mass, received, value, float((self.b - received).abs().sum()))

    def newton_direction(self, plan: Smoothed, epsilon: float) -> Float[Tensor, " m"]:
        """Newton's step for the equations ``log received = log b``, damped in proportion to the error.

        In logarithms a y that receives a thousandth of its mass asks for a step of ε log 1000, not of 1000 ε; with a
        diagonal Hessian the step would be Sinkhorn's.
        """
        received = plan.received
        residual = received * (self.b / received.clamp(min=torch.finfo(received.dtype).tiny)).log()
        residual = residual - received * residual.sum()  # constants move nothing
        diagonal = self.damped(received, 0.1 * min(plan.error, 1.0))
        direction = self.solve(plan.mass, diagonal, residual, tolerance=1e-3).clamp_(-_FARTHEST, _FARTHEST)
        # ε last: the solver squares what it is given, and squared costs would leave float32's range.
        return direction * epsilon

    def ascend(
        self, psi: Float[Tensor, " m"], epsilon: float, tolerance: float, max_steps: int
    ) -> tuple[Float[Tensor, " m"], Smoothed, int]:
        """Maximises the smoothed semi-dual until the error is below ``tolerance``: ψ, its plan, the steps taken.

        Each step is Newton's, halved until the value grows, and then two of Sinkhorn's: Newton moves whole clusters
        of y at once, which Sinkhorn hardly does; Sinkhorn mends single y where Newton went too far.

        It ends early where the error no longer falls: the pairs then allow no plan with these marginals, the value
        grows without end, and more pairs are needed.
        """
        plan, steps = self.smooth(psi, epsilon), 0
        rounding = 8 * torch.finfo(psi.dtype).eps
        earlier = last = float("inf")  # the errors two steps ago and one
        while plan.error > tolerance and steps < max_steps and plan.error < _STALLED * earlier:
            earlier, last = last, plan.error
            direction = self.newton_direction(plan, epsilon)
            length = 1.0
            trial = self.smooth(psi + direction, epsilon)
            while trial.value < plan.value - rounding * abs(plan.value) and length > 0.02:
                length /= 2
                trial = self.smooth(psi + length * direction, epsilon)
            psi, plan = psi + length * direction, trial
            for _ in range(2):
                psi = psi + epsilon * (self.b / plan.received.maximum(_UNDERFLOW * self.b)).log()
                plan = self.smooth(psi, epsilon)
            steps += 1
        return psi, plan, steps


class AllPairs(SmoothedDual):
    """Every pair has a cost, ``(n, m)``: for clouds of some hundred points."""

    def __init__(self, a: Float[Tensor, " n"], b: Float[Tensor, " m"], costs: Float[Tensor, "n m"]) -> None:
        super().__init__(a, b)
        self.costs = costs

    def smooth(self, psi: Float[Tensor, " m"], epsilon: float) -> Smoothed:
        reduced = self.costs - psi
        least = reduced.amin(dim=1)
        mass = reduced.sub_(least[:, None]).div_(-epsilon).clamp_(min=faintest(reduced)).exp_()
        sums = mass.sum(dim=1)
        mass.mul_((self.a / sums)[:, None])
        return self.induced(psi, epsilon, mass=mass, received=mass.sum(dim=0), least=least, sums=sums)

    def solve(self, mass: Tensor, diagonal: Tensor, residual: Tensor, tolerance: float) -> Float[Tensor, " m"]:
        """By Cholesky's decomposition: exactly, whatever the tolerance."""
        hessian = mass.t() @ (mass / -self.a[:, None])
        hessian.diagonal().add_(diagonal)
        factor, failed = torch.linalg.cholesky_ex(hessian)
        if failed:  # by rounding, where there is hardly any damping
            factor, failed = torch.linalg.cholesky_ex(hessian.double())
        if failed:
            return residual / diagonal
        return torch.cholesky_solve(residual.to(factor)[:, None], factor)[:, 0].to(residual)


def faintest(like: Tensor) -> float:
    """The least logarithm of a share that is told from 0: products of three such are not subnormal, which is slow."""
    return math.log(torch.finfo(like.dtype).tiny) / 3
