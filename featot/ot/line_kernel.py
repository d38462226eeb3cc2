"""Transport on lines by a radix sort whose last pass compares and writes: a kernel that LLVM compiles."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from llvmlite import ir
from torch import Tensor

from featot.ot.compiled import FLOAT, INT, LONG, POINTER, Kernel
from featot.ot.threads import in_threads

_DOUBLE = ir.DoubleType()
_BITS = 11  # of a digit: three make a number, and the counts of one stay in the first-level cache
_PASSES = 3
_WORK = 2**13  # numbers that are worth a thread
_PART = 2**15  # numbers, or a row, that a thread takes at once

_ARGUMENTS = {
    **dict.fromkeys(("x", "y", "chosen", "pull", "costs", "scratch", "counts"), POINTER),
    **dict.fromkeys(("n", "m", "first", "last"), LONG),
}


def match_by_radix(
    x: Float[Tensor, "k n"], y: Float[Tensor, "lines m"], chosen: Int[Tensor, " k"], power: int
) -> tuple[Float[Tensor, ""], Float[Tensor, "k n"]]:
    """The sum of the costs of `featot.ot.line.line_costs`, and for each x its difference from its partner, or with
    power 1 the sign of that; float32 on the CPU."""
    (k, n), m = x.shape, y.shape[1]
    x, y, chosen = x.contiguous(), y.contiguous(), chosen.long().contiguous()
    pull, costs = torch.empty_like(x), torch.empty(k, dtype=torch.float64)
    run, rows = _kernel(power), max(1, _PART // n)

    def work(row: int) -> None:
        scratch = torch.empty(2, n, dtype=torch.int64)
        counts = torch.empty(_PASSES << _BITS, dtype=torch.int32)
        pointers = [t.data_ptr() for t in (x, y, chosen, pull, costs, scratch, counts)]
        run(*pointers, n, m, row, min(row + rows, k))

    in_threads(work, range(0, k, rows), x.numel() // _WORK)
    return costs.sum().to(x), pull


@functools.cache
def _kernel(power: int) -> Callable[..., None]:
    return _Match(power).compiled()


class _Match(Kernel):
    """Writes the kernel: least digits first, each number with its place in the upper and lower half of 64 bits."""

    def __init__(self, power: int) -> None:
        super().__init__(_ARGUMENTS, 1)
        self.power = power
        self.absolute = ir.Function(self.module, ir.FunctionType(_DOUBLE, [_DOUBLE]), "llvm.fabs.f64")
        build, given = self.build, self.given
        n = given["n"]
        self.total, self.cost = build.alloca(INT), build.alloca(_DOUBLE)
        self.end = build.sub(given["m"], LONG(1))
        self.step = build.sdiv(build.shl(given["m"], LONG(32)), n)
        self.shift = build.sub(build.ashr(self.step, LONG(1)), LONG(2**31))
        with self.loop(given["first"], given["last"]) as row:
            self.start = build.mul(row, n)
            self.targets = build.mul(self.number("chosen", row, LONG), given["m"])
            self._count()
            build.store(_DOUBLE(0), self.cost)
            for digit in range(_PASSES - 1):
                with self.loop(LONG(0), n) as i:
                    self._move(digit, i)
            with self.loop(LONG(0), n) as i:  # in order: where y comes from memory, that is what it is read fast in
                build.store(self._quantile(i), self.place("scratch", i))
            with self.loop(LONG(0), n) as i:
                self._move(_PASSES - 1, i)
            build.store(build.load(self.cost), self.place("costs", row, _DOUBLE))

    def _count(self) -> None:
        """``counts``: how many numbers have a lesser digit, for each digit and each value that it can have."""
        build = self.build
        with self.loop(LONG(0), LONG(_PASSES << _BITS)) as c:
            build.store(INT(0), self.place("counts", c, INT))
        with self.loop(LONG(0), self.given["n"]) as i:
            key = self._key(i)
            for digit in range(_PASSES):
                place = self._counter(digit, key)
                build.store(build.add(build.load(place, typ=INT), INT(1)), place)
        for digit in range(_PASSES):
            build.store(INT(0), self.total)
            with self.loop(LONG(digit << _BITS), LONG((digit + 1) << _BITS)) as c:
                place = self.place("counts", c, INT)
                count, before = build.load(place, typ=INT), build.load(self.total)
                build.store(before, place)
                build.store(build.add(before, count), self.total)

    def _move(self, digit: int, i: ir.Value) -> None:
        """One number to its place by this digit; by the last one that is its rank."""
        build = self.build
        if digit == 0:
            packed = build.or_(build.shl(build.zext(self._key(i), LONG), LONG(32)), i)
        else:
            packed = self.number("scratch", self._half(digit - 1, i), LONG)
        key = build.trunc(build.lshr(packed, LONG(32)), INT)
        place = self._counter(digit, key)
        at = build.load(place, typ=INT)
        build.store(build.add(at, INT(1)), place)
        rank = build.zext(at, LONG)
        if digit < _PASSES - 1:
            build.store(packed, self.place("scratch", self._half(digit, rank), LONG))
        else:
            self._compare(key, rank, build.and_(packed, LONG(2**32 - 1)))

    def _compare(self, key: ir.Value, rank: ir.Value, i: ir.Value) -> None:
        build = self.build
        flipped = build.or_(build.ashr(build.not_(key), INT(31)), INT(-(2**31)))
        apart = build.fsub(build.bitcast(build.xor(key, flipped), FLOAT), self.number("scratch", rank))
        cost = build.fpext(apart, _DOUBLE)
        if self.power == 2:
            pull, cost = apart, build.fmul(cost, cost)
        else:
            below, above = (build.fcmp_ordered(sign, apart, FLOAT(0)) for sign in ("<", ">"))
            pull = build.select(below, FLOAT(-1), build.select(above, FLOAT(1), FLOAT(0)))
            cost = build.call(self.absolute, [cost])
        build.store(pull, self.place("pull", build.add(self.start, i)))
        build.store(build.fadd(build.load(self.cost), cost), self.cost)

    def _quantile(self, rank: ir.Value) -> ir.Value:
        """The target's, between the middles of its m steps; places have 32 bits after the point."""
        build, zero = self.build, LONG(0)
        place = build.add(build.mul(rank, self.step), self.shift)
        place = build.select(build.icmp_signed(">", place, zero), place, zero)
        below = build.lshr(place, LONG(32))
        inside = build.icmp_signed("<", below, self.end)
        below = build.select(inside, below, self.end)
        above = build.add(below, build.zext(inside, LONG))
        share = build.sitofp(build.and_(build.lshr(place, LONG(8)), LONG(2**24 - 1)), FLOAT)
        lower, upper = (self.number("y", build.add(self.targets, at)) for at in (below, above))
        return build.fadd(lower, build.fmul(build.fmul(share, FLOAT(2.0**-24)), build.fsub(upper, lower)))

    def _key(self, i: ir.Value) -> ir.Value:
        """The bits of a number, so that they as an integer without a sign have its order."""
        build = self.build
        bits = self.number("x", build.add(self.start, i), INT)
        return build.xor(bits, build.or_(build.ashr(bits, INT(31)), INT(-(2**31))))

    def _counter(self, digit: int, key: ir.Value) -> ir.Value:
        build = self.build
        value = build.and_(build.lshr(key, INT(digit * _BITS)), INT(2**_BITS - 1))
        return self.place("counts", build.add(build.zext(value, LONG), LONG(digit << _BITS)), INT)

    def _half(self, digit: int, i: ir.Value) -> ir.Value:
        """Where, in that half of the scratch that this digit is written to."""
        return self.build.add(i, self.given["n"]) if digit % 2 else i
