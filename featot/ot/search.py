"""The c-transform's search: the smallest c(x_i, y_j) − ψ_j of every row, on every backend.

The only file that imports faiss or pykeops, and, when it is first needed, `featot.ot.fused`.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from types import ModuleType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from featot.errors import FeatotError, UsageError, unknown_name
from featot.ot.cost import SQEUCLIDEAN, Cost
from featot.ot.tiles import smallest_by_products

BACKENDS = ("auto", "torch", "llvm", "faiss", "keops")
MOST = 16
"""Nearest of a row that the llvm backend finds."""

_EXPONENTS = (2, 1, 0.5)  # of the costs whose root the llvm backend takes
_RANKED_ANEW = 8  # of every row's best, where products are too coarse
_PAIRS = 2**18  # differences at once
# Where the llvm backend is faster: wide points leave the first-level cache, few rows do not pay for packing y, and
# below a millisecond's multiplications it is not worth loading (0.2 s, once in a process).
_WIDEST, _FEWEST_ROWS, _LEAST_WORK = 256, 256, 2**24

_faiss_lock = threading.Lock()


def nearest(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    psi: Float[Tensor, " m"],
    k: int = 1,
    *,
    cost: Cost = SQEUCLIDEAN,
    center: Float[Tensor, " d"] | None = None,
    backend: str = "auto",
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The k smallest ``c(x_i, y_j) − ψ_j`` of every row, and their j; never an n×m matrix.

    Points are embedded (`Cost.embed`) by the caller. ``center`` is taken off both clouds: far from the origin the
    products would cancel. The k come in no particular order. ``backend``: "torch" (anything), "llvm" (where llvmlite
    is installed: k of at most 16, float32, a CPU with AVX2, exponents 2, 1 and ½), "faiss" (float32 on a CPU),
    "keops" (where pykeops is installed), or "auto": what is measured to be fastest, "llvm" for what it can do where
    that pays, else "torch". FAISS and KeOps search squared costs only.

    Raises `featot.UsageError` for an unknown backend or inputs that do not match, `featot.FeatotError` where the
    backend cannot do it.
    """
    require_match(x, y, psi)
    if not 1 <= k <= len(y):
        raise UsageError(f"expected k between 1 and the {len(y)} points of y, got {k}")
    x, y, psi = x.detach(), y.detach(), psi.detach()
    backend = _choose(x, y, k, backend, cost)
    if backend == "torch":
        return smallest_by_products(x, y, psi, k, cost, center)
    if backend == "llvm":
        from featot.ot.fused import smallest_by_registers  # late: llvmlite is optional

        return smallest_by_registers(x, y, psi, k, cost, center)
    if center is not None:
        x, y = x - center, y - center
    # Squared costs: the smallest scale · (‖x‖² + ‖y‖² − 2⟨x, y⟩) − ψ has the smallest ‖y‖² − ψ / scale − 2⟨x, y⟩.
    bias = y.square().sum(1) - psi / cost.scale
    values, indices = (_nearest_faiss if backend == "faiss" else _nearest_keops)(x, y, bias, k)
    return cost.scale * (values + x.square().sum(1, keepdim=True)), indices


def nearest_by_differences(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    psi: Float[Tensor, " m"],
    k: int = 1,
    *,
    cost: Cost = SQEUCLIDEAN,
    backend: str = "auto",
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """As `nearest`, in order, and safe to certify with: rounding does not pick another y where the cost is a root.

    A root magnifies the rounding of a squared distance found by products. The best few are therefore ranked anew
    by their differences, whose values these are.
    """
    few = k if cost.squared else min(max(k, _RANKED_ANEW), len(y))
    _, candidates = nearest(x, y, psi, few, cost=cost, backend=backend)
    values, indices = x.new_empty(len(x), k), candidates.new_empty(len(x), k)
    for rows in torch.arange(len(x), device=x.device).split(max(1, _PAIRS // few)):
        j = candidates[rows]
        costs = cost.pairs(x[rows, None].expand(-1, few, -1).flatten(0, 1), y[j.flatten()])
        values[rows], best = (costs.view(j.shape) - psi[j]).topk(k, dim=1, largest=False)
        indices[rows] = j.gather(1, best)
    return values, indices


def require_match(x: Tensor, y: Tensor, psi: Tensor) -> None:
    """Raises `featot.UsageError` unless these are two clouds of one dimension and a potential on the second.

    FAISS reads bare pointers: an input of another shape or dtype would be read out of bounds.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or psi.shape != y.shape[:1]:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (x, y, psi))
        raise UsageError(f"expected x (n, d), y (m, d) and psi (m,), got {shapes}")
    if 0 in x.shape or 0 in y.shape:
        raise UsageError(f"expected points to search, got shapes {tuple(x.shape)} and {tuple(y.shape)}")
    if not x.dtype.is_floating_point:
        raise UsageError(f"expected points of a floating dtype, got {x.dtype}")
    if not x.dtype == y.dtype == psi.dtype or not x.device == y.device == psi.device:
        got = ", ".join(f"{tensor.dtype} on {tensor.device}" for tensor in (x, y, psi))
        raise UsageError(f"expected x, y and psi of one dtype on one device, got {got}")


def _choose(x: Tensor, y: Tensor, k: int, backend: str, cost: Cost) -> str:
    if backend not in BACKENDS:
        raise unknown_name("search backend", backend, BACKENDS)
    float32_on_cpu = x.device.type == "cpu" and x.dtype == torch.float32
    by_llvm = k <= MOST and cost.exponent in _EXPONENTS
    if backend in ("faiss", "keops") and not cost.squared:
        raise FeatotError(f"the {backend} backend searches squared costs, not {cost.name}; 'torch' searches all")
    if backend in ("llvm", "faiss") and not float32_on_cpu:
        raise FeatotError(f"the {backend} backend searches float32 on the CPU, got {x.dtype} on {x.device}")
    if backend == "llvm":
        if not by_llvm:
            raise FeatotError(
                f"the llvm backend finds at most {MOST} nearest for p in {_EXPONENTS}; 'torch' finds all"
            )
        if not llvm_is_usable():
            raise FeatotError("the llvm backend needs llvmlite (pip install llvmlite) and a CPU with AVX2")
    if backend == "faiss" and not faiss_is_installed():
        raise FeatotError("the faiss backend needs faiss (pip install faiss-cpu); 'torch' needs nothing")
    if backend == "keops" and not keops_is_installed():
        raise FeatotError("the keops backend needs pykeops (pip install pykeops); 'torch' needs nothing")
    if backend != "auto":
        return backend
    # Measured (benchmarks/bench_search.py): on a CPU FAISS and KeOps are slower than torch's tiles at any size.
    n, d = x.shape
    pays = n >= _FEWEST_ROWS and d <= _WIDEST and n * len(y) * d >= _LEAST_WORK
    return "llvm" if by_llvm and float32_on_cpu and pays and llvm_is_usable() else "torch"


def _nearest_faiss(x: Tensor, y: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """FAISS's exact search with biased norms of y: nothing is rebuilt when ψ changes."""
    faiss = _faiss()
    x, y = x.contiguous(), y.contiguous()
    x_norms, y_norms = x.square().sum(1, keepdim=True), y.square().sum(1)
    # FAISS clamps negative distances to 0: lift the biased norms so that every one is at least a distance.
    lift = (y_norms - bias).max()
    norms = bias + lift
    values, indices = x.new_empty(len(x), k), torch.empty(len(x), k, dtype=torch.long)
    pointer = faiss.swig_ptr
    # Small problems (n < 20, or n·d < 128 000, by version) would take a path that ignores the norms: none is small.
    with _faiss_lock:
        threshold = faiss.cvar.distance_compute_blas_threshold
        faiss.cvar.distance_compute_blas_threshold = 1
        try:
            faiss.knn_L2sqr(
                pointer(x.numpy()),
                pointer(y.numpy()),
                x.shape[1],
                len(x),
                len(y),
                k,
                pointer(values.numpy()),
                pointer(indices.numpy()),
                pointer(norms.numpy()),
            )
        finally:
            faiss.cvar.distance_compute_blas_threshold = threshold
    return values - x_norms - lift, indices


def _nearest_keops(x: Tensor, y: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """KeOps's reduction, compiled on first use: no tile is ever in memory."""
    lazy = _keops().LazyTensor
    reduced = lazy(bias[None, :, None].contiguous()) - 2 * (
        lazy(x[:, None, :].contiguous()) | lazy(y[None].contiguous())
    )
    if k == 1:
        values, indices = reduced.min_argmin(dim=1)
    else:
        values, indices = reduced.Kmin_argKmin(k, dim=1)
    return values.view(len(x), k), indices.view(len(x), k).long()


def _after_fork() -> None:
    """In a forked child the threads of the parent's pools are gone, and waiting for them would never end."""
    global _faiss_lock
    _faiss_lock = threading.Lock()
    torch.set_num_threads(1)
    if "faiss" in sys.modules:
        _faiss().omp_set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@functools.cache
def llvm_is_usable() -> bool:
    try:
        from featot.ot.compiled import USABLE
    except ImportError:
        return False
    return USABLE


def kernels_take(x: Tensor) -> bool:
    """Whether a compiled kernel can work on it: on float32 on a CPU."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and llvm_is_usable()


@functools.cache
def faiss_is_installed() -> bool:
    try:
        _faiss()
    except ImportError:  # absent, or a GPU build whose CUDA libraries are
        return False
    return True


def faiss_gpus() -> int | None:
    """How many GPUs faiss sees, None for a build without any. Raises ImportError where it is not installed."""
    faiss = _faiss()
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else None


@functools.cache
def _faiss() -> ModuleType:
    import faiss

    return faiss


@functools.cache
def keops_is_installed() -> bool:
    try:
        _keops()
    except ImportError:
        return False
    return True


@functools.cache
def _keops() -> ModuleType:
    import pykeops.torch

    module: ModuleType = pykeops.torch
    return module
