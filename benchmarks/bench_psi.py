"""Compares ways to maximise F(ψ) on real features: value reached against time, on the CPU.

    python benchmarks/bench_psi.py --threads 4 --seconds 10 [--only end]

The clouds are patches and VGG features of an exemplar (y) and of a synthesis of it at the start, in the middle and at
the end of a run (x). Every way starts from ψ = 0; the time of evaluating F is not counted, except for featot's own
solver, which needs it. Shares are of the best lower bound known for the problem (which featot certifies to within
0.5 %).
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from collections.abc import Iterator
from pathlib import Path

import ot
import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor

import featot
from featot.ot import Measure, SolverState, as_cost, c_transform, marginal, nearest, solve_semidiscrete
from featot.ot.stochastic import StochasticAscent
from featot_plugins.patches import windows

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
TIMES = (0.3, 1.0, 3.0, 10.0)
SQEUCLIDEAN = as_cost("sqeuclidean")
EXACT_LIMIT = 2**24  # pairs for which the network simplex is run


class Problem:
    def __init__(self, name: str, x: Tensor, y: Tensor) -> None:
        self.name = name
        center = y.mean(0)
        self.x, self.y = x - center, y - center
        self.unit = max(Measure(self.x).spread(), Measure(self.y).spread())
        self.b = torch.full((len(y),), 1 / len(y))

    def value(self, psi: Tensor) -> float:
        values, _ = c_transform(self.x, self.y, psi)
        return float(values.double().mean() + psi.double().mean())

    def residual(self, psi: Tensor) -> Tensor:
        """The supergradient of F."""
        return self.b - marginal(c_transform(self.x, self.y, psi)[1], len(self.y))

    def smoothed(self, psi: Tensor, epsilon: float) -> Tensor:
        """The marginal of the plan that ψ induces at smoothing ε: dense, block by block of rows."""
        received = torch.zeros_like(psi)
        bias = psi - self.y.square().sum(1)
        for rows in self.x.split(1024):
            received += torch.addmm(bias, rows, self.y.t(), alpha=2).div_(epsilon).softmax(dim=1).sum(0)
        return received / len(self.x)


# Every way: a generator of the ψ to be judged after each step.


def asgd_paper(problem: Problem) -> Iterator[Tensor]:
    """Alg. 1, line 4, as the paper's code runs it: learning rate 1, whatever the problem."""
    psi = average = torch.zeros_like(problem.b)
    for k in range(1, 10**9):
        psi = psi + problem.residual(psi) / math.sqrt(k)
        average = average.lerp(psi, 1 / k)
        yield average


def _stochastic(problem: Problem, decreasing: bool) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    ascent = StochasticAscent(
        lambda count: problem.x[torch.randint(len(problem.x), (count,), generator=generator)],
        Measure(problem.y),
        cost=SQEUCLIDEAN,
        unit=problem.unit,
        decreasing=decreasing,
        rate=None,
        epsilon_end=0.0,
        batch_size=1024,
        backend="auto",
    )
    psi = torch.zeros_like(problem.b)
    for k in range(1, 10**9):
        psi = ascent.step(psi, k)
        yield ascent.average


def adam(problem: Problem) -> Iterator[Tensor]:
    """Adam on F, its steps scaled to the problem and falling like 1/√k."""
    psi = torch.zeros_like(problem.b)
    optimizer = torch.optim.Adam([psi], lr=1.0, maximize=True)
    for k in range(1, 10**9):
        psi.grad = problem.residual(psi)
        optimizer.param_groups[0]["lr"] = 0.03 * problem.unit / math.sqrt(k)
        optimizer.step()
        yield psi


def nesterov(problem: Problem) -> Iterator[Tensor]:
    """FISTA on F smoothed at a thousandth of the spread; the step is ε · m, the inverse of a typical curvature."""
    epsilon = 1e-3 * problem.unit
    psi = previous = torch.zeros_like(problem.b)
    t = 1.0
    for _ in range(10**9):
        following = (1 + math.sqrt(1 + 4 * t * t)) / 2
        ahead = psi + (t - 1) / following * (psi - previous)
        previous, t = psi, following
        psi = ahead + epsilon * len(psi) * (problem.b - problem.smoothed(ahead, epsilon))
        yield psi


def sinkhorn(problem: Problem) -> Iterator[Tensor]:
    """Annealed Sinkhorn on the whole matrix: ε falls from the spread to a ten-thousandth in 60 steps, then stays."""
    psi = torch.zeros_like(problem.b)
    for k in range(10**9):
        epsilon = problem.unit * 10 ** (-4 * min(1, k / 60))
        received = problem.smoothed(psi, epsilon)
        psi = psi + epsilon * (problem.b / received.clamp(min=1e-12)).log()
        yield psi


def auction(problem: Problem) -> Iterator[Tensor]:
    """Jacobi auction with ε-scaling: every y has room for n/m of the x, whose bids raise its price −ψ."""
    x, y, n, m = problem.x, problem.y, len(problem.x), len(problem.y)
    room = -(-n // m)
    psi = torch.zeros_like(problem.b)
    for halvings in range(20):
        epsilon = 0.1 * problem.unit / 4**halvings
        owner = torch.full((n,), -1)
        paid = torch.zeros(n)
        while bool((free := (owner < 0).nonzero()[:, 0]).numel()):
            reduced, found = nearest(x[free], y, psi, 2)
            best = reduced.argmin(1, keepdim=True)
            owner[free] = found.gather(1, best)[:, 0]
            paid[free] = -psi[owner[free]] + (reduced.amax(1) - reduced.amin(1)) + epsilon
            order = paid.argsort(descending=True)
            order = order[owner[order].argsort(stable=True)]
            count = torch.bincount(owner, minlength=m)
            rank = torch.arange(n) - (count.cumsum(0) - count)[owner[order]]
            owner[order[rank >= room]] = -1  # outbid
            last = order[rank == room - 1]
            prices = -psi
            prices[owner[last]] = torch.maximum(prices[owner[last]], paid[last])
            psi = -prices
            yield psi


WAYS = {
    "ASGD, rate 1 (paper)": asgd_paper,
    "ASGD, scaled": functools.partial(_stochastic, decreasing=False),
    "Adam, scaled": adam,
    "Nesterov, smoothed": nesterov,
    "DRAG": functools.partial(_stochastic, decreasing=True),
    "annealed Sinkhorn": sinkhorn,
    "auction": auction,
}


def race(steps: Iterator[Tensor], problem: Problem, seconds: float) -> list[tuple[float, float]]:
    """(seconds, best value so far) at points that grow by a quarter, evaluation not counted."""
    spent, due, best, curve = 0.0, 0.02, -math.inf, []
    while spent < seconds:
        start = time.perf_counter()
        psi = next(steps, None)
        spent += time.perf_counter() - start
        if psi is None:
            break
        if spent >= min(due, seconds):
            best = max(best, problem.value(psi))
            curve.append((spent, best))
            due = spent * 1.25
    return curve


def race_featot(problem: Problem, tol: float) -> tuple[list[tuple[float, float]], float, float]:
    """featot's curve, all included, its time to the certificate, and the gap certified."""
    curve: list[tuple[float, float]] = []
    start = time.perf_counter()

    def note(state: SolverState) -> None:
        curve.append((time.perf_counter() - start, state.value))

    result = solve_semidiscrete(problem.x, problem.y, tol=tol, callback=note)
    return curve, time.perf_counter() - start, result.gap


def at(curve: list[tuple[float, float]], seconds: float) -> float:
    return max((value for when, value in curve if when <= seconds), default=-math.inf)


def time_to(curve: list[tuple[float, float]], value: float) -> float:
    return min((when for when, reached in curve if reached >= value), default=math.inf)


def image(name: str) -> Tensor:
    return featot.read_image(DATA / "textures" / name)


def patches(pixels: Tensor, size: int, count: int, seed: int) -> Tensor:
    points = windows(pixels, size, 1, "valid", None)
    assert points is not None
    return points[torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))[:count]]


def vgg_features(pixels: Tensor) -> Tensor:
    """relu3_1 of VGG-19: 256 numbers at every fourth pixel."""
    from safetensors.torch import load_file
    from torchvision.models import vgg19

    network = vgg19(weights=None).features[:12]
    network.load_state_dict(
        {
            key.removeprefix("features."): value
            for key, value in load_file(DATA / "weights/vgg19_to_relu3_1.safetensors").items()
        }
    )
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        features = network((pixels - mean[:, None, None]) / std[:, None, None])
    return features[0].flatten(1).t().contiguous()


def problems() -> Iterator[Problem]:
    dots, bricks = image("dots.png"), image("bricks.png")
    mean, std = dots.mean((2, 3), keepdim=True), dots.std((2, 3), keepdim=True)
    start = mean + std * torch.randn(dots.shape, generator=torch.Generator().manual_seed(0))
    middle = featot.synthesize(dots, steps=5).image
    end = featot.synthesize(dots).image
    for name, pixels in (("start", start), ("middle", middle), ("end", end)):
        yield Problem(f"{name}, 4×4", patches(pixels, 4, 16_384, 1), patches(dots, 4, 2_000, 2))
    yield Problem("end, 4×4, m=500", patches(end, 4, 16_384, 1), patches(dots, 4, 500, 2))
    yield Problem("end, 4×4, n=m", patches(end, 4, 4_000, 1), patches(dots, 4, 4_000, 2))
    yield Problem("start, 4×4, n=m", patches(start, 4, 4_000, 1), patches(dots, 4, 4_000, 2))
    yield Problem("end, VGG", vgg_features(end), vgg_features(dots))
    made = featot.synthesize(bricks).image
    yield Problem("bricks, 7×7", patches(made, 7, 8_192, 1), patches(bricks, 7, 8_192, 2))
    yield Problem("bricks, 4×4, m=60 000", patches(made, 4, 16_384, 1), patches(bricks, 4, 60_000, 2))


def share(value: float) -> str:
    return "–" if value == -math.inf else "< −1" if value < -1 else f"{value:.3f}"


def seconds_or_dash(seconds: float) -> str:
    return "–" if math.isinf(seconds) else f"{seconds:.2f}"


def show(problem: Problem, seconds: float, paper_seconds: float, console: Console) -> None:
    race_featot(Problem("warm", problem.x[:2000], problem.y[:2000]), 1e-2)  # kernels are compiled once in a process
    curve, certified, gap = race_featot(problem, 1e-2)
    refined, _, _ = race_featot(problem, 2e-3)
    best = max(value for _, value in refined)
    curves = {"featot": curve}
    for name, way in WAYS.items():
        limit = paper_seconds if way is asgd_paper else seconds
        curves[name] = race(way(problem), problem, limit)
        best = max(best, at(curves[name], math.inf))
    n, m, d = len(problem.x), len(problem.y), problem.x.shape[1]
    table = Table(title=f"{problem.name}: n={n}, m={m}, d={d}; share of the best F, after seconds", box=SIMPLE)
    table.add_column("", no_wrap=True)
    for column in (*(f"{t:g} s" for t in TIMES), "s to 0.95", "s to 0.99", "s to 0.995"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, points in curves.items():
        table.add_row(
            name,
            *(share(at(points, t) / best) for t in TIMES),
            *(seconds_or_dash(time_to(points, s * best)) for s in (0.95, 0.99, 0.995)),
        )
    console.print(table)
    console.print(f"  featot certified a gap of {gap:.2%} after {certified:.2f} s")
    paper = curves["ASGD, rate 1 (paper)"]
    reached = at(paper, math.inf)
    console.print(
        f"  the paper's ASGD reached {share(reached / best)} in {paper[-1][0]:.0f} s, featot as much in"
        f" {time_to(curve, reached):.2f} s: {paper[-1][0] / time_to(curve, reached):.0f}×;"
        f" featot's certificate is {paper[-1][0] / certified:.0f}× quicker"
    )
    if n * m <= EXACT_LIMIT:
        start = time.perf_counter()
        costs = ot.dist(problem.x.double().numpy(), problem.y.double().numpy())
        exact = ot.emd2([], [], costs, numItermax=10**8)
        spent, near = time.perf_counter() - start, time_to(curve, 0.995 * exact)
        console.print(
            f"  ot.emd2 {spent:.2f} s; featot within 0.5 % in {near:.2f} s ({spent / near:.0f}×), certified in"
            f" {certified:.2f} s ({spent / certified:.0f}×)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=10, help="for each of the other ways")
    parser.add_argument("--paper-seconds", type=float, default=60, help="for the paper's ASGD")
    parser.add_argument("--only", default="", help="problems whose name contains this")
    arguments = parser.parse_args()
    if not DATA.exists():
        parser.exit(0, f"skipped: no exemplars in {DATA}\n")
    torch.set_num_threads(arguments.threads)
    console = Console(width=120)
    for problem in problems():
        if arguments.only in problem.name:
            show(problem, arguments.seconds, arguments.paper_seconds, console)


if __name__ == "__main__":
    main()
