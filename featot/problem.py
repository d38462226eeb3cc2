"""The loss as a function of the parameters, at one resolution after the other."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from featot.anchor import ActiveAnchor, Anchor
from featot.interfaces import Boundary, Loss, LossValue, Parametrization, Size
from featot.ot.memory import is_out_of_memory, release_memory
from featot.parallel import world
from featot.terms import ActiveTerm, Term

T = TypeVar("T")

_LEAST_POINTS = 256  # of image and exemplars, where memory is short
_JOLT = 8  # pixels by which an image with borders is moved at most: more than the stride of any thinning


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Some steps at one resolution: image and exemplars halved ``scale`` times, the image of ``size``.

    ``rate``: the optimiser's step.
    ``averaged``: of so many last steps the mean is what comes out. The losses draw other lines and points each step:
    pixels never come to rest, and a falling rate would stop them on their way.
    ``settle``: from this share of the steps on, the grid of thinned points stands still. A moving grid leads every
    pixel to the mean of all patches that ever cover it, which is blur; a still one leaves it few to agree with.
    ``calm``: from there on the rate is multiplied by this: grain is weaker than what a full step scatters.
    ``sparing``: levels that earlier stages have brought to rest are compared at every second step only.
    ``cut``: from this share of the steps on, every second one sees a torus at rest as the picture cut from it.
    """

    scale: int
    size: Size
    num_steps: int
    rate: float
    averaged: int = 1
    settle: float = 0.5
    calm: float = 1.0
    sparing: bool = False
    cut: float = 0.25

    def settled(self, step: int) -> bool:
        """Whether the grid of thinned points stands still from this step on."""
        return step >= self.settle * self.num_steps

    def rate_at(self, step: int) -> float:
        """The optimiser's step there."""
        return self.rate * self.calm if self.settled(step) else self.rate


class Problem:
    """The loss as a function of the parameters, at the present stage."""

    def __init__(
        self,
        param: Parametrization,
        terms: Sequence[Term | Anchor],
        max_points: int | None,
        generator: torch.Generator,
    ) -> None:
        self.param, self.max_points, self.generator = param, max_points, generator
        self.exemplar_points: int | None = None
        self.notes: list[str] = []
        self.terms = [term.activate(generator) for term in terms]
        self.shares = {term.group: term.share for term in terms}
        self.balance = dict(self.shares)
        self.carried: float | Tensor = 0.0  # what the levels that are not always compared last added to the loss
        self.stage: Stage
        self._rest()

    def enter(self, stage: Stage) -> None:
        """Makes the losses of the levels that are new at this stage; the others keep their state."""
        self.stage = stage
        self.afford(self._enter)

    def _enter(self) -> None:
        stage = self.stage
        for term in self.terms:
            term.enter(stage.scale, self.param.boundary, self.exemplar_points)
        compared = [term for term in self.terms if isinstance(term, ActiveTerm)]
        for extractor in {term.extractor for term in compared}:
            self._keep_common([term.losses for term in compared if term.extractor is extractor])
        if len(self.shares) > 1:
            self._balance()

    def afford(self, act: Callable[[], T]) -> T:
        """What ``act`` returns. Where memory runs out, fewer points are compared, and it is tried again.

        That is told by a warning, and kept in `notes`. Raises MemoryError where there is nothing more to spare.
        """
        while True:
            try:
                return act()
            except (MemoryError, RuntimeError) as error:
                if world()[1] > 1 or not is_out_of_memory(error):
                    raise
            # Only here the frames of the error, and what they hold, are gone.
            release_memory()
            h, w = self.stage.size
            seen = max((image[0, 0].numel() for term in self.terms for image in term.exemplars), default=h * w)
            seen >>= 2 * self.stage.scale
            points = self._spared(self.max_points, h * w), self._spared(self.exemplar_points, seen)
            if points == (self.max_points, self.exemplar_points):
                raise MemoryError("out of memory")
            self.max_points, self.exemplar_points = points
            counts = f"{self.max_points} points of the image and {self.exemplar_points} of each exemplar"
            self.notes.append(f"memory ran out at {h}x{w}: from there on at most {counts} were compared")
            warnings.warn(f"memory is short: at most {counts} are compared from now on", stacklevel=2)

    @staticmethod
    def _spared(points: int | None, count: int) -> int:
        """Half as many points of ``count``, but not too few."""
        before = count if points is None else min(points, count)
        return max(before // 2, min(before, _LEAST_POINTS))

    @staticmethod
    def _keep_common(losses: Sequence[dict[str, Loss]]) -> None:
        """Leaves out levels that only the exemplars of some terms are large enough for: they would pull alone."""
        common = set.intersection(*(set(levels) for levels in losses))
        for levels in losses:
            for name in levels.keys() - common if common else ():
                del levels[name]

    def _balance(self) -> None:
        self._rest()
        image = self.image().requires_grad_()
        lengths: dict[int, float] = {}
        for group in self.shares:
            terms = [term for term in self.terms if term.group == group]
            values = [weight * result.value for *_, weight, _, result in self._compare(image, terms, improve=True)]
            lengths[group] = float(torch.autograd.grad(sum(values, image.new_zeros(())), image)[0].norm())
        first = next(iter(lengths.values()))
        for group, share in self.shares.items():
            self.balance[group] = share * first / lengths[group] if first > 0 and lengths[group] > 0 else share

    def _rest(self) -> None:
        self.offset: Size = (0, 0)
        self.boundary: Boundary = self.param.boundary
        self.complete = True

    def image(self) -> Tensor:
        """The image ``(b, c, h, w)`` as it is now, without gradients."""
        with torch.no_grad():
            return self.param(self.stage.size, self.generator).detach()

    def move(self, step: int) -> None:
        """Moves a thinned image until it is to settle: the points then meet every pixel alike.

        A torus goes anywhere; at rest it lies where halving the image leads back to the last stage. An image with
        borders loses a few pixels at two of them.

        The picture that is cut from a torus has borders. What wraps round is a third of a coarse level, and without
        it the rest would be off by as much.

        Where not every step compares all levels, those that do see the torus and the picture in turn.
        """
        h, w = self.stage.size
        thinned = self.max_points is not None and h * w > self.max_points
        rests = not thinned or self.stage.settled(step)
        self.complete = not self.stage.sparing or step % 4 in (0, 3)
        cut = rests and step >= self.stage.cut * self.stage.num_steps and step % 2
        self.boundary = "valid" if cut else self.param.boundary
        if rests:
            self.offset = (0, 0)
            return
        self.shake()

    def shake(self) -> None:
        """Moves the image at random."""
        h, w = self.stage.size
        most = (h, w) if self.param.boundary == "periodic" else (min(1 + h // 8, _JOLT), min(1 + w // 8, _JOLT))
        draw = [int(torch.randint(side, (), generator=self.generator)) for side in most]
        self.offset = draw[0], draw[1]

    def evaluate(self, *, improve: bool) -> tuple[Tensor, list[tuple[Tensor, Tensor | None]]]:
        """The loss, and the points with the curvature of each level (both times the term's weight)."""
        image = self.param(self.stage.size, self.generator)
        total, carried, parts = image.new_zeros(()), image.new_zeros(()), []
        for term, name, weight, points, result in self._compare(image, self.terms, improve=improve):
            weight *= self.balance[term.group]
            total = total + weight * result.value
            if not term.is_recent(name):
                carried = carried + weight * result.value.detach()
            parts.append((points, None if result.curvature is None else weight * result.curvature))
        if self.complete:
            self.carried = carried
        else:
            total = total + self.carried
        return total, parts

    def _compare(
        self, image: Tensor, terms: Sequence[ActiveTerm | ActiveAnchor], *, improve: bool
    ) -> Iterator[tuple[ActiveTerm | ActiveAnchor, str, float, Tensor, LossValue]]:
        """What the losses of the terms' levels say of their points (or coordinates), with term, level and weight."""
        made: dict[object, dict[str, Tensor]] = {}  # features that several terms look at are extracted once
        for term in terms:
            levels = term.levels(
                image, self.stage.scale, self.boundary, self.max_points, self.offset, made, self.complete
            )
            for name, (points, share) in levels.items():
                yield term, name, term.weight * share, points, term.losses[name](points, improve=improve)

    def state_dict(self) -> dict[str, Tensor]:
        """The inner states of all losses, by number of the term, level and name."""
        return {
            f"{number}.{level}.{name}": tensor
            for number, term in enumerate(self.terms)
            for level, loss in term.losses.items()
            for name, tensor in loss.state_dict().items()
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes on from what `state_dict` gave at this stage. Raises KeyError where something is missing."""
        for number, term in enumerate(self.terms):
            for level, loss in term.losses.items():
                names = loss.state_dict()
                loss.load_state_dict({name: tensors[f"{number}.{level}.{name}"] for name in names})

    def distance(self) -> float:
        """How far the image is from the exemplars at the finest level, as precisely as the losses can say."""
        self._rest()
        image, total = self.image(), 0.0
        for term in self.terms:
            levels = term.levels(image, self.stage.scale, self.boundary, self.max_points, self.offset, {})
            for name, (points, share) in list(levels.items())[:1]:  # the finest
                total += term.weight * share * self.balance[term.group] * term.losses[name].distance(points)
        return total
