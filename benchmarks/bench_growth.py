"""How time and memory grow with the size of the exemplar and of the result, and a plot of it, on the CPU.

    python benchmarks/bench_growth.py --exemplar ../shared/data/textures/dots.png --plot growth.png

Exemplars of each size are windows of a large synthesis, so that all show one texture. Every run is a process of its
own, whose peak memory is told.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
import torch
from matplotlib import pyplot
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from featot.images import read_image, write_image
from featot.tasks import synthesize


def measure(exemplar: Path, size: int, quality: str, threads: int) -> None:
    torch.set_num_threads(threads)
    result = synthesize(exemplar, size=(size, size), quality=quality)
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": result.record["timings"]["match"], "gigabytes": gigabytes}))


def run(exemplar: Path, size: int, quality: str, threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--exemplar", str(exemplar), "--quality", quality]
    command += ["--threads", str(threads), "--one", str(size)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exemplar", type=Path, required=True)
    parser.add_argument("--quality", default="draft")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--results", type=int, nargs="*", default=[128, 256, 512, 1024, 2048, 4096])
    parser.add_argument("--exemplars", type=int, nargs="*", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        measure(arguments.exemplar, arguments.one, arguments.quality, arguments.threads)
        return
    lines: dict[str, list[tuple[int, dict[str, float]]]] = {"result": [], "exemplar": []}
    for size in arguments.results:
        lines["result"].append((size, run(arguments.exemplar, size, arguments.quality, arguments.threads)))
    with tempfile.TemporaryDirectory() as folder:
        side = max(arguments.exemplars, default=0)
        if side:
            large = synthesize(read_image(arguments.exemplar), size=(side, side), quality="draft").image
        for size in arguments.exemplars:
            path = Path(folder) / f"{size}.png"
            write_image(large[:, :, :size, :size], path)
            lines["exemplar"].append((size, run(path, 256, arguments.quality, arguments.threads)))
    table = Table(box=SIMPLE, title=f"{arguments.exemplar.name}, {arguments.quality}, {arguments.threads} threads")
    for heading in ("what grows", "side", "seconds", "gigabytes", "slope (seconds against pixels)"):
        table.add_column(heading, justify="right")
    for what, points in lines.items():
        for number, (size, found) in enumerate(points):
            slope = ""
            if number:
                before, earlier = points[number - 1]
                slope = f"{math.log(found['seconds'] / earlier['seconds']) / (2 * math.log(size / before)):.2f}"
            table.add_row(what, str(size), f"{found['seconds']:.1f}", f"{found['gigabytes']:.2f}", slope)
    Console(width=100).print(table)
    if arguments.plot is not None:
        matplotlib.use("Agg")
        figure, axes = pyplot.subplots(figsize=(5, 3.5), layout="constrained")
        for what, points in lines.items():
            label = "size of the result" if what == "result" else "size of the exemplar (result 256²)"
            axes.loglog([size**2 for size, _ in points], [found["seconds"] for _, found in points], "o-", label=label)
        axes.set(xlabel="pixels", ylabel="seconds")
        axes.legend()
        figure.savefig(arguments.plot, dpi=120)


if __name__ == "__main__":
    main()
