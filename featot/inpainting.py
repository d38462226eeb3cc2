"""Inpainting: a hole in an image is filled with what the rest of it is made of."""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from featot.device import check_memory
from featot.errors import UsageError
from featot.exemplars import Picture, Pictures, Sources, describe, pixels, reduced
from featot.given import Filled
from featot.light import gradual_light
from featot.match import Callback, Match
from featot.plugins import Registry
from featot.problem import Stage
from featot.resample import halve
from featot.runs import Run, Synthesis, SynthesisSettings
from featot.schedule import check_levels, count_levels
from featot.sight import Region

_REACH = 8  # pixels of the coarsest level that are computed around a hole: no patch that touches it reaches further
_LEAST_REACH = 24  # pixels of the image; a response of VGG's relu3_1 sees no further
_KNOWN_SHARE, _LEAST_KNOWN = 2, 128**2  # known pixels, of the hole's and in all, that are enough to learn from
_SEEN, _WINDOW = 32, 5  # so many windows of so many pixels a side are known at the coarsest level
# Larger patches copy more, which is no fault here, and carry on what the rim begins, such as rows of bricks.
_PRESETS = {"pyramid": {"size": 5}}
_RIM_WEIGHT = 4.0  # against seams; more leaves the inside blurred
_STEPS = 2  # times those of the quality: holes are small, and have to meet their rim
_MARKED = 0.1  # what is painted only half is no pixel to keep
_RINGS = 6  # pixels around the hole where a fringe is looked for; its inner half may be one
# Of the spread of the colours, and over what is seen further out. In photographs the rims of 4 in 100 clean holes of
# 9 pixels jump so far, and 1 in 200 of 17 pixels; with a third of white over them 9 in 10 do, and nearly all.
_JUMP, _JUMP_OVER = 0.3, 3.0


def inpaint(
    image: Picture,
    mask: Picture | None = None,
    settings: SynthesisSettings | None = None,
    *,
    invert_mask: bool = False,
    grow: int = 0,
    callback: Callback | None = None,
    registry: Registry | None = None,
    **changes: Any,
) -> Synthesis:
    """Fills the hole of an image so that the patches that touch it are distributed like those of the rest.

    ``image``: a file, or pixels ``(c, h, w)`` in [0, 1]. ``mask``: of its size, white where it is to be filled (None:
    where the image is transparent); ``invert_mask``: black there. ``grow``: so many pixels more on every side.
    Only the surroundings of the hole are looked at, each part of it on its own where they lie far apart; all other
    pixels stay bit for bit. ``settings`` and their fields: see `featot.synthesize`; size and tile do not apply.

    Ctrl-C does not raise: the result is then the best image so far, with ``interrupted`` true.
    Raises `featot.UsageError` for an image and a mask that do not go together, for a mask of nothing or everything.
    """
    run = Run(settings, changes, registry, presets=_PRESETS, pace=_STEPS)
    pictures, hole = _read(image, mask, invert_mask, grow)
    whole = pictures.exemplars[0].clone()
    check_levels(run.settings.levels, pictures.size)
    check_memory(pictures.size, pictures.channels)
    matches: list[Match] = []
    stages: list[Stage] = []
    for part in _parts(hole[0, 0]):
        crop, found, stages = _fill(run, whole, hole, part, callback)
        matches.append(found)
        whole[(..., *crop)] = torch.where(part[crop], found.image.cpu(), whole[(..., *crop)])
        hole = hole & ~part
        if found.interrupted:
            break
    facts = {"mask": pictures.record["mask"], "grow": grow, "invert_mask": invert_mask, "tile": "none"}
    return run.result("inpaint", pictures, whole, matches, stages, **facts)


def _read(image: Picture, mask: Picture | None, invert: bool, grow: int) -> tuple[Pictures, Bool[Tensor, "1 1 h w"]]:
    """The image, without the transparency that says what is to be filled; and the hole."""
    if grow < 0:
        raise UsageError(f"expected grow of at least 0 pixels, got {grow}")
    pictures = Sources(exemplars=[image], alpha="keep").read()
    (found,) = pictures.exemplars
    transparent = pictures.format.alpha if pictures.format is not None else found.shape[1] in (2, 4)
    if mask is None:
        if not transparent:
            raise UsageError("what is to be filled? Expected a mask, white there, or an image transparent there")
        marked = found[:, -1:] < 1
        exemplars, grey = reduced([found[:, :-1]], alpha=False)
        pictures = dataclasses.replace(
            pictures,
            exemplars=exemplars,
            grey=grey or pictures.grey,
            format=pictures.format and dataclasses.replace(pictures.format, alpha=False),
        )
    else:
        painted = pixels(mask).amax(1, keepdim=True)
        if painted.shape[2:] != found.shape[2:]:
            (h, w), got = found.shape[2:], painted.shape[2:]
            raise UsageError(f"expected a mask of the image's size {h}x{w}, got {got[0]}x{got[1]}")
        marked = (1 - painted if invert else painted) > _MARKED
        pictures.record["mask"] = describe(mask, painted)
    share = float(marked.float().mean())
    if share in (0, 1):
        what = "nothing to fill" if share == 0 else "the whole image to be filled"
        raise UsageError(f"the {'alpha channel' if mask is None else 'mask'} marks {what}; is it inverted?")
    hole = _spread(marked, grow)
    if hole.all():
        raise UsageError(f"grown by {grow} pixels the hole is the whole image; expected fewer")
    if mask is not None and share > 0.5:
        warnings.warn(f"the mask marks {100 * share:.4g} % of the image to be filled; is it inverted?", stacklevel=3)
    elif fringe := _fringe(pictures.exemplars[0], hole):
        what = f"a fringe of {fringe} pixel{'s' * (fringe > 1)} around the hole differs from what is beyond and stays"
        warnings.warn(f"{what}; --grow {grow + fringe} fills it too", stacklevel=3)
    return pictures, hole


def _spread(marked: Bool[Tensor, "1 1 h w"], by: int) -> Bool[Tensor, "1 1 h w"]:
    """The marked pixels with all in the squares around them, which may be large: pooling would be slow then."""
    for axis in (2, 3):
        length = marked.shape[axis]
        before = F.pad(marked.cumsum(axis, dtype=torch.int32).movedim(axis, 3), (1, 0))  # so many marked before each
        here = torch.arange(length, device=marked.device)
        first, end = (here - by).clamp(min=0), (here + by + 1).clamp(max=length)
        marked = (before[..., end] > before[..., first]).movedim(3, axis)
    return marked


def _fringe(image: Float[Tensor, "1 c h w"], hole: Bool[Tensor, "1 1 h w"]) -> int:
    """How many pixels around the hole are of other colours than those beyond, as what was cut out left them; or 0."""
    grown = [_spread(hole, by) for by in range(_RINGS + 1)]
    rings = [image[0][:, (after & ~before)[0, 0]] for before, after in itertools.pairwise(grown)]
    if any(ring.shape[1] == 0 for ring in rings):
        return 0
    spread = torch.cat(rings, dim=1).std(1).clamp(min=0.02)
    jumps = [
        float(((inner.mean(1) - outer.mean(1)).abs() / spread).max()) for inner, outer in itertools.pairwise(rings)
    ]
    found = [
        width for width in range(1, _RINGS // 2 + 1) if jumps[width - 1] > max(_JUMP, _JUMP_OVER * max(jumps[width:]))
    ]
    return max(found, default=0)


def _parts(hole: Bool[Tensor, "h w"]) -> Iterator[Bool[Tensor, "h w"]]:
    """The parts of the hole that lie so far from each other that no feature sees two of them."""
    side = 4 * _LEAST_REACH
    marked = F.max_pool2d(hole[None, None].float(), side, ceil_mode=True)[0, 0] > 0
    left = {(int(row), int(column)) for row, column in marked.nonzero()}
    while left:
        group, edge = set(), [min(left)]
        while edge:
            row, column = block = edge.pop()
            if block in left:
                left.remove(block)
                group.add(block)
                edge += [(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
        part = torch.zeros_like(hole)
        for row, column in group:
            here = slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)
            part[here] = hole[here]
        yield part


def _fill(
    run: Run, image: Tensor, hole: Tensor, part: Tensor, callback: Callback | None
) -> tuple[tuple[slice, slice], Match, list[Stage]]:
    """The surroundings of one part of the hole, filled, and where they are."""
    context = _context(hole[0, 0], part)
    learnt, barred = image[(..., *context)].to(run.device), hole[(..., *context)].to(image).to(run.device)
    size = (learnt.shape[2], learnt.shape[3])
    seen = 1 - barred
    known = _known_levels(seen)
    if known == 0:
        what = f"{_SEEN} windows of {_WINDOW}x{_WINDOW} known pixels"
        raise UsageError(f"the hole leaves too little to learn from; expected at least {what} around it")
    levels = run.settings.levels or min(_useful_levels(part), known, count_levels(size, size))
    crop = _grown(part, max(_LEAST_REACH, _REACH * 2 ** (levels - 1)))
    here, free = image[(..., *crop)].to(run.device), hole[(..., *crop)].to(run.device)
    around, light = (found.to(here) for found in _lights(image, hole, context, crop))
    learnt, here = learnt / around, here / light
    param = Filled(run.recipe.parametrization(), here, free)
    # Patches across the rim are a distribution of their own: among the others a seam would hardly count. At coarser
    # levels it makes no difference, but costs.
    hole = free.to(here)
    regions = {Region(hole): 1.0, Region(torch.cat([hole, 1 - hole], dim=1), finest=True): _RIM_WEIGHT}
    terms = [
        term
        for region, weight in regions.items()
        for term in run.recipe.terms([learnt], only=region, weight=weight, masks=[seen])
    ]
    stages = run.stages((here.shape[2], here.shape[3]), size, levels)
    stages = run.paced(param, stages, [learnt], seen)
    found = run.match(param, terms, stages, callback=callback)
    lit = found.image * light.to(found.image)
    return crop, dataclasses.replace(found, image=lit.clamp(0, 1)), stages


def _lights(image: Tensor, hole: Tensor, *boxes: tuple[slice, slice]) -> list[Tensor]:
    """The gradual light in each of some boxes, one inside the other, as the largest has it; 1 where there is none."""
    whole = max(boxes, key=lambda box: math.prod(side.stop - side.start for side in box))
    found = gradual_light(image[(..., *whole)], 1 - hole[(..., *whole)].to(image))
    if found is None:
        return [torch.ones(1)] * len(boxes)
    inside = [[slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, whole, strict=True)] for box in boxes]
    return [found[:, :, rows, columns] for rows, columns in inside]


def _grown(part: Bool[Tensor, "h w"], margin: int) -> tuple[slice, slice]:
    """The smallest box around the part, with a margin, inside the image."""
    sides = []
    for axis in (0, 1):
        at = part.any(1 - axis).nonzero()
        sides.append(slice(max(0, int(at.min()) - margin), min(part.shape[axis], int(at.max()) + 1 + margin)))
    return sides[0], sides[1]


def _context(hole: Bool[Tensor, "h w"], part: Bool[Tensor, "h w"]) -> tuple[slice, slice]:
    """A box around the part that holds enough known pixels to learn from, or the whole image."""
    enough, margin = max(_KNOWN_SHARE * int(part.sum()), _LEAST_KNOWN), _LEAST_REACH
    while True:
        box = _grown(part, margin)
        if int((~hole[box]).sum()) >= enough or hole[box].shape == hole.shape:
            return box
        margin += _LEAST_REACH


def _useful_levels(part: Bool[Tensor, "h w"]) -> int:
    """At the coarsest level hardly a pixel is wholly inside the hole: the rest decides what is there."""
    levels, solid = 1, part[None, None].float()
    while min(solid.shape[2:]) > 1 and (solid := F.avg_pool2d(solid, 2)).max() == 1:
        levels += 1
    return levels


def _known_levels(known: Float[Tensor, "1 1 h w"]) -> int:
    """Down to where there is still something to learn from."""
    levels = 0
    while min(known.shape[2:]) >= _WINDOW and int((-F.max_pool2d(-known, _WINDOW, 1) > 0.999).sum()) >= _SEEN:
        levels += 1
        known = halve(known, "valid")
    return levels
