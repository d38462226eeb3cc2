"""Three ways to go down on a problem's loss, and the mean of where they went."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.optim.adam import adam

from featot.errors import UsageError
from featot.interfaces import Parametrization
from featot.parallel import average, average_gradients
from featot.problem import Problem


class Adam:
    """torch's Adam, by its function: the first `torch.optim.Optimizer` made would spend a second on imports.

    Its state can be kept and taken up again. ``settled``: parameters, by number, that move at ``share`` of the rate.
    """

    def __init__(self, param: Parametrization, problem: Problem) -> None:
        self.problem, self.parameters = problem, param.parameters()
        self.settled: list[int] = []
        self.share = 1.0
        self.moments = [
            {
                "step": torch.zeros((), device=theta.device),
                "exp_avg": torch.zeros_like(theta, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(theta, requires_grad=False),
            }
            for theta in self.parameters
        ]

    def __call__(self, rate: float) -> float:
        loss = self.problem.afford(self._gradients)
        average_gradients(self.parameters)
        moved = [i for i, theta in enumerate(self.parameters) if theta.grad is not None]
        self._step([i for i in moved if i in self.settled], rate * self.share)
        self._step([i for i in moved if i not in self.settled], rate)
        return float(average(loss.detach()))

    def settle(self) -> None:
        """What has moved so far is settled."""
        self.settled = [i for i, moments in enumerate(self.moments) if moments["step"] > 0]

    def _gradients(self) -> Tensor:
        for theta in self.parameters:
            theta.grad = None
        loss, _ = self.problem.evaluate(improve=True)
        loss.backward()
        return loss

    @torch.no_grad()
    def _step(self, moved: Sequence[int], rate: float) -> None:
        if not moved:
            return
        adam(
            [self.parameters[i] for i in moved],
            [cast(Tensor, self.parameters[i].grad) for i in moved],
            [self.moments[i]["exp_avg"] for i in moved],
            [self.moments[i]["exp_avg_sq"] for i in moved],
            [],
            [self.moments[i]["step"] for i in moved],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.99,
            lr=rate,
            weight_decay=0,
            eps=1e-8,
            maximize=False,
        )

    def state(self) -> dict[int, dict[str, Tensor]]:
        """What it has learnt of each parameter, by number."""
        return dict(enumerate(self.moments))

    def load_state(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Goes on from what `state` gave."""
        for number, moments in state.items():
            for name, tensor in moments.items():
                self.moments[number][name].copy_(tensor)


class _LBFGS:
    def __init__(self, param: Parametrization, problem: Problem) -> None:
        self.problem, self.param = problem, param

    def __call__(self, rate: float) -> float:
        return self.problem.afford(self._search)

    def _search(self) -> float:
        # The objective changes with ψ and the offset: what L-BFGS learnt of the last one is not kept.
        optimizer = torch.optim.LBFGS(self.param.parameters(), max_iter=10, line_search_fn="strong_wolfe")
        losses: list[float] = []

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss, _ = self.problem.evaluate(improve=not losses)
            loss.backward()
            losses.append(float(loss.detach()))
            return loss

        optimizer.step(closure)
        return losses[0]


class _ClosedForm:
    def __init__(self, param: Parametrization, problem: Problem) -> None:
        self.problem, self.param = problem, param

    def __call__(self, rate: float) -> float:
        return self.problem.afford(lambda: self._step(rate))

    def _step(self, rate: float) -> float:
        parameters = self.param.parameters()
        loss, parts = self.problem.evaluate(improve=True)
        points = [cloud for cloud, _ in parts]
        weights = []
        for cloud, curvature in parts:
            if curvature is None:
                raise UsageError("optimizer 'closed-form' needs a loss with a quadratic bound, such as 'ot'")
            weights.append(curvature[:, None].expand_as(cloud))
        # With features that average pixels, the rows of the majoriser's Hessian sum to 2 Jᵀw.
        masses = torch.autograd.grad(points, parameters, weights, retain_graph=True)
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for theta, gradient, mass in zip(parameters, gradients, masses, strict=True):
                theta.sub_(rate * gradient / (2 * mass).clamp(min=torch.finfo(mass.dtype).tiny))
        return float(loss.detach())


class Mean:
    """The mean of parameters over some steps."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters
        self.mean: list[Tensor] = []
        self.count = 0

    @torch.no_grad()
    def add(self) -> None:
        """Counts the parameters as they are now."""
        self.count += 1
        if self.count == 1:
            self.mean = [theta.clone() for theta in self.parameters]
        for mean, theta in zip(self.mean, self.parameters, strict=True):
            mean.lerp_(theta, 1 / self.count)

    @torch.no_grad()
    def take(self) -> None:
        """Makes it the parameters."""
        for mean, theta in zip(self.mean, self.parameters, strict=True):
            theta.copy_(mean)


UPDATES: dict[str, Callable[[Parametrization, Problem], Callable[[float], float]]] = {
    "adam": Adam,
    "lbfgs": _LBFGS,
    "closed-form": _ClosedForm,
}
