"""Times the exact c-transform, min_j [‖x_i − y_j‖² − ψ_j] and its argmin, on the CPU.

    python benchmarks/bench_search.py --threads 4 --repeats 5

Every way is timed in turn, round after round, so that a disturbance falls on all of them; the median is shown,
and its ratio to one bare float32 product x @ y.T, the least that an exact search by matrix product can cost.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from featot.ot import c_transform
from featot.ot.search import faiss_is_installed

SIZES = [(65_536, 2_000, 48), (16_384, 8_192, 48), (16_384, 16_384, 48), (4_096, 4_096, 147)]
TEXTBOOK_LIMIT = 2 * 2**30  # bytes of the n×m cost matrix
GEMM_ROWS = 4_096  # the bare product too goes in blocks, into one buffer: no fresh memory is touched


def textbook(x: torch.Tensor, y: torch.Tensor, psi: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The cost matrix, then its minimum."""
    costs = x.square().sum(1)[:, None] + y.square().sum(1)[None, :] - 2 * x @ y.t()
    values, indices = (costs - psi[None, :]).min(dim=1)
    return values, indices


def ways(x: torch.Tensor, y: torch.Tensor, psi: torch.Tensor) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    y_t, buffer = y.t().contiguous(), torch.empty(min(GEMM_ROWS, len(x)), len(y))

    def gemm() -> None:
        for rows in x.split(GEMM_ROWS):
            torch.mm(rows, y_t, out=buffer[: len(rows)])

    timed: dict[str, Callable[[], object]] = {"GEMM": gemm}
    if 4 * len(x) * len(y) <= TEXTBOOK_LIMIT:
        timed["textbook"] = lambda: textbook(x, y, psi)
    timed["torch"] = lambda: c_transform(x, y, psi, "torch")
    if faiss_is_installed():
        timed["faiss"] = lambda: c_transform(x, y, psi, "faiss")
    return timed


def medians(timed: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Milliseconds of each, the median of ``repeats`` interleaved runs after one to warm up."""
    runs: dict[str, list[float]] = {name: [] for name in timed}
    for repeat in range(repeats + 1):
        for name, call in timed.items():
            start = time.perf_counter()
            call()
            if repeat:
                runs[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(times) for name, times in runs.items()}


def set_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    if faiss_is_installed():
        import faiss

        faiss.omp_set_num_threads(threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch and of faiss")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, of which the median is shown")
    arguments = parser.parse_args()
    if arguments.threads < 1 or arguments.repeats < 1:
        parser.error("--threads and --repeats must be at least 1")
    set_threads(arguments.threads)

    table = Table(title=f"exact c-transform, float32, CPU, {arguments.threads} threads: ms (× GEMM)", box=SIMPLE)
    for column in ("n", "m", "d", "GEMM", "textbook", "torch", "faiss"):
        table.add_column(column, justify="right", no_wrap=True)
    generator = torch.Generator().manual_seed(0)
    for n, m, d in SIZES:
        x, y = torch.randn(n, d, generator=generator), torch.randn(m, d, generator=generator)
        psi = torch.randn(m, generator=generator)
        times = medians(ways(x, y, psi), arguments.repeats)
        cells = [
            f"{times[name]:.1f} ({times[name] / times['GEMM']:.2f})" if name in times else "–"
            for name in ("textbook", "torch", "faiss")
        ]
        table.add_row(str(n), str(m), str(d), f"{times['GEMM']:.1f}", *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
