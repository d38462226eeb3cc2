"""Where a matrix of costs less ψ is smallest in each row, in one pass: a kernel that LLVM compiles."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from llvmlite import ir
from torch import Tensor

from featot.ot.compiled import FLOAT, INT, LANES, LONG, POINTER, Kernel
from featot.ot.threads import in_threads

_ROWS = 4  # at a time: so many comparisons wait for one another
_PART = 128  # rows that a thread takes at once
_WORK = 2**18  # numbers that are worth a thread


def smallest_in_rows(costs: Float[Tensor, "n m"], psi: Float[Tensor, " m"]) -> Int[Tensor, " n"]:
    """The first j of the smallest ``costs[i, j] − psi[j]``, float32 on the CPU; m: a multiple of `LANES`."""
    n, m = costs.shape
    found = torch.empty(n, dtype=torch.int64)
    costs, psi = costs.contiguous(), psi.contiguous()
    run, pointers = _kernel(), [t.data_ptr() for t in (costs, psi, found)]
    in_threads(lambda row: run(*pointers, n, m, row, min(row + _PART, n)), range(0, n, _PART), n * m // _WORK)
    return found


@functools.cache
def _kernel() -> Callable[..., None]:
    names = {**dict.fromkeys(("costs", "psi", "found"), POINTER), **dict.fromkeys(("n", "m", "first", "last"), LONG)}
    kernel = Kernel(names, LANES)
    build, given, vector, integers = kernel.build, kernel.given, kernel.vector, ir.VectorType(INT, LANES)
    reduce_values = kernel.intrinsic("vector.reduce.fmin", FLOAT, vector)
    reduce_columns = kernel.intrinsic("vector.reduce.smin", INT, integers)
    best, at = ([build.alloca(kind) for _ in range(_ROWS)] for kind in (vector, integers))
    blocks = build.sdiv(build.add(build.sub(given["last"], given["first"]), LONG(_ROWS - 1)), LONG(_ROWS))
    with kernel.loop(LONG(0), blocks) as block:
        start = build.add(given["first"], build.mul(block, LONG(_ROWS)))
        rows = [build.add(start, LONG(r)) for r in range(_ROWS)]
        final = build.sub(given["last"], LONG(1))  # the last row fills its block up
        rows = [build.select(build.icmp_signed("<", row, final), row, final) for row in rows]
        for value, index in zip(best, at, strict=True):
            build.store(kernel.splat(FLOAT(float("inf"))), value)
            build.store(integers([0] * LANES), index)
        with kernel.loop(LONG(0), build.sdiv(given["m"], LONG(LANES))) as group:
            column = build.mul(group, LONG(LANES))
            psi = build.load(kernel.place("psi", column), typ=vector, align=4)
            here = kernel.splat(build.trunc(group, INT))
            for row, value, index in zip(rows, best, at, strict=True):
                place = kernel.place("costs", build.add(build.mul(row, given["m"]), column))
                reduced, before = build.fsub(build.load(place, typ=vector, align=4), psi), build.load(value)
                better = build.fcmp_ordered("<", reduced, before)
                build.store(build.select(better, reduced, before), value)
                build.store(build.select(better, here, build.load(index)), index)
        for row, value, index in zip(rows, best, at, strict=True):
            lowest = build.call(reduce_values, [build.load(value)])
            columns = build.add(build.mul(build.load(index), integers([LANES] * LANES)), integers(list(range(LANES))))
            attained = build.fcmp_ordered("==", build.load(value), kernel.splat(lowest))
            first = build.call(reduce_columns, [build.select(attained, columns, integers([2**31 - 1] * LANES))])
            build.store(build.sext(first, LONG), kernel.place("found", row, LONG))
    return kernel.compiled()
