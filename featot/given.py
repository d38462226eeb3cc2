"""Parametrizations made of others, for tasks whose image is given at first, or in part."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from featot.interfaces import Boundary, Parametrization, Size
from featot.resample import halve_in_place


class _Beside(Parametrization):
    """Another parametrization beside an image that is given."""

    resizable = True

    def __init__(self, inner: Parametrization, given: Float[Tensor, "1 c h w"], boundary: Boundary) -> None:
        super().__init__()
        self.inner, self.linear, self.boundary = inner, inner.linear, boundary  # type: ignore[misc]
        self.size: Size = (0, 0)
        self.given = _by_size(given, boundary)

    def initialize(self, exemplar: Float[Tensor, "1 c h w"], size: Size, generator: torch.Generator) -> None:
        self.inner.initialize(exemplar, size, generator)
        self.size = size

    def resize(self, size: Size) -> None:
        self.inner.resize(size)
        self.size = size

    def parameters(self) -> list[Tensor]:
        return self.inner.parameters()

    def confine(self) -> None:
        self.inner.confine()

    def __call__(self, size: Size, generator: torch.Generator) -> Float[Tensor, "1 c h w"]:
        return self.inner(size, generator)


class Started(_Beside):
    """Starts from the given image, halved to the size of the first stage."""

    def __init__(self, inner: Parametrization, given: Float[Tensor, "1 c h w"]) -> None:
        super().__init__(inner, given, inner.boundary)

    def initialize(self, exemplar: Float[Tensor, "1 c h w"], size: Size, generator: torch.Generator) -> None:
        super().initialize(exemplar, size, generator)
        self.inner.assign(self.given[size])


class Filled(_Beside):
    """Fills the hole of the given image, which has borders; all that is around it stays as it is."""

    def __init__(
        self, inner: Parametrization, given: Float[Tensor, "1 c h w"], hole: Bool[Tensor, "1 1 h w"]
    ) -> None:
        super().__init__(inner, torch.where(hole, 0, given), "valid")
        # A pixel of a halved image is known if it holds nothing of the hole.
        self.holes = {size: marked > 1e-6 for size, marked in _by_size(hole.to(given), "valid").items()}

    def resize(self, size: Size) -> None:
        self.inner.assign(self(self.size, torch.Generator()))  # with the hole's rim, so that it is enlarged too
        super().resize(size)

    def __call__(self, size: Size, generator: torch.Generator) -> Float[Tensor, "1 c h w"]:
        return torch.where(self.holes[size], self.inner(size, generator), self.given[size])


def _by_size(image: Float[Tensor, "1 c h w"], boundary: Boundary) -> dict[Size, Float[Tensor, "1 c _ _"]]:
    """The image and its halvings, down to one pixel."""
    found = {(image.shape[2], image.shape[3]): image}
    while max(image.shape[2:]) > 1:
        image = halve_in_place(image, boundary)
        found[image.shape[2], image.shape[3]] = image
    return found
