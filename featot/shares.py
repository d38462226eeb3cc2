"""Shares: how much of each of several exemplars there is in an image, as a whole or at each place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from featot.errors import UsageError
from featot.exemplars import Picture, pixels
from featot.interfaces import Size
from featot.noise import NoiseField


def shares_of(weights: Sequence[float] | None, count: int) -> list[float]:
    """The weights of ``count`` exemplars divided by their sum (None: alike). Raises `featot.UsageError`."""
    if count < 2:
        raise UsageError(f"expected at least two exemplars to mix, got {count}")
    weights = [1.0] * count if weights is None else list(weights)
    if len(weights) != count:
        raise UsageError(f"expected a weight for each of the {count} exemplars, got {len(weights)}")
    if not all(0 <= weight < math.inf for weight in weights) or sum(weights) == 0:
        raise UsageError(f"expected weights of at least 0, one of them above, got {', '.join(map(str, weights))}")
    return [weight / sum(weights) for weight in weights]


def path_of(count: int, steps: int) -> list[list[float]]:
    """The shares on the way from the first of two exemplars to the second, ends included.

    Raises `featot.UsageError` for another ``count`` of exemplars, or fewer than two steps.
    """
    if count != 2:
        raise UsageError(f"a path leads from one exemplar to another; expected 2, got {count}")
    if steps < 2:
        raise UsageError(f"expected a path of at least 2 steps, got {steps}")
    return [[1 - step / (steps - 1), step / (steps - 1)] for step in range(steps)]


def read_share_map(weight_map: Picture, count: int, size: Size | None) -> Float[Tensor, "1 k h w"]:
    """The share of each of ``count`` exemplars at each pixel of a map, which is brought to ``size`` (None: left).

    Grey for two exemplars, black the first and white the second; else a channel for each (red, green, blue).
    Raises `featot.UsageError` for any other map.
    """
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


class ShareMap:
    """Shares that vary over an image of ``size``, as a map ``(1, k, h, w)`` of any other size says, bilinearly.

    A value depends on the place alone, so that tiles are as in the whole. Beyond the image they repeat where the
    noise does, and go on as at the border where it does not.
    """

    def __init__(self, shares: Float[Tensor, "1 k h w"], size: Size) -> None:
        self.shares, self.size = shares, size

    def at(self, noise: NoiseField, scale: int, rows: range, columns: range) -> Float[Tensor, "1 k h w"]:
        """The shares at the centres of these cells of ``scale``."""
        down, across = (self._between(noise, scale, axis, cells) for axis, cells in enumerate((rows, columns)))
        first, second, part = down
        there = self.shares[:, :, first].lerp(self.shares[:, :, second], part[:, None])
        first, second, part = across
        return there[..., first].lerp(there[..., second], part)

    def _between(self, noise: NoiseField, scale: int, axis: int, cells: range) -> tuple[Tensor, Tensor, Tensor]:
        """For each cell the two pixels of the map that it lies between, and how near to the second it is."""
        count = self.shares.shape[2 + axis]
        centres = (noise.places(scale, axis, cells).double() + 0.5) * 2**scale
        at = centres * (count / self.size[axis]) - 0.5
        first = at.floor()
        ends = (first.long(), first.long() + 1)
        wraps = noise.period[axis] is not None
        low, high = (end.remainder(count) if wraps else end.clamp(0, count - 1) for end in ends)
        return low, high, (at - first).to(self.shares)
