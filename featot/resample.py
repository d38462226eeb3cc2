"""Halving and enlarging images, on the torus or inside a border."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from featot.errors import UsageError, unknown_name
from featot.interfaces import Boundary, Size

_TILES = {"both": (True, True), "x": (False, True), "y": (True, False), "none": (False, False)}
_SIDE, _SIGMA = 4, 1.0  # the Gaussian of the paper's pyramid (Houdard et al. 2021, Sec. 4)
_DENSE_SIDE = 256  # pixels up to which matrices are faster than slices


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
    if boundary == "valid" and min(h, w) < _SIDE:
        raise UsageError(f"an image of {h}x{w} is too small to be halved; expected at least {_SIDE} pixels a side")
    if max(h, w) <= _DENSE_SIDE:
        rows = _halving(h, boundary, image.dtype, image.device)
        columns = _halving(w, boundary, image.dtype, image.device)
        halved: Tensor = rows @ image @ columns.t()
        return halved
    if boundary == "periodic":
        image = wrap(image, after=(2 + h % 2, 2 + w % 2))
    outer, inner = _taps()[:2].tolist()
    image = outer * (image[:, :, :-3:2] + image[:, :, 3::2]) + inner * (image[:, :, 1:-2:2] + image[:, :, 2:-1:2])
    halved = outer * (image[..., :-3:2] + image[..., 3::2]) + inner * (image[..., 1:-2:2] + image[..., 2:-1:2])
    return halved


def _taps() -> Float[Tensor, " 4"]:
    taps = torch.exp(-((torch.arange(_SIDE, dtype=torch.float64) - 1.5) ** 2) / (2 * _SIGMA**2))
    return taps / taps.sum()


@functools.lru_cache(maxsize=64)
def _halving(side: int, boundary: Boundary, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "new side"]:
    """The matrix of one axis. A small product with it takes a fraction of a convolution's time."""
    new = -(-side // 2) if boundary == "periodic" else (side - _SIDE) // 2 + 1
    with torch.inference_mode(False):  # what is kept must serve autograd too
        taps = 2 * torch.arange(new)[:, None] + torch.arange(_SIDE)
        matrix = torch.zeros(new, side, dtype=torch.float64)
        matrix.scatter_add_(1, taps % side, _taps().expand(new, -1))
        return matrix.to(device, dtype)


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
    if after[0] <= h and after[1] <= w:  # faster than circular padding, and than indices
        image = torch.cat([image, image[:, :, : after[0]]], dim=2)
        return torch.cat([image, image[..., : after[1]]], dim=3)
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
