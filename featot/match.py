"""The one loop: bring the features of what is made close to those of the exemplars."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from featot.errors import FeatotError, UsageError, unknown_name
from featot.interfaces import Boundary, FeatureExtractor, Loss, LossValue, Parametrization, Size
from featot.ot import Measure
from featot.resample import halve

OptimizerName = Literal["adam", "lbfgs", "closed-form"]
LossFactory = Callable[[Measure, torch.Generator], Loss]

_COORDINATES = 2**16  # points of the exemplars whose coordinates a sliced loss keeps
_TRIED_PIXELS = 2048  # of a stage that is tried from several starts
_SLICED_SIDE = 512  # of the window of a larger image that a sliced loss sees at once


@dataclass(frozen=True, kw_only=True)
class Term:
    """One target: ``weight`` times the sum over ``extractor``'s levels of the loss to the exemplars' pooled features.

    ``guide``: further channels of the image, which are fixed; the exemplars then have them too, after their own.
    ``masks``: for each exemplar, 1 where it may be sampled; a point counts if all the pixels it sees do. Only linear
    features can be masked.
    """

    exemplars: Sequence[Float[Tensor, "1 _ _ _"]]
    extractor: FeatureExtractor
    loss: LossFactory
    weight: float = 1.0
    guide: Float[Tensor, "1 _ h w"] | None = None
    masks: Sequence[Float[Tensor, "1 1 _ _"]] | None = None


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
    if optimizer == "closed-form" and not (param.linear and all(term.extractor.linear for term in terms)):
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
    return Match(image=image, history=run.history, interrupted=interrupted)


class _Run:
    """One `match`: the stages, walked through once, but for the first which are tried from several starts."""

    def __init__(
        self,
        param: Parametrization,
        terms: Sequence[Term],
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
        self.begin = time.perf_counter()
        self.size = stages[0].size
        self.best: tuple[float, _Problem | None, Size, list[Tensor]] = (math.inf, None, self.size, [])
        self._initialize()

    def to_the_end(self) -> None:
        for start in range(self.starts):
            if start > 0:
                self._initialize()
            problem = _Problem(self.param, self.terms, self.max_points, self.generator)
            self._walk(problem, self.tried)
            score = problem.distance() if self.starts > 1 else 0.0
            if score < self.best[0]:
                self.best = score, problem, self.size, [theta.detach().clone() for theta in self.param.parameters()]
        problem = self.take_the_best() or problem
        self._walk(problem, self.stages[len(self.tried) :])

    def take_the_best(self) -> _Problem | None:
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
        self.param.initialize(_start_from(self.terms[0], scale), self.size, self.generator)

    def _walk(self, problem: _Problem, stages: Sequence[Stage]) -> None:
        for stage in stages:
            self.grow(stage.size)
            problem.enter(stage)
            update = _UPDATES[self.optimizer](self.param, problem)
            for step in range(stage.num_steps):
                problem.move(step)
                loss = update(_cosine(*stage.rate, step / max(1, stage.num_steps - 1)))
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
                    )
                    self.callback(state)


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
        self.param, self.max_points, self.generator = param, max_points, generator
        self.terms = [_ActiveTerm(term, generator) for term in terms]
        self.stage: Stage
        self.offset = (0, 0)

    def enter(self, stage: Stage) -> None:
        """Makes the losses of the levels that are new at this stage; the others keep their state."""
        self.stage = stage
        for term in self.terms:
            term.enter(stage.scale)

    def image(self) -> Tensor:
        with torch.no_grad():
            return self.param(self.stage.size, self.generator).detach()

    def move(self, step: int) -> None:
        """Moves the torus of a thinned image until it is to settle: the points then meet every pixel alike.

        At rest it lies where halving the image leads back to the last stage.
        """
        h, w = self.stage.size
        if self.param.boundary != "periodic":
            return
        if self.max_points is None or h * w <= self.max_points or step >= self.stage.settle * self.stage.num_steps:
            self.offset = (0, 0)
            return
        draw = [int(torch.randint(side, (), generator=self.generator)) for side in (h, w)]
        self.offset = draw[0], draw[1]

    def evaluate(self, *, improve: bool) -> tuple[Tensor, list[tuple[Tensor, Tensor | None]]]:
        """The loss, and the points with the curvature of each level (both times the term's weight)."""
        image = self.param(self.stage.size, self.generator)
        image = image.roll(self.offset, dims=(2, 3))
        total, parts = image.new_zeros(()), []
        for term in self.terms:
            for points, result in term.compare(
                image, self.stage.scale, self.param.boundary, self.max_points, improve, self.offset
            ):
                total = total + term.weight * result.value
                parts.append((points, None if result.curvature is None else term.weight * result.curvature))
        return total, parts

    def distance(self) -> float:
        """How far the image is from the exemplars at the finest level, as precisely as the losses can say."""
        self.offset = (0, 0)
        image, total = self.image(), 0.0
        for term in self.terms:
            levels = term.levels(image, self.stage.scale, self.param.boundary, self.max_points, self.offset)
            name = next(iter(levels))  # the finest
            total += term.weight * term.losses[name].distance(levels[name])
        return total


class _ActiveTerm:
    """A term with the loss of each of its levels, made when a stage first meets the level."""

    def __init__(self, term: Term, generator: torch.Generator) -> None:
        self.weight, self.extractor, self.loss, self.generator = term.weight, term.extractor, term.loss, generator
        self.exemplars, self.masks, self.guide = term.exemplars, term.masks, term.guide
        if self.masks is not None and not self.extractor.linear:
            raise UsageError("a mask of the exemplar needs linear features of pixels, such as 'patches' or 'pyramid'")
        self.slices: int = getattr(
            getattr(self.loss, "func", self.loss), "slices", 0
        )  # of a class, or a partial of one
        self.losses: dict[str, Loss] = {}
        self.directions: dict[str, Tensor] = {}
        self.guides: dict[int, Tensor] = {}

    def enter(self, scale: int) -> None:
        if self.guide is not None:
            self.guides = {
                scale: _halved(self.guide, scale, "periodic")
            }  # of the stage's size, whatever the boundary
        exemplars = [_halved(exemplar, scale, "valid") for exemplar in self.exemplars]
        with torch.no_grad():
            clouds = [self.extractor.extract(exemplar, scale=scale, boundary="valid") for exemplar in exemplars]
        names = [name for name in max(clouds, key=len) if name not in self.losses]
        if not any(clouds):
            h, w = exemplars[0].shape[2:]
            raise UsageError(f"the exemplar is too small for its features (they see {h}x{w} pixels)")
        if self.masks is not None:
            self._keep_allowed(clouds, exemplars, scale)
        for name in names:
            points = torch.cat([cloud[name] for cloud in clouds if name in cloud])
            if len(points) == 0:
                raise UsageError(
                    f"the mask leaves no features of the exemplar at level {name}; use a larger one, or fewer levels"
                )
            if self.slices:
                channels, dimension = exemplars[0].shape[1], points.shape[1]
                drawn = self.extractor.directions(channels, dimension, self.slices, self.generator)
                self.directions[name] = drawn.to(points)
                points = Measure(points).subset(_COORDINATES, self.generator).points @ self.directions[name].t()
            self.losses[name] = self.loss(Measure(points), self.generator)

    def _keep_allowed(self, clouds: list[dict[str, Tensor]], exemplars: list[Tensor], scale: int) -> None:
        """Leaves out the points that see anything but what the masks allow."""
        assert self.masks is not None
        for cloud, exemplar, mask in zip(clouds, exemplars, self.masks, strict=True):
            seen = _halved(mask, scale, "valid").expand_as(exemplar)
            for name, points in self.extractor.extract(seen, scale=scale, boundary="valid").items():
                cloud[name] = cloud[name][points.amin(1) > 0.999]

    def compare(
        self, image: Tensor, scale: int, boundary: Boundary, max_points: int | None, improve: bool, offset: Size
    ) -> Iterator[tuple[Tensor, LossValue]]:
        """Every level's points (or coordinates) and what its loss says of them."""
        for name, points in self.levels(image, scale, boundary, max_points, offset).items():
            yield points, self.losses[name](points, improve=improve)

    def levels(
        self, image: Tensor, scale: int, boundary: Boundary, max_points: int | None, offset: Size
    ) -> dict[str, Tensor]:
        """What the losses compare, of the levels that the exemplars have too."""
        if self.guide is not None:
            guide = self.guides[scale].expand(len(image), -1, -1, -1)
            image = torch.cat([image, guide.roll(offset, dims=(2, 3))], dim=1)
        if self.slices:
            image, boundary = _part(image, boundary, self.generator)
            drawn = {name: loss.draw() for name, loss in self.losses.items()}
            directions = {
                name: self.directions[name] if chosen is None else self.directions[name][chosen.to(image.device)]
                for name, chosen in drawn.items()
            }
            levels = self.extractor.project(image, directions, scale=scale, boundary=boundary)
        else:
            levels = self.extractor.extract(image, scale=scale, boundary=boundary, max_points=max_points)
        levels = {name: points for name, points in levels.items() if name in self.losses}
        if not levels:
            h, w = image.shape[2:]
            raise UsageError(f"an image of {h}x{w} is too small for its features")
        return levels


def _start_from(term: Term, scale: int) -> Tensor:
    """The exemplar at that scale without its guide; of several, or with masks, the pixels that count in a row."""
    guides = 0 if term.guide is None else term.guide.shape[1]
    halved = [_halved(exemplar[:, : exemplar.shape[1] - guides], scale, "valid") for exemplar in term.exemplars]
    if len(halved) == 1 and term.masks is None:
        return halved[0]
    if term.masks is None:
        chosen = [image.flatten(2) for image in halved]
    else:
        masks = [_halved(mask, scale, "valid").flatten() > 0.999 for mask in term.masks]
        chosen = [image.flatten(2)[:, :, mask] for image, mask in zip(halved, masks, strict=True)]
    pooled = torch.cat(chosen, dim=2)[:, :, None]
    if pooled.numel() == 0:
        raise UsageError(
            f"the mask leaves nothing of the exemplar at 1/{2**scale}; use a larger one, or fewer levels"
        )
    return pooled


def _halved(image: Tensor, times: int, boundary: Boundary) -> Tensor:
    for _ in range(times):
        image = halve(image, boundary)
    return image


def _part(image: Tensor, boundary: Boundary, generator: torch.Generator) -> tuple[Tensor, Boundary]:
    """The image, or a random window of it where all would be too much to sort."""
    h, w = image.shape[2:]
    if h * w <= _SLICED_SIDE**2:
        return image, boundary
    high, wide = min(h, _SLICED_SIDE), min(w, _SLICED_SIDE)
    top, left = (int(torch.randint(side, (), generator=generator)) for side in (h, w))
    if boundary == "valid":
        top, left = top % (h - high + 1), left % (w - wide + 1)
        return image[:, :, top : top + high, left : left + wide], boundary
    rows = torch.arange(top, top + high, device=image.device) % h
    columns = torch.arange(left, left + wide, device=image.device) % w
    return image[:, :, rows][:, :, :, columns], "valid"


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
