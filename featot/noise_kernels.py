"""What a generator's noise costs most, in one pass over memory: kernels that LLVM compiles (`featot.ot.compiled`)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from llvmlite import ir
from torch import Tensor

from featot.noise import FACTORS
from featot.ot.compiled import FLOAT, INT, LONG, POINTER, Kernel
from featot.ot.threads import in_threads

_ROWS = 64  # that a thread takes at once
_WORK = 2**16  # numbers made that are worth a thread


def uniform(down: Int[Tensor, "c h"], across: Int[Tensor, "c w"]) -> Float[Tensor, "1 c h w"]:
    """The noise of these hashed rows and columns."""
    (channels, h), w = down.shape, across.shape[1]
    made = torch.empty(1, channels, h, w)
    if made.numel():
        run, pointers = _uniform(), [t.data_ptr() for t in (down, across, made)]
        rows = channels * h

        def work(first: int) -> None:
            run(*pointers, h, w, first, min(first + _ROWS, rows))

        in_threads(work, range(0, rows, _ROWS), made.numel() // _WORK)
    return made


def joined(
    x: Float[Tensor, "1 c h2 w2"],
    rows: Int[Tensor, " h"],
    columns: Int[Tensor, " w"],
    down: Int[Tensor, "k h"],
    across: Int[Tensor, "k w"],
    strengths: Float[Tensor, "c k"],
) -> Float[Tensor, "1 c h w"]:
    """``x[:, :, rows][..., columns]`` and the noise of these hashed rows and columns, mixed by ``strengths``."""
    (_, channels, _, width), (kinds, h), w = x.shape, down.shape, across.shape[1]
    x = x.contiguous(memory_format=torch.channels_last)
    made = torch.empty((1, channels, h, w), memory_format=torch.channels_last)
    strengths, rows, columns = strengths.t().contiguous(), rows.int(), columns.int()
    run = _joined(channels, kinds)

    def work(first: int) -> None:
        scratch = torch.empty(kinds, w)
        pointers = [t.data_ptr() for t in (x, rows, columns, down, across, strengths, made, scratch)]
        run(*pointers, width, h, w, first, min(first + _ROWS, h))

    in_threads(work, range(0, h, _ROWS), made.numel() // _WORK)
    return made


@functools.cache
def _uniform() -> Callable[..., None]:
    pointers, numbers = ("down", "across", "made"), ("h", "w", "first", "last")
    kernel = _Noise(pointers, numbers)
    build, given = kernel.build, kernel.given
    with kernel.loop(given["first"], given["last"]) as row:
        channel, start = build.sdiv(row, given["h"]), build.mul(row, given["w"])
        kernel.row(kernel.number("down", row, INT), build.mul(channel, given["w"]), "made", start)
    return kernel.compiled(optimise=True)


@functools.cache
def _joined(channels: int, kinds: int) -> Callable[..., None]:
    pointers = ("x", "rows", "columns", "down", "across", "strengths", "made", "scratch")
    kernel = _Noise(pointers, ("width", "h", "w", "first", "last"), channels)
    build, given, vector = kernel.build, kernel.given, kernel.vector
    multiply_add = kernel.intrinsic("fma", vector, *[vector] * 3)
    strengths = [build.load(kernel.place("strengths", LONG(k * channels)), typ=vector, align=4) for k in range(kinds)]
    with kernel.loop(given["first"], given["last"]) as row:
        starts = [build.mul(LONG(k), given["w"]) for k in range(kinds)]
        with kernel.loop(LONG(0), LONG(kinds)) as k:
            place, start = build.add(build.mul(k, given["h"]), row), build.mul(k, given["w"])
            kernel.row(kernel.number("down", place, INT), start, "scratch", start)
        parents = build.mul(build.sext(kernel.number("rows", row, INT), LONG), given["width"])
        made = build.mul(row, given["w"])
        with kernel.loop(LONG(0), given["w"]) as column:
            parent = build.add(parents, build.sext(kernel.number("columns", column, INT), LONG))
            total = build.load(kernel.place("x", build.mul(parent, LONG(channels))), typ=vector, align=4)
            for start, strength in zip(starts, strengths, strict=True):
                noise = kernel.splat(kernel.number("scratch", build.add(start, column)))
                total = build.call(multiply_add, [noise, strength, total])
            place = build.mul(build.add(made, column), LONG(channels))
            build.store(total, kernel.place("made", place), align=4)
    return kernel.compiled(optimise=True)


class _Noise(Kernel):
    def __init__(self, pointers: tuple[str, ...], numbers: tuple[str, ...], lanes: int = 1) -> None:
        super().__init__({**dict.fromkeys(pointers, POINTER), **dict.fromkeys(numbers, LONG)}, lanes)
        for name in pointers:
            self.given[name].add_attribute("noalias")

    def row(self, down: ir.Value, across: ir.Value, name: str, start: ir.Value) -> None:
        """Writes a row of noise, of its hash and the columns' from ``across`` on, to ``name`` from ``start`` on."""
        build = self.build
        with self.loop(LONG(0), self.given["w"]) as column:
            x = build.add(down, self.number("across", build.add(across, column), INT))
            for shift, factor in FACTORS:
                x = build.mul(build.xor(x, build.lshr(x, INT(shift))), INT(factor))
            x = build.xor(x, build.lshr(x, INT(16)))
            bits = build.sitofp(build.lshr(x, INT(8)), FLOAT)
            build.store(build.fmul(bits, FLOAT(2.0**-24)), self.place(name, build.add(start, column)))
