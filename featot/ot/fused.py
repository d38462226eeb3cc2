"""The search for the nearest in one pass over registers: a kernel that LLVM compiles for the CPU it runs on.

A block of rows meets a group of columns at a time. Their inner products stay in vector registers and are compared
with what every row has found so far; no cost is ever written to memory. For more than one nearest a row keeps so many
in no order, and what is compared is the worst of them, whose place a better one takes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from llvmlite import ir
from torch import Tensor

from featot.ot.compiled import FLOAT, INT, LONG, POINTER, WIDE, Kernel
from featot.ot.cost import Cost
from featot.ot.search import MOST
from featot.ot.threads import in_threads

# Numbers in a vector register, and columns in a group: 16 of 32 registers accumulate, or 12 of 16.
_LANES, _COLUMNS = (16, 8) if WIDE else (8, 6)
_VECTORS = 2  # of rows, in a block: each needs an accumulator for every column of a group
_PART = 512  # rows that a thread takes at once
_CACHED = 2**18  # numbers of y that stay in the second-level cache while a part meets them
_WORK = 2**22  # multiplications that are worth a thread

_ARGUMENTS = {
    **dict.fromkeys(("x", "center", "y", "norms", "psi", "values", "indices", "scratch"), POINTER),
    **dict.fromkeys(("n", "d", "row_stride", "stride", "block", "last_block", "group", "last_group"), LONG),
}


def smallest_by_registers(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    psi: Float[Tensor, " m"],
    k: int,
    cost: Cost,
    center: Float[Tensor, " d"] | None,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The k smallest ``c(x_i, y_j) − ψ_j`` of every row, in no order, and their j.

    float32 on the CPU, exponents 2, 1 and ½, k of at most `MOST`.
    """
    (n, d), m = x.shape, len(y)
    rows, columns = _VECTORS * _LANES, _COLUMNS
    groups, blocks = -(-m // columns), -(-n // rows)
    center = x.new_zeros(d) if center is None else center.contiguous()
    # In order of ψ a group's first ψ bounds the others, and closely.
    psi, order = (psi / cost.scale).sort(descending=True)
    y = y.index_select(0, order).sub_(center)
    norms = y.new_full((groups * columns,), torch.inf)  # of the y that fill the last group up: never chosen
    torch.linalg.vecdot(y, y, out=norms[:m])
    padding = (0, groups * columns - m)
    psi = torch.nn.functional.pad(psi, padding)
    y = torch.nn.functional.pad(y.mul_(-2), (0, 0, *padding)).view(groups, columns, d).transpose(1, 2).contiguous()
    kept = 1 if k == 1 else MOST
    values = x.new_full((blocks * rows, kept), torch.inf)
    values[:, k:] = -torch.inf  # where fewer are asked for: never the worst of the kept
    indices = torch.zeros(values.shape, dtype=torch.int32)

    run = _kernel({2: 0, 1: 1, 0.5: 2}[cost.exponent], kept)
    step, cached = _PART // rows, max(1, _CACHED // (columns * d))

    def work(block: int) -> None:
        scratch = x.new_empty(d * rows)
        pointers = [t.data_ptr() for t in (x, center, y, norms, psi, values, indices, scratch)]
        for group in range(0, groups, cached):
            ends = block, min(block + step, blocks), group, min(group + cached, groups)
            run(*pointers, n, d, *x.stride(), *ends)

    in_threads(work, range(0, blocks, step), n * m * d // _WORK)
    return values[:n, :k].mul(cost.scale), order[indices[:n, :k].long()]


@functools.cache
def _kernel(roots: int, kept: int) -> Callable[..., None]:
    return (_Search if kept == 1 else _SearchOfSeveral)(_LANES, _COLUMNS, roots).compiled()


class _Search(Kernel):
    """Writes the kernel for ``lanes`` rows in a vector and ``columns`` in a group, with ``roots`` square roots."""

    def __init__(self, lanes: int, columns: int, roots: int) -> None:
        super().__init__(_ARGUMENTS, lanes)
        self.columns, self.roots, self.rows = columns, roots, _VECTORS * lanes
        self.root = self.intrinsic("sqrt", self.vector, self.vector)
        self.multiply_add = self.fma()
        build = self.build
        self.integers = ir.VectorType(INT, lanes)
        self.norms = [build.alloca(self.vector) for _ in range(_VECTORS)]
        self.best = [build.alloca(self.vector) for _ in range(_VECTORS)]
        self.at = [build.alloca(self.integers) for _ in range(_VECTORS)]
        self.found = build.alloca(self.vector)
        self.sums = [[build.alloca(self.vector) for _ in range(_VECTORS)] for _ in range(columns)]
        with self.loop(self.given["block"], self.given["last_block"]) as block:
            row = build.mul(block, LONG(self.rows))
            self._pack(row)
            self._begin(row)
            with self.loop(self.given["group"], self.given["last_group"]) as group:
                column = build.mul(group, LONG(columns))
                self._multiply(column)
                self._compare(row, column)
            self._end(row)

    def _begin(self, row: ir.Value) -> None:
        """What the rows have found among earlier columns."""
        for v, (best, at) in enumerate(zip(self.best, self.at, strict=True)):
            self.build.store(self.build.load(self._vector("values", row, v), typ=self.vector, align=4), best)
            self.build.store(self.build.load(self._vector("indices", row, v), typ=self.integers, align=4), at)

    def _end(self, row: ir.Value) -> None:
        for v, (best, at) in enumerate(zip(self.best, self.at, strict=True)):
            self.build.store(self.build.load(best), self._vector("values", row, v), align=4)
            self.build.store(self.build.load(at), self._vector("indices", row, v), align=4)

    def _pack(self, row: ir.Value) -> None:
        """Rows less the center to ``scratch``, a coordinate of all after the other, and their norms."""
        build, given = self.build, self.given
        with self.loop(LONG(0), LONG(self.rows)) as r:
            i, last = build.add(row, r), build.sub(given["n"], LONG(1))
            i = build.select(build.icmp_signed("<", i, last), i, last)  # the last row fills its block up
            start = build.mul(i, given["row_stride"])
            with self.loop(LONG(0), given["d"]) as k:
                x = self.number("x", build.add(start, build.mul(k, given["stride"])))
                place = self.place("scratch", build.add(build.mul(k, LONG(self.rows)), r))
                build.store(build.fsub(x, self.number("center", k)), place)
        for norm in self.norms:
            build.store(self.splat(FLOAT(0)), norm)
        with self.loop(LONG(0), given["d"]) as k:
            for norm, x in zip(self.norms, self._coordinates(k), strict=True):
                build.store(build.call(self.multiply_add, [x, x, build.load(norm)]), norm)

    def _multiply(self, column: ir.Value) -> None:
        """``sums[c][v] = ‖y‖² − 2⟨x, y⟩``, all in registers."""
        build, start = self.build, self.build.mul(column, self.given["d"])
        for c, sums in enumerate(self.sums):
            norm = self.splat(self.number("norms", build.add(column, LONG(c))))
            for total in sums:
                build.store(norm, total)
        with self.loop(LONG(0), self.given["d"]) as k:
            x, first = self._coordinates(k), build.add(start, build.mul(k, LONG(self.columns)))
            for c, sums in enumerate(self.sums):
                y = self.splat(self.number("y", build.add(first, LONG(c))))
                for v, total in enumerate(sums):
                    build.store(build.call(self.multiply_add, [x[v], y, build.load(total)]), total)

    def _compare(self, row: ir.Value, column: ir.Value) -> None:
        """Takes note of the columns that are better, which is seldom: so one test is for all of them.

        ``c^(p/2) − ψ < best`` where ``c < (best + ψ)^(2/p)``: no root is taken of what does not pass.
        """
        build = self.build
        highest, passed = self.splat(self.number("psi", column)), []
        for v, (best, norm) in enumerate(zip(self.best, self.norms, strict=True)):
            limit = build.fadd(build.load(best), highest)
            for _ in range(self.roots):
                limit = self._positive(limit)
                limit = build.fmul(limit, limit)
            least = functools.reduce(self.lesser, [build.load(sums[v]) for sums in self.sums])
            passed.append(build.fcmp_ordered("<", least, build.fsub(limit, build.load(norm))))
        some = build.bitcast(functools.reduce(build.or_, passed), ir.IntType(self.lanes))
        with build.if_then(build.icmp_unsigned("!=", some, some.type(0)), likely=False):
            for c, sums in enumerate(self.sums):
                j = build.add(column, LONG(c))
                psi, index = self.splat(self.number("psi", j)), self.splat(build.trunc(j, INT))
                for v, (norm, total) in enumerate(zip(self.norms, sums, strict=True)):
                    value = build.fadd(build.load(total), build.load(norm))
                    for _ in range(self.roots):
                        value = build.call(self.root, [self._positive(value)])
                    self._note(row, v, build.fsub(value, psi), index)

    def _note(self, row: ir.Value, v: int, value: ir.Value, index: ir.Value) -> None:
        """Keeps the values of the ``v``-th vector of rows, all of the same column, where they are better."""
        build, best, at = self.build, self.best[v], self.at[v]
        before = build.load(best)
        better = build.fcmp_ordered("<", value, before)
        build.store(build.select(better, value, before), best)
        build.store(build.select(better, index, build.load(at)), at)

    def _vector(self, name: str, offset: ir.Value, vector: int) -> ir.Value:
        return self.place(name, self.build.add(offset, LONG(vector * self.lanes)))

    def _coordinates(self, k: ir.Value) -> list[ir.Value]:
        """The k-th of every row of the block."""
        offset = self.build.mul(k, LONG(self.rows))
        places = [self._vector("scratch", offset, v) for v in range(_VECTORS)]
        return [self.build.load(place, typ=self.vector, align=4) for place in places]

    def _positive(self, a: ir.Value) -> ir.Value:
        return self.greater(a, self.splat(FLOAT(0)))


class _SearchOfSeveral(_Search):
    """Keeps `MOST` of every row, ``values`` being ``(rows, MOST)``; ``best`` is the worst of these."""

    def _begin(self, row: ir.Value) -> None:
        for v, best in enumerate(self.best):
            with self.loop(LONG(0), LONG(self.lanes)) as lane:
                self.build.store(self._worst(self._first(row, v, lane)), self._lane(best, lane))

    def _end(self, row: ir.Value) -> None:
        """What is kept is in memory."""

    def _note(self, row: ir.Value, v: int, value: ir.Value, index: ir.Value) -> None:
        build, best = self.build, self.best[v]
        better = build.fcmp_ordered("<", value, build.load(best))
        rows = build.bitcast(better, ir.IntType(self.lanes))
        with build.if_then(build.icmp_unsigned("!=", rows, rows.type(0)), likely=False):
            build.store(value, self.found)
            before, body, after = build.block, build.append_basic_block(), build.append_basic_block()
            build.branch(body)
            build.position_at_end(body)
            left = build.phi(rows.type)
            left.add_incoming(rows, before)
            lane = build.zext(build.cttz(left, ir.IntType(1)(1)), LONG)
            first, worst = self._first(row, v, lane), build.load(self._lane(best, lane), typ=FLOAT)
            worst = build.fcmp_ordered("==", self._kept(first), self.splat(worst, MOST))
            slot = build.cttz(build.bitcast(worst, ir.IntType(MOST)), ir.IntType(1)(1))
            slot = build.add(first, build.zext(slot, LONG))
            build.store(build.load(self._lane(self.found, lane), typ=FLOAT), self.place("values", slot))
            build.store(build.extract_element(index, INT(0)), self.place("indices", slot, INT))
            build.store(self._worst(first), self._lane(best, lane))
            others = build.and_(left, build.sub(left, left.type(1)))  # without the lowest bit
            left.add_incoming(others, build.block)
            build.cbranch(build.icmp_unsigned("!=", others, others.type(0)), body, after)
            build.position_at_end(after)

    def _first(self, row: ir.Value, v: int, lane: ir.Value) -> ir.Value:
        """Where what is kept of a row begins."""
        return self.build.mul(self.build.add(self.build.add(row, LONG(v * self.lanes)), lane), LONG(MOST))

    def _kept(self, first: ir.Value) -> ir.Value:
        return self.build.load(self.place("values", first), typ=ir.VectorType(FLOAT, MOST), align=4)

    def _lane(self, vector: ir.Value, lane: ir.Value) -> ir.Value:
        """Where one number of a vector in memory is."""
        return self.build.gep(self.build.bitcast(vector, ir.PointerType(FLOAT)), [lane])

    def _worst(self, first: ir.Value) -> ir.Value:
        return self.reduced(self.greater, self._kept(first))
