"""Random filters: deep-looking features that need no download."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from featot.interfaces import Boundary, FeatureExtractor
from featot.resample import wrap
from featot_plugins.options import PyramidOptions, RandomConvOptions
from featot_plugins.patches import thinning
from featot_plugins.pyramid import Pyramid


class RandomConv(FeatureExtractor):
    """One layer of random filters and a rectifier at every scale (Ustyuzhaninov et al. 2016).

    They use filters of 3 to 55 pixels; here one size meets a Gaussian pyramid, which sees the same shapes at a
    hundredth of the cost. Half of the filters have mean 0 per channel and see contours, half see colours too.
    """

    unitless = True

    def __init__(self, options: RandomConvOptions) -> None:
        super().__init__(options)
        self._pyramid = Pyramid(PyramidOptions(size=options.size, scales=options.scales))
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
        size = self.options.size
        filters = self._of(image)
        levels = {}
        for name, _, halved in self._pyramid.scales(image, scale, boundary):
            padded = wrap(halved, after=(size - 1, size - 1)) if boundary == "periodic" else halved
            counts = len(image), padded.shape[2] - size + 1, padded.shape[3] - size + 1
            stride = thinning(counts, max_points, max(1, size // 2))
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
