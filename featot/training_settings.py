"""What decides a training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from featot.errors import UsageError
from featot.exemplars import check_augment
from featot.images import check_size
from featot.interfaces import Size
from featot.precision import check_precision


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Everything that decides a training: equal settings give equal models on one machine, without ``minutes``.

    ``size``: of the images that it learns from, in pixels (None: the exemplar's twice, at most 512; for a generator
    that cannot start with coarse ones, and ``conditional``, the exemplar's, at most 256); from coarse to fine, those
    at full resolution are half as large. ``steps``: of the
    optimiser, at all scales (None: 6000, or as many as the ``minutes`` allow); ``minutes``: the time after which it
    ends, the rate falling accordingly; with both, whichever is over first.
    ``rate``: Adam's, at the start of each scale; it falls to a twentieth by half a cosine. ``average``: the share
    that the mean of the weights, which is the model, keeps at each step. ``conditional``: learn each of several
    exemplars, and all that lies between them, by their shares, instead of all as one. ``precision``: of the
    network's activations, "float32", "bfloat16", or "auto": bfloat16 on a GPU that has it; weights, features and
    transport are float32 in any case.
    The others: see `featot.runs.SynthesisSettings`.
    """

    size: Size | None = None
    features: str = "pyramid"
    param: str = "texnet_lite"
    loss: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    minutes: float | None = None
    rate: float = 0.006
    average: float = 0.98
    max_points: int = 8192
    augment: tuple[str, ...] = ()
    conditional: bool = False
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("max_points", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and not least <= value < 2**63:
                raise UsageError(f"expected {name} of at least {least}, got {value}")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise UsageError(f"expected minutes above 0, got {self.minutes:g}")
        if not 0 < self.rate < math.inf:
            raise UsageError(f"expected a rate above 0, got {self.rate:g}")
        if not 0 <= self.average < 1:
            raise UsageError(f"expected an average of at least 0 and below 1, got {self.average:g}")
        if self.size is not None:
            check_size(self.size)
        check_augment(self.augment)
        check_precision(self.precision)
