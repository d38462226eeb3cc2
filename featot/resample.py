"""Halving and enlarging images, on the torus or inside a border."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from featot.errors import UsageError, unknown_name
from featot.interfaces import Boundary, Size

_TILES = {"both": (True, True), "x": (False, True), "y": (True, False), "none": (False, False)}
_SIDE, _SIGMA = 4, 1.0  # the Gaussian of the paper's pyramid (Houdard et al. 2021, Sec. 4)


def wrapped_axes(tile: str) -> tuple[bool, bool]:
    """Whether an image tiles from top to bottom, and from left to right, for "both", "x", "y" or "none".

    Raises `featot.UsageError` for any other name.
    """
    if tile not in _TILES:
        raise unknown_name("tile", tile, _TILES)
    return _TILES[tile]


def halve(image: Float[Tensor, "b c h w"], boundary: Boundary) -> Float[Tensor, "b c h2 w2"]:
    """Blurs by the 4×4 Gaussian of σ = 1 and keeps every second pixel.

    Pixel i of the result is centred between pixels 2i + 1 and 2i + 2, whatever the boundary.

    "periodic": the size is halved, rounding up (an odd side leaves one irregular step somewhere on the torus);
    "valid": only windows inside the image, so ``(h − 4) // 2 + 1``.
    Raises `featot.UsageError` for a "valid" image of less than 4 pixels a side.
    """
    h, w = image.shape[2:]
    if boundary == "periodic":
        image = wrap(image, after=(2 + h % 2, 2 + w % 2))
    elif min(h, w) < _SIDE:
        raise UsageError(f"an image of {h}x{w} is too small to be halved; expected at least {_SIDE} pixels a side")
    channels = image.shape[1]
    taps = torch.exp(-((torch.arange(_SIDE, dtype=image.dtype, device=image.device) - 1.5) ** 2) / (2 * _SIGMA**2))
    taps = taps / taps.sum()
    kernel = (taps[:, None] * taps).expand(channels, 1, _SIDE, _SIDE)
    return F.conv2d(image, kernel, stride=2, groups=channels)


def halve_in_place(image: Float[Tensor, "b c h w"], boundary: Boundary) -> Float[Tensor, "b c h2 w2"]:
    """Halves to `halved_size`, whatever the boundary: a "valid" image goes on as its last row and column do.

    For what must keep its place beside an image of a parametrization, such as a mask.
    """
    if boundary == "periodic":
        return halve(image, boundary)
    h, w = image.shape[2:]
    return halve(F.pad(image, (0, 2 + w % 2, 0, 2 + h % 2), mode="replicate"), "valid")


def halved_size(size: Size, times: int) -> Size:
    """The size of a periodic image after so many halvings."""
    return -(-size[0] // 2**times), -(-size[1] // 2**times)


def halvings(side: int, smallest: int) -> int:
    """How often a "valid" side can be halved by `halve` while it keeps at least ``smallest`` pixels."""
    times = 0
    while side >= _SIDE and (side := (side - _SIDE) // 2 + 1) >= smallest:
        times += 1
    return times


def wrap(image: Float[Tensor, "b c h w"], *, after: Size) -> Float[Tensor, "b c h2 w2"]:
    """Continues a torus ``after`` so many pixels below and right.

    Unlike `torch.nn.functional.pad` this wraps as often as it takes, so the image may be smaller than the margin.
    """
    h, w = image.shape[2:]
    if after[0] <= h and after[1] <= w:
        return F.pad(image, (0, after[1], 0, after[0]), mode="circular")
    rows = torch.arange(h + after[0], device=image.device) % h
    columns = torch.arange(w + after[1], device=image.device) % w
    return image[:, :, rows][:, :, :, columns]


def enlarge(image: Float[Tensor, "b c h w"], size: Size, boundary: Boundary) -> Float[Tensor, "b c h2 w2"]:
    """Resamples to ``size`` by cubic interpolation (Keys, a = −0.5), pixel centres at half integers."""
    rows = _cubic(image.shape[2], size[0], boundary).to(image)
    columns = _cubic(image.shape[3], size[1], boundary).to(image)
    return rows @ image @ columns.t()


def _cubic(old: int, new: int, boundary: Boundary) -> Float[Tensor, "new old"]:
    """The matrix of one axis; `torch.nn.functional.interpolate` knows no torus."""
    position = (torch.arange(new, dtype=torch.float64) + 0.5) * old / new - 0.5
    first = position.floor() - 1
    matrix = torch.zeros(new, old, dtype=torch.float64)
    for tap in range(4):
        at = first + tap
        t = (position - at).abs()
        near = 1.5 * t**3 - 2.5 * t**2 + 1
        far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
        weight = torch.where(t <= 1, near, torch.where(t < 2, far, torch.zeros_like(t)))
        index = at.long() % old if boundary == "periodic" else at.long().clamp(0, old - 1)
        matrix.scatter_add_(1, index[:, None], weight[:, None])
    return matrix
