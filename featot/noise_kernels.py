"""What a generator's noise costs most, in one pass over memory: kernels that LLVM compiles (`featot.ot.compiled`)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from llvmlite import ir
from torch import Tensor

from featot.noise import FACTORS, Meeting
from featot.ot.compiled import FLOAT, INT, LANES, LONG, POINTER, Kernel
from featot.ot.threads import in_threads

_ROWS = 64  # that a thread takes at once
_WORK = 2**16  # numbers made that are worth a thread


def uniform(down: Int[Tensor, "c h"], across: Int[Tensor, "c w"]) -> Float[Tensor, "1 c h w"]:
    """The noise of these hashed rows and columns."""
    (channels, h), w = down.shape, across.shape[1]
    across = F.pad(across, (0, -w % LANES))
    wide, rows = across.shape[1], channels * h
    made = torch.empty(1, channels, h, wide)
    run, pointers = _uniform(), [t.data_ptr() for t in (down, across, made)]
    in_threads(
        lambda row: run(*pointers, h, wide, row, min(row + _ROWS, rows)),
        range(0, rows, _ROWS),
        made.numel() // _WORK,
    )
    return made[..., :w]


def joined(x: Float[Tensor, "1 c h2 w2"], met: Meeting, strengths: Float[Tensor, "c k"]) -> Float[Tensor, "1 c h w"]:
    """``x[:, :, rows][..., columns]`` and the noise that it has met, mixed by ``strengths``."""
    rows, columns, down, across = met
    (_, channels, _, width), (kinds, h), w = x.shape, down.shape, across.shape[1]
    x = x.contiguous(memory_format=torch.channels_last)
    made = torch.empty((1, channels, h, w), memory_format=torch.channels_last)
    strengths, rows, columns = strengths.t().contiguous(), rows.int(), columns.int()
    across = F.pad(across, (0, -w % LANES))
    wide, run = across.shape[1], _joined(channels, kinds)

    def work(row: int) -> None:
        noise = torch.empty(kinds, wide)
        pointers = [t.data_ptr() for t in (x, rows, columns, down, across, strengths, made, noise)]
        run(*pointers, width, h, w, wide, row, min(row + _ROWS, h))

    in_threads(work, range(0, h, _ROWS), made.numel() // _WORK)
    return made


def drawn(build: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """The noise of a vector of sums of two hashes each (`featot.noise.NoiseField.hashes`)."""
    integers, floats = x.type, ir.VectorType(FLOAT, x.type.count)

    def every(number: float, kind: ir.VectorType) -> ir.Constant:
        return kind([number] * kind.count)

    for shift, factor in FACTORS:
        x = build.mul(build.xor(x, build.lshr(x, every(shift, integers))), every(factor, integers))
    x = build.xor(x, build.lshr(x, every(16, integers)))
    return build.fmul(build.sitofp(build.lshr(x, every(8, integers)), floats), every(2.0**-24, floats))


@functools.cache
def _uniform() -> Callable[..., None]:
    kernel = _Noise(("down", "across", "made"), ("h", "wide", "first", "last"), LANES)
    build, given = kernel.build, kernel.given
    with kernel.loop(given["first"], given["last"]) as row:
        channel, start = build.sdiv(row, given["h"]), build.mul(row, given["wide"])
        kernel.draw(kernel.number("down", row, INT), build.mul(channel, given["wide"]), "made", start)
    return kernel.compiled()


@functools.cache
def _joined(channels: int, kinds: int) -> Callable[..., None]:
    pointers = ("x", "rows", "columns", "down", "across", "strengths", "made", "noise")
    kernel = _Noise(pointers, ("width", "h", "w", "wide", "first", "last"), channels)
    build, given, vector = kernel.build, kernel.given, kernel.vector
    multiply_add = kernel.fma()
    places = [kernel.place("strengths", LONG(k * channels)) for k in range(kinds)]
    strengths = [build.load(place, typ=vector, align=4) for place in places]
    with kernel.loop(given["first"], given["last"]) as row:
        with kernel.loop(LONG(0), LONG(kinds)) as k:
            start = build.mul(k, given["wide"])
            kernel.draw(kernel.number("down", build.add(build.mul(k, given["h"]), row), INT), start, "noise", start)
        parents = build.mul(build.sext(kernel.number("rows", row, INT), LONG), given["width"])
        made = build.mul(row, given["w"])
        with kernel.loop(LONG(0), given["w"]) as column:
            parent = build.add(parents, build.sext(kernel.number("columns", column, INT), LONG))
            total = build.load(kernel.place("x", build.mul(parent, LONG(channels))), typ=vector, align=4)
            for k, strength in enumerate(strengths):
                number = kernel.number("noise", build.add(build.mul(LONG(k), given["wide"]), column))
                total = build.call(multiply_add, [kernel.splat(number), strength, total])
            place = kernel.place("made", build.mul(build.add(made, column), LONG(channels)))
            build.store(total, place, align=4)
    return kernel.compiled()


class _Noise(Kernel):
    def __init__(self, pointers: tuple[str, ...], numbers: tuple[str, ...], lanes: int) -> None:
        super().__init__({**dict.fromkeys(pointers, POINTER), **dict.fromkeys(numbers, LONG)}, lanes)

    def draw(self, down: ir.Value, across: ir.Value, name: str, start: ir.Value) -> None:
        """Writes a row of noise, of its hash and the columns' from ``across`` on, to ``name`` from ``start`` on."""
        build, integers = self.build, ir.VectorType(INT, LANES)
        downs = self.splat(down, LANES)
        with self.loop(LONG(0), build.sdiv(self.given["wide"], LONG(LANES))) as group:
            column = build.mul(group, LONG(LANES))
            hashes = build.load(self.place("across", build.add(across, column)), typ=integers, align=4)
            noise = drawn(build, build.add(downs, hashes))
            build.store(noise, self.place(name, build.add(start, column)), align=4)
