"""Image and exemplar at the scales of a Gaussian pyramid, for the metrics that compare patches."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from featot.errors import UsageError
from featot.resample import halve


def check_alike(image: Tensor, exemplar: Tensor, size: int) -> None:
    """Raises `featot.UsageError` unless both have the same channels, and room for a patch of ``size`` pixels."""
    if image.shape[1] != exemplar.shape[1]:
        raise UsageError(f"image and exemplar differ in channels: {image.shape[1]} and {exemplar.shape[1]}")
    for h, w in (image.shape[2:], exemplar.shape[2:]):
        if min(h, w) < size:
            raise UsageError(f"an image of {h}x{w} is smaller than a patch of {size} pixels")


def both_scales(image: Tensor, exemplar: Tensor, size: int, scales: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Level "1/2^s", image and exemplar halved s times, for at most ``scales`` of them: while a patch fits both.

    Raises `featot.UsageError` as `check_alike` does.
    """
    check_alike(image, exemplar, size)
    for scale in range(scales):
        if scale > 0:
            if min(*image.shape[2:], *exemplar.shape[2:]) < 2 * size + 2:
                return
            image, exemplar = halve(image, "valid"), halve(exemplar, "valid")
        yield f"1/{2**scale}", image, exemplar
