"""What a feature extractor promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from featot.interfaces import Boundary, FeatureExtractor
from featot.testing._tools import devices, gradient, require, require_average, striped


def check_extractor(extractor: FeatureExtractor, channels: Sequence[int] = (1, 3)) -> None:
    """Checks an extractor on images of each of these numbers of ``channels``."""
    for count in channels:
        for check in EXTRACTOR_CHECKS.values():
            check(extractor, count)


def _shapes(extractor: FeatureExtractor, channels: int) -> None:
    levels = _levels(extractor, striped(channels, (64, 64)))
    require(levels, "extract gave no level for an image of 64x64")
    counts = [len(points) for points in levels.values()]
    require(counts == sorted(counts, reverse=True), f"levels must come finest first, got {counts} points")


def _determinism(extractor: FeatureExtractor, channels: int) -> None:
    image = striped(channels, (64, 64))
    levels, again = _levels(extractor, image), _levels(extractor, image)
    require(list(levels) == list(again), "extract gave different level names for the same image")
    for name, points in levels.items():
        require(torch.allclose(points, again[name]), f"the points of level {name!r} differ from call to call")


def _batches(extractor: FeatureExtractor, channels: int) -> None:
    image = striped(channels, (64, 64))
    pair = _levels(extractor, torch.cat([image, image]))
    others = (pair, _levels(extractor, striped(channels, (51, 70))))
    for name, points in _levels(extractor, image).items():
        where = f"of level {name!r}"
        require(len(pair.get(name, ())) == 2 * len(points), f"the points {where} of two images must be pooled")
        same = {points.shape[1]} == {found.get(name, points).shape[1] for found in others}
        require(same, f"the dimension {where} must not depend on size or batch")


def _periodicity(extractor: FeatureExtractor, channels: int) -> None:
    image = striped(channels, (64, 64))
    periodic = _levels(extractor, image, "periodic")
    for name, points in _levels(extractor, image).items():
        around = periodic.get(name, points)
        require(around.shape[1] == points.shape[1], f"the dimension of level {name!r} must not depend on boundary")
        more = len(around) >= len(points)
        require(more, f"boundary 'periodic' gives fewer points of level {name!r} than 'valid'")


def _tiny_images(extractor: FeatureExtractor, channels: int) -> None:
    for size in ((1, 1), (2, 3)):
        try:
            tiny = extractor.extract(striped(channels, size))
        except Exception as error:
            h, w = size
            raise AssertionError(f"extract raised {error!r} for {h}x{w}: too small must give {{}}") from error
        _check_levels(tiny)


def _dtypes_and_devices(extractor: FeatureExtractor, channels: int) -> None:
    for device in devices():
        image = striped(channels, (64, 64)).to(device)
        for name, points in _levels(extractor, image).items():
            right = (points.dtype, points.device) == (image.dtype, image.device)
            got = f"got {points.dtype} on {points.device} for an image of {image.dtype} on {image.device}"
            require(right, f"level {name!r} must have the image's dtype and device, {got}")


def _gradients(extractor: FeatureExtractor, channels: int) -> None:
    image = striped(channels, (64, 64)).requires_grad_()
    for boundary in get_args(Boundary):
        for name, points in _levels(extractor, image, boundary).items():
            where = f"the points of level {name!r} ({boundary})"
            require(
                gradient(points.square().sum(), image, where).any(), f"{where} have a gradient of zero everywhere"
            )


def _thinning(extractor: FeatureExtractor, channels: int) -> None:
    image = striped(channels, (64, 64))
    for boundary in get_args(Boundary):
        dense, thinned = _levels(extractor, image, boundary), _levels(extractor, image, boundary, max_points=50)
        require(list(dense) == list(thinned), "max_points must not change the names of the levels")
        for name, points in dense.items():
            fewer = len(thinned[name]) <= len(points)
            require(fewer, f"max_points must not give more of the points of level {name!r} ({boundary})")


def _linearity(extractor: FeatureExtractor, channels: int) -> None:
    if not extractor.linear:
        return
    image = striped(channels, (64, 64)).requires_grad_()
    for boundary in get_args(Boundary):
        dense, thinned = _levels(extractor, image, boundary), _levels(extractor, image, boundary, max_points=50)
        black = _levels(extractor, torch.zeros_like(image), boundary)
        for name, points in dense.items():
            where = f"the points of level {name!r} ({boundary})"
            for i in (0, len(points) // 2, len(points) - 1):
                row = gradient(points[i, i % points.shape[1]], image, where)
                require_average(row, f"{where} say linear = True, but one")
            require(black[name].abs().max() < 1e-5, f"{where} say linear = True, but are not 0 for a black image")
            met, still_met = (gradient(cloud.sum(), image, where) > 0 for cloud in (points, thinned[name]))
            require(not (met & ~still_met).any(), f"with max_points, some pixels count in none of {where}")


EXTRACTOR_CHECKS: Mapping[str, Callable[[FeatureExtractor, int], None]] = {
    "shapes": _shapes,
    "determinism": _determinism,
    "batches": _batches,
    "periodicity": _periodicity,
    "tiny images": _tiny_images,
    "dtypes and devices": _dtypes_and_devices,
    "gradients": _gradients,
    "thinning": _thinning,
    "linearity": _linearity,
}


def _levels(
    extractor: FeatureExtractor, image: Tensor, boundary: Boundary = "valid", max_points: int | None = None
) -> dict[str, Tensor]:
    return _check_levels(extractor.extract(image, boundary=boundary, max_points=max_points))


def _check_levels(levels: Any) -> dict[str, Tensor]:
    require(isinstance(levels, dict), f"extract must return a dict, got {type(levels).__name__}")
    for name, points in levels.items():
        right = points.ndim == 2 and points.numel() > 0 and points.is_floating_point()
        got = f"{tuple(points.shape)} of {points.dtype}"
        require(right, f"level {name!r} must be (n, d), floating, neither of them 0, got {got}")
        require(points.isfinite().all(), f"level {name!r} has points that are not finite")
    return dict(levels)
