"""Where in the exemplars the patches of an image come from: how much is copied, and what is left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from featot.ot import nearest
from featot.resample import halve

_SIDE = 15  # of a patch, in pixels; the metric 'copy' looks at the same
_STEP = 4  # pixels between neighbours, as there
_PIXELS = 2**17  # of all exemplars, at most
_PAIRS = 2**30  # of patches to compare, about: seconds on a CPU
_FAIR_SHARE = 4  # patches of the image that a cell of the exemplar would get if all were used alike
GAP = 8  # columns between exemplars on the canvas


@dataclass(frozen=True, kw_only=True)
class PatchMap:
    """The nearest exemplar patch of each patch of an image; the exemplars lie side by side on one canvas.

    ``side``: of a patch; ``stride``: between patches of the image; both in pixels of images that were first halved
    ``halvings`` times. ``canvas``: the rows and columns that a patch's first pixel may have.
    ``places``: row and column on the canvas of the nearest patch.
    ``usage``: on the canvas, how often the patches there are the nearest, 1 meaning as often as all are on average;
    NaN between exemplars. It is the same all over each of the square cells of ``cell`` pixels.
    ``copied``: the share of neighbouring patches whose nearest are neighbours in the same way; NaN for one column.
    """

    side: int
    stride: int
    halvings: int
    canvas: tuple[int, int]
    places: Int[Tensor, "rows columns 2"]
    usage: Float[Tensor, "h w"]
    cell: int
    copied: float

    @property
    def unused(self) -> float:
        """The share of the exemplars whose patches are never the nearest."""
        counted = self.usage[~self.usage.isnan()]
        return float((counted == 0).float().mean())


def find_patches(image: Float[Tensor, "1 c h w"], exemplars: Sequence[Float[Tensor, "1 c _ _"]]) -> PatchMap:
    """Searches the nearest exemplar patches of ``image``, by the squared distance of all their pixels.

    Large exemplars, and the image with them, are halved first; of a large image some patches are left out.
    """
    halvings = 0
    while (pixels := sum(exemplar[0, 0].numel() for exemplar in exemplars)) > _PIXELS:
        if min(min(picture.shape[2:]) for picture in (image, *exemplars)) <= 2 * _SIDE:
            break
        image, exemplars = halve(image, "valid"), [halve(exemplar, "valid") for exemplar in exemplars]
        halvings += 1
    side = min(_SIDE, *image.shape[2:], *(length for exemplar in exemplars for length in exemplar.shape[2:]))
    stride = math.ceil(math.sqrt(image[0, 0].numel() * pixels / _PAIRS))
    x = F.unfold(image, side, stride=stride)[0].t().contiguous()
    y = torch.cat([F.unfold(exemplar, side)[0] for exemplar in exemplars], dim=1).t().contiguous()
    found = nearest(x, y, y.new_zeros(len(y)), center=y.mean(0))[1][:, 0].cpu()

    grids = [(exemplar.shape[2] - side + 1, exemplar.shape[3] - side + 1) for exemplar in exemplars]
    canvas = max(h for h, _ in grids), sum(w for _, w in grids) + GAP * (len(grids) - 1)
    counts = torch.bincount(found, minlength=len(y)) * (len(y) / len(x))
    cell = max(1, math.ceil(math.sqrt(_FAIR_SHARE * len(y) / len(x))))
    usage = torch.full(canvas, math.nan)
    corners, left = [], 0
    for (h, w), share in zip(grids, counts.split([h * w for h, w in grids]), strict=True):
        corners.append(torch.cartesian_prod(torch.arange(h), torch.arange(left, left + w)))
        usage[:h, left : left + w] = _in_cells(share.view(h, w), cell)
        left += w + GAP
    rows = (image.shape[2] - side) // stride + 1
    places = torch.cat(corners)[found].view(rows, -1, 2)
    return PatchMap(
        side=side,
        stride=stride,
        halvings=halvings,
        canvas=canvas,
        places=places,
        usage=usage,
        cell=cell,
        copied=_copied(places, stride),
    )


def _in_cells(share: Tensor, cell: int) -> Tensor:
    """Each value replaced by the mean of its cell; those at the end may be smaller."""
    h, w = share.shape
    means = F.avg_pool2d(share[None], cell, ceil_mode=True)[0]
    return means.repeat_interleave(cell, 0)[:h].repeat_interleave(cell, 1)[:, :w]


def _copied(places: Tensor, stride: int) -> float:
    onward = max(1, _STEP // stride)
    moved = places[:, onward:] - places[:, :-onward]
    return float((moved == torch.tensor([0, onward * stride])).all(2).float().mean())
