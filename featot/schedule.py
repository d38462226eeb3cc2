"""The schedule: quality presets, which resolutions, how many steps at each, and how large they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from featot.errors import UsageError, unknown_name
from featot.interfaces import Size
from featot.match import OptimizerName
from featot.problem import Stage
from featot.resample import halve, halved_size, halvings
from featot.terms import TRACE

_SMALLEST_SIDE = 12  # pixels of exemplar and image at the coarsest level, where none are asked for
_SINGLE_LEVEL_STEPS = 500  # the paper's, at its one level
# The optimiser's step: of Adam in pixel values, of the closed form λ (straight to v); L-BFGS finds its own.
_RATES: dict[str, float] = {"adam": 0.03, "closed-form": 1.0, "lbfgs": 1.0}
_OF_SPREAD, _OF_DETAIL = 0.3, 0.63  # of what pixels have to travel, Adam's step
_OF_POOL = 0.25  # of the rate for several exemplars as one, at least, where they are mixed
_LEAST_RATE = 0.25 / 255  # a quarter of what eight bits can tell
_AROUND = 3  # pixels a side, whose mean is no detail
_AVERAGED = 10  # of Adam's last steps at the finest level: fewer leave noise, more blur


@dataclass(frozen=True, kw_only=True)
class Quality:
    """A preset: a set of settings that anyone could give one by one.

    ``steps``: at the finest level; each coarser one, a quarter of its pixels, takes ``growth`` times as many.
    ``finest``: what the finest level multiplies Adam's rate by where it goes by the exemplar (see `paced`), for what
    its steps scatter stays; ``calm``: what its second half multiplies it by besides. Few steps need all of it.
    ``max_points``, ``starts``: see `featot.match.match`. ``options``: of plugins, by their names.
    """

    steps: int
    growth: float
    max_points: int
    starts: int
    finest: float = 2 / 3
    calm: float = 0.5
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


QUALITIES = {
    "draft": Quality(
        steps=12,
        growth=1.5,
        max_points=8192,
        starts=1,
        finest=0.8,
        calm=1.0,
        options={"ot": {"targets": 2048}, "sliced": {"directions": 12}},
    ),
    "standard": Quality(steps=36, growth=1.35, max_points=8192, starts=1),
    "high": Quality(
        steps=100,
        growth=1.4,
        max_points=16384,
        starts=4,
        options={"ot": {"targets": 8192}},
    ),
}


def find_quality(name: str) -> Quality:
    """The preset of that name. Raises `featot.UsageError`."""
    if name not in QUALITIES:
        raise unknown_name("quality", name, QUALITIES)
    return QUALITIES[name]


def coarse_to_fine(
    size: Size,
    exemplar_size: Size,
    *,
    quality: Quality,
    levels: int | None = None,
    steps: int | None = None,
    optimizer: OptimizerName = "adam",
) -> list[Stage]:
    """Stages from the coarsest resolution to the finest, each of twice the size of the one before.

    ``levels``: how many (None: as long as image and exemplar keep 12 pixels a side); 1 is the paper's plain
    algorithm. ``steps``: at the finest (None: the preset's, or 500 if it is the only one).
    """
    levels = count_levels(size, exemplar_size) if levels is None else levels
    steps = (_SINGLE_LEVEL_STEPS if levels == 1 else quality.steps) if steps is None else steps
    if optimizer not in _RATES:
        raise unknown_name("optimizer", optimizer, _RATES)
    rate, adam, stages = _RATES[optimizer], optimizer == "adam", []
    for scale in reversed(range(levels)):
        num_steps = round(steps * quality.growth**scale)
        finest = scale == 0 and adam
        stages.append(
            Stage(
                scale=scale,
                size=halved_size(size, scale),
                num_steps=num_steps,
                rate=rate,
                averaged=max(1, min(_AVERAGED, 4 * num_steps // 5)) if finest else 1,
                calm=quality.calm if finest else 1.0,
                sparing=adam,
            )
        )
    return stages


def paced(
    stages: Sequence[Stage],
    exemplars: Sequence[Float[Tensor, "1 c _ _"]],
    mask: Float[Tensor, "1 1 _ _"] | None = None,
    finest: float = 1.0,
    weights: Sequence[float] | None = None,
) -> list[Stage]:
    """Adam's stages for pixels, each with a rate that is a share of what pixels have to travel at its resolution.

    That is the spread of the exemplars' colours there, or their detail where that is more: what differs from the mean
    of 3×3 pixels, as large as it is where there is much (E d² / E |d|: dots on black have little on average). So a
    faded exemplar has steps as faded. Adam's do not tell how far to go: with one rate for all, weak grain drowned in
    the noise of the steps, and strong detail was not reached.
    ``mask``: of the one exemplar, 1 where it counts. ``finest``: multiplies the rate of scale 0. ``weights``: of
    exemplars that are not pooled but mixed; they sum to 1. What is made ends with a spread between theirs, but starts
    with the colours of all: the rate is the mean of theirs, or a quarter of the pool's where that is more.
    """
    if weights is None:
        rates = _rates(stages, exemplars, mask)
    else:
        counted = [(weight, image) for weight, image in zip(weights, exemplars, strict=True) if weight > 0]
        pool = _rates(stages, [image for _, image in counted], None)
        each = [[weight * rate for rate in _rates(stages, [image], None)] for weight, image in counted]
        rates = [max(sum(own), _OF_POOL * pooled) for pooled, *own in zip(pool, *each, strict=True)]
    return [
        replace(stage, rate=rate * (finest if stage.scale == 0 else 1.0))
        for stage, rate in zip(stages, rates, strict=True)
    ]


def _rates(stages: Sequence[Stage], exemplars: Sequence[Tensor], mask: Tensor | None) -> list[float]:
    """What pixels have to travel at each stage, times what of it is a step."""
    allowed = [torch.ones_like(image[:, :1]) for image in exemplars] if mask is None else [mask.to(exemplars[0])]
    pairs, scale, found = list(zip(exemplars, allowed, strict=True)), 0, []
    for stage in reversed(stages):
        while scale < stage.scale:
            pairs, scale = [(halve(image, "valid"), halve(seen, "valid")) for image, seen in pairs], scale + 1
        counted = [(image, (1 - seen < TRACE).to(seen)) for image, seen in pairs]
        found.append(max(_OF_SPREAD * _spread(counted), _OF_DETAIL * _detail(counted), _LEAST_RATE))
    return found[::-1]


def _spread(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """The standard deviation of the pixels that count, of all images: the mean over the channels."""
    pixels = torch.cat([image.flatten(2)[0][:, seen.flatten() > 0] for image, seen in pairs], dim=1)
    return float(pixels.std(1, unbiased=False).mean()) if pixels.shape[1] else 0.0


def _detail(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """E d² / E |d| over the pixels whose surroundings count."""
    squares = lengths = 0.0
    for image, seen in pairs:
        if min(image.shape[2:]) >= _AROUND:
            inner = image[:, :, 1:-1, 1:-1] - F.avg_pool2d(image, _AROUND, 1)
            inner = inner * -F.max_pool2d(-seen, _AROUND, 1)
            squares, lengths = squares + float(inner.square().sum()), lengths + float(inner.abs().sum())
    return squares / lengths if lengths > 0 else 0.0


def count_levels(size: Size, exemplar_size: Size) -> int:
    """How often image and exemplar can be halved while each keeps 12 pixels a side, and once more."""
    levels = 1
    most = 1 + halvings(min(exemplar_size), _SMALLEST_SIDE)
    while levels < most and min(halved_size(size, levels)) >= _SMALLEST_SIDE:
        levels += 1
    return levels


def check_levels(levels: int | None, exemplar_size: Size) -> None:
    """Raises `featot.UsageError` for more levels than the exemplar can be halved to."""
    most = 1 + halvings(min(exemplar_size), 1)
    if levels is not None and levels > most:
        h, w = exemplar_size
        raise UsageError(f"expected levels of at most {most} for an exemplar of {h}x{w} pixels, got {levels}")
