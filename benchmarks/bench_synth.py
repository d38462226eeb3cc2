"""Runs the paper's protocol and featot side by side on one exemplar, on the CPU: time, ratio, scores.

    python benchmarks/bench_synth.py --exemplar ../shared/data/textures/dots.png [--paper-steps 500]

The paper's protocol (Houdard et al. 2021, Alg. 1 with four scales; its defaults): 500 steps of Adam at 0.01 from
noise, on all patches 4×4 of the image and 2 000 of the exemplar a scale, ψ by ten steps of averaged SGD a step. It
runs on featot's engine, whose search is far faster than the one the authors used. By default five of its steps are
timed and the 500 are extrapolated; with ``--paper-steps 500`` they are run and the picture is judged too. Every
picture is judged by the independent referee where that is found.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor

from featot.images import read_image, write_image
from featot.ot import c_transform, marginal, semidual
from featot.resample import halve
from featot.tasks import synthesize
from featot_plugins.patches import windows

SHARED = Path(__file__).resolve().parents[2] / "shared"
STEPS, PSI_STEPS, TARGETS, SCALES, SIDE, RATE = 500, 10, 2000, 4, 4, 0.01


def pyramid(image: Tensor) -> list[Tensor]:
    levels = [image]
    while len(levels) < SCALES and min(levels[-1].shape[2:]) >= 2 * SIDE + 2:
        levels.append(halve(levels[-1], "valid"))
    return levels


def clouds(image: Tensor) -> list[Tensor]:
    found = (windows(level, SIDE, 1, "valid", None) for level in pyramid(image))
    return [points for points in found if points is not None]


def paper(exemplar: Tensor, steps: int, seed: int = 0) -> tuple[Tensor, float]:
    """The image after so many steps, and the seconds that one of them took."""
    generator = torch.Generator().manual_seed(seed)
    targets = [points[torch.randperm(len(points), generator=generator)[:TARGETS]] for points in clouds(exemplar)]
    potentials = [torch.zeros(len(y)) for y in targets]
    image = torch.rand(exemplar.shape, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([image], lr=RATE)
    start = time.perf_counter()
    for _ in range(steps):
        for level, (x, y) in enumerate(zip(clouds(image.detach()), targets, strict=True)):
            psi = potentials[level]
            ascent = torch.optim.ASGD([psi], lr=1, alpha=0.5, t0=1)
            for _ in range(PSI_STEPS):
                psi.grad = marginal(c_transform(x, y, psi)[1], len(y)) - 1 / len(y)  # of −F
                ascent.step()
            potentials[level] = ascent.state[psi]["ax"].clone()
        optimizer.zero_grad()
        loss = image.new_zeros(())
        for x, y, psi in zip(clouds(image), targets, potentials, strict=True):
            loss = loss + semidual(x, y, psi, assignment=c_transform(x.detach(), y, psi)[1])
        loss.backward()
        optimizer.step()
    return image.detach().clamp(0, 1), (time.perf_counter() - start) / steps


def judged(referee: Path, exemplar: Path, image: Tensor) -> list[str]:
    """msot, vgg, p7, sharp, copy; dashes where there is no referee."""
    names = ("msot", "vgg", "p7", "sharp", "copy")
    if not referee.exists():
        return ["–"] * len(names)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.png"
        write_image(image, path)
        command = [sys.executable, str(referee), str(exemplar), str(path)]
        words = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return [words[words.index(name) + 1] for name in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exemplar", type=Path, required=True)
    parser.add_argument("--quality", nargs="*", default=["draft", "standard", "high"], help="presets to run")
    parser.add_argument("--paper-steps", type=int, default=5, help=f"steps to run of the paper's {STEPS}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--keep", type=Path, help="folder for the pictures")
    parser.add_argument("--referee", type=Path, default=SHARED / "tools" / "referee.py")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    exemplar = read_image(arguments.exemplar)
    table = Table(box=SIMPLE, title=f"{arguments.exemplar.name}, {arguments.threads} threads")
    for heading in ("system", "seconds", "paper's time / ours", "msot", "vgg", "p7", "sharp", "copy"):
        table.add_column(heading, justify="left" if heading == "system" else "right")

    def keep(image: Tensor, name: str) -> None:
        if arguments.keep is not None:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            write_image(image, arguments.keep / f"{arguments.exemplar.stem}_{name}.png")

    table.add_row("the exemplar itself", "", "", *judged(arguments.referee, arguments.exemplar, exemplar))
    image, per_step = paper(exemplar, arguments.paper_steps, arguments.seed)
    keep(image, "paper")
    whole = arguments.paper_steps == STEPS
    scores = judged(arguments.referee, arguments.exemplar, image) if whole else ["–"] * 5
    note = "" if whole else f" ({arguments.paper_steps} of {STEPS} steps timed)"
    table.add_row(f"the paper's protocol{note}", f"{per_step * STEPS:.0f}", "1", *scores)
    for quality in arguments.quality:
        start = time.perf_counter()
        result = synthesize(arguments.exemplar, quality=quality, seed=arguments.seed)
        seconds = time.perf_counter() - start
        keep(result.image, quality)
        scores = judged(arguments.referee, arguments.exemplar, result.image)
        table.add_row(f"featot, {quality}", f"{seconds:.1f}", f"{per_step * STEPS / seconds:.0f}", *scores)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
