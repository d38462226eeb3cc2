"""The c-transform's search: argmin_j bias_j − 2⟨x_i, y_j⟩, on every backend. The only file that imports faiss."""

from __future__ import annotations

import functools
import threading
from types import ModuleType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from featot.errors import FeatotError, UsageError, unknown_name

BACKENDS = ("auto", "torch", "faiss")

# Rows × columns of the tile of reduced costs that the torch backend keeps at once: it fits the caches of a CPU
# and keeps a GPU busy.
_CPU_TILE = (1024, 2048)
_CUDA_TILE = (8192, 65536)
_FAISS_LOCK = threading.Lock()


def nearest(
    x: Tensor, y: Tensor, bias: Tensor, backend: str = "auto"
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """``min_j`` and ``argmin_j`` of ``bias_j − 2⟨x_i, y_j⟩`` for every row of x; never an n×m matrix.

    ``x``: ``(n, d)``; ``y``: ``(m, d)``; ``bias``: ``(m,)``. With ``bias = ‖y‖² − ψ`` this is the c-transform of
    ψ less ``‖x‖²``. ``backend``: "torch" (any device and dtype), "faiss" (CPU, float32), or "auto": torch, as
    long as no other is measured to be faster.

    Raises `featot.UsageError` for an unknown backend or inputs that do not match, `featot.FeatotError` where
    faiss cannot do it.
    """
    # FAISS reads bare pointers: an input of another shape or dtype would be read out of bounds.
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or bias.shape != y.shape[:1]:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (x, y, bias))
        raise UsageError(f"expected x (n, d), y (m, d) and bias (m,), got {shapes}")
    if not x.dtype == y.dtype == bias.dtype:
        raise UsageError(f"expected x, y and bias of one dtype, got {x.dtype}, {y.dtype} and {bias.dtype}")
    search = _nearest_faiss if _choose(x, y, backend) == "faiss" else _nearest_torch
    return search(x.detach(), y.detach(), bias.detach())


def _choose(x: Tensor, y: Tensor, backend: str) -> str:
    if backend not in BACKENDS:
        raise unknown_name("search backend", backend, BACKENDS)
    if backend == "faiss":
        if x.device.type != "cpu" or x.dtype != torch.float32:
            raise FeatotError(f"the faiss backend searches float32 on the CPU, got {x.dtype} on {x.device}")
        if not faiss_is_installed():
            raise FeatotError("the faiss backend needs faiss (pip install faiss-cpu); 'torch' needs nothing")
        return "faiss"
    # Measured (benchmarks/bench_search.py): with its tiles in cache torch is as fast as FAISS or faster at any size.
    return "torch"


def _nearest_torch(x: Tensor, y: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns = _CUDA_TILE if x.is_cuda else _CPU_TILE
    values = x.new_full((len(x),), torch.inf)
    indices = torch.zeros(len(x), dtype=torch.long, device=x.device)
    # One buffer for every tile: fresh memory would cost more page faults than the products cost time.
    buffer = x.new_empty(min(rows, len(x)) * min(columns, len(bias)))
    for i in range(0, len(x), rows):
        x_tile, best, best_index = x[i : i + rows], values[i : i + rows], indices[i : i + rows]
        for j in range(0, len(bias), columns):
            y_tile, b_tile = y[j : j + columns], bias[j : j + columns]
            costs = buffer[: len(x_tile) * len(b_tile)].view(len(x_tile), len(b_tile))
            value, index = torch.addmm(b_tile, x_tile, y_tile.t(), alpha=-2, out=costs).min(dim=1)
            better = value < best
            best.copy_(torch.where(better, value, best))
            best_index.copy_(torch.where(better, index + j, best_index))
    return values, indices


def _nearest_faiss(x: Tensor, y: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """FAISS's exact search with biased norms of y: nothing is rebuilt when ψ changes."""
    faiss = _faiss()
    x, y = x.contiguous(), y.contiguous()
    x_norms, y_norms = x.square().sum(1), y.square().sum(1)
    # FAISS clamps negative distances to 0: lift the biased norms so that every one is at least a distance.
    lift = (y_norms - bias).max()
    norms = bias + lift
    values, indices = x.new_empty(len(x)), x.new_empty(len(x), dtype=torch.long)
    pointer = faiss.swig_ptr
    # Small problems (n < 20, or n·d < 128 000, by version) would take a path that ignores the norms: none is small.
    with _FAISS_LOCK:
        threshold = faiss.cvar.distance_compute_blas_threshold
        faiss.cvar.distance_compute_blas_threshold = 1
        try:
            faiss.knn_L2sqr(
                pointer(x.numpy()),
                pointer(y.numpy()),
                x.shape[1],
                len(x),
                len(y),
                1,
                pointer(values.numpy()),
                pointer(indices.numpy()),
                pointer(norms.numpy()),
            )
        finally:
            faiss.cvar.distance_compute_blas_threshold = threshold
    return values - x_norms - lift, indices


@functools.cache
def faiss_is_installed() -> bool:
    try:
        _faiss()
    except ImportError:  # absent, or a GPU build whose CUDA libraries are
        return False
    return True


@functools.cache
def _faiss() -> ModuleType:
    import faiss

    return faiss
