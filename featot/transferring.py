"""Texture transfer: an image painted with the texture of another."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from featot.anchor import Anchor
from featot.device import check_memory, memory_errors
from featot.errors import UsageError, unknown_name
from featot.exemplars import Picture, Sources, turns
from featot.given import Started
from featot.match import Callback
from featot.ot.gaussian import gaussian_map
from featot.plugins import Registry
from featot.runs import Run, Synthesis, SynthesisSettings
from featot.tasks import padded

COLORS = ("style", "keep")
_UNIT = 300  # a content weight of 1 keeps what is large recognisable


def transfer(
    content: Picture,
    style: Picture,
    settings: SynthesisSettings | None = None,
    *,
    content_weight: float = 1.0,
    colors: str = "style",
    callback: Callback | None = None,
    registry: Registry | None = None,
    **changes: Any,
) -> Synthesis:
    """Paints the content image with the style's texture.

    It starts from ``content``, halved, and minimises the transport cost to the features of ``style`` plus
    ``content_weight`` times the squared distance to the content in what is coarser than 4 pixels: 0 keeps nothing of
    it but the start, 10 nearly all. ``colors``: "style" takes the style's (the content is first recoloured like it,
    by the transport map between the Gaussians of the two palettes, and then only the mean of the channels is
    compared with the content's); "keep" takes the content's (the style is first recoloured).
    ``settings`` and their fields: see `featot.synthesize`; the result has the size of the content unless one is
    given, and tiles only if ``tile`` says so here.

    Ctrl-C does not raise: the result is then the best image so far, with ``interrupted`` true.
    Raises `featot.UsageError` for images that do not go together and weights below 0.
    """
    if not 0 <= content_weight < float("inf"):
        raise UsageError(f"expected a content weight of at least 0, got {content_weight}")
    if colors not in COLORS:
        raise unknown_name("colors", colors, COLORS)
    run = Run(settings, changes if settings else {"tile": "none", **changes}, registry)
    pictures = Sources(exemplars=[content, style], alpha="ignore").read()
    image, exemplar = (picture.to(run.device) for picture in pictures.exemplars)
    size = run.settings.size or pictures.size
    if image.shape[2:] != size:
        image = F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)
    levels = run.levels(size, pictures)
    torus = run.torus(size, levels)
    check_memory(torus, pictures.channels)
    with memory_errors(size):
        image = padded(image, torus)
        if colors == "keep":
            exemplar = _recolored(exemplar, image)
            start, target, channels = image, image, torch.eye(image.shape[1]).to(image)
        else:
            start = _recolored(image, exemplar)
            # The mean, not luminance: a pull along its weights would make what is to be darker purple, and green.
            channels = torch.full((1, image.shape[1]), 1 / image.shape[1]).to(image)
            target = torch.einsum("kc,bchw->bkhw", channels, start)
        terms = run.recipe.terms(turns(exemplar, run.settings.augment))
    anchor = Anchor(target=target, channels=channels, weight=_UNIT * content_weight)
    param = Started(run.recipe.parametrization(), start)
    # Where style and content disagree, a grid of thinned points that stood still would show.
    stages = [dataclasses.replace(stage, settle=1.0) for stage in run.stages(torus, pictures.smallest, levels)]
    stages = run.paced(param, stages, [exemplar])
    found = run.match(param, [*terms, anchor], stages, callback=callback)
    made = found.image[:, :, : size[0], : size[1]]
    return run.result("transfer", pictures, made, [found], stages, content_weight=content_weight, colors=colors)


def _recolored(image: Float[Tensor, "1 c h w"], like: Float[Tensor, "1 c h2 w2"]) -> Float[Tensor, "1 c h w"]:
    """The image in the palette of another: means and covariances of the colours become the other's."""
    map_ = gaussian_map(image[0].flatten(1).t(), like[0].flatten(1).t())
    return map_(image[0].flatten(1).t()).t().reshape(image.shape).clamp(0, 1)
