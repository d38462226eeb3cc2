"""Noise that is a function of its coordinates: any window of an endless, or periodic, plane, at every scale."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from featot.errors import UsageError
from featot.ot.search import llvm_is_usable
from featot.resample import halved_size

_WORD = 2**32
_ROWS, _COLUMNS = 0, 1
FACTORS = ((16, 0x7FEB352D), (15, 0x846CA68B - _WORD))
"""The rounds of the scrambling: a shift, and an odd factor as a signed word."""


class Meeting(NamedTuple):
    """Where noise meets what is made twice as large: the row and column of that, for each of the noise's, and what
    the noise of a row, and of a column, has in common (`NoiseField.hashes`)."""

    rows: Int[Tensor, " h"]
    columns: Int[Tensor, " w"]
    down: Int[Tensor, "k h"]
    across: Int[Tensor, "k w"]


class NoiseField:
    """Independent uniform noise in [0, 1) on a pyramid of grids; a cell of scale s covers 2^s × 2^s pixels.

    ``seed``: from 0 on, below 2^63. ``period``: height and width after which the plane repeats, in pixels, each
    None where it does not (then it does after 2^32 cells); where a period is no multiple of 2^s, the last cell of
    scale s in it is cut off. A value depends on seed, scale, channel, row and column alone, not on the device.
    Raises `featot.UsageError` for another seed or period.
    """

    def __init__(
        self,
        seed: int,
        period: tuple[int | None, int | None] = (None, None),
        device: torch.device | str = "cpu",
    ) -> None:
        if not 0 <= seed < 2**63:
            raise UsageError(f"expected a seed of at least 0, below 2^63, got {seed}")
        if any(side is not None and side < 1 for side in period):
            raise UsageError(f"expected periods of at least 1 pixel, got {period}")
        self.seed, self.period, self.device = seed, period, torch.device(device)
        self.compiled = self.device.type == "cpu" and llvm_is_usable()
        self._keys: dict[tuple[int, int], Tensor] = {}

    def uniform(self, scale: int, channels: int, rows: range, columns: range) -> Float[Tensor, "1 c h w"]:
        """The cells of these rows and columns at ``scale``, which may be negative or beyond the period."""
        down, across = self.hashes(scale, channels, rows, columns)
        if self.compiled:
            from featot.noise_kernels import uniform  # late: llvmlite is optional

            return uniform(down, across)
        # 24 bits are what a float32 in [0, 1) holds exactly.
        bits = _mix(down[:, :, None] + across[:, None, :]).bitwise_right_shift_(8).bitwise_and_(0xFFFFFF)
        return (bits.float().mul_(2.0**-24))[None]

    def hashes(
        self, scale: int, channels: int, rows: range, columns: range
    ) -> tuple[Int[Tensor, "c h"], Int[Tensor, "c w"]]:
        """What the values of a row, and of a column, have in common: a value is their sum, scrambled once more."""
        keys = self._keys.get((scale, channels))
        if keys is None:
            words = [_words(self.seed, scale, channel) for channel in range(channels)]
            keys = self._keys[scale, channels] = torch.tensor(words, dtype=torch.int32, device=self.device)
        return self._hash(rows, scale, _ROWS, keys), self._hash(columns, scale, _COLUMNS, keys)

    def parents(self, scale: int, axis: int, cells: range) -> tuple[range, slice | Int[Tensor, " n"]]:
        """The cells of ``scale + 1`` that these of ``scale`` lie in, along ``axis`` (0 goes down), and where they are
        among the halves of those: an index to take out of what was made twice as long."""
        fine, coarse = self._cells(scale, axis), self._cells(scale + 1, axis)
        if fine is None or coarse is None or fine == 2 * coarse:
            found = range(cells.start >> 1, ((cells.stop - 1) >> 1) + 1)
            return found, slice(cells.start - 2 * found.start, cells.stop - 2 * found.start)
        at = torch.arange(cells.start, cells.stop, device=self.device)  # the last of each period has but one half
        turn = at.div(fine, rounding_mode="floor")
        halves = at + turn * (2 * coarse - fine)
        first = int(halves[0]) >> 1
        return range(first, (int(halves[-1]) >> 1) + 1), halves - 2 * first

    def _cells(self, scale: int, axis: int) -> int | None:
        side = self.period[axis]
        return None if side is None else halved_size((side, side), scale)[0]

    def places(self, scale: int, axis: int, cells: range) -> Int[Tensor, " n"]:
        """Where these cells of ``scale`` are along ``axis`` (0 goes down), within the first period if any."""
        at = torch.arange(cells.start, cells.stop, device=self.device)
        count = self._cells(scale, axis)
        return at if count is None else at.remainder_(count)

    def _hash(self, cells: range, scale: int, axis: int, keys: Tensor) -> Int[Tensor, "c n"]:
        return _mix(self.places(scale, axis, cells).to(torch.int32) + keys[:, axis, None])


def _words(seed: int, scale: int, channel: int) -> list[int]:
    """Two signed 32-bit words, one for the rows and one for the columns: SplitMix64 (Steele et al. 2014)."""
    state = seed
    for part in (scale, channel):
        state = _splitmix((state + part + 1) % 2**64)
    return [word - _WORD if word >= _WORD // 2 else word for word in (state % _WORD, state // _WORD)]


def _splitmix(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) % 2**64
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)


def _mix(x: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Scrambles 32-bit words in place ("lowbias32", Wellons 2018); the masks make the shifts bring in zeros."""
    for shift, factor in FACTORS:
        x.bitwise_xor_((x >> shift).bitwise_and_(_WORD // 2**shift - 1)).mul_(factor)
    return x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))
