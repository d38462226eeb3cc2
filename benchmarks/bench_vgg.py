"""One step with VGG's features: transport (ot) beside Gatys' Gram matrices, and where the time goes, on the CPU.

    python benchmarks/bench_vgg.py --exemplar ../shared/data/textures/bricks.png --weights vgg19.safetensors

Every round times each of them once, in turn; ratios are of the medians. The bare network, forward and backward with
no loss at all, is the limit.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from featot.images import read_image
from featot.interfaces import Parametrization
from featot.plugins import load_registry
from featot.problem import Problem, Stage
from featot.recipe import Recipe
from featot.schedule import find_quality
from featot_plugins.image import Image
from featot_plugins.options import ImageOptions


def problem(exemplar: torch.Tensor, loss: str, weights: Path) -> tuple[Problem, Parametrization]:
    quality = find_quality("standard")
    recipe = Recipe.choose(
        load_registry(),
        features="vgg",
        param="image",
        loss=loss,
        default_loss=loss,
        options={"vgg.weights": weights},
        presets=quality.options,
        objects={},
    )
    param = Image(ImageOptions())
    size = (exemplar.shape[2], exemplar.shape[3])
    param.initialize(exemplar, size, torch.Generator().manual_seed(0))
    made = Problem(param, recipe.terms([exemplar]), quality.max_points, torch.Generator().manual_seed(0))
    made.enter(Stage(scale=0, size=size, num_steps=1, rate=0.01))
    return made, param


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exemplar", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--losses", default="gram,ot,sliced,moments,ot+sliced")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    exemplar = read_image(arguments.exemplar)
    losses = arguments.losses.split(",")
    problems = {loss: problem(exemplar, loss, arguments.weights) for loss in losses}
    extractor = problems[losses[0]][0].terms[0].extractor

    def bare(image: torch.Tensor) -> torch.Tensor:
        return sum(points.sum() for points in extractor.extract(image, boundary="periodic").values())

    times: dict[str, list[float]] = {name: [] for name in ("network alone", *losses)}
    for number in range(arguments.rounds + 2):  # two to warm up
        for name, seconds in times.items():
            begin = time.perf_counter()
            if name == "network alone":
                pixels = problems[losses[0]][1].parameters()[0].detach().requires_grad_()
                bare(pixels).backward()
            else:
                value, _ = problems[name][0].evaluate(improve=True)
                value.backward()
            if number >= 2:
                seconds.append(time.perf_counter() - begin)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    table = Table(box=SIMPLE)
    for title in ("step", "seconds", "over gram", "over the network"):
        table.add_column(title, justify="left" if title == "step" else "right")
    for name, median in medians.items():
        ratios = median / medians.get("gram", median), median / medians["network alone"]
        table.add_row(name, f"{median:.3f}", *(f"{ratio:.2f}" for ratio in ratios))
    h, w = exemplar.shape[2:]
    console = Console()
    console.print(f"{arguments.exemplar.name} {h}x{w}, {arguments.threads} threads, torch {torch.__version__}")
    console.print(table)


if __name__ == "__main__":
    main()
