"""SIFID: the Fréchet distance of the first features of Inception, within one image."""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from featot.errors import UsageError
from featot.interfaces import Metric
from featot_plugins.options import SIFIDOptions
from featot_plugins.weights import load_weights

_LAYERS = (  # of torchvision's inception_v3 up to its first pooling: name, channels before and after, stride, padding
    ("Conv2d_1a_3x3", 3, 32, 2, 0),
    ("Conv2d_2a_3x3", 32, 32, 1, 0),
    ("Conv2d_2b_3x3", 32, 64, 1, 1),
)
_SMALLEST_SIDE = 15  # pixels: two positions after the pooling
_NORMALISATION = ("weight", "bias", "running_mean", "running_var")
_EPSILON = 0.001  # of the normalisation


class SIFID(Metric):
    """The Fréchet distance between the 64 features at all positions of two images (Rott Shaham et al. 2019).

    They are those of Inception v3 after its first max-pooling, with torchvision's weights: SinGAN's own numbers come
    from TensorFlow's, so they differ.
    """

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "1 c h w"], exemplar: Float[Tensor, "1 c2 h2 w2"]) -> float:
        return frechet(self._features(image), self._features(exemplar))

    def _features(self, image: Tensor) -> Float[Tensor, "n 64"]:
        h, w = image.shape[2:]
        if image.shape[1] not in (1, 3):
            raise UsageError(f"Inception sees images of 1 or 3 channels, got {image.shape[1]}")
        if min(h, w) < _SMALLEST_SIDE:
            raise UsageError(
                f"an image of {h}x{w} is too small for Inception: expected {_SMALLEST_SIDE} pixels a side"
            )
        x = 2 * image.expand(-1, 3, -1, -1) - 1
        for (kernel, *normalisation), (*_, stride, padding) in zip(self._tensors, _LAYERS, strict=True):
            x = F.conv2d(x, kernel.to(x), stride=stride, padding=padding)
            weight, bias, mean, variance = (tensor.to(x) for tensor in normalisation)
            x = F.relu(F.batch_norm(x, mean, variance, weight, bias, eps=_EPSILON))
        return F.max_pool2d(x, 3, stride=2)[0].flatten(1).t()

    @cached_property
    def _tensors(self) -> list[list[Tensor]]:
        """For each layer its kernel, and weight, bias, mean and variance of its normalisation."""
        options: SIFIDOptions = self.options
        weights = load_weights(options.weights, network="inception_v3", plugin="sifid")
        tensors = []
        for name, before, after, *_ in _LAYERS:
            parts = (weights.get(f"{name}.bn.{part}", (after,)) for part in _NORMALISATION)
            tensors.append([weights.get(f"{name}.conv.weight", (after, before, 3, 3)), *parts])
        return tensors


def frechet(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """``‖μ − μ'‖² + tr(C + C' − 2 (C^½ C' C^½)^½)``, in double precision; from at least two points each."""
    x, y = x.double(), y.double()
    covariance, other = x.t().cov(), y.t().cov()
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.t()
    between = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()
    distance = (x.mean(0) - y.mean(0)).square().sum() + covariance.trace() + other.trace() - 2 * between
    return max(0.0, float(distance))  # rounding may go below
