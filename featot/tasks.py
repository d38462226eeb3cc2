"""Tasks: each builds a problem for the one loop in `featot.match`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from featot.device import check_memory, memory_errors
from featot.errors import UsageError
from featot.exemplars import Picture, Pictures, Sources
from featot.formats import Alpha
from featot.interfaces import Size
from featot.match import Callback
from featot.plugins import Registry
from featot.runs import Run, Synthesis, SynthesisSettings


def synthesize(
    exemplar: Picture | Sequence[Picture],
    settings: SynthesisSettings | None = None,
    *,
    mask: Picture | None = None,
    guide: Picture | None = None,
    exemplar_guide: Picture | None = None,
    alpha: Alpha = "white",
    callback: Callback | None = None,
    registry: Registry | None = None,
    **changes: Any,
) -> Synthesis:
    """Makes an image whose features are distributed like the exemplar's (Houdard et al. 2021, Alg. 1).

    ``exemplar``: a file, or pixels ``(c, h, w)`` or ``(1, c, h, w)`` in [0, 1]; or a list of these, whose
    features are pooled. ``mask``, ``guide``, ``exemplar_guide``, ``alpha``: see `featot.exemplars.Sources`; the
    result has the size of the guide.
    ``settings``, and any of their fields by name: ``synthesize("a.png", size=(512, 512), seed=3)``. ``features``,
    ``param`` and ``loss`` may also be objects: an extractor, a parametrization, a function
    ``(target, generator) -> Loss``. ``callback``: called after each step with a `featot.match.MatchState`.

    Ctrl-C does not raise: the result is then the best image so far, with ``interrupted`` true.
    Raises `featot.UsageError` for settings that make no sense, `featot.FeatotError` where the run fails.
    """
    exemplars: list[Any] = list(exemplar) if isinstance(exemplar, list | tuple) else [exemplar]
    sources = Sources(exemplars=exemplars, mask=mask, guide=guide, exemplar_guide=exemplar_guide, alpha=alpha)
    return next(synthesize_each(sources, settings, [None], callback=callback, registry=registry, **changes))


def synthesize_each(
    sources: Sources | Pictures,
    settings: SynthesisSettings | None = None,
    seeds: Iterable[int | None] = (None,),
    *,
    callback: Callback | None = None,
    registry: Registry | None = None,
    **changes: Any,
) -> Iterator[Synthesis]:
    """One synthesis after the other, as `synthesize`, for each of the seeds (None: that of the settings).

    The exemplars are read, checked and prepared once. After Ctrl-C there are no more.
    """
    run = Run(settings, changes, registry)
    given = run.settings
    pictures = sources if isinstance(sources, Pictures) else sources.read()
    size = _result_size(given.size, pictures)
    levels = run.levels(size, pictures)
    torus = run.torus(size, levels)
    check_memory(torus, pictures.channels)
    with memory_errors(size):
        images, masks = pictures.varied(given.augment)
        images = [image.to(run.device) for image in images]
        guide = None if pictures.guide is None else padded(pictures.guide.to(run.device), torus)
    for seed in seeds:
        settings = given if seed is None else dataclasses.replace(given, seed=seed)
        param = run.recipe.parametrization()
        stages = run.stages(torus, pictures.smallest, levels if param.resizable else 1)
        stages = run.paced(param, stages, pictures.exemplars, pictures.mask, run.quality.finest)
        terms = run.recipe.terms(images, guide=guide, masks=masks, detailed=True)
        found = run.match(param, terms, stages, seed=settings.seed, callback=callback)
        image = found.image[:, :, : size[0], : size[1]]
        yield run.result("synthesize", pictures, image, [found], stages, seed=settings.seed)
        if found.interrupted:
            return


def _result_size(size: Size | None, pictures: Pictures) -> Size:
    if pictures.guide is None:
        return size or pictures.size
    guide = (pictures.guide.shape[2], pictures.guide.shape[3])
    if size not in (None, guide):
        raise UsageError(f"expected the size of the guide, {guide[0]}x{guide[1]}, got {size[0]}x{size[1]}")
    return guide


def padded(map_: Tensor, size: Size) -> Tensor:
    """A map of the result continued to a torus of ``size``, by its last row and column."""
    h, w = map_.shape[2:]
    return F.pad(map_, (0, size[1] - w, 0, size[0] - h), mode="replicate")
