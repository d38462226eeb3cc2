"""Regions of the endless plane that a trained generator makes, in bounded memory.

>>> frozen = load_model("moss.safetensors").freeze()
>>> render(frozen, NoiseField(seed=3), range(0, 512), range(10_000, 10_512))

Every pixel comes from the same block of a fixed grid, whichever region it is asked for in: convolutions of another
shape may round otherwise. So a tile equals the same region of the whole bit for bit, on one machine and with one
number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from featot.interfaces import FrozenGenerator, Size
from featot.noise import NoiseField
from featot.resample import wrapped_axes

BLOCK = 512
"""Side of a block, in pixels: the fastest of 128, 256, 512 and 1024 (benchmarks/bench_texnet.py)."""


def sample(
    generator: FrozenGenerator, size: Size, *, seed: int = 0, tile: str = "both", device: torch.device | str = "cpu"
) -> Iterator[Float[Tensor, "1 c _ w"]]:
    """An image of ``size``, not clipped, in strips from top to bottom; each but the last is `BLOCK` rows high.

    ``tile``: along which axes it wraps round: "both", "x", "y" or "none"; with "none", a larger one goes on where a
    smaller one of the same seed ends. ``device``: where the generator is.
    Raises `featot.UsageError` for another ``tile``, or a seed that `featot.noise.NoiseField` does not take.
    """
    down, across = wrapped_axes(tile)
    noise = NoiseField(seed, (size[0] if down else None, size[1] if across else None), device)
    return strips(generator, noise, range(size[0]), range(size[1]))


def render(
    generator: FrozenGenerator, noise: NoiseField, rows: range, columns: range, *, block: int = BLOCK
) -> Float[Tensor, "1 c h w"]:
    """These pixels of the plane, not clipped; ``rows`` and ``columns`` may be negative or beyond the period."""
    return torch.cat(list(strips(generator, noise, rows, columns, block=block)), 2)


def strips(
    generator: FrozenGenerator, noise: NoiseField, rows: range, columns: range, *, block: int = BLOCK
) -> Iterator[Float[Tensor, "1 c _ w"]]:
    """The same from top to bottom, as one row of blocks after the other: what does not fit in memory as a whole."""
    for down, inside_rows in _pieces(rows, noise.period[0], block):
        row = []
        for across, inside_columns in _pieces(columns, noise.period[1], block):
            row.append(generator.render(noise, down, across)[:, :, inside_rows, inside_columns])
        yield torch.cat(row, 3)


def _pieces(cells: range, period: int | None, block: int) -> Iterator[tuple[range, slice]]:
    """The blocks of the grid that ``cells`` meet, one after the other, and which part of each they are."""
    at = cells.start
    while at < cells.stop:
        inside = at if period is None else at % period
        first = inside // block * block
        last = first + block if period is None else min(first + block, period)
        length = min(last - inside, cells.stop - at)
        yield range(first, last), slice(inside - first, inside - first + length)
        at += length
