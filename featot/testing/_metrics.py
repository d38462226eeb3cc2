"""What a metric promises."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from featot.interfaces import Metric, Score
from featot.testing._tools import devices, require, striped


def check_metric(metric: Metric, channels: Sequence[int] = (1, 3)) -> None:
    """Checks a metric on images of each of these numbers of ``channels``."""
    for count in channels:
        for check in METRIC_CHECKS.values():
            check(metric, count)


def _values(metric: Metric, channels: int) -> None:
    exemplar, noise = _pair(channels)
    itself, worse = metric(exemplar, exemplar), metric(noise, exemplar)
    floats = all(isinstance(score, float) and math.isfinite(score) for score in (itself, worse))
    require(floats, f"the score must be a finite float, got {itself!r} and {worse!r}")


def _determinism(metric: Metric, channels: int) -> None:
    exemplar, noise = _pair(channels)
    first, second = metric(noise, exemplar), metric(noise, exemplar)
    require(math.isclose(first, second, rel_tol=1e-4), "the score differs from call to call")


def _details(metric: Metric, channels: int) -> None:
    exemplar, noise = _pair(channels)
    score, value = metric.score(noise, exemplar), metric(noise, exemplar)
    same = isinstance(score, Score) and math.isclose(score.value, value, rel_tol=1e-4)
    require(same, f"score gave {score!r}, but the metric itself {value}")
    try:
        json.dumps(dict(score.details), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"the details of a score must be ready for JSON: {error}") from error


def _direction(metric: Metric, channels: int) -> None:
    if not metric.measures_likeness:
        return
    exemplar, noise = _pair(channels)
    itself, worse = metric(exemplar, exemplar), metric(noise, exemplar)
    claim = f"lower_is_better = {metric.lower_is_better}" if metric.ideal is None else f"ideal = {metric.ideal}"
    better = metric.fault(itself) < metric.fault(worse)
    require(better, f"{claim}, but an exemplar scores {itself} against itself and noise scores {worse}")


def _devices(metric: Metric, channels: int) -> None:
    exemplar, noise = _pair(channels)
    for device in devices()[1:]:
        wanted, found = metric(noise, exemplar), metric(noise.to(device), exemplar.to(device))
        same = math.isclose(found, wanted, rel_tol=1e-2, abs_tol=1e-6)
        require(same, f"the score is {found} on {device}, but {wanted} on the CPU")


METRIC_CHECKS: Mapping[str, Callable[[Metric, int], None]] = {
    "values": _values,
    "determinism": _determinism,
    "details": _details,
    "direction": _direction,
    "devices": _devices,
}


def _pair(channels: int) -> tuple[Tensor, Tensor]:
    """An exemplar, and noise of its size."""
    exemplar = striped(channels, (32, 32))
    return exemplar, torch.rand(exemplar.shape, generator=torch.Generator().manual_seed(1))
