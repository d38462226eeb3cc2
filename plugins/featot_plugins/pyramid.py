"""A Gaussian pyramid of patches: the paper's multiscale features, all scales in the loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from featot.interfaces import Boundary, FeatureExtractor
from featot.resample import halve
from featot_plugins.options import PyramidOptions
from featot_plugins.patches import detailed, responses, windows

_SMALLEST_SIDE = 12  # pixels, where the number of scales is not given
# Pixels a side of a patch, by scale, where none are given; the last one for all coarser. In colour or grey a patch at
# the finest has some 48 values: fewer tell little of a shape. Large ones at coarse scales are copied whole; those at
# 1/4 are of the size at which a copy is seen (docs/synthesis.md).
_COLOR_SIZES, _GREY_SIZES = (4, 4, 3, 4), (7, 6, 4, 5)


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
        stride, levels = self.options.stride, {}
        for name, size, halved in self.scales(image, scale, boundary):
            points = windows(halved, size, stride, boundary, max_points)
            assert points is not None
            levels[name] = points
        return levels

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
        return {
            name: responses(halved, directions[name], size, self.options.stride, boundary)
            for name, size, halved in self.scales(image, scale, boundary)
            if name in directions
        }

    def scales(self, image: Tensor, scale: int, boundary: Boundary) -> Iterator[tuple[str, int, Tensor]]:
        """Of all levels their names, the sides of their patches and their images."""
        options: PyramidOptions = self.options
        given = (options.size,) if isinstance(options.size, int) else options.size
        sizes = given or (_COLOR_SIZES if image.shape[1] > 1 else _GREY_SIZES)
        smallest = max(sizes[-1], 4) if options.scales else _SMALLEST_SIDE
        while min(image.shape[2:]) >= (size := sizes[min(scale, len(sizes) - 1)]):
            yield f"1/{2**scale}", size, image
            scale += 1
            if (options.scales is not None and scale >= options.scales) or min(image.shape[2:]) < 4:
                break
            image = halve(image, boundary)
            if min(image.shape[2:]) < smallest:
                break
