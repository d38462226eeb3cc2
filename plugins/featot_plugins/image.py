"""The pixels themselves as parameters."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from featot.interfaces import Parametrization, Size
from featot.resample import enlarge
from featot_plugins.options import ImageOptions


class Image(Parametrization):
    """One free value per pixel and channel, on a torus; starts as white noise with the exemplar's colours."""

    boundary = "periodic"
    resizable = True
    linear = True

    def __init__(self, options: ImageOptions) -> None:
        super().__init__(options)
        self.pixels = torch.empty(0)

    def initialize(self, exemplar: Float[Tensor, "1 c h w"], size: Size, generator: torch.Generator) -> None:
        colors = exemplar[0].flatten(1).double().cpu()
        mean = colors.mean(1, keepdim=True)
        covariance = (colors - mean) @ (colors - mean).t() / colors.shape[1]
        variances, axes = torch.linalg.eigh(covariance)
        noise = torch.randn(len(colors), size[0] * size[1], generator=generator, dtype=torch.float64)
        start = mean + self.options.noise * axes @ (variances.clamp(min=0).sqrt()[:, None] * noise)
        self._set(start.view(1, -1, *size).to(exemplar))

    def resize(self, size: Size) -> None:
        # A halved pixel is centred one pixel further on than `enlarge` puts it: what halves to it is kept there.
        self._set(enlarge(self.pixels.detach(), size, self.boundary).roll((1, 1), dims=(2, 3)))

    def assign(self, image: Float[Tensor, "1 c h w"]) -> None:
        self._set(image.detach().clone())

    def parameters(self) -> list[Tensor]:
        return [self.pixels]

    def confine(self) -> None:
        with torch.no_grad():
            self.pixels.clamp_(0, 1)

    def __call__(self, size: Size, generator: torch.Generator) -> Float[Tensor, "1 c h w"]:
        return self.pixels

    def _set(self, pixels: Tensor) -> None:
        self.pixels = pixels.contiguous().requires_grad_()
