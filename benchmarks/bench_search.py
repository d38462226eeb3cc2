"""Times the exact c-transform, min_j [c(x_i, y_j) − ψ_j] and its argmin, on the CPU.

    python benchmarks/bench_search.py --threads 4 --repeats 5

Every way is timed in turn, round after round, so that a disturbance falls on all of them; the median is shown, and
its ratio to the bare float32 product x @ y.T in tiles that stay in cache, the least that an exact search by matrix
products can cost. "untiled" is that product into one fresh n×m matrix. Two ways that lost are timed beside ours: the
minimum taken with its index tile by tile, and what bfloat16 would need before any re-ranking.

The second table times 20 steps of ψ on one cloud, each searching everything or a certified short list.
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
from torch import Tensor

from featot.ot import Measure, Shortlist, c_transform, marginal
from featot.ot.search import faiss_is_installed, keops_is_installed, llvm_is_usable

SIZES = [(65_536, 2_000, 48), (16_384, 8_192, 48), (16_384, 16_384, 48), (4_096, 4_096, 147)]
STEPPED = [(16_384, 2_000, 48), (16_384, 16_384, 48), (16_384, 50_000, 48)]
TEXTBOOK_LIMIT = 2 * 2**30  # bytes of the n×m cost matrix
TILE = (1_024, 2_048)


def textbook(x: Tensor, y: Tensor, psi: Tensor) -> tuple[Tensor, Tensor]:
    """The cost matrix, then its minimum."""
    costs = x.square().sum(1)[:, None] + y.square().sum(1)[None, :] - 2 * x @ y.t()
    values, indices = (costs - psi[None, :]).min(dim=1)
    return values, indices


def tiled_product(x: Tensor, y: Tensor, work: Callable[[Tensor], object] = lambda tile: None) -> None:
    """The bare product in tiles of one buffer, and ``work`` on each tile."""
    y_t, buffer = y.t().contiguous(), x.new_empty(TILE)
    for rows in x.split(TILE[0]):
        for columns in y_t.split(TILE[1], dim=1):
            tile = buffer.view(-1)[: len(rows) * columns.shape[1]].view(len(rows), -1)
            work(torch.mm(rows, columns, out=tile))


def ways(x: Tensor, y: Tensor, psi: Tensor, keops: bool) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    short_x, short_y = x.bfloat16(), y.bfloat16()
    timed: dict[str, Callable[[], object]] = {
        "GEMM": lambda: tiled_product(x, y),
        "untiled": lambda: x @ y.t(),
        "min, index": lambda: tiled_product(x, y, lambda tile: tile.min(dim=1)),
        "bf16 min": lambda: tiled_product(short_x, short_y, lambda tile: tile.amin(dim=1)),
        "torch": lambda: c_transform(x, y, psi, "torch"),
        "torch, p=1": lambda: c_transform(x, y, psi, "torch", cost=1),
    }
    if 4 * len(x) * len(y) <= TEXTBOOK_LIMIT:
        timed["textbook"] = lambda: textbook(x, y, psi)
    if llvm_is_usable():
        timed["llvm"] = lambda: c_transform(x, y, psi, "llvm")
        timed["llvm, p=1"] = lambda: c_transform(x, y, psi, "llvm", cost=1)
    if faiss_is_installed():
        timed["faiss"] = lambda: c_transform(x, y, psi, "faiss")
    if keops:
        timed["keops"] = lambda: c_transform(x, y, psi, "keops")
    return timed


def steps(x: Tensor, y: Tensor, rate: float, search: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    """Twenty steps of ψ, in units of min(n, m) · spread."""
    psi = y.new_zeros(len(y))
    scale = rate * min(len(x), len(y)) * Measure(y).spread()
    for _ in range(20):
        psi = psi + scale * (1 / len(y) - marginal(search(psi)[1], len(y)))
    return psi


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
    parser.add_argument("--keops", action="store_true", help="time KeOps too: seconds a run on a CPU")
    arguments = parser.parse_args()
    if arguments.keops and not keops_is_installed():
        parser.error("--keops needs pykeops (pip install pykeops)")
    if arguments.threads < 1 or arguments.repeats < 1:
        parser.error("--threads and --repeats must be at least 1")
    set_threads(arguments.threads)

    console = Console(width=120)
    generator = torch.Generator().manual_seed(0)
    clouds = {
        (n, m, d): (torch.randn(n, d, generator=generator), torch.randn(m, d, generator=generator))
        for n, m, d in {*SIZES, *STEPPED}
    }
    console.print(search_table(clouds, generator, arguments))
    console.print(step_table(clouds, max(1, arguments.repeats // 3)))


def search_table(
    clouds: dict[tuple[int, int, int], tuple[Tensor, Tensor]],
    generator: torch.Generator,
    arguments: argparse.Namespace,
) -> Table:
    title = f"exact c-transform, float32, CPU, {arguments.threads} threads: times the tiled product"
    table = Table(title=title, box=SIMPLE)
    names = ["textbook", "untiled", "min, index", "bf16 min", "faiss", "torch", "torch, p=1", "llvm", "llvm, p=1"]
    names += ["keops"] * arguments.keops
    for column in ("n", "m", "d", "GEMM", *names):
        table.add_column(column, justify="right", no_wrap=True)
    for n, m, d in SIZES:
        x, y = clouds[n, m, d]
        times = medians(ways(x, y, torch.randn(m, generator=generator), arguments.keops), arguments.repeats)
        cells = [f"{times[k] / times['GEMM']:.2f}" if k in times else "–" for k in names]
        table.add_row(str(n), str(m), str(d), f"{times['GEMM']:.1f} ms", *cells)
    return table


def step_table(clouds: dict[tuple[int, int, int], tuple[Tensor, Tensor]], repeats: int) -> Table:
    table = Table(title="20 steps of ψ: ms, searching everything and by certified short lists", box=SIMPLE)
    for column in ("n", "m", "rate", "everything", "short list", "ratio", "rows searched again"):
        table.add_column(column, justify="right", no_wrap=True)
    for n, m, d in STEPPED:
        x, y = clouds[n, m, d]
        for rate in (4e-3, 4e-4):
            again: list[int] = []

            def short(x: Tensor = x, y: Tensor = y, rate: float = rate, again: list[int] = again) -> None:
                lists = Shortlist(x, y)

                def search(psi: Tensor) -> tuple[Tensor, Tensor]:
                    found = lists(psi)
                    again.append(lists.searched)
                    return found

                steps(x, y, rate, search)

            def full(x: Tensor = x, y: Tensor = y, rate: float = rate) -> None:
                steps(x, y, rate, lambda psi: c_transform(x, y, psi))

            times = medians({"full": full, "short": short}, repeats)
            share = statistics.mean(again) / n
            cells = (f"{times['full']:.0f}", f"{times['short']:.0f}", f"{times['full'] / times['short']:.2f}×")
            table.add_row(str(n), str(m), f"{rate:g}", *cells, f"{share:.0%}")
    return table


if __name__ == "__main__":
    main()
