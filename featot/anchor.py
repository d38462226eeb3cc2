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
from featot.sight import moved


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
        """The anchor as a running problem has it."""
        return ActiveAnchor(self, generator)


class ActiveAnchor:
    """An anchor at the present stage; to a `featot.problem.Problem` it is a term with one level."""

    def __init__(self, anchor: Anchor, generator: torch.Generator) -> None:
        self.anchor, self.generator = anchor, generator
        self.weight, self.group = anchor.weight, anchor.group
        self.losses: dict[str, Loss] = {}
        self.exemplars: tuple[Tensor, ...] = ()

    def enter(self, scale: int, boundary: Boundary, max_points: int | None = None) -> None:
        """Halves the target to the stage's resolution."""
        self.target = self.anchor.target
        for _ in range(scale):
            self.target = halve_in_place(self.target, boundary)
        nothing = self.target.new_zeros(1, self.target.shape[1])
        self.losses = {"anchor": _Near(None, Measure(nothing), self.generator)}

    def is_recent(self, name: str) -> bool:
        """An anchor holds at every step."""
        return True

    def levels(
        self,
        image: Tensor,
        scale: int,
        boundary: Boundary,
        max_points: int | None,
        offset: Size,
        made: dict[object, dict[str, Tensor]],
        complete: bool = True,
    ) -> dict[str, tuple[Tensor, float]]:
        """The differences from the target, as points, for all of the image."""
        apart = torch.einsum("kc,bchw->bkhw", self.anchor.channels, image) - self.target
        halvings = max(0, self.anchor.halvings - scale)
        # At one phase of the coarse grid only, the grid itself would show.
        phase = torch.randint(2**halvings, (2,), generator=self.generator).tolist()
        apart = moved(apart, (phase[0], phase[1]), boundary)
        for _ in range(halvings):
            apart = halve_in_place(apart, boundary)
        return {"anchor": (apart.flatten(2)[0].t(), 1.0)}


class _Near(Loss):
    """The mean square of the distances."""

    def __call__(self, points: Float[Tensor, "n d"], *, improve: bool = True) -> LossValue:
        value = points.square().sum(1).mean()
        return LossValue(value, points.new_full((len(points),), 1 / len(points)))
