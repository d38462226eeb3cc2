"""Terms: what is compared with what, and how; each with the losses of its levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from featot.anchor import Anchor
from featot.errors import UsageError
from featot.interfaces import Boundary, FeatureExtractor, Loss, Size
from featot.ot import Measure, c_transform
from featot.resample import halve, halvings
from featot.sight import Blend, Region, Selection, moved, points_that_see

LossFactory = Callable[[Measure, torch.Generator], Loss]

_COORDINATES = 2**16  # points of the exemplars whose coordinates a sliced loss keeps
_PLACED = 3  # halvings for which an exemplar is seen at all places
_POOLED = 2**20  # points of a level of an exemplar, of all places, if it can be thinned to them
TRACE = 1e-3  # of a pixel that is halved: what is less does not count
_EMPHASIS = {"1/1": 2.0, "1/2": 1.5}  # of a sliced loss at levels where single pixels are seen
_LONELY = 0.3  # of the spread: with neighbours no farther than this, transport asks for no more than lines can bear
_MOST_LONELY = 2.0  # times that: lines that count even more make a channel tremble that hardly varies
_LOOKED_AT, _AMONG = 1024, 4096  # points, of which the nearest of others are asked for
_SLICED_SIDE = 512  # of the window of a larger image that a sliced loss sees at once


@dataclass(frozen=True, kw_only=True)
class Term:
    """One target: ``weight`` times the sum over ``extractor``'s levels of the loss to the exemplars' pooled features.

    ``guide``: further channels of the image, which are fixed; the exemplars then have them too, after their own.
    ``masks``: for each exemplar, 1 where it may be sampled; a point counts if all the pixels it sees do.
    ``only``: which points of the image are compared (None: all of them).
    ``everywhere``: for an image that may lie anywhere: where it is halved, the exemplars' points are those of all the
    places at which they can be halved, not of one.
    ``detailed``: shadows on lines count more where single pixels are seen: transport loses fine detail most.
    ``group``: terms of one group are added up by their weights. Groups are balanced: when a stage begins, the
    gradient of each further one is made as long as the first one's; only then it is multiplied by its ``share``.
    """

    exemplars: Sequence[Float[Tensor, "1 _ _ _"]]
    extractor: FeatureExtractor
    loss: LossFactory
    weight: float = 1.0
    guide: Float[Tensor, "1 _ h w"] | None = None
    masks: Sequence[Float[Tensor, "1 1 _ _"]] | None = None
    only: Region | Blend | None = None
    everywhere: bool = False
    detailed: bool = False
    group: int = 0
    share: float = 1.0

    @property
    def linear(self) -> bool:
        """Whether its points are averages of pixels."""
        return self.extractor.linear

    def activate(self, generator: torch.Generator) -> ActiveTerm:
        """The term as a running problem has it."""
        return ActiveTerm(self, generator)


class ActiveTerm:
    """A term with the loss of each of its levels, made when a stage first meets the level."""

    def __init__(self, term: Term, generator: torch.Generator) -> None:
        self.weight, self.group, self.generator = term.weight, term.group, generator
        self.extractor, self.loss = term.extractor, term.loss
        self.exemplars, self.masks, self.guide = term.exemplars, term.masks, term.guide
        self.everywhere, self.detailed = term.everywhere, term.detailed
        if self.guide is not None and not self.extractor.linear:
            raise UsageError("a guide needs linear features of pixels, such as 'patches' or 'pyramid'")
        kind = getattr(self.loss, "func", self.loss)  # a class, or a partial of one
        self.slices: int = getattr(kind, "slices", 0)
        self.thorough: bool = getattr(kind, "thorough", False)
        self.losses: dict[str, Loss] = {}
        self.recent: list[set[str]] = []  # the levels made at each of the last two stages that made any
        self.directions: dict[str, Tensor] = {}
        self.units: dict[str, float] = {}
        self.guides: dict[int, Tensor] = {}
        self.selection = None if term.only is None else Selection(term.only, self.extractor, generator)

    def enter(self, scale: int, boundary: Boundary, max_points: int | None = None) -> None:
        """Makes the losses of the levels that are new; ``max_points``: of an exemplar, where memory is short."""
        self.boundary = boundary
        if self.guide is not None:
            # of the stage's size, whatever the boundary
            self.guides = {scale: _halved(self.guide, scale, "periodic")}
        if self.selection is not None:
            self.selection.enter(scale, boundary)
        clouds = self._clouds(scale, max_points)
        if not any(clouds):
            h, w = _halved(self.exemplars[0], scale, "valid").shape[2:]
            raise UsageError(f"the exemplar is too small for its features (they see {h}x{w} pixels)")
        if not any(len(cloud[name]) for cloud in clouds for name in cloud):
            raise UsageError(
                f"the mask leaves no features of the exemplar at 1/{2**scale}; use a larger one, or fewer levels"
            )
        names = [name for name in max(clouds, key=len) if name not in self.losses]
        coarser = [self._clouds(times, max_points) for times in self._coarser(scale)] if names else []
        if names:
            self.recent = [*self.recent[-1:], set(names)]
        for name in names:
            most = next((clouds for clouds in coarser if any(name in cloud for cloud in clouds)), clouds)
            points = torch.cat([cloud[name] for cloud in most if name in cloud])
            if len(points) == 0:  # a coarse level, whose features see too much
                continue
            if self.extractor.unitless:
                norm = float(points.square().sum(1).mean().sqrt())
                self.units[name] = norm if norm > 0 else 1.0
                points = points / self.units[name]
            if self.slices:
                channels, dimension = self.exemplars[0].shape[1], points.shape[1]
                drawn = self.extractor.directions(name, channels, dimension, self.slices, self.generator)
                if self.detailed and name in _EMPHASIS:  # a squared cost grows with the square of the length
                    weight = _EMPHASIS[name] * min(max(1.0, loneliness(points) / _LONELY), _MOST_LONELY)
                    drawn = drawn * math.sqrt(weight)
                self.directions[name] = drawn.to(points)
                points = Measure(points).subset(_COORDINATES, self.generator).points @ self.directions[name].t()
            self.losses[name] = self.loss(Measure(points), self.generator)

    def is_recent(self, name: str) -> bool:
        """Whether the level is of the last two stages: the image has not come to rest there."""
        return any(name in names for names in self.recent)

    def _coarser(self, scale: int) -> range:
        """How often else the exemplars are halved, to see at more places what a stage compares; most often first."""
        if not self.everywhere:
            return range(0)
        side = min(min(exemplar.shape[2:]) for exemplar in self.exemplars)
        return range(min(_PLACED, halvings(side - 2**_PLACED, 1)), scale, -1)

    @torch.no_grad()
    def _clouds(self, scale: int, max_points: int | None) -> list[dict[str, Tensor]]:
        """The points of each exemplar, halved so often, in each place where it is; those that the masks allow."""
        if self.everywhere and scale > 0:
            max_points = min(max_points or _POOLED, _POOLED >> 2 * scale)
        exemplars = self._placed(self.exemplars, scale)
        clouds = [
            self.extractor.extract(exemplar, scale=scale, boundary="valid", max_points=max_points)
            for exemplar in exemplars
        ]
        if self.masks is not None:
            for cloud, exemplar, mask in zip(clouds, exemplars, self._placed(self.masks, scale), strict=True):
                barred = torch.where(1 - mask > TRACE, 1 - mask, 0)
                sees = points_that_see(self.extractor, barred, exemplar.shape[1], scale=scale, max_points=max_points)
                for name, unwanted in sees.items():
                    cloud[name] = cloud[name][~unwanted]
        if self.extractor.linear and self.guide is None:
            each = len(clouds) // len(self.exemplars)
            for number, exemplar in enumerate(self.exemplars):
                seen = torch.ones_like(exemplar[:, :1]) if self.masks is None else self.masks[number]
                colour = (exemplar * seen).sum((2, 3), keepdim=True) / seen.sum()
                self._recolour(clouds[number * each : (number + 1) * each], colour, exemplars[number * each], scale)
        return clouds

    def _recolour(self, clouds: list[dict[str, Tensor]], colour: Tensor, exemplar: Tensor, scale: int) -> None:
        """Shifts the points of an exemplar, at all its places, so that their mean colour is that of its pixels.

        Coarse features see the middle of an exemplar more often than its borders: with a mean of its own each level
        would contradict the others. The finest sees all alike but for a rim, and its points stay the exemplar's own.
        """
        largest = max(clouds, key=len)
        names = list(largest)[scale == 0 :]
        if not names:
            return
        channels = exemplar.shape[1]
        primaries = torch.eye(channels).to(exemplar)[:, :, None, None].expand(-1, -1, *exemplar.shape[2:])
        levels = self.extractor.extract(primaries, scale=scale, boundary="valid", max_points=1)
        for name in names:
            responses = levels[name]
            held = [cloud for cloud in clouds if len(cloud.get(name, ()))]
            if held:
                primary = responses.view(channels, -1, responses.shape[1])[:, 0]  # what each channel alone looks like
                mean = torch.cat([cloud[name] for cloud in held]).mean(0)
                shift = (colour.view(-1) @ primary - mean) @ torch.linalg.pinv(primary) @ primary
                for cloud in held:
                    cloud[name] = cloud[name] + shift

    def _placed(self, images: Sequence[Tensor], scale: int) -> list[Tensor]:
        """The images, halved so often: each at one place, or at all of them."""
        places = range(2**scale if self.everywhere else 1)
        return [
            _halved(image[:, :, top:, left:], scale, "valid") for image in images for top in places for left in places
        ]

    def levels(
        self,
        image: Tensor,
        scale: int,
        boundary: Boundary,
        max_points: int | None,
        offset: Size,
        made: dict[object, dict[str, Tensor]],
        complete: bool = True,
    ) -> dict[str, tuple[Tensor, float]]:
        """What the losses compare, of the levels that the exemplars have too, and for what share of all it stands.

        ``boundary``: the parametrization's, or "valid" for a torus as a picture; points that are selected, and those
        that see more than there is inside the border, are of the torus even so. ``made``: what is extracted already.
        ``complete``: or only the levels that are recent.
        """
        whole, channels, selection = image, image.shape[1], self.selection
        compared = {name: loss for name, loss in self.losses.items() if complete or self.is_recent(name)}
        if selection is not None:
            if selection.rests:
                return {}
            boundary = self.boundary
        if self.guide is not None:
            image = torch.cat([image, self.guides[scale].expand(len(image), -1, -1, -1)], dim=1)
        image = moved(image, offset, boundary)
        thinned = None if self.thorough or self.slices else max_points
        if self.slices:
            if selection is None:
                image, boundary = _part(image, boundary, self.generator)
            drawn = {name: loss.draw() for name, loss in compared.items()}
            directions = {
                name: self.directions[name] if chosen is None else self.directions[name][chosen.to(image.device)]
                for name, chosen in drawn.items()
            }
            levels = self.extractor.project(image, directions, scale=scale, boundary=boundary)
        else:
            if selection is not None:
                thinned = selection.affordable(thinned, channels)
            key = self.extractor, id(self.guide), boundary, thinned
            if key not in made:
                made[key] = self.extractor.extract(image, scale=scale, boundary=boundary, max_points=thinned)
            levels = made[key]
        if not levels.keys() & compared.keys():
            if boundary != self.boundary:
                return self.levels(whole, scale, self.boundary, max_points, offset, made, complete)
            h, w = image.shape[2:]
            raise UsageError(f"an image of {h}x{w} is too small for its features")
        levels = {
            name: points / self.units[name] if self.units else points
            for name, points in levels.items()
            if name in compared
        }
        if selection is None:
            return {name: (points, 1.0) for name, points in levels.items()}
        return selection.choose(levels, channels, thinned, offset)


def start_from(terms: Sequence[Term | Anchor], scale: int) -> Tensor:
    """The exemplar at that scale without its guide; of several, or with masks, the pixels that count in a row."""
    found: dict[int, Tensor] = {}
    whole = True
    given = [term for term in terms if isinstance(term, Term)]
    for term in [term for term in given if term.weight > 0] or given:
        guides = 0 if term.guide is None else term.guide.shape[1]
        for number, exemplar in enumerate(term.exemplars):
            image = _halved(exemplar[:, : exemplar.shape[1] - guides], scale, "valid")
            if term.masks is not None:
                allowed = _halved(term.masks[number], scale, "valid").flatten() > 1 - TRACE
                image, whole = image.flatten(2)[:, :, None, allowed], False
            found.setdefault(id(exemplar), image)
    if len(found) == 1 and whole:
        return next(iter(found.values()))
    pooled = torch.cat([image.flatten(2) for image in found.values()], dim=2)[:, :, None]
    if pooled.numel() == 0:
        raise UsageError(
            f"the mask leaves nothing of the exemplar at 1/{2**scale}; use a larger one, or fewer levels"
        )
    return pooled


def loneliness(points: Float[Tensor, "n d"]) -> float:
    """How far the nearest of some other points is from a point, over the spread of all: 0 to about 1.

    What is made out of points that lie far apart is never near one of them: transport pulls at it with all that
    distance, however well their responses are distributed.
    """
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0)).to(points.device)
    few = len(points) // 5
    some, others = points[order[:few][:_LOOKED_AT]], points[order[few:][:_AMONG]]
    spread = Measure(points).spread()
    if few == 0 or spread == 0:
        return 0.0
    apart, _ = c_transform(some, others, others.new_zeros(len(others)))
    return math.sqrt(max(0.0, float(apart.mean())) / spread)


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
