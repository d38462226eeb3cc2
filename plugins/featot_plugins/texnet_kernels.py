"""What `texnet_lite` does at full resolution, in one pass over rows that stay in the cache: a kernel of LLVM's."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from llvmlite import ir
from torch import Tensor, nn

from featot.noise import Meeting
from featot.noise_kernels import drawn
from featot.ot.compiled import INT, LONG, POINTER, WIDE, Kernel
from featot.ot.threads import in_threads

_LANES, _VECTORS = (16, 2) if WIDE else (8, 1)  # columns at a time: with 8 channels, 16 or 8 sums in registers
_ROWS = 64  # that a thread takes at once
_WORK = 2**14  # pixels that are worth a thread

_POINTERS = ("x", "rows", "columns", "down", "across", "strengths", "weights", "biases", "colors", "tints")
_ARGUMENTS = {
    **dict.fromkeys((*_POINTERS, "made", "kept"), POINTER),
    **dict.fromkeys(("width", "h", "length", "wide", "first", "last"), LONG),
}


def finest(
    x: Float[Tensor, "1 c h2 w2"],
    met: Meeting,
    strengths: Float[Tensor, "c k"],
    conv: nn.Conv2d,
    colors: nn.Conv2d,
    slope: float,
) -> Float[Tensor, "1 c2 h3 w3"]:
    """What the 3×3 and then the 1×1 convolution make of ``x[:, :, rows][..., columns]`` and the noise that it has
    met, mixed by ``strengths``; before and between them is a LeakyReLU of this slope."""
    rows, columns, down, across = met
    channels, (kinds, h) = x.shape[1], down.shape
    block = _VECTORS * _LANES
    w = across.shape[1] - 2
    wide = -(-w // block) * block  # columns made, of which the last may be of no use
    length = wide + _LANES  # columns read
    more = (0, length - w - 2)
    assert conv.bias is not None
    assert colors.bias is not None
    tensors = [
        x.contiguous(memory_format=torch.channels_last),
        rows.int(),
        F.pad(columns.int() * channels, more),
        down,
        F.pad(across, more),
        strengths.contiguous(),
        conv.weight.permute(1, 2, 3, 0).contiguous(),
        conv.bias,
        colors.weight[:, :, 0, 0].contiguous(),
        colors.bias,
        x.new_empty(1, colors.out_channels, h - 2, wide),
    ]
    run = _kernel(_LANES, _VECTORS, channels, conv.out_channels, colors.out_channels, kinds, slope)

    def work(first: int) -> None:
        kept = x.new_empty(3, channels, length)
        pointers = [tensor.data_ptr() for tensor in (*tensors, kept)]
        run(*pointers, x.shape[3], h, length, wide, first, min(first + _ROWS, h - 2))

    in_threads(work, range(0, h - 2, _ROWS), (h - 2) * w // _WORK)
    return tensors[-1][..., :w]


@functools.cache
def _kernel(
    lanes: int, vectors: int, channels: int, between: int, colors: int, kinds: int, slope: float
) -> Callable[..., None]:
    return _Finest(lanes, vectors, channels, between, colors, kinds, slope).compiled()


class _Finest(Kernel):
    """Writes the kernel: the three last rows of what came in are kept, and each further one makes a row."""

    def __init__(
        self, lanes: int, vectors: int, channels: int, between: int, colors: int, kinds: int, slope: float
    ) -> None:
        super().__init__(_ARGUMENTS, lanes)
        self.vectors, self.channels, self.between, self.kinds = vectors, channels, between, kinds
        self.slope, self.integers = slope, ir.VectorType(INT, lanes)
        self.multiply_add = self.fma()
        pointers, mask = ir.VectorType(POINTER, lanes), ir.VectorType(ir.IntType(1), lanes)
        kind = ir.FunctionType(self.vector, [pointers, INT, mask, self.vector])
        self.gather = ir.Function(self.module, kind, f"llvm.masked.gather.v{lanes}f32.v{lanes}p0")
        build, given = self.build, self.given
        self.sums = [[build.alloca(self.vector) for _ in range(vectors)] for _ in range(between)]
        self.size = build.mul(LONG(channels), given["length"])  # of a row that is kept
        ahead = build.add(given["first"], LONG(2))
        with self.loop(given["first"], build.add(given["last"], LONG(2))) as row:
            self._join(row)
            with build.if_then(build.icmp_signed(">=", row, ahead)):
                top = build.sub(row, LONG(2))
                with self.loop(LONG(0), build.sdiv(given["wide"], LONG(vectors * lanes))) as block:
                    column = build.mul(block, LONG(vectors * lanes))
                    self._convolve(top, column)
                    self._color(top, column, colors)

    def _join(self, row: ir.Value) -> None:
        """What is enlarged, and noise, to a row that is kept."""
        build, given, lanes = self.build, self.given, self.lanes
        addresses = ir.VectorType(LONG, lanes)
        parent = build.mul(build.sext(self.number("rows", row, INT), LONG), given["width"])
        parent = build.ptrtoint(self.place("x", build.mul(parent, LONG(self.channels))), LONG)
        start, everywhere = self._kept(row), ir.VectorType(ir.IntType(1), lanes)([1] * lanes)
        hashes = [self.number("down", build.add(build.mul(LONG(k), given["h"]), row), INT) for k in range(self.kinds)]
        with self.loop(LONG(0), build.sdiv(given["length"], LONG(lanes))) as group:
            column = build.mul(group, LONG(lanes))
            noise = []
            for k, down in enumerate(hashes):
                place = self.place("across", build.add(build.mul(LONG(k), given["length"]), column))
                hashed = build.add(self.splat(down), build.load(place, typ=self.integers, align=4))
                noise.append(drawn(build, hashed))
            at = build.load(self.place("columns", column), typ=self.integers, align=4)
            at = build.mul(build.sext(at, addresses), addresses([4] * lanes))
            for c in range(self.channels):
                place = build.add(self.splat(build.add(parent, LONG(4 * c))), at)
                places = build.inttoptr(place, ir.VectorType(POINTER, lanes))
                total = build.call(self.gather, [places, INT(4), everywhere, self.vector(ir.Undefined)])
                for k, number in enumerate(noise):
                    strength = self.splat(self.number("strengths", LONG(c * self.kinds + k)))
                    total = build.call(self.multiply_add, [number, strength, total])
                place = build.add(start, build.add(build.mul(LONG(c), given["length"]), column))
                build.store(self._activated(total), self.place("kept", place), align=4)

    def _convolve(self, top: ir.Value, column: ir.Value) -> None:
        """``sums``: the 3×3 convolution of the rows from ``top`` on, all in registers."""
        build, given = self.build, self.given
        for c, sums in enumerate(self.sums):
            for total in sums:
                build.store(self.splat(self.number("biases", LONG(c))), total)
        with self.loop(LONG(0), LONG(3)) as down:
            seen = build.add(self._kept(build.add(top, down)), column)
            with self.loop(LONG(0), LONG(self.channels)) as channel:
                start = build.add(seen, build.mul(channel, given["length"]))
                first = build.add(build.mul(channel, LONG(3)), down)
                for across in range(3):
                    tap = build.add(build.mul(first, LONG(3)), LONG(across))
                    self._add(build.add(start, LONG(across)), build.mul(tap, LONG(self.between)))

    def _add(self, seen: ir.Value, first: ir.Value) -> None:
        """What is kept from ``seen`` on times the weights from ``first`` on."""
        build = self.build
        places = [self.place("kept", build.add(seen, LONG(v * self.lanes))) for v in range(self.vectors)]
        vectors = [build.load(place, typ=self.vector, align=4) for place in places]
        for c, sums in enumerate(self.sums):
            weight = self.splat(self.number("weights", build.add(first, LONG(c))))
            for x, total in zip(vectors, sums, strict=True):
                build.store(build.call(self.multiply_add, [x, weight, build.load(total)]), total)

    def _color(self, row: ir.Value, column: ir.Value, colors: int) -> None:
        build, given = self.build, self.given
        for v in range(self.vectors):
            activated = [self._activated(build.load(sums[v])) for sums in self.sums]
            for color in range(colors):
                total = self.splat(self.number("tints", LONG(color)))
                for c, value in enumerate(activated):
                    weight = self.splat(self.number("colors", LONG(color * self.between + c)))
                    total = build.call(self.multiply_add, [value, weight, total])
                line = build.add(build.mul(LONG(color), build.sub(given["h"], LONG(2))), row)
                place = build.add(build.mul(line, given["wide"]), build.add(column, LONG(v * self.lanes)))
                build.store(total, self.place("made", place), align=4)

    def _kept(self, row: ir.Value) -> ir.Value:
        return self.build.mul(self.build.srem(row, LONG(3)), self.size)

    def _activated(self, x: ir.Value) -> ir.Value:
        below = self.build.fmul(x, self.vector([self.slope] * self.lanes))
        positive = self.build.fcmp_ordered(">", x, self.vector([0.0] * self.lanes))
        return self.build.select(positive, x, below)
