"""An anchor: what keeps the image near another one, pixel by pixel, beside the terms that compare distributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from featot.interfaces import Boundary, Loss, LossValue, Size
from featot.ot import Measure
from featot.resample import halve_in_place


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """``weight`` times the mean squared distance between image and ``target`` over the pixels, channels summed.

    ``channels``: ``(k, c)``, which combinations of the image's channels the target's k are compared with.
    ``halvings``: both are halved so often before; finer detail is free.
    """

    target: Float[Tensor, "1 k h w"]
    channels: Float[Tensor, "k c"]
    weight: float
    halvings: int = 2
    group: ClassVar[int] = 0
    share: ClassVar[float] = 1.0
    linear: ClassVar[bool] = True

    def activate(self, generator: torch.Generator) -> ActiveAnchor:
        return ActiveAnchor(self, generator)


class ActiveAnchor:
    """An anchor at the present stage; to a `featot.problem.Problem` it is a term with one level."""

    def __init__(self, anchor: Anchor, generator: torch.Generator) -> None:
        self.anchor, self.generator = anchor, generator
        self.weight, self.group = anchor.weight, anchor.group
        self.losses: dict[str, Loss] = {}
        self.exemplars: tuple[Tensor, ...] = ()

    def enter(self, scale: int, boundary: Boundary, max_points: int | None = None) -> None:
        target, halvings = self.anchor.target, max(scale, self.anchor.halvings)
        for _ in range(halvings):
            target = halve_in_place(target, boundary)
        self.losses = {"anchor": _Near(None, Measure(_pixels(target)), self.generator)}

    def levels(
        self,
        image: Tensor,
        scale: int,
        boundary: Boundary,
        max_points: int | None,
        offset: Size,
        made: dict[object, dict[str, Tensor]],
    ) -> dict[str, tuple[Tensor, float]]:
        image = torch.einsum("kc,bchw->bkhw", self.anchor.channels, image)
        for _ in range(self.anchor.halvings - scale):
            image = halve_in_place(image, boundary)
        return {"anchor": (_pixels(image), 1.0)}


class _Near(Loss):
    """The mean squared distance between points and target, one by one."""

    def __call__(self, points: Float[Tensor, "n d"], *, improve: bool = True) -> LossValue:
        value = (points - self.target.points).square().sum(1).mean()
        return LossValue(value, points.new_full((len(points),), 1 / len(points)))


def _pixels(image: Float[Tensor, "1 k h w"]) -> Float[Tensor, "n k"]:
    return image.flatten(2)[0].t()
