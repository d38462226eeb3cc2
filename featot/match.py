"""The one loop: bring the features of what is made close to those of the exemplars."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from featot.errors import FeatotError, UsageError, unknown_name
from featot.interfaces import FeatureExtractor, Loss, Parametrization, Size
from featot.ot import Measure
from featot.resample import halve

OptimizerName = Literal["adam", "lbfgs", "closed-form"]
LossFactory = Callable[[Measure, torch.Generator], Loss]


@dataclass(frozen=True, kw_only=True)
class Term:
    """One target: ``weight`` times the sum over ``extractor``'s levels of the loss to ``exemplar``'s features."""

    exemplar: Float[Tensor, "1 c h w"]
    extractor: FeatureExtractor
    loss: LossFactory
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Some steps at one resolution: image and exemplars halved ``scale`` times, the image of ``size``.

    ``rate``: the optimiser's step at the start and at the end, with half a cosine between them.
    ``settle``: from this share of the steps on, the grid of thinned points stands still. A moving grid leads every
    pixel to the mean of all patches that ever cover it, which is blur; a still one leaves it few to agree with.
    """

    scale: int
    size: Size
    num_steps: int
    rate: tuple[float, float]
    settle: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Record:
    """One line of the history: the stage's ``scale``, the ``step`` in the whole run, the loss before it."""

    scale: int
    step: int
    loss: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class MatchState:
    """What a callback sees after each step; ``image()`` is the present image ``(b, c, h, w)``, detached."""

    stage: int
    num_stages: int
    size: Size
    record: Record
    num_steps: int
    image: Callable[[], Tensor] = field(repr=False)


Callback = Callable[[MatchState], None]


@dataclass(frozen=True, kw_only=True)
class Match:
    """How `match` ended: the final image, detached and clipped to [0, 1], and the way there."""

    image: Float[Tensor, "b c h w"]
    history: list[Record] = field(repr=False)
    interrupted: bool


def match(
    param: Parametrization,
    terms: Sequence[Term],
    stages: Sequence[Stage],
    *,
    optimizer: OptimizerName = "adam",
    max_points: int | None = None,
    generator: torch.Generator,
    callback: Callback | None = None,
) -> Match:
    """Optimises ``param`` through ``stages`` so that its image's features match those of every term.

    ``optimizer``: "adam"; "lbfgs" (ψ improves once a step and stands still while L-BFGS searches); "closed-form",
    the paper's ``θ ← (1 − λ) θ + λ v`` (Alg. 1, line 7; λ is the rate), where v averages for each pixel the
    exemplar points assigned to it. For features over several scales v minimises a majoriser of the loss, so a
    step with λ ≤ 1 and fixed assignment never raises it.
    ``max_points``: points of the image compared per level and step (None: all).

    Ctrl-C ends the run after which `Match.interrupted` is true and the image is the best so far.
    Raises `featot.UsageError` where an image is too small for its features or the optimiser does not apply,
    `featot.FeatotError` if the loss stops being finite.
    """
    if optimizer not in get_args(OptimizerName):
        raise unknown_name("optimizer", optimizer, get_args(OptimizerName))
    if optimizer == "closed-form" and not (param.linear and all(term.extractor.linear for term in terms)):
        raise UsageError("optimizer 'closed-form' needs linear features of pixels; use 'adam' or 'lbfgs'")
    problem = _Problem(param, terms, max_points, generator)
    history: list[Record] = []
    total_steps = sum(stage.num_steps for stage in stages)
    start, interrupted = time.perf_counter(), False
    param.initialize(problem.exemplars(stages[0].scale)[0], stages[0].size, generator)
    size = stages[0].size
    try:
        for number, stage in enumerate(stages):
            if stage.size != size:
                param.resize(stage.size)
                size = stage.size
            problem.enter(stage)
            update = _UPDATES[optimizer](param, problem)
            for step in range(stage.num_steps):
                if step == 0 or step < stage.settle * stage.num_steps:
                    problem.draw_offset()
                loss = update(_cosine(*stage.rate, step / max(1, stage.num_steps - 1)))
                if not math.isfinite(loss):
                    raise FeatotError(f"the loss became {loss} at step {len(history)}; try a smaller rate")
                seconds = time.perf_counter() - start
                history.append(Record(scale=stage.scale, step=len(history), loss=loss, seconds=seconds))
                if callback is not None:
                    state = MatchState(
                        stage=number,
                        num_stages=len(stages),
                        size=size,
                        record=history[-1],
                        num_steps=total_steps,
                        image=problem.image,
                    )
                    callback(state)
    except KeyboardInterrupt:
        interrupted = True
    if param.resizable and size != stages[-1].size:
        param.resize(stages[-1].size)
    with torch.no_grad():
        image = param(stages[-1].size, generator).clamp(0, 1)
    return Match(image=image, history=history, interrupted=interrupted)


def _cosine(first: float, last: float, fraction: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * fraction)) / 2


class _Problem:
    """The loss as a function of the parameters, at the present stage."""

    def __init__(
        self,
        param: Parametrization,
        terms: Sequence[Term],
        max_points: int | None,
        generator: torch.Generator,
    ) -> None:
        self.param, self.terms, self.max_points, self.generator = param, terms, max_points, generator
        self.losses: list[dict[str, Loss]] = [{} for _ in terms]
        self.stage: Stage
        self.offset = (0, 0)

    def exemplars(self, scale: int) -> list[Tensor]:
        halved = [term.exemplar for term in self.terms]
        for _ in range(scale):
            halved = [halve(exemplar, "valid") for exemplar in halved]
        return halved

    def enter(self, stage: Stage) -> None:
        """Makes the losses of the levels that are new at this stage; the others keep their state."""
        self.stage = stage
        for term, losses, exemplar in zip(self.terms, self.losses, self.exemplars(stage.scale), strict=True):
            with torch.no_grad():
                levels = term.extractor.extract(exemplar, scale=stage.scale, boundary="valid")
            if not levels:
                h, w = exemplar.shape[2:]
                raise UsageError(f"the exemplar is too small for its features (they see {h}x{w} pixels)")
            for name, points in levels.items():
                if name not in losses:
                    losses[name] = term.loss(Measure(points), self.generator)

    def image(self) -> Tensor:
        with torch.no_grad():
            return self.param(self.stage.size, self.generator).detach()

    def draw_offset(self) -> None:
        """Moves the torus: thinned points and halvings then meet every pixel, and no seam stays in place."""
        h, w = self.stage.size
        draw = [int(torch.randint(side, (), generator=self.generator)) for side in (h, w)]
        self.offset = draw[0], draw[1]

    def evaluate(self, *, improve: bool) -> tuple[Tensor, list[tuple[Tensor, Tensor | None]]]:
        """The loss, and the points with the curvature of each level (both times the term's weight)."""
        image = self.param(self.stage.size, self.generator)
        if self.param.boundary == "periodic":
            image = image.roll(self.offset, dims=(2, 3))
        total, parts = image.new_zeros(()), []
        for term, losses in zip(self.terms, self.losses, strict=True):
            levels = term.extractor.extract(
                image, scale=self.stage.scale, boundary=self.param.boundary, max_points=self.max_points
            )
            shared = [name for name in levels if name in losses]
            if not shared:
                h, w = image.shape[2:]
                raise UsageError(f"an image of {h}x{w} is too small for its features")
            for name in shared:
                result = losses[name](levels[name], improve=improve)
                total = total + term.weight * result.value
                curvature = None if result.curvature is None else term.weight * result.curvature
                parts.append((levels[name], curvature))
        return total, parts


class _Adam:
    def __init__(self, param: Parametrization, problem: _Problem) -> None:
        self.problem = problem
        self.optimizer = torch.optim.Adam(param.parameters(), betas=(0.9, 0.99))

    def __call__(self, rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss, _ = self.problem.evaluate(improve=True)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


class _LBFGS:
    def __init__(self, param: Parametrization, problem: _Problem) -> None:
        self.problem, self.param = problem, param

    def __call__(self, rate: float) -> float:
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
    def __init__(self, param: Parametrization, problem: _Problem) -> None:
        self.problem, self.param = problem, param

    def __call__(self, rate: float) -> float:
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


_UPDATES: dict[str, Callable[[Parametrization, _Problem], Callable[[float], float]]] = {
    "adam": _Adam,
    "lbfgs": _LBFGS,
    "closed-form": _ClosedForm,
}
