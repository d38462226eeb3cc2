"""The multiscale optimal transport distance, the paper's own measure of a synthesis."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from featot.errors import UsageError
from featot.interfaces import Metric
from featot.ot import solve_semidiscrete
from featot.resample import halve
from featot_plugins.options import MSOTOptions
from featot_plugins.patches import windows


class MSOT(Metric):
    """Mean over the scales of a pyramid of OT between random patches of image and exemplar (squared cost).

    Houdard et al. 2021, Sec. 5. Two draws of the same image do not score 0: an exemplar against itself gives the
    least that can be told apart, which is what a score is to be compared with.
    """

    def __call__(self, image: Float[Tensor, "1 c h w"], exemplar: Float[Tensor, "1 c2 h2 w2"]) -> float:
        if image.shape[1] != exemplar.shape[1]:
            raise UsageError(f"image and exemplar differ in channels: {image.shape[1]} and {exemplar.shape[1]}")
        options: MSOTOptions = self.options
        generator = torch.Generator().manual_seed(0)
        costs = []
        for scale in range(options.scales):
            if scale > 0:
                if min(*image.shape[2:], *exemplar.shape[2:]) < 2 * options.size + 2:
                    break
                image, exemplar = halve(image, "valid"), halve(exemplar, "valid")
            x = self._draw(image, generator)
            y = self._draw(exemplar, generator)
            costs.append(solve_semidiscrete(x, y, max_iter=100).value)
        return sum(costs) / len(costs)

    def _draw(self, image: Tensor, generator: torch.Generator) -> Tensor:
        points = windows(image, self.options.size, 1, "valid", None)
        if points is None:
            h, w = image.shape[2:]
            raise UsageError(f"an image of {h}x{w} is smaller than a patch of {self.options.size} pixels")
        chosen = torch.randperm(len(points), generator=generator)[: self.options.points]
        return points[chosen.to(points.device)]
