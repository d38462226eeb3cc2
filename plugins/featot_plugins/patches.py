"""Patches: the square windows of an image as points."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from featot.interfaces import Boundary, FeatureExtractor
from featot.resample import wrap
from featot_plugins.options import PatchesOptions

_FINEST = ("1/1", "1/2")  # levels at which single pixels are seen


class Patches(FeatureExtractor):
    """All windows of one size at one scale: a single level of dimension ``c · size²``."""

    linear = True

    def extract(
        self,
        image: Float[Tensor, "b c h w"],
        *,
        scale: int = 0,
        boundary: Boundary = "valid",
        max_points: int | None = None,
    ) -> dict[str, Float[Tensor, "_ _"]]:
        options: PatchesOptions = self.options
        points = windows(image, options.size, options.stride, boundary, max_points)
        return {} if points is None else {f"1/{2**scale}": points}

    def directions(
        self, level: str, channels: int, dimension: int, count: int, generator: torch.Generator
    ) -> Float[Tensor, "count d"]:
        drawn = super().directions(level, channels, dimension, count, generator)
        return detailed(drawn, level, channels)

    def project(
        self,
        image: Float[Tensor, "b c h w"],
        directions: Mapping[str, Float[Tensor, "_ _"]],
        *,
        scale: int = 0,
        boundary: Boundary = "valid",
    ) -> dict[str, Float[Tensor, "_ _"]]:
        name, size = f"1/{2**scale}", self.options.size
        if name not in directions or (boundary == "valid" and min(image.shape[2:]) < size):
            return {}
        return {name: responses(image, directions[name], size, self.options.stride, boundary)}


def windows(
    image: Float[Tensor, "b c h w"], size: int, stride: int, boundary: Boundary, max_points: int | None
) -> Float[Tensor, "n d"] | None:
    """The ``size × size`` windows, ``stride`` pixels apart, each flattened as (row, column, channel).

    Where there would be more than ``max_points`` the stride grows, up to three quarters of the patch, so that the
    windows still cover every pixel: inside a border the last row and column end at it, nearer to their neighbours.
    None if not one window fits.
    """
    if boundary == "periodic":
        image = wrap(image, after=(size - 1, size - 1))
    h, w = image.shape[2] - size + 1, image.shape[3] - size + 1
    if min(h, w) < 1:
        return None
    stride = thinning((len(image), h, w), max_points, 3 * size // 4, stride)
    flush = boundary == "valid"
    # (b, c, rows, columns, size, size)
    view = _unfold(_unfold(image, 2, size, stride, flush), 3, size, stride, flush)
    return view.permute(0, 2, 3, 4, 5, 1).reshape(-1, size * size * image.shape[1])


def thinning(counts: tuple[int, int, int], max_points: int | None, most: int, stride: int = 1) -> int:
    """The stride, at least ``stride`` and at most ``most``, that leaves ``max_points`` of (batch, rows, columns)."""
    b, rows, columns = counts
    while max_points is not None and stride < most and b * -(-rows // stride) * -(-columns // stride) > max_points:
        stride += 1
    return stride


def responses(
    image: Float[Tensor, "b c h w"], directions: Float[Tensor, "k d"], size: int, stride: int, boundary: Boundary
) -> Float[Tensor, "n k"]:
    """The products of all windows with ``directions``, by a convolution: the windows themselves are never made."""
    if boundary == "periodic":
        image = wrap(image, after=(size - 1, size - 1))
    filters = directions.view(len(directions), size, size, image.shape[1]).permute(0, 3, 1, 2)
    found = F.conv2d(image, filters.contiguous())
    for axis in (2, 3) if stride > 1 else ():
        last = found.shape[axis] - 1
        at = torch.arange(0, last + 1, stride, device=found.device)
        if boundary == "valid" and last % stride:
            at = torch.cat([at, at.new_tensor([last])])  # as `windows` ends at the border
        found = found.index_select(axis, at)
    return found.transpose(0, 1).flatten(1).t()


def detailed(directions: Float[Tensor, "k d"], level: str, channels: int) -> Float[Tensor, "k d"]:
    """Every second direction replaced by its Laplacian over the window: that sees the fine detail.

    The patches of an image vary a hundred times more in what is coarse than in what is fine; along random directions
    a blurred image and a sharp one differ too little. At the finest levels half of those are the Laplacians of one
    pixel, and see how it differs from its eight neighbours (in grey that would be the same line each time).
    """
    size = math.isqrt(directions.shape[1] // channels)
    filters = directions[::2].view(-1, size, size, channels).permute(0, 3, 1, 2)
    if level in _FINEST and channels > 1:
        middle = (size - 1) // 2
        pixel = torch.zeros(size, size)
        pixel[middle, middle] = 1
        filters = filters.clone()
        filters[::2] *= pixel
    kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, -12.0, 2.0], [1.0, 2.0, 1.0]])
    fine = F.conv2d(filters.flatten(0, 1)[:, None], kernel[None, None], padding=1)[:, 0]
    fine = (fine - fine.mean((1, 2), keepdim=True)).view_as(filters).permute(0, 2, 3, 1).flatten(1)
    norms = torch.linalg.vector_norm(fine, dim=1, keepdim=True)
    longer = torch.linalg.vector_norm(directions[::2], dim=1, keepdim=True)
    mixed = directions.clone()
    # one pixel has no detail
    mixed[::2] = torch.where(norms > 1e-6 * longer, fine * (longer / norms), directions[::2])
    return mixed


def _unfold(image: Tensor, axis: int, size: int, stride: int, flush: bool) -> Tensor:
    """`torch.Tensor.unfold`, with one window more where the last would not be ``flush`` with the end."""
    view = image.unfold(axis, size, stride)
    if not flush or (image.shape[axis] - size) % stride == 0:
        return view
    return torch.cat([view, image.narrow(axis, image.shape[axis] - size, size).unfold(axis, size, 1)], dim=axis)
