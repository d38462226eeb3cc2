"""The softmin over each row's candidate pairs, and the sums over each column's: kernels that LLVM compiles."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from llvmlite import ir
from torch import Tensor

from featot.ot.compiled import FLOAT, INT, LANES, LONG, POINTER, Kernel
from featot.ot.threads import in_threads

_PARTS = 16  # that rows or columns are shared in, at most
_WORK = 2**17  # pairs that are worth a thread
_SUMS = 4  # at a time: an addition takes four cycles
# exp(r) = 1 + r + r² (p0 + r (p1 + ...)) for |r| ≤ ln 2 / 2, to float32's last digit (Cephes' expf).
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)


def softmin_of_rows(
    costs: Float[Tensor, " e"],
    psi: Float[Tensor, " m"],
    a: Float[Tensor, " n"],
    columns: Int[Tensor, " e"],
    ends: Int[Tensor, " ends"],
    epsilon: float,
    faintest: float,
) -> tuple[Float[Tensor, " e"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The mass that each row spreads over its pairs, its least ``c − ψ`` and its sum of exponentials.

    float32 on the CPU; ``columns`` and ``ends`` of 32 bits; ``faintest``: the least exponent.
    """
    mass = torch.empty(len(costs) + LANES)  # the last row's last vector is read beyond its end
    least, sums = torch.full_like(a, torch.inf), torch.zeros_like(a)
    numbers = torch.tensor([-1 / epsilon, faintest])
    _by_parts(_softmin(), (costs, psi, a, columns, ends, numbers, mass, least, sums), len(a), len(costs))
    return mass[: len(costs)], least, sums


def sums_of_columns(
    values: Float[Tensor, " e"], order: Int[Tensor, " e"], ends: Int[Tensor, " ends"]
) -> Float[Tensor, " m"]:
    """The sum of ``values[order[e]]`` over the e from ``ends[j]`` to below ``ends[j + 1]``, the ends of 32 bits."""
    sums = torch.empty(len(ends) - 1)
    _by_parts(_sums(), (values, order, ends, sums), len(sums), len(order))
    return sums


def _by_parts(run: Callable[..., None], tensors: tuple[Tensor, ...], count: int, work: int) -> None:
    parts = max(1, min(_PARTS, 8 * work // _WORK))  # a call costs some microseconds
    pointers, size = [t.data_ptr() for t in tensors], -(-count // parts)
    in_threads(lambda first: run(*pointers, first, min(first + size, count)), range(0, count, size), work // _WORK)


class _OverPairs(Kernel):
    def __init__(self, pointers: tuple[str, ...]) -> None:
        super().__init__({**dict.fromkeys(pointers, POINTER), **dict.fromkeys(("first", "last"), LONG)}, LANES)

    def end(self, row: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Where the pairs of a row begin and end."""
        build = self.build
        ends = (self.number("ends", build.add(row, LONG(step)), INT) for step in (0, 1))
        start, stop = (build.sext(end, LONG) for end in ends)
        return start, stop

    def masked(
        self, name: str, result: ir.VectorType, place: ir.Type
    ) -> Callable[[ir.Value, ir.Value, Any], ir.Value]:
        """Reads a vector from where it, or each of its numbers, is, or a constant where it must not be read."""
        mask, width = ir.VectorType(ir.IntType(1), LANES), "f32" if result == self.vector else "i32"
        where = f"v{LANES}p0" if isinstance(place, ir.VectorType) else "p0"
        kind = ir.FunctionType(result, [place, INT, mask, result])
        function = ir.Function(self.module, kind, f"llvm.masked.{name}.v{LANES}{width}.{where}")
        return lambda places, within, other: self.build.call(
            function, [places, INT(4), within, result([other] * LANES)]
        )

    def gathered(self, name: str) -> Callable[[ir.Value, ir.Value], ir.Value]:
        """Reads the numbers of an argument that are at these indices and within."""
        build, wide = self.build, ir.VectorType(LONG, LANES)
        read = self.masked("gather", self.vector, ir.VectorType(POINTER, LANES))

        def numbers(indices: ir.Value, within: ir.Value) -> ir.Value:
            bytes_from_start = build.shl(build.sext(indices, wide), wide([2] * LANES))
            places = build.add(self.splat(build.ptrtoint(self.given[name], LONG)), bytes_from_start)
            return read(build.inttoptr(places, ir.VectorType(POINTER, LANES)), within, 0.0)

        return numbers

    def masked_store(self) -> Callable[[ir.Value, ir.Value, ir.Value], ir.Value]:
        """Writes those numbers of a vector that are within."""
        kind = ir.FunctionType(ir.VoidType(), [self.vector, POINTER, INT, ir.VectorType(ir.IntType(1), LANES)])
        function = ir.Function(self.module, kind, f"llvm.masked.store.v{LANES}f32.p0")
        return lambda numbers, place, within: self.build.call(function, [numbers, place, INT(4), within])


@functools.cache
def _softmin() -> Callable[..., None]:
    names = ("costs", "psi", "a", "columns", "ends", "numbers", "mass", "least", "sums")
    kernel = _OverPairs(names)
    build, vector, given = kernel.build, kernel.vector, kernel.given
    lanes, integers = ir.VectorType(INT, LANES)([*range(LANES)]), ir.VectorType(INT, LANES)
    multiply_add = kernel.fma()
    load, load_columns = kernel.masked("load", vector, POINTER), kernel.masked("load", integers, POINTER)
    potential_at, store = kernel.gathered("psi"), kernel.masked_store()
    scale, faintest = (kernel.splat(kernel.number("numbers", LONG(i))) for i in (0, 1))
    smallest, total = build.alloca(vector), build.alloca(vector)

    def exp(x: ir.Value) -> ir.Value:
        def splat(number: float) -> ir.Value:
            return kernel.splat(FLOAT(number))

        halvings = build.fptosi(build.fsub(build.fmul(x, splat(math.log2(math.e))), splat(0.5)), integers)
        number = build.sitofp(halvings, vector)
        rest = build.call(multiply_add, [number, splat(-0.693359375), x])  # ln 2 in two parts
        rest = build.call(multiply_add, [number, splat(2.12194440e-4), rest])
        power = splat(_EXP[0])
        for coefficient in _EXP[1:]:
            power = build.call(multiply_add, [power, rest, splat(coefficient)])
        power = build.call(multiply_add, [power, build.fmul(rest, rest), build.fadd(rest, splat(1))])
        bits = build.shl(build.add(halvings, integers([127] * LANES)), integers([23] * LANES))
        return build.fmul(power, build.bitcast(bits, vector))

    with kernel.loop(given["first"], given["last"]) as row:
        start, end = kernel.end(row)
        build.store(kernel.splat(FLOAT(math.inf)), smallest)
        build.store(kernel.splat(FLOAT(0)), total)
        with build.if_then(build.icmp_signed("<", start, end)):
            chunks = build.sdiv(build.add(build.sub(end, start), LONG(LANES - 1)), LONG(LANES))

            def chunk(number: ir.Value) -> tuple[ir.Value, ir.Value]:
                """The first of a vector of the row's pairs, and which lanes are the row's."""
                first = build.add(start, build.mul(number, LONG(LANES)))
                left = kernel.splat(build.trunc(build.sub(end, first), INT))
                return first, build.icmp_signed("<", lanes, left)

            with kernel.loop(LONG(0), chunks) as number:
                first, within = chunk(number)
                columns = load_columns(kernel.place("columns", first, INT), within, 0)
                costs = load(kernel.place("costs", first), within, math.inf)
                reduced, before = build.fsub(costs, potential_at(columns, within)), build.load(smallest)
                store(reduced, kernel.place("mass", first), within)
                build.store(kernel.lesser(reduced, before), smallest)
            lowest = kernel.reduced(kernel.lesser, build.load(smallest))
            least = kernel.splat(lowest)
            with kernel.loop(LONG(0), chunks) as number:
                first, within = chunk(number)
                place = kernel.place("mass", first)
                reduced = build.load(place, typ=vector, align=4)
                exponent = build.fmul(build.fsub(reduced, least), scale)
                exponent = kernel.greater(exponent, faintest)
                mass = build.select(within, exp(exponent), kernel.splat(FLOAT(0)))
                store(mass, place, within)
                build.store(build.fadd(build.load(total), mass), total)
            whole = kernel.reduced(build.fadd, build.load(total))
            share = kernel.splat(build.fdiv(kernel.number("a", row), whole))
            with kernel.loop(LONG(0), chunks) as number:
                first, within = chunk(number)
                place = kernel.place("mass", first)
                mass = build.load(place, typ=vector, align=4)
                store(build.fmul(mass, share), place, within)
            build.store(whole, kernel.place("sums", row))
            build.store(lowest, kernel.place("least", row))
    return kernel.compiled()


@functools.cache
def _sums() -> Callable[..., None]:
    kernel = _OverPairs(("values", "order", "ends", "sums"))
    build, given = kernel.build, kernel.given
    totals = [build.alloca(FLOAT) for _ in range(_SUMS)]
    with kernel.loop(given["first"], given["last"]) as column:
        start, end = kernel.end(column)
        for total in totals:
            build.store(FLOAT(0), total)
        last = build.sub(end, LONG(1))
        with (
            build.if_then(build.icmp_signed("<", start, end)),
            kernel.loop(LONG(0), build.sdiv(build.add(build.sub(end, start), LONG(_SUMS - 1)), LONG(_SUMS))) as group,
        ):
            first = build.add(start, build.mul(group, LONG(_SUMS)))
            for step, total in enumerate(totals):
                pair = build.add(first, LONG(step))
                within = build.icmp_signed("<", pair, end)
                at = kernel.number("order", build.select(within, pair, last), LONG)
                value = build.select(within, kernel.number("values", at), FLOAT(0))
                build.store(build.fadd(build.load(total), value), total)
        whole = functools.reduce(build.fadd, [build.load(total) for total in totals])
        build.store(whole, kernel.place("sums", column))
    return kernel.compiled()
