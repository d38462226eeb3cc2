"""The distance of VGG's Gram matrices, the other score of the paper."""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from featot.errors import UsageError
from featot.interfaces import Metric, Score
from featot_plugins.options import VGGMetricOptions
from featot_plugins.vgg_network import VGGNetwork


class GramDistance(Metric):
    """``‖G − G'‖² / ‖G'‖²``, the mean over the layers; G holds the mean products of a layer's responses.

    These "cross-correlations" are what Gatys et al. (2015) match and Houdard et al. 2021 compare by. No response
    sees the border, and VGG halves by averages. Twice an exemplar's G scores 1.
    """

    def __call__(self, image: Float[Tensor, "1 c h w"], exemplar: Float[Tensor, "1 c2 h2 w2"]) -> float:
        return self.score(image, exemplar).value

    @torch.no_grad()
    def score(self, image: Float[Tensor, "1 c h w"], exemplar: Float[Tensor, "1 c2 h2 w2"]) -> Score:
        """Details: "layers", the distance of each."""
        layers = {}
        grams = self._grams(image)
        for name, target in self._grams(exemplar).items():
            layers[name] = float((grams[name] - target).square().sum() / target.square().sum())
        return Score(sum(layers.values()) / len(layers), {"layers": layers})

    def _grams(self, image: Tensor) -> dict[str, Tensor]:
        responses = self._network.to(image.device)(image, "valid")
        for name in self.options.layers:
            if name not in responses:
                h, w = image.shape[2:]
                raise UsageError(f"an image of {h}x{w} is too small for {name} of {self.options.network}")
        clouds = {name: found[0].flatten(1) for name, found in responses.items()}
        return {name: cloud @ cloud.t() / cloud.shape[1] for name, cloud in clouds.items()}

    @cached_property
    def _network(self) -> VGGNetwork:
        options: VGGMetricOptions = self.options
        return VGGNetwork(options.layers, network=options.network, weights=options.weights)
