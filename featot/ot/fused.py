"""The search for the nearest in one pass over registers: a kernel that LLVM compiles for the CPU it runs on.

A block of rows meets a group of columns at a time. Their inner products stay in vector registers and are compared
with what every row has found so far; no cost is ever written to memory. The only file that imports llvmlite.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import llvmlite.binding as llvm
import torch
from jaxtyping import Float, Int
from llvmlite import ir
from torch import Tensor

from featot.ot.cost import Cost

_HAS = llvm.get_host_cpu_features()
USABLE = bool(_HAS.get("avx2") and _HAS.get("fma"))  # on other CPUs no kernel has been measured
# Numbers in a vector register, and columns in a group: 16 of 32 registers accumulate, or 12 of 16.
_LANES, _COLUMNS = (16, 8) if _HAS.get("avx512f") else (8, 6)
_VECTORS = 2  # of rows, in a block: each needs an accumulator for every column of a group
_PART = 1024  # rows that a thread takes at once
_CACHED = 2**18  # numbers of y that stay in the second-level cache while a part meets them
_WORK = 2**25  # multiplications that are worth a thread

_engines: list[Any] = []  # which own the machine code

_FLOAT, _INT, _LONG, _POINTER = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.PointerType()
_ARGUMENTS = {
    **dict.fromkeys(("x", "center", "y", "norms", "psi", "values", "indices", "scratch"), _POINTER),
    **dict.fromkeys(("n", "d", "row_stride", "stride", "block", "last_block", "group", "last_group"), _LONG),
}


def smallest_by_registers(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    psi: Float[Tensor, " m"],
    cost: Cost,
    center: Float[Tensor, " d"] | None,
) -> tuple[Float[Tensor, "n 1"], Int[Tensor, "n 1"]]:
    """The smallest ``c(x_i, y_j) − ψ_j`` of every row and its j: float32 on the CPU, exponents 2, 1 and ½."""
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
    values = x.new_full((blocks * rows,), torch.inf)
    indices = torch.zeros(len(values), dtype=torch.int32)

    run = _kernel({2: 0, 1: 1, 0.5: 2}[cost.exponent])
    step, cached = _PART // rows, max(1, _CACHED // (columns * d))
    parts = iter(range(0, blocks, step))  # shared: who is done takes the next

    def work() -> None:
        scratch = x.new_empty(d * rows)
        pointers = [t.data_ptr() for t in (x, center, y, norms, psi, values, indices, scratch)]
        for block in parts:
            for group in range(0, groups, cached):
                ends = block, min(block + step, blocks), group, min(group + cached, groups)
                run(*pointers, n, d, *x.stride(), *ends)

    threads = min(torch.get_num_threads(), n * m * d // _WORK, -(-blocks // step))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:  # of this call alone: nothing is left that a fork could break
            for done in [pool.submit(work) for _ in range(threads)]:
                done.result()
    else:
        work()
    return values[:n, None].mul_(cost.scale), order[indices[:n].long(), None]


@functools.cache
def _kernel(roots: int) -> Callable[..., None]:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=_HAS.flatten(), opt=2
    )
    module = llvm.parse_assembly(str(_Kernel(_LANES, _COLUMNS, roots).module))
    passes = llvm.create_new_module_pass_manager()
    passes.add_sroa_pass()  # variables to registers
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    types = [ctypes.c_void_p if kind is _POINTER else ctypes.c_int64 for kind in _ARGUMENTS.values()]
    function: Callable[..., None] = ctypes.CFUNCTYPE(None, *types)(engine.get_function_address("search"))
    _engines.append(engine)
    return function


class _Kernel:
    """Writes the kernel for ``lanes`` rows in a vector and ``columns`` in a group, with ``roots`` square roots."""

    def __init__(self, lanes: int, columns: int, roots: int) -> None:
        self.lanes, self.columns, self.roots, self.rows = lanes, columns, roots, _VECTORS * lanes
        self.vector = ir.VectorType(_FLOAT, lanes)
        self.module = ir.Module()
        function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), _ARGUMENTS.values()), "search")
        self.given = dict(zip(_ARGUMENTS, function.args, strict=True))
        self.root, self.multiply_add = (
            ir.Function(self.module, ir.FunctionType(self.vector, [self.vector] * count), f"llvm.{name}.v{lanes}f32")
            for name, count in (("sqrt", 1), ("fma", 3))
        )
        self.build = build = ir.IRBuilder(function.append_basic_block())
        integers = ir.VectorType(_INT, lanes)
        self.norms = [build.alloca(self.vector) for _ in range(_VECTORS)]
        self.best = [build.alloca(self.vector) for _ in range(_VECTORS)]
        self.at = [build.alloca(integers) for _ in range(_VECTORS)]
        self.sums = [[build.alloca(self.vector) for _ in range(_VECTORS)] for _ in range(columns)]
        with self._loop(self.given["block"], self.given["last_block"]) as block:
            row = build.mul(block, _LONG(self.rows))
            self._pack(row)
            for v in range(_VECTORS):
                build.store(build.load(self._place("values", row, v), typ=self.vector, align=4), self.best[v])
                build.store(build.load(self._place("indices", row, v), typ=integers, align=4), self.at[v])
            with self._loop(self.given["group"], self.given["last_group"]) as group:
                column = build.mul(group, _LONG(columns))
                self._multiply(column)
                self._compare(column)
            for v in range(_VECTORS):
                build.store(build.load(self.best[v]), self._place("values", row, v), align=4)
                build.store(build.load(self.at[v]), self._place("indices", row, v), align=4)
        build.ret_void()

    def _pack(self, row: ir.Value) -> None:
        """Rows less the center to ``scratch``, a coordinate of all after the other, and their norms."""
        build, given = self.build, self.given
        with self._loop(_LONG(0), _LONG(self.rows)) as r:
            i, last = build.add(row, r), build.sub(given["n"], _LONG(1))
            i = build.select(build.icmp_signed("<", i, last), i, last)  # the last row fills its block up
            start = build.mul(i, given["row_stride"])
            with self._loop(_LONG(0), given["d"]) as k:
                x = self._number("x", build.add(start, build.mul(k, given["stride"])))
                place = self._place("scratch", build.add(build.mul(k, _LONG(self.rows)), r))
                build.store(build.fsub(x, self._number("center", k)), place)
        for norm in self.norms:
            build.store(self._splat(_FLOAT(0)), norm)
        with self._loop(_LONG(0), given["d"]) as k:
            for norm, x in zip(self.norms, self._coordinates(k), strict=True):
                build.store(build.call(self.multiply_add, [x, x, build.load(norm)]), norm)

    def _multiply(self, column: ir.Value) -> None:
        """``sums[c][v] = ‖y‖² − 2⟨x, y⟩``, all in registers."""
        build, start = self.build, self.build.mul(column, self.given["d"])
        for c, sums in enumerate(self.sums):
            norm = self._splat(self._number("norms", build.add(column, _LONG(c))))
            for total in sums:
                build.store(norm, total)
        with self._loop(_LONG(0), self.given["d"]) as k:
            x, first = self._coordinates(k), build.add(start, build.mul(k, _LONG(self.columns)))
            for c, sums in enumerate(self.sums):
                y = self._splat(self._number("y", build.add(first, _LONG(c))))
                for v, total in enumerate(sums):
                    build.store(build.call(self.multiply_add, [x[v], y, build.load(total)]), total)

    def _compare(self, column: ir.Value) -> None:
        """Updates ``best`` and ``at`` where a column is better, which is seldom: so one test is for all of them.

        ``c^(p/2) − ψ < best`` where ``c < (best + ψ)^(2/p)``: no root is taken of what does not pass.
        """
        build = self.build
        highest, passed = self._splat(self._number("psi", column)), []
        for v, (best, norm) in enumerate(zip(self.best, self.norms, strict=True)):
            limit = build.fadd(build.load(best), highest)
            for _ in range(self.roots):
                limit = self._positive(limit)
                limit = build.fmul(limit, limit)
            least = functools.reduce(self._lesser, [build.load(sums[v]) for sums in self.sums])
            passed.append(build.fcmp_ordered("<", least, build.fsub(limit, build.load(norm))))
        some = build.bitcast(functools.reduce(build.or_, passed), ir.IntType(self.lanes))
        with build.if_then(build.icmp_unsigned("!=", some, some.type(0)), likely=False):
            for c, sums in enumerate(self.sums):
                j = build.add(column, _LONG(c))
                psi, index = self._splat(self._number("psi", j)), self._splat(build.trunc(j, _INT))
                for best, at, norm, total in zip(self.best, self.at, self.norms, sums, strict=True):
                    value = build.fadd(build.load(total), build.load(norm))
                    for _ in range(self.roots):
                        value = build.call(self.root, [self._positive(value)])
                    value, before = build.fsub(value, psi), build.load(best)
                    better = build.fcmp_ordered("<", value, before)
                    build.store(build.select(better, value, before), best)
                    build.store(build.select(better, index, build.load(at)), at)

    @contextmanager
    def _loop(self, start: ir.Value, end: ir.Value) -> Iterator[ir.Value]:
        """From ``start`` to below ``end``, at least once."""
        build = self.build
        before, body = build.block, build.append_basic_block()
        build.branch(body)
        build.position_at_end(body)
        count = build.phi(_LONG)
        count.add_incoming(start, before)
        yield count
        following, after = build.add(count, _LONG(1)), build.append_basic_block()
        count.add_incoming(following, build.block)
        build.cbranch(build.icmp_signed("<", following, end), body, after)
        build.position_at_end(after)

    def _place(self, name: str, offset: ir.Value, vector: int = 0) -> ir.Value:
        return self.build.gep(
            self.given[name], [self.build.add(offset, _LONG(vector * self.lanes))], source_etype=_FLOAT
        )

    def _number(self, name: str, offset: ir.Value) -> ir.Value:
        return self.build.load(self._place(name, offset), typ=_FLOAT)

    def _coordinates(self, k: ir.Value) -> list[ir.Value]:
        """The k-th of every row of the block."""
        offset = self.build.mul(k, _LONG(self.rows))
        places = [self._place("scratch", offset, v) for v in range(_VECTORS)]
        return [self.build.load(place, typ=self.vector, align=4) for place in places]

    def _splat(self, number: ir.Value) -> ir.Value:
        build, kind = self.build, ir.VectorType(number.type, self.lanes)
        one = build.insert_element(kind(ir.Undefined), number, _INT(0))
        return build.shuffle_vector(one, kind(ir.Undefined), ir.VectorType(_INT, self.lanes)([0] * self.lanes))

    def _lesser(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.build.select(self.build.fcmp_ordered("<", a, b), a, b)

    def _positive(self, a: ir.Value) -> ir.Value:
        zero = self._splat(_FLOAT(0))
        return self.build.select(self.build.fcmp_ordered(">", a, zero), a, zero)
