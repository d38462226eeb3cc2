"""Patches of an image whose colours are told as light, red against green, and yellow against blue."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import featot
from featot.resample import halve, wrap

if TYPE_CHECKING:
    from featot_opponent import OpponentOptions

_SMALLEST_SIDE = 12  # pixels, of the coarsest level


class Opponent(featot.FeatureExtractor):
    """Level "1/2^s": the windows of the s times halved image, in weighted opponent colours."""

    def extract(
        self, image: Tensor, *, scale: int = 0, boundary: str = "valid", max_points: int | None = None
    ) -> dict[str, Tensor]:
        options: OpponentOptions = self.options
        image = opponent(image, options.luminance, options.colour)
        levels = {}
        while min(image.shape[2:]) >= options.size:
            levels[f"1/{2**scale}"] = windows(image, options.size, boundary, max_points)
            if min(image.shape[2:]) < 2 * max(_SMALLEST_SIDE, options.size) + 2:
                break
            image, scale = halve(image, boundary), scale + 1
        return levels


def opponent(image: Tensor, luminance: float, colour: float) -> Tensor:
    """The colours ``(b, 3, h, w)`` along three axes: light (R+G+B)/√3, red-green (R−G)/√2, yellow-blue (R+G−2B)/√6.

    The axes of van de Sande, Gevers and Snoek 2010, at right angles: with weights of 1 no distance changes. Grey
    images ``(b, 1, h, w)`` keep one axis, and count as three equal channels.
    Raises `featot.UsageError` for another number of channels.
    """
    if image.shape[1] == 1:
        return luminance * math.sqrt(3) * image
    if image.shape[1] != 3:
        raise featot.UsageError(f"opponent colours need images of 1 or 3 channels, got {image.shape[1]}")
    axes = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [1.0, 1.0, -2.0]])
    axes = axes / axes.norm(dim=1, keepdim=True) * torch.tensor([[luminance], [colour], [colour]])
    return torch.einsum("kc,bchw->bkhw", axes.to(image), image)


def windows(image: Tensor, size: int, boundary: str, max_points: int | None) -> Tensor:
    """All ``size × size`` windows ``(n, c·size²)``, or every second, third … row and column of them.

    The last always belongs to it, and the gaps stay within a window, so that every pixel is in one.
    """
    if boundary == "periodic":
        image = wrap(image, after=(size - 1, size - 1))
    view = image.unfold(2, size, 1).unfold(3, size, 1)  # (b, c, rows, columns, size, size)
    rows, columns = view.shape[2:4]
    stride = 1
    while max_points and stride < size and len(image) * (rows // stride) * (columns // stride) > max_points:
        stride += 1
    kept = [sorted({*range(0, count, stride), count - 1}) for count in (rows, columns)]
    return view[:, :, kept[0]][:, :, :, kept[1]].permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
