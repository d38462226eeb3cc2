"""How little the initialisation matters (Houdard et al. 2021, Sec. 5): the loss of several seeds, and a plot.

python benchmarks/bench_seeds.py --exemplar ../shared/data/textures/dots.png --plot seeds.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot
from rich.console import Console

from featot.exemplars import Sources
from featot.match import Record
from featot.tasks import synthesize_each
from featot_plugins.msot import MSOT
from featot_plugins.options import MSOTOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exemplar", type=Path, required=True)
    parser.add_argument("--quality", default="standard")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sources = Sources(exemplars=[arguments.exemplar])
    exemplar = sources.read().exemplars[0]
    metric = MSOT(MSOTOptions())
    histories: list[list[Record]] = []
    distances = []
    for result in synthesize_each(sources, None, range(arguments.count), quality=arguments.quality):
        histories.append(result.history)
        distances.append(metric(result.image, exemplar))
    finals = np.array([np.mean([record.loss for record in history[-10:]]) for history in histories])
    console = Console()
    for name, values in (("final loss", finals), ("msot", np.array(distances))):
        spread = values.std(ddof=1) / values.mean()
        console.print(f"{name}: mean {values.mean():.4g}, standard deviation {spread:.1%} of it, {len(values)} seeds")
    if arguments.plot is not None:
        matplotlib.use("Agg")
        figure, axes = pyplot.subplots(figsize=(5, 3.5), layout="constrained")
        for history in histories:
            axes.semilogy([record.loss for record in history], linewidth=0.7)
        axes.set(xlabel="step (levels from coarse to fine)", ylabel="loss", title=f"{arguments.count} seeds")
        figure.savefig(arguments.plot, dpi=120)


if __name__ == "__main__":
    main()
