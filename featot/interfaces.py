"""The nouns of the engine: what a plugin implements.

Every class here is abstract; an implementation overrides the abstract methods and nothing twice.
All of them receive their options (a frozen dataclass, see `featot.options`) as first argument.
Images are float tensors ``(b, c, h, w)`` with pixels in [0, 1]; points are ``(n, d)``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from featot.errors import UsageError
from featot.ot import Measure

if TYPE_CHECKING:
    from featot.noise import NoiseField
    from featot.shares import ShareMap

Boundary = Literal["valid", "periodic"]
Size = tuple[int, int]
"""Height and width, in pixels."""


class FeatureExtractor(ABC):
    """Turns an image into named levels, each a cloud of points in R^d."""

    linear: ClassVar[bool] = False
    """True where the points are averages of pixels: linear, with non-negative weights that sum to 1.
    The closed-form update needs this (its majoriser is the row sum of the Hessian)."""

    unitless: ClassVar[bool] = False
    """True where the points are in no unit, such as the responses of a network: each level is then divided by the
    root mean square norm of its exemplars' points, so that all levels count alike."""

    def __init__(self, options: Any = None) -> None:
        self.options = options

    @abstractmethod
    def extract(
        self,
        image: Float[Tensor, "b c h w"],
        *,
        scale: int = 0,
        boundary: Boundary = "valid",
        max_points: int | None = None,
    ) -> dict[str, Float[Tensor, "_ _"]]:
        """The levels of ``image``, differentiable, finest first; the points of a batch are pooled.

        ``scale``: the image is the full one halved this many times. A multi-resolution extractor names its
        levels by absolute resolution, so that a level keeps its name, target and ψ from stage to stage.
        ``boundary``: "periodic" if features may wrap round the border, "valid" if they must stay inside.
        ``max_points``: thin a level with more points than this evenly, as long as every pixel still counts in one
        (None: all of them).
        An image too small for any level gives an empty dict.
        """

    def directions(
        self, level: str, channels: int, dimension: int, count: int, generator: torch.Generator
    ) -> Float[Tensor, "count d"]:
        """Vectors of norm √d along which sliced losses compare points of a level; here of every direction alike.

        ``channels``: of the image; ``dimension``: of the points. Then ``⟨θ, v⟩²`` is ``‖v‖²`` on average.
        """
        drawn = torch.randn(count, dimension, generator=generator)
        norms: Tensor = torch.linalg.vector_norm(drawn, dim=1, keepdim=True)
        return drawn * (math.sqrt(dimension) / norms)

    def project(
        self,
        image: Float[Tensor, "b c h w"],
        directions: Mapping[str, Float[Tensor, "_ _"]],
        *,
        scale: int = 0,
        boundary: Boundary = "valid",
    ) -> dict[str, Float[Tensor, "_ _"]]:
        """The coordinates ``⟨x, θ⟩`` ``(n, k)`` of every point along the ``(k, d)`` directions of its level.

        Levels without directions are left out. Override it where there is a faster way than to make the points.
        """
        levels = self.extract(image, scale=scale, boundary=boundary)
        return {name: points @ directions[name].t() for name, points in levels.items() if name in directions}


class Parametrization(ABC):
    """What is optimised: something with parameters that makes an image of a given size."""

    boundary: ClassVar[Boundary] = "periodic"
    """How features meet the border of the image it makes; "periodic" makes the result tile."""

    resizable: ClassVar[bool] = False
    """True where `resize` carries what was optimised at one size to another: allows coarse-to-fine."""

    linear: ClassVar[bool] = False
    """True where each pixel is an average of parameters, as in `FeatureExtractor.linear`."""

    def __init__(self, options: Any = None) -> None:
        self.options = options

    @abstractmethod
    def initialize(self, exemplar: Float[Tensor, "1 c h w"], size: Size, generator: torch.Generator) -> None:
        """Starts anew at ``size``, on the exemplar's device; every random number comes from ``generator``.

        What it draws belongs into `parameters`: of several starts the best is kept by them. Where there are several
        exemplars, or a mask, ``exemplar`` is a row of the pixels that count.
        """

    def resize(self, size: Size) -> None:
        """Carries the present state to ``size``. Only called where `resizable` is true."""
        raise TypeError(f"{type(self).__name__} cannot be resized")

    def assign(self, image: Float[Tensor, "1 c h w"]) -> None:
        """Takes ``image``, of the present size, as the present state: for tasks that start from an image.

        Raises `featot.UsageError` where that cannot be.
        """
        raise UsageError(f"{type(self).__name__} cannot start from an image; use a parametrization such as 'image'")

    @abstractmethod
    def parameters(self) -> list[Tensor]:
        """The leaf tensors to optimise. `resize` may replace them."""

    def confine(self) -> None:  # noqa: B027 - most parametrizations have no range
        """Brings parameters that a step has led out of their range back into it. Not all have one."""

    @abstractmethod
    def __call__(self, size: Size, generator: torch.Generator) -> Float[Tensor, "b c h w"]:
        """The image, differentiable in `parameters`."""


class FrozenGenerator(nn.Module, ABC):
    """A trained generator made ready for sampling: pixels are a pure function of weights, noise and coordinates."""

    channels: int
    """Of the images: 1 or 3."""

    stride: int
    """Pixels between two cells of the coarsest noise."""

    conditions: int = 0
    """Exemplars between which its images may lie; 0 where it has learnt one texture."""

    def shared(self, shares: Float[Tensor, " k"] | ShareMap) -> FrozenGenerator:
        """The generator of what has so much of each of its `conditions` exemplars, as a whole or at each place.

        The shares are at least 0 and sum to 1. Without this, what it renders has as much of one as of another.
        """
        raise UsageError("this model has learnt one texture; weights are for one of featot train --conditional")

    @abstractmethod
    def render(self, noise: NoiseField, rows: range, columns: range) -> Float[Tensor, "1 c h w"]:
        """Those pixels of the plane that ``noise`` spans, which repeats where the noise does.

        A pixel must not depend on which others are asked for, but for the last bits (see `featot.render`, which
        removes these too).
        """

    @abstractmethod
    def margins(self) -> list[tuple[int, int]]:
        """Of each tensor that `forward` takes, finest scale first: its channels, and by how many cells it is longer
        at either end of either axis than the image at that scale."""

    @abstractmethod
    def forward(self, *noise: Tensor) -> Tensor:
        """An image ``(1, c, h, w)``, sides multiples of `stride`, from noise ``(1, ·, h/2^s + 2m, w/2^s + 2m)``, m as
        `margins` says: what is exported. With `conditions`, their shares ``(k,)`` come last."""


class Generator(Parametrization):
    """A parametrization that learns once and then makes any region of an endless plane."""

    conditionable: ClassVar[bool] = False
    """True where `conditions` may be above 0."""

    conditions: int = 0
    """Exemplars that it learns at once, and what lies between them: set before `initialize` or `load_state_dict`."""

    shares: Tensor | None = None
    """``(k,)`` of each of the `conditions` exemplars in the images it makes next (None: alike)."""

    coarser: int = 0
    """How many times the images that it learns from may be halved."""

    scale: int = 0
    """How many times the images that it makes next are halved, by `coarser` at most: above 0 only while it learns."""

    follows: ClassVar[bool] = False
    """True where `steady` has a meaning, without `conditions`."""

    steady: bool = False
    """True in the last part of a training, once it is calibrated: images are made by what `calibrate` has fixed, as
    samples will be, and that follows the parameters as gradients are taken."""

    @abstractmethod
    def calibrate(self, size: Size, generator: torch.Generator) -> None:
        """Fixes what depends on the whole image (the statistics of BatchNorm), from images of ``size``.

        To be called after the last change of the parameters, before `state_dict` or `freeze`.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Everything that a model file must hold, by name; not copied."""

    @abstractmethod
    def load_state_dict(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Takes the place of `initialize`: copies what `state_dict` gave, to ``device``.

        The leaves in `parameters` stay the same where their shapes do.
        Raises `featot.UsageError` where names or shapes do not fit the options.
        """

    @abstractmethod
    def freeze(self) -> FrozenGenerator:
        """The generator as it is now, for sampling: later changes of the parameters do not show in it.

        Raises `featot.UsageError` before `calibrate`.
        """


@dataclass(frozen=True)
class LossValue:
    """What a loss says of one cloud of points.

    ``value``: scalar, differentiable in the points.
    ``curvature``: ``(n,)`` weights w such that ``Σ_i w_i ‖x_i − t_i‖² + const`` majorises the value and touches
    it at the points, for some fixed t: what the closed-form update needs. None where there is no such bound.
    """

    value: Tensor
    curvature: Tensor | None = None


class Loss(ABC):
    """Compares the points of one level with its target. One instance per level; it owns its inner state (ψ)."""

    slices: ClassVar[int] = 0
    """Above 0: the loss wants no points but their coordinates along so many fixed directions (the extractor's), and
    those of every point. Its target holds the exemplar's."""

    thorough: ClassVar[bool] = False
    """True: the loss wants every point of the image, not a level that was thinned for the sake of a search."""

    def __init__(self, options: Any, target: Measure, generator: torch.Generator) -> None:
        self.options = options
        self.target = target
        self.generator = generator

    def draw(self) -> Int[Tensor, " k"] | None:
        """Which of its `slices` the next call will get, in that order (None: all of them)."""
        return None

    @abstractmethod
    def __call__(self, points: Float[Tensor, "n d"], *, improve: bool = True) -> LossValue:
        """Compares the points with the target; first improves the inner state on them if ``improve``."""

    def state_dict(self) -> dict[str, Tensor]:
        """The inner state that changes from call to call, so that a training can go on from it; {} for none."""
        return {}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes on from what `state_dict` gave, in a loss made with the same target, options and random numbers."""
        if tensors:
            raise KeyError(f"{type(self).__name__} has no state {min(tensors)!r}")

    def distance(self, points: Float[Tensor, "n d"]) -> float:
        """How far the points are from the target, to compare several clouds by; takes its time where that helps."""
        with torch.no_grad():
            return float(self(points, improve=False).value)


@dataclass(frozen=True)
class Score:
    """What a metric says of an image; ``details``: whatever else is known of it, ready for JSON."""

    value: float
    details: Mapping[str, Any] = field(default_factory=dict)


class Metric(ABC):
    """Scores a finished image against its exemplar."""

    lower_is_better: ClassVar[bool] = True

    ideal: ClassVar[float | None] = None
    """The score of a perfect image where more is as wrong as less: the nearest to it is then the best."""

    measures_likeness: ClassVar[bool] = True
    """False where the exemplar itself may score badly: whether an image tiles, how much of it is copied."""

    def __init__(self, options: Any = None) -> None:
        self.options = options

    @abstractmethod
    def __call__(self, image: Float[Tensor, "1 c h w"], exemplar: Float[Tensor, "1 c h2 w2"]) -> float:
        """The score. Raises `featot.UsageError` where the two cannot be compared."""

    def score(self, image: Float[Tensor, "1 c h w"], exemplar: Float[Tensor, "1 c h2 w2"]) -> Score:
        """The score with its details. Override it where there are any."""
        return Score(self(image, exemplar))

    def fault(self, value: float) -> float:
        """Of two scores the better one has the smaller fault."""
        if self.ideal is not None:
            return abs(value - self.ideal)
        return value if self.lower_is_better else -value
