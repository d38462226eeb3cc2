"""A steerable pyramid: how an image bends and slopes at every place, direction and scale."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from featot.interfaces import Boundary, FeatureExtractor
from featot.resample import wrap
from featot_plugins.options import PyramidOptions, SteerableOptions
from featot_plugins.patches import responses, thinning
from featot_plugins.pyramid import Pyramid

_SIDE, _SPACING = 7, 0.9  # taps of the filters, and their distance in units of the Gaussian's e⁻¹ radius


class Steerable(FeatureExtractor):
    """Local mean, and second derivatives of a Gaussian with their quadrature pair (G2, H2: Freeman & Adelson 1991).

    The three filters G2 and the four H2 span the responses to every direction, so that no direction is preferred. A
    point has 8 values a channel and sees 7×7 pixels of its scale: half as many as patches of that size would need,
    beside which it holds what they are vague about, edges and grain. At every scale of the Gaussian pyramid.
    """

    def __init__(self, options: SteerableOptions) -> None:
        super().__init__(options)
        self._pyramid = Pyramid(PyramidOptions(size=_SIDE, scales=options.scales))
        self._bank = _filters()

    def extract(
        self,
        image: Float[Tensor, "b c h w"],
        *,
        scale: int = 0,
        boundary: Boundary = "valid",
        max_points: int | None = None,
    ) -> dict[str, Float[Tensor, "_ _"]]:
        """Level "1/2^s" for every scale s from ``scale`` on."""
        c = image.shape[1]
        kernel = self._bank.to(image)[:, None].repeat(c, 1, 1, 1)
        levels = {}
        for name, _, halved in self._pyramid.scales(image, scale, boundary):
            if boundary == "periodic":
                halved = wrap(halved, after=(_SIDE - 1, _SIDE - 1))
            counts = len(image), halved.shape[2] - _SIDE + 1, halved.shape[3] - _SIDE + 1
            stride = thinning(counts, max_points, 3 * _SIDE // 4)
            levels[name] = F.conv2d(halved, kernel, stride=stride, groups=c).movedim(1, 3).flatten(0, 2)
        return levels

    def project(
        self,
        image: Float[Tensor, "b c h w"],
        directions: Mapping[str, Float[Tensor, "_ _"]],
        *,
        scale: int = 0,
        boundary: Boundary = "valid",
    ) -> dict[str, Float[Tensor, "_ _"]]:
        """As one filter for each direction, which is the sum of the bank's."""
        projected, channels = {}, image.shape[1]
        for name, _, halved in self._pyramid.scales(image, scale, boundary):
            if name in directions:
                parts = directions[name].view(-1, channels, len(self._bank))
                joint = torch.einsum("kcf,fhw->khwc", parts, self._bank.to(image)).flatten(1)
                projected[name] = responses(halved, joint, _SIDE, 1, boundary)
        return projected


def _filters() -> Float[Tensor, "8 7 7"]:
    """The mean and the seven filters, each of norm 1, with the polynomials of Freeman & Adelson (Tables III, V)."""
    x = _SPACING * (torch.arange(_SIDE) - _SIDE // 2)
    g = torch.exp(-(x**2))
    mean = torch.exp(-(x**2) / 2)
    pairs = [
        ((2 * x**2 - 1) * g, g),
        (x * g, x * g),
        (g, (2 * x**2 - 1) * g),
        ((x**3 - 2.254 * x) * g, g),
        ((x**2 - 0.7515) * g, x * g),
        (x * g, (x**2 - 0.7515) * g),
        (g, (x**3 - 2.254 * x) * g),
    ]
    bank = torch.stack([torch.outer(down, along) for along, down in pairs])
    bank = bank - bank.mean((1, 2), keepdim=True)
    bank = bank / torch.linalg.matrix_norm(bank)[:, None, None]
    mean = torch.outer(mean, mean)
    return torch.cat([mean[None] / mean.sum(), bank])
