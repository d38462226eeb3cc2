"""The multiscale sliced Wasserstein distance."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from featot.interfaces import Metric, Score
from featot_plugins.options import SWDOptions
from featot_plugins.patches import responses
from featot_plugins.scales import both_scales


class SWD(Metric):
    """Sliced W2 between all patches of image and exemplar, the mean over the scales of a pyramid.

    The root of the mean squared distance along fixed random lines (Rabin et al. 2011). It is a distance, in units of
    pixel values: 0 for the exemplar itself. It weighs what patches vary in most, the coarse: blur moves it little.
    """

    def __call__(self, image: Float[Tensor, "1 c h w"], exemplar: Float[Tensor, "1 c2 h2 w2"]) -> float:
        return self.score(image, exemplar).value

    def score(self, image: Float[Tensor, "1 c h w"], exemplar: Float[Tensor, "1 c2 h2 w2"]) -> Score:
        """Details: "scales", the distance at each."""
        options: SWDOptions = self.options
        generator = torch.Generator().manual_seed(0)
        scales = {}
        for name, *pair in both_scales(image, exemplar, options.size, options.scales):
            dimension = options.size**2 * image.shape[1]
            drawn = torch.randn(options.directions, dimension, generator=generator)
            lines = (drawn / torch.linalg.vector_norm(drawn, dim=1, keepdim=True)).to(image)
            x, y = (responses(halved, lines, options.size, 1, "valid").t().contiguous() for halved in pair)
            scales[name] = float(squared_on_lines(x, y).mean().sqrt())
        return Score(sum(scales.values()) / len(scales), {"scales": scales})


def squared_on_lines(x: Float[Tensor, "k n"], y: Float[Tensor, "k m"]) -> Float[Tensor, " k"]:
    """W2² between the coordinates on each line: the mean squared difference of all their quantiles."""
    x, y = x.sort(dim=1).values, y.sort(dim=1).values
    n, m = x.shape[1], y.shape[1]
    if n == m:
        return (x - y).square().mean(1)
    # Between two of these ranks neither quantile changes.
    ranks = torch.cat([torch.arange(count + 1, dtype=torch.float64) / count for count in (n, m)]).sort().values
    middles, widths = (ranks[1:] + ranks[:-1]) / 2, ranks.diff()
    i, j = ((middles * count).long().clamp_(max=count - 1).to(x.device) for count in (n, m))
    return (x[:, i] - y[:, j]).square() @ widths.to(x)
