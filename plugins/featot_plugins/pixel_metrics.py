"""Metrics of pixels and their neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from featot.errors import UsageError
from featot.interfaces import Metric, Score


class Sharpness(Metric):
    """Standard deviation of the image minus its 3×3 mean, over the exemplar's: below 1 is blur, above it noise."""

    ideal = 1.0

    def __call__(self, image: Float[Tensor, "1 c h w"], exemplar: Float[Tensor, "1 c2 h2 w2"]) -> float:
        right = _detail(exemplar)
        if not right > 0:
            raise UsageError("the exemplar has no detail to compare with: it is constant")
        return _detail(image) / right


class Tileability(Metric):
    """The mean jump across the wrapped border over the mean jump between neighbours inside, the mean of both axes.

    1 is seamless: the border is no rougher than the inside.
    """

    measures_likeness = False

    def __call__(self, image: Float[Tensor, "1 c h w"], exemplar: Float[Tensor, "1 c2 h2 w2"]) -> float:
        return self.score(image, exemplar).value

    def score(self, image: Float[Tensor, "1 c h w"], exemplar: Float[Tensor, "1 c2 h2 w2"]) -> Score:
        """Details: "y" and "x", the ratio across the upper and lower, and the left and right border."""
        y, x = (_seam(image, axis) for axis in (2, 3))
        return Score((x + y) / 2, {"y": y, "x": x})


def _detail(image: Tensor) -> float:
    fine = image - F.avg_pool2d(image, 3, stride=1, padding=1, count_include_pad=False)
    return float(fine.std(unbiased=False))


def _seam(image: Tensor, axis: int) -> float:
    if torch.equal(image, image.narrow(axis, 0, 1).expand_as(image)):
        return 1.0  # the same all along
    across = image.narrow(axis, 0, 1) - image.narrow(axis, image.shape[axis] - 1, 1)
    return float(across.abs().mean() / image.diff(dim=axis).abs().mean())
