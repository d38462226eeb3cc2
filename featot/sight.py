"""What the points of an extractor see of an image, and which of them are compared for that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from featot.errors import UsageError
from featot.interfaces import Boundary, FeatureExtractor, Size
from featot.resample import halve_in_place

_TRACE = 1e-3  # of a linear feature, or of the length of another: what is less does not count as seeing


@dataclass(frozen=True, eq=False)
class Region:
    """Only the points that see something of where ``marked``, ``(1, k, h, w)``, is above 0 are compared.

    With several channels: those that see something of each of them, such as the two sides of a border.
    ``finest``: only at the finest level of the last stage.
    """

    marked: Float[Tensor, "1 k h w"]
    finest: bool = False


@dataclass(frozen=True, eq=False)
class Blend:
    """A point is compared, each time anew, with the probability that is the mean of ``share`` over what it sees.

    Where the shares of several terms add up to 1, each point is so divided between their targets.
    Linear features only.
    """

    share: Float[Tensor, "1 1 h w"]


class Selection:
    """Finds the points of the present stage that a `Region` or a `Blend` wants."""

    def __init__(self, wanted: Region | Blend, extractor: FeatureExtractor, generator: torch.Generator) -> None:
        self.wanted, self.extractor, self.generator = wanted, extractor, generator
        if isinstance(wanted, Blend) and not extractor.linear:
            raise UsageError("a blend across space needs linear features of pixels, such as 'patches' or 'pyramid'")
        self.map = wanted.marked if isinstance(wanted, Region) else wanted.share
        self._present = self.map
        self._known: dict[object, dict[str, Tensor]] = {}

    def enter(self, scale: int, boundary: Boundary) -> None:
        """Halves the map to the stage's resolution."""
        self.scale, self.boundary, self._present, self._known = scale, boundary, self.map, {}
        for _ in range(scale):
            self._present = halve_in_place(self._present, boundary)

    @property
    def rests(self) -> bool:
        """Whether nothing is compared at this stage."""
        return isinstance(self.wanted, Region) and self.wanted.finest and self.scale > 0

    def affordable(self, max_points: int | None, channels: int) -> int | None:
        """How many points the image may be thinned to, so that ``max_points`` of them see the region."""
        if max_points is None or isinstance(self.wanted, Blend):
            return max_points
        found = self._chances(channels, None, (0, 0))
        seen = next(iter(found.values()), torch.ones(1))  # of the finest level
        return max(1, round(max_points * len(seen) / max(1, int(seen.sum()))))

    def choose(
        self, levels: Mapping[str, Tensor], channels: int, max_points: int | None, offset: Size
    ) -> dict[str, tuple[Tensor, float]]:
        """The points that count now of each level that has any, with the share of the whole that they stand for."""
        if isinstance(self.wanted, Region) and self.wanted.finest:
            levels = dict(list(levels.items())[:1])
        chosen = {}
        for name, chances in self._chances(channels, max_points, offset).items():
            if name in levels:
                drawn = self._evenly(len(chances)).to(chances)
                points = levels[name][drawn < chances]
                if len(points) > 0:
                    chosen[name] = points, 1.0 if isinstance(self.wanted, Region) else float(chances.mean())
        return chosen

    def _evenly(self, count: int) -> Float[Tensor, " count"]:
        """Each uniform in [0, 1) by itself, and neighbours far apart: a share of them is met in every place."""
        golden = (math.sqrt(5) - 1) / 2
        start = torch.rand((), generator=self.generator, dtype=torch.float64)
        return (start + golden * torch.arange(count, dtype=torch.float64)) % 1

    def _chances(self, channels: int, max_points: int | None, offset: Size) -> dict[str, Float[Tensor, " n"]]:
        """Of every point the probability that it counts: 0 or 1 for a region."""
        key = channels, max_points, offset
        if key not in self._known:
            here = moved(self._present, offset, self.boundary)
            where = {"scale": self.scale, "boundary": self.boundary, "max_points": max_points}
            if isinstance(self.wanted, Region):
                seen = [points_that_see(self.extractor, part, channels, **where) for part in here.split(1, dim=1)]  # type: ignore[arg-type]
                chances = {name: torch.stack([each[name] for each in seen]).all(0).float() for name in seen[0]}
            else:
                shares = self.extractor.extract(here.expand(1, channels, -1, -1), **where)  # type: ignore[arg-type]
                chances = {name: points.mean(1) for name, points in shares.items()}
            if self.boundary == "periodic" and offset != (0, 0):
                return chances  # a torus is seldom twice at the same place
            self._known[key] = chances
        return self._known[key]


def moved(image: Float[Tensor, "b c h w"], offset: Size, boundary: Boundary) -> Float[Tensor, "b c h2 w2"]:
    """A torus turned by ``offset``; an image with borders without so many of its first rows and columns."""
    if boundary == "periodic":
        return image.roll(offset, dims=(2, 3))
    return image[:, :, offset[0] :, offset[1] :]


def points_that_see(
    extractor: FeatureExtractor,
    marked: Float[Tensor, "1 1 h w"],
    channels: int,
    *,
    scale: int = 0,
    boundary: Boundary = "valid",
    max_points: int | None = None,
) -> dict[str, Bool[Tensor, " n"]]:
    """For each level, which points of an image of so many channels depend on the pixels where ``marked`` is above 0.

    Of a linear extractor its weights say so. Of any other, whether the points change with those pixels.
    """
    where = {"scale": scale, "boundary": boundary, "max_points": max_points}
    if extractor.linear:
        levels = extractor.extract(marked.expand(1, channels, -1, -1), **where)  # type: ignore[arg-type]
        return {name: points.amax(1) > _TRACE for name, points in levels.items()}
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.rand(1, channels, *marked.shape[2:], generator=generator).to(marked) for _ in range(2))
    before, after = (
        extractor.extract(image, **where)  # type: ignore[arg-type]
        for image in (one, torch.where(marked > 0, other, one))
    )
    return {
        name: (after[name] - points).norm(dim=1) > _TRACE * points.norm(dim=1).mean()
        for name, points in before.items()
    }
