"""The one loop: bring the features of what is made close to those of the exemplars."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from featot.anchor import Anchor
from featot.errors import FeatotError, UsageError, unknown_name
from featot.interfaces import Parametrization, Size
from featot.problem import Problem, Stage
from featot.terms import Term, start_from
from featot.updates import UPDATES, Mean

OptimizerName = Literal["adam", "lbfgs", "closed-form"]

_TRIED_PIXELS = 2048  # of a stage that is tried from several starts


@dataclass(frozen=True, kw_only=True)
class Record:
    """One line of the history: the stage's ``scale``, the ``step`` in the whole run, the loss before it."""

    scale: int
    step: int
    loss: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class MatchState:
    """What a callback sees after each step.

    ``image()``: the present image ``(b, c, h, w)``, detached. ``inner()``: the losses' inner states (ψ), not copied,
    by the names of `featot.problem.Problem.state_dict`: "0.1/4.psi" of the first term's level 1/4.
    """

    stage: int
    num_stages: int
    size: Size
    record: Record
    num_steps: int
    image: Callable[[], Tensor] = field(repr=False)
    inner: Callable[[], Mapping[str, Tensor]] = field(repr=False)


Callback = Callable[[MatchState], None]


@dataclass(frozen=True, kw_only=True)
class Match:
    """How `match` ended: the final image, detached and clipped to [0, 1], and the way there.

    ``notes``: what had to be given up for lack of memory.
    """

    image: Float[Tensor, "b c h w"]
    history: list[Record] = field(repr=False)
    interrupted: bool
    notes: list[str] = field(default_factory=list)


def match(
    param: Parametrization,
    terms: Sequence[Term | Anchor],
    stages: Sequence[Stage],
    *,
    optimizer: OptimizerName = "adam",
    max_points: int | None = None,
    generator: torch.Generator,
    starts: int = 1,
    callback: Callback | None = None,
) -> Match:
    """Optimises ``param`` through ``stages`` so that its image's features match those of every term.

    ``optimizer``: "adam"; "lbfgs" (ψ improves once a step and stands still while L-BFGS searches); "closed-form",
    the paper's ``θ ← (1 − λ) θ + λ v`` (Alg. 1, line 7; λ is the rate), where v averages for each pixel the
    exemplar points assigned to it. For features over several scales v minimises a majoriser of the loss, so a
    step with λ ≤ 1 and fixed assignment never raises it.
    ``max_points``: points of the image compared per level and step (None: all).
    ``starts``: the first stages, small ones, are gone through from so many initial states; the one that ends with the
    smallest loss goes on.

    Ctrl-C ends the run after which `Match.interrupted` is true and the image is the best so far.
    Raises `featot.UsageError` where an image is too small for its features or the optimiser does not apply,
    `featot.FeatotError` if the loss stops being finite.
    """
    if optimizer not in get_args(OptimizerName):
        raise unknown_name("optimizer", optimizer, get_args(OptimizerName))
    if optimizer == "closed-form" and not (param.linear and all(term.linear for term in terms)):
        raise UsageError("optimizer 'closed-form' needs linear features of pixels; use 'adam' or 'lbfgs'")
    run = _Run(param, terms, stages, optimizer, max_points, generator, callback, starts)
    interrupted = False
    try:
        run.to_the_end()
    except KeyboardInterrupt:
        interrupted = True
        run.take_the_best()
    if param.resizable:
        run.grow(stages[-1].size)
    with torch.no_grad():
        image = param(stages[-1].size, generator).clamp(0, 1)
    return Match(image=image, history=run.history, interrupted=interrupted, notes=run.notes)


class _Run:
    """One `match`: the stages, walked through once, but for the first which are tried from several starts."""

    def __init__(
        self,
        param: Parametrization,
        terms: Sequence[Term | Anchor],
        stages: Sequence[Stage],
        optimizer: OptimizerName,
        max_points: int | None,
        generator: torch.Generator,
        callback: Callback | None,
        starts: int,
    ) -> None:
        self.param, self.terms, self.stages, self.optimizer = param, terms, stages, optimizer
        self.max_points, self.generator, self.callback = max_points, generator, callback
        tried = sum(stage.size[0] * stage.size[1] <= _TRIED_PIXELS for stage in stages)
        self.tried = stages[:tried] if starts > 1 else []
        self.starts = starts if self.tried else 1
        self.num_steps = sum(stage.num_steps for stage in [*stages, *(self.starts - 1) * list(self.tried)])
        self.history: list[Record] = []
        self.notes: list[str] = []
        self.begin = time.perf_counter()
        self.size = stages[0].size
        self.best: tuple[float, Problem | None, Size, list[Tensor]] = (math.inf, None, self.size, [])
        self._initialize()

    def to_the_end(self) -> None:
        for start in range(self.starts):
            if start > 0:
                self._initialize()
            problem = Problem(self.param, self.terms, self.max_points, self.generator)
            problem.notes = self.notes
            self._walk(problem, self.tried)
            score = problem.distance() if self.starts > 1 else 0.0
            if score < self.best[0]:
                self.best = score, problem, self.size, [theta.detach().clone() for theta in self.param.parameters()]
        problem = self.take_the_best() or problem
        self._walk(problem, self.stages[len(self.tried) :])

    def take_the_best(self) -> Problem | None:
        """Goes back to the best of several finished starts, if there are any and none is chosen yet."""
        _, problem, size, kept = self.best
        self.best = math.inf, None, size, []
        if problem is not None:
            if self.size != size:
                self._initialize()
                self.grow(size)
            with torch.no_grad():
                for theta, value in zip(self.param.parameters(), kept, strict=True):
                    theta.copy_(value)
        return problem

    def grow(self, size: Size) -> None:
        """Resizes the parametrization, from stage to stage, until it is of ``size``."""
        sizes = [stage.size for stage in self.stages]
        while self.size != size:
            self.size = sizes[sizes.index(self.size) + 1]
            self.param.resize(self.size)

    def _initialize(self) -> None:
        scale, self.size = self.stages[0].scale, self.stages[0].size
        self.param.initialize(start_from(self.terms, scale), self.size, self.generator)

    def _walk(self, problem: Problem, stages: Sequence[Stage]) -> None:
        for stage in stages:
            self.grow(stage.size)
            problem.enter(stage)
            update, mean = UPDATES[self.optimizer](self.param, problem), Mean(self.param.parameters())
            for step in range(stage.num_steps):
                problem.move(step)
                loss = update(stage.rate_at(step))
                self.param.confine()
                if not math.isfinite(loss):
                    raise FeatotError(f"the loss became {loss} at step {len(self.history)}; try a smaller rate")
                seconds = time.perf_counter() - self.begin
                self.history.append(Record(scale=stage.scale, step=len(self.history), loss=loss, seconds=seconds))
                if self.callback is not None:
                    state = MatchState(
                        stage=list(self.stages).index(stage),
                        num_stages=len(self.stages),
                        size=self.size,
                        record=self.history[-1],
                        num_steps=self.num_steps,
                        image=problem.image,
                        inner=problem.state_dict,
                    )
                    self.callback(state)
                if step >= stage.num_steps - stage.averaged:
                    mean.add()
            mean.take()
