"""Random filters: deep-looking features that need no download."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from featot.interfaces import Boundary, FeatureExtractor
from featot.resample import halve, wrap
from featot_plugins.options import RandomConvOptions

_SMALLEST_SIDE = 12  # pixels: as for the pyramid


class RandomConv(FeatureExtractor):
    """One layer of random filters and a rectifier at every scale (Ustyuzhaninov et al. 2016).

    They use filters of 3 to 55 pixels; here one size meets a Gaussian pyramid, which sees the same shapes at a
    hundredth of the cost. Half of the filters have mean 0 per channel and see contours, half see colours too.
    """

    unitless = True

    def __init__(self, options: RandomConvOptions) -> None:
        super().__init__(options)
        self._filters: dict[int, Tensor] = {}

    def extract(
        self,
        image: Float[Tensor, "b c h w"],
        *,
        scale: int = 0,
        boundary: Boundary = "valid",
        max_points: int | None = None,
    ) -> dict[str, Float[Tensor, "_ _"]]:
        """Level "1/2^s" for every scale s from ``scale`` on."""
        size, b = self.options.size, len(image)
        filters = self._of(image)
        levels = {}
        for name, halved in self._scales(image, scale, boundary):
            padded = wrap(halved, after=(size - 1, size - 1)) if boundary == "periodic" else halved
            stride, most, (rows, columns) = 1, max(1, size // 2), (side - size + 1 for side in padded.shape[2:])
            while max_points and stride < most and b * -(-rows // stride) * -(-columns // stride) > max_points:
                stride += 1
            responses = F.relu(F.conv2d(padded - 0.5, filters, stride=stride))
            levels[name] = responses.movedim(1, 3).flatten(0, 2)
        return levels

    def _of(self, image: Tensor) -> Tensor:
        """The filters for so many channels, from the seed alone: equal on every machine and in every run."""
        channels, count, size = image.shape[1], self.options.filters, self.options.size
        if channels not in self._filters:
            generator = torch.Generator().manual_seed(self.options.seed)
            filters = torch.randn(count, channels, size, size, generator=generator) / (size * math.sqrt(channels))
            filters[::2] -= filters[::2].mean((2, 3), keepdim=True)
            self._filters[channels] = filters
        return self._filters[channels].to(image)

    def _scales(self, image: Tensor, scale: int, boundary: Boundary) -> Iterator[tuple[str, Tensor]]:
        first = scale
        while min(image.shape[2:]) >= self.options.size:
            yield f"1/{2**scale}", image
            scale += 1
            if self.options.scales is not None and scale - first >= self.options.scales:
                return
            if min(image.shape[2:]) < 4 or min(halve(image[:1, :1], boundary).shape[2:]) < _SMALLEST_SIDE:
                return
            image = halve(image, boundary)
