"""How little the initialisation matters (Houdard et al. 2021, Sec. 5): the loss of several seeds, and a plot.

A synthesis' own last losses depend on the directions it happens to draw. So all images are judged by one loss: the
same terms with every direction, and transport solved, not followed by ψ.

python benchmarks/bench_seeds.py --exemplar ../shared/data/textures/dots.png --plot seeds.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch
from jaxtyping import Float
from matplotlib import pyplot
from rich.console import Console
from torch import Tensor

from featot.exemplars import Sources
from featot.match import Record
from featot.plugins import load_registry
from featot.recipe import Recipe
from featot.runs import DEFAULT_LOSS
from featot.tasks import synthesize_each
from featot_plugins.msot import MSOT
from featot_plugins.options import MSOTOptions
from featot_plugins.sliced import SlicedLoss

_POINTS = 8192  # of the image, at a level


class Judge:
    """The default loss of an image, at all levels."""

    def __init__(self, exemplar: Float[Tensor, "1 c h w"]) -> None:
        recipe = Recipe.choose(
            load_registry(),
            features="pyramid",
            param="image",
            loss=None,
            default_loss=DEFAULT_LOSS["adam"],
            options={"directions": SlicedLoss.slices},
            presets={},
            objects={},
        )
        generator = torch.Generator().manual_seed(0)
        self.terms = [term.activate(generator) for term in recipe.terms([exemplar])]
        for term in self.terms:
            term.enter(0, "periodic")

    def __call__(self, image: Float[Tensor, "1 c h w"]) -> float:
        return sum(
            term.weight * share * term.losses[name].distance(points)
            for term in self.terms
            for name, (points, share) in term.levels(image, 0, "periodic", _POINTS, (0, 0), {}).items()
        )


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
    judge, metric = Judge(exemplar), MSOT(MSOTOptions())
    histories: list[list[Record]] = []
    losses, distances = [], []
    for result in synthesize_each(sources, None, range(arguments.count), quality=arguments.quality):
        histories.append(result.history)
        losses.append(judge(result.image))
        distances.append(metric(result.image, exemplar))
    finals = np.array([np.mean([record.loss for record in history[-10:]]) for history in histories])
    console = Console()
    for name, values in (("loss", np.array(losses)), ("own last losses", finals), ("msot", np.array(distances))):
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
