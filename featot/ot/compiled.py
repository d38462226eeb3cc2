"""Kernels that LLVM compiles for the CPU it runs on. llvmlite is optional: what imports this is imported late."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

_HAS = llvm.get_host_cpu_features()
USABLE = bool(_HAS.get("avx2") and _HAS.get("fma"))  # on other CPUs no kernel has been measured
WIDE = bool(_HAS.get("avx512f"))  # 32 vector registers of 16 numbers, not 16 of 8
LANES = 16 if WIDE else 8
"""Numbers in a vector register."""
FLOAT, INT, LONG, POINTER = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.PointerType()

_engines: list[Any] = []  # which own the machine code


class Kernel:
    """Writes one function of these arguments, pointers and long integers, that returns nothing."""

    def __init__(self, arguments: Mapping[str, ir.Type], lanes: int) -> None:
        self.vector, self.lanes = ir.VectorType(FLOAT, lanes), lanes
        self.module, self._types = ir.Module(), arguments.values()
        function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), self._types), "kernel")
        self.given = dict(zip(arguments, function.args, strict=True))
        self.build = ir.IRBuilder(function.append_basic_block())

    def compiled(self) -> Callable[..., None]:
        """The function, to be called with addresses and numbers."""
        self.build.ret_void()
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=_HAS.flatten(), opt=2
        )
        module = llvm.parse_assembly(str(self.module))
        passes = llvm.create_new_module_pass_manager()
        passes.add_sroa_pass()  # variables to registers
        passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
        engine = llvm.create_mcjit_compiler(module, machine)
        engine.finalize_object()
        types = [ctypes.c_void_p if kind is POINTER else ctypes.c_int64 for kind in self._types]
        function: Callable[..., None] = ctypes.CFUNCTYPE(None, *types)(engine.get_function_address("kernel"))
        _engines.append(engine)
        return function

    def intrinsic(self, name: str, result: ir.Type, *given: ir.Type) -> ir.Function:
        """LLVM's own function of this name, which is overloaded by what it is given."""
        kind = given[0]
        number = getattr(kind, "element", kind)
        width = f"v{kind.count}" if isinstance(kind, ir.VectorType) else ""
        suffix = width + ("f32" if number == FLOAT else "i32")
        return ir.Function(self.module, ir.FunctionType(result, given), f"llvm.{name}.{suffix}")

    def fma(self) -> ir.Function:
        """The function that multiplies two vectors and adds a third."""
        return self.intrinsic("fma", self.vector, *[self.vector] * 3)

    @contextmanager
    def loop(self, start: ir.Value, end: ir.Value) -> Iterator[ir.Value]:
        """From ``start`` to below ``end``, at least once."""
        build = self.build
        before, body = build.block, build.append_basic_block()
        build.branch(body)
        build.position_at_end(body)
        count = build.phi(LONG)
        count.add_incoming(start, before)
        yield count
        following, after = build.add(count, LONG(1)), build.append_basic_block()
        count.add_incoming(following, build.block)
        build.cbranch(build.icmp_signed("<", following, end), body, after)
        build.position_at_end(after)

    def place(self, name: str, offset: ir.Value, kind: ir.Type = FLOAT) -> ir.Value:
        """Where the number at ``offset`` of an argument is."""
        return self.build.gep(self.given[name], [offset], source_etype=kind)

    def number(self, name: str, offset: ir.Value, kind: ir.Type = FLOAT) -> ir.Value:
        """That number."""
        return self.build.load(self.place(name, offset, kind), typ=kind)

    def splat(self, number: ir.Value, lanes: int | None = None) -> ir.Value:
        """A vector of the same number, as long as the kernel's others or of so many ``lanes``."""
        count = self.lanes if lanes is None else lanes
        build, kind = self.build, ir.VectorType(number.type, count)
        one = build.insert_element(kind(ir.Undefined), number, INT(0))
        return build.shuffle_vector(one, kind(ir.Undefined), ir.VectorType(INT, count)([0] * count))

    def lesser(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The lesser of two numbers, or of two vectors' lane by lane."""
        return self.build.select(self.build.fcmp_ordered("<", a, b), a, b)

    def greater(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The greater."""
        return self.build.select(self.build.fcmp_ordered(">", a, b), a, b)

    def reduced(self, operation: Callable[[ir.Value, ir.Value], ir.Value], vector: ir.Value) -> ir.Value:
        """All of a vector's numbers taken together, halving by halving; there are a power of two."""
        build, count = self.build, vector.type.count
        while count > 1:
            count //= 2
            kind, none = ir.VectorType(INT, count), vector.type(ir.Undefined)
            halves = (build.shuffle_vector(vector, none, kind([*range(s, s + count)])) for s in (0, count))
            vector = operation(*halves)
        return build.extract_element(vector, INT(0))
