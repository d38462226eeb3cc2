"""Mixing textures: an image whose features are a barycenter of those of several exemplars."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from featot.device import check_memory, memory_errors
from featot.errors import UsageError
from featot.exemplars import Picture, Sources, pixels, turns
from featot.formats import Alpha
from featot.interfaces import Size
from featot.match import Callback
from featot.plugins import Registry
from featot.runs import Run, Synthesis, SynthesisSettings
from featot.sight import Blend
from featot.tasks import padded

# Weighted sums of squared costs have a mean as minimum, those of others jump from one exemplar to the next.
_PRESETS: dict[str, dict[str, Any]] = {"ot": {"exponent": 2.0}, "sliced": {"power": 2}}


def mix(
    exemplars: Sequence[Picture],
    weights: Sequence[float] | None = None,
    settings: SynthesisSettings | None = None,
    *,
    weight_map: Picture | None = None,
    alpha: Alpha = "white",
    callback: Callback | None = None,
    registry: Registry | None = None,
    **changes: Any,
) -> Synthesis:
    """Makes the texture between several: it minimises the weighted sum of the transport costs to each of them.

    That is the texture barycenter of Houdard et al. 2021. ``exemplars``: two or more, files or pixels as in
    `featot.synthesize`, of any sizes. ``weights``: of each, at least 0; they are divided by their sum (None: alike).
    ``weight_map``: instead of weights, what they are at each place of the result, which has its size unless one is
    given: grey for two exemplars, black the first and white the second; else a channel for each (red, green, blue).
    ``settings`` and their fields: see `featot.synthesize`.

    Ctrl-C does not raise: the result is then the best image so far, with ``interrupted`` true.
    Raises `featot.UsageError` for exemplars and weights that do not go together.
    """
    shares = [_shares(weights, len(exemplars))]
    if weight_map is not None and weights is not None:
        raise UsageError("expected weights or a weight map, got both")
    return next(_each(exemplars, shares, weight_map, settings, alpha, callback, registry, changes))


def mix_path(
    exemplars: Sequence[Picture],
    count: int,
    settings: SynthesisSettings | None = None,
    *,
    alpha: Alpha = "white",
    callback: Callback | None = None,
    registry: Registry | None = None,
    **changes: Any,
) -> Iterator[Synthesis]:
    """The ``count`` textures on the way from the first exemplar to the second, ends included, all of one seed.

    See `mix`. After Ctrl-C there are no more. Raises `featot.UsageError` also for fewer than two steps.
    """
    if len(exemplars) != 2:
        raise UsageError(f"a path leads from one exemplar to another; expected 2, got {len(exemplars)}")
    if count < 2:
        raise UsageError(f"expected a path of at least 2 steps, got {count}")
    shares = [(1 - step / (count - 1), step / (count - 1)) for step in range(count)]
    return _each(exemplars, shares, None, settings, alpha, callback, registry, changes)


def _each(
    exemplars: Sequence[Picture],
    shares: Sequence[Sequence[float]],
    weight_map: Picture | None,
    settings: SynthesisSettings | None,
    alpha: Alpha,
    callback: Callback | None,
    registry: Registry | None,
    changes: dict[str, Any],
) -> Iterator[Synthesis]:
    run = Run(settings, changes, registry, presets=_PRESETS)
    pictures = Sources(exemplars=exemplars, alpha=alpha).read()
    maps = None if weight_map is None else _maps(weight_map, len(exemplars), run.settings.size)
    size = run.settings.size or (pictures.size if maps is None else (maps.shape[2], maps.shape[3]))
    levels = run.levels(size, pictures)
    torus = run.torus(size, levels)
    check_memory(torus, pictures.channels)
    with memory_errors(size):
        exemplar_sets = [turns(image.to(run.device), run.settings.augment) for image in pictures.exemplars]
        blends = [None] * len(exemplars) if maps is None else _blends(padded(maps, torus).to(run.device))
    for weights in shares:
        param = run.recipe.parametrization()
        stages = run.stages(torus, pictures.smallest, levels if param.resizable else 1)
        terms = [
            term
            for variants, weight, blend in zip(exemplar_sets, weights, blends, strict=True)
            for term in run.recipe.terms(variants, weight=1.0 if blend else weight, only=blend)
            if term.weight > 0
        ]
        found = run.match(param, terms, stages, callback=callback)
        facts = {"weights": None if weight_map is not None else list(weights)}
        yield run.result("mix", pictures, found.image[:, :, : size[0], : size[1]], [found], stages, **facts)
        if found.interrupted:
            return


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    if count < 2:
        raise UsageError(f"expected at least two exemplars to mix, got {count}")
    weights = [1.0] * count if weights is None else list(weights)
    if len(weights) != count:
        raise UsageError(f"expected a weight for each of the {count} exemplars, got {len(weights)}")
    if not all(0 <= weight < math.inf for weight in weights) or sum(weights) == 0:
        raise UsageError(f"expected weights of at least 0, one of them above, got {', '.join(map(str, weights))}")
    return [weight / sum(weights) for weight in weights]


def _maps(weight_map: Picture, count: int, size: Size | None) -> Float[Tensor, "1 k h w"]:
    """The share of each exemplar at each pixel of the result."""
    found = pixels(weight_map, "ignore")
    if count == 2 and (found.shape[1] == 1 or (found == found[:, :1]).all()):
        found = torch.cat([1 - found[:, :1], found[:, :1]], dim=1)
    if found.shape[1] < count or (found[:, count:] > 0).any():
        what = "grey" if count == 2 else f"with a channel for each of the {count} exemplars"
        raise UsageError(f"expected a weight map {what}, got one of {found.shape[1]} channels")
    found = found[:, :count]
    if size is not None and found.shape[2:] != size:
        found = F.interpolate(found, size, mode="bilinear", antialias=True).clamp(0, 1)
    total = found.sum(1, keepdim=True)
    if (total == 0).any():
        raise UsageError("the weight map is black somewhere: there no exemplar has any weight")
    return found / total


def _blends(maps: Float[Tensor, "1 k h w"]) -> list[Blend]:
    return [Blend(share) for share in maps.split(1, dim=1)]
