"""Mixing textures: an image whose features are a barycenter of those of several exemplars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from featot.device import check_memory, memory_errors
from featot.errors import UsageError
from featot.exemplars import Picture, Sources, turns
from featot.formats import Alpha
from featot.match import Callback
from featot.plugins import Registry
from featot.runs import Run, Synthesis, SynthesisSettings
from featot.shares import path_of, read_share_map, shares_of
from featot.sight import Blend
from featot.tasks import padded

# Weighted sums of squared costs have a mean as minimum, those of others jump from one exemplar to the next.
PRESETS: dict[str, dict[str, Any]] = {"ot": {"exponent": 2.0}, "sliced": {"power": 2}}


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
    shares = [shares_of(weights, len(exemplars))]
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
    return _each(exemplars, path_of(len(exemplars), count), None, settings, alpha, callback, registry, changes)


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
    run = Run(settings, changes, registry, presets=PRESETS)
    pictures = Sources(exemplars=exemplars, alpha=alpha).read()
    maps = None if weight_map is None else read_share_map(weight_map, len(exemplars), run.settings.size)
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
        amounts = weights if maps is None else maps.mean((0, 2, 3)).tolist()
        stages = run.paced(param, stages, pictures.exemplars, finest=run.quality.finest, weights=amounts)
        alone = weight_map is None and sum(weight > 0 for weight in weights) == 1  # then it is a plain synthesis
        terms = [
            term
            for variants, weight, blend in zip(exemplar_sets, weights, blends, strict=True)
            for term in run.recipe.terms(variants, weight=1.0 if blend else weight, only=blend, detailed=alone)
            if term.weight > 0
        ]
        found = run.match(param, terms, stages, callback=callback)
        facts = {"weights": None if weight_map is not None else list(weights)}
        yield run.result("mix", pictures, found.image[:, :, : size[0], : size[1]], [found], stages, **facts)
        if found.interrupted:
            return


def _blends(maps: Float[Tensor, "1 k h w"]) -> list[Blend]:
    return [Blend(share) for share in maps.split(1, dim=1)]
