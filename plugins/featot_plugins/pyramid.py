"""A Gaussian pyramid of patches: the paper's multiscale features, all scales in the loss."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from featot.interfaces import Boundary, FeatureExtractor
from featot.resample import halve
from featot_plugins.options import PyramidOptions
from featot_plugins.patches import windows

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
        options: PyramidOptions = self.options
        levels: dict[str, Tensor] = {}
        # Either way a patch has some 48 values: fewer tell little of a shape, more are copied whole.
        size = options.size or (4 if image.shape[1] > 1 else 7)
        smallest = max(size, 4) if options.scales else _SMALLEST_SIDE
        while min(image.shape[2:]) >= size:
            points = windows(image, size, options.stride, boundary, max_points)
            if points is None:
                break
            levels[f"1/{2**scale}"] = points
            scale += 1
            if (options.scales is not None and scale >= options.scales) or min(image.shape[2:]) < 4:
                break
            image = halve(image, boundary)
            if min(image.shape[2:]) < smallest:
                break
        return levels
