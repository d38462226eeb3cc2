"""Gradual light: what makes one side of a picture darker than the other, and is no texture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_BLOCKS = 8  # along the longer side, whose mean colours the light has to explain
_LEAST_BLOCKS = 16  # known ones: with fewer a quadratic could be anything
_EXPLAINED = 0.7  # of the variance of these means: that of evenly lit pictures is mostly less than half
_FOLLOWED = 0.7  # of the way from block to block, mostly: where one region ends and another begins, it is nearly 0
_DARKEST = 0.25  # of the brightest light: beyond, there is too little left to make brighter


def gradual_light(
    image: Float[Tensor, "1 c h w"], known: Float[Tensor, "1 1 h w"]
) -> Float[Tensor, "1 c h w"] | None:
    """How many times as bright the light of a picture is, at each place, as where it is darkest: 1 to 4.

    The light is a quadratic of the place in each channel, as near as can be to the means of blocks of ``known``
    pixels. None where these are not like that.
    """
    h, w = image.shape[2:]
    side = max(1, -(-max(h, w) // _BLOCKS))
    counts = F.avg_pool2d(known, side, ceil_mode=True)
    means = (F.avg_pool2d(image * known, side, ceil_mode=True) / counts.clamp(min=1e-6))[0].double()
    weights = counts[0, 0].double()
    if int((weights > 0.5).sum()) < _LEAST_BLOCKS:
        return None
    rows, columns = (torch.arange(n, device=image.device).double() for n in (h, w))
    centres = [F.avg_pool1d(at[None, None], side, ceil_mode=True)[0, 0] for at in (rows, columns)]
    basis, root = _quadratic(centres[0], centres[1], h, w), weights.flatten().sqrt()[:, None]
    light = torch.linalg.lstsq(root * basis, root * means.flatten(1).T).solution
    fitted = (basis @ light).T.reshape_as(means)
    spread = means - (weights * means).sum((1, 2), keepdim=True) / weights.sum()
    left = (weights * (means - fitted).square()).sum() / (weights * spread.square()).sum().clamp(min=1e-12)
    if left > 1 - _EXPLAINED or _followed(means, fitted, weights > 0.5) < _FOLLOWED:
        return None
    found = (_quadratic(rows, columns, h, w) @ light).T.reshape(1, -1, h, w)
    found = found.clamp(min=_DARKEST * found.amax((2, 3), keepdim=True).clamp(min=1e-6))
    ratio: Tensor = found / found.amin((2, 3), keepdim=True)
    return ratio.to(image)


def _quadratic(rows: Float[Tensor, " h"], columns: Float[Tensor, " w"], high: int, wide: int) -> Float[Tensor, "n 6"]:
    """The monomials at each place of a grid in a picture of that size, row by row."""
    y, x = torch.meshgrid(rows / high - 0.5, columns / wide - 0.5, indexing="ij")
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], dim=-1).flatten(0, 1)


def _followed(means: Float[Tensor, "c h w"], fitted: Float[Tensor, "c h w"], known: Tensor) -> float:
    """Of the way that ``fitted`` goes from block to block, what share ``means`` go: the median, by length of way."""
    shares, lengths = [], []
    for axis in (0, 1):
        both = known.narrow(axis, 1, known.shape[axis] - 1) & known.narrow(axis, 0, known.shape[axis] - 1)
        gone, way = (grid.diff(dim=axis + 1)[:, both] for grid in (means, fitted))
        shares.append((gone / torch.where(way == 0, 1, way)).flatten())
        lengths.append(way.abs().flatten())
    share, order = torch.cat(shares).sort()
    if len(share) == 0:
        return 0.0
    half = torch.cat(lengths)[order].cumsum(0)
    return float(share[int(torch.searchsorted(half, half[-1] / 2).clamp(max=len(half) - 1))])
