"""A Gaussian pyramid of patches: the paper's multiscale features, all scales in the loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from featot.interfaces import Boundary, FeatureExtractor
from featot.resample import halve
from featot_plugins.options import PyramidOptions
from featot_plugins.patches import FINEST, detailed, responses, windows

_SMALLEST_SIDE = 12  # pixels, where the number of scales is not given


class Pyramid(FeatureExtractor):
    """Patches of the image and of its successive halvings (Houdard et al. 2021, Sec. 4, Eq. 14)."""

    linear = True

    def extract(
        self,
        image: Float[Tensor, "b c h w"],
        *,
        scale: int = 0,
        boundary: Boundary = "valid",
        max_points: int | None = None,
    ) -> dict[str, Float[Tensor, "_ _"]]:
        """Level "1/2^s" for every scale s from ``scale`` on, the first of them however small it is."""
        size, stride = self._size(image.shape[1]), self.options.stride
        levels = {}
        for name, halved in self.scales(image, scale, boundary):
            points = windows(halved, size, stride, boundary, max_points)
            assert points is not None
            levels[name] = points
        return levels

    def directions(
        self, level: str, channels: int, dimension: int, count: int, generator: torch.Generator
    ) -> Float[Tensor, "count d"]:
        drawn = super().directions(level, channels, dimension, count, generator)
        return detailed(drawn, self._size(channels), finest=level in FINEST)

    def project(
        self,
        image: Float[Tensor, "b c h w"],
        directions: Mapping[str, Float[Tensor, "_ _"]],
        *,
        scale: int = 0,
        boundary: Boundary = "valid",
    ) -> dict[str, Float[Tensor, "_ _"]]:
        size, stride = self._size(image.shape[1]), self.options.stride
        return {
            name: responses(halved, directions[name], size, stride, boundary)
            for name, halved in self.scales(image, scale, boundary)
            if name in directions
        }

    def _size(self, channels: int) -> int:
        # Either way a patch has some 48 values: fewer tell little of a shape, more are copied whole.
        size: int | None = self.options.size
        return size or (4 if channels > 1 else 7)

    def scales(self, image: Tensor, scale: int, boundary: Boundary) -> Iterator[tuple[str, Tensor]]:
        """The images of all levels with their names."""
        options: PyramidOptions = self.options
        size = self._size(image.shape[1])
        smallest = max(size, 4) if options.scales else _SMALLEST_SIDE
        while min(image.shape[2:]) >= size:
            yield f"1/{2**scale}", image
            scale += 1
            if (options.scales is not None and scale >= options.scales) or min(image.shape[2:]) < 4:
                break
            image = halve(image, boundary)
            if min(image.shape[2:]) < smallest:
                break
