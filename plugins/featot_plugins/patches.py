"""Patches: the square windows of an image as points."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from featot.interfaces import Boundary, FeatureExtractor
from featot.resample import wrap
from featot_plugins.options import PatchesOptions


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


def windows(
    image: Float[Tensor, "b c h w"], size: int, stride: int, boundary: Boundary, max_points: int | None
) -> Float[Tensor, "n d"] | None:
    """The ``size × size`` windows, ``stride`` pixels apart, each flattened as (row, column, channel).

    Where there would be more than ``max_points`` the stride grows, up to three quarters of the patch, so that the
    windows still cover every pixel: inside a border the last row and column end at it, nearer to their neighbours.
    None if not one window fits.
    """
    if boundary == "periodic":
        image = wrap(image, before=0, after=(size - 1, size - 1))
    h, w = image.shape[2] - size + 1, image.shape[3] - size + 1
    if min(h, w) < 1:
        return None
    if max_points is not None:
        while stride < 3 * size // 4 and len(image) * -(-h // stride) * -(-w // stride) > max_points:
            stride += 1
    flush = boundary == "valid"
    # (b, c, rows, columns, size, size)
    view = _unfold(_unfold(image, 2, size, stride, flush), 3, size, stride, flush)
    return view.permute(0, 2, 3, 4, 5, 1).reshape(-1, size * size * image.shape[1])


def _unfold(image: Tensor, axis: int, size: int, stride: int, flush: bool) -> Tensor:
    """`torch.Tensor.unfold`, with one window more where the last would not be ``flush`` with the end."""
    view = image.unfold(axis, size, stride)
    if not flush or (image.shape[axis] - size) % stride == 0:
        return view
    return torch.cat([view, image.narrow(axis, image.shape[axis] - size, size).unfold(axis, size, 1)], dim=axis)
