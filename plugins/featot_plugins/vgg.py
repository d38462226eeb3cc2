"""Responses of VGG, the features of Gatys et al."""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from featot.interfaces import Boundary, FeatureExtractor
from featot_plugins.options import VGGOptions
from featot_plugins.patches import thinning
from featot_plugins.vgg_network import VGGNetwork

_MOST_STRIDE = 3  # positions of a thinned layer: what a response of the first one sees, so that every pixel counts


class VGG(FeatureExtractor):
    """A level for each layer: the responses at one position are one point (Gatys et al. 2015).

    Weights are loaded when the first image comes. Levels are named after layer and scale, "relu1_1 1/2": going from
    coarse to fine, each resolution is matched anew.
    """

    unitless = True

    def __init__(self, options: VGGOptions) -> None:
        super().__init__(options)
        self._seen: tuple[Tensor, tuple[object, ...], dict[str, Tensor]] | None = None

    def extract(
        self,
        image: Float[Tensor, "b c h w"],
        *,
        scale: int = 0,
        boundary: Boundary = "valid",
        max_points: int | None = None,
    ) -> dict[str, Float[Tensor, "_ _"]]:
        levels = {}
        for layer, responses in self._responses(image, boundary).items():
            b, _, h, w = responses.shape
            stride = thinning((b, h, w), max_points, _MOST_STRIDE)
            levels[f"{layer} 1/{2**scale}"] = responses[:, :, ::stride, ::stride].movedim(1, 3).flatten(0, 2)
        return levels

    def _responses(self, image: Tensor, boundary: Boundary) -> dict[str, Tensor]:
        """Those of the last image are kept: thinned and whole levels of one image cost one pass of the network."""
        state = boundary, image._version, torch.is_grad_enabled()
        if self._seen is None or self._seen[0] is not image or self._seen[1] != state:
            self._seen = image, state, self._network.to(image.device)(image, boundary)
        return self._seen[2]

    @cached_property
    def _network(self) -> VGGNetwork:
        o: VGGOptions = self.options
        return VGGNetwork(o.layers, network=o.network, pooling=o.pooling, weights=o.weights)
