"""Inpainting: seams, detail and time, beside scikit-image's biharmonic fill; and a small hole in ever larger images.

    python benchmarks/bench_inpaint.py ../shared/data/textures

Seam: root mean square of the differences across the hole's border, over that inside it; 1 shows none. Detail: that
inside the hole, over that of the rest; a smooth fill has little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from skimage.restoration import inpaint_biharmonic
from torch import Tensor

from featot.images import read_image, read_picture
from featot.inpainting import inpaint


def jumps(image: Tensor, hole: Tensor) -> tuple[float, float, float]:
    """Across the border of the hole ``(h, w)``, inside and outside: root mean square differences of neighbours."""
    found: list[list[Tensor]] = [[], [], []]
    for axis in (0, 1):
        change = image[0].diff(dim=axis + 1).square().mean(0)
        sides = hole.narrow(axis, 1, hole.shape[axis] - 1).int() + hole.narrow(axis, 0, hole.shape[axis] - 1).int()
        for kind, count in enumerate((1, 2, 0)):
            found[kind].append(change[sides == count])
    across, inside, outside = (float(torch.cat(parts).mean().sqrt()) for parts in found)
    return across, inside, outside


def biharmonic(image: Tensor, hole: Tensor) -> Tensor:
    filled = inpaint_biharmonic(image[0].permute(1, 2, 0).numpy(), hole.numpy(), channel_axis=2)
    return torch.from_numpy(filled).permute(2, 0, 1)[None].float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("textures", type=Path, help="folder with bark_damaged.jpg, bark_mask.jpg, bricks_hole.png")
    parser.add_argument("--threads", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bark = (
        read_picture(arguments.textures / "bark_damaged.jpg")[0],
        (read_image(arguments.textures / "bark_mask.jpg").amax(1)[0] < 0.9),
    )
    bricks = read_picture(arguments.textures / "bricks_hole.png", "keep")[0]
    light = torch.linspace(0.35, 1, bricks.shape[3])  # from the side
    cases = {
        "bark": bark,
        "bricks": (bricks[:, :3], bricks[0, 3] < 1),
        "bricks, light from the side": (bricks[:, :3] * light, bricks[0, 3] < 1),
    }
    methods: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        f"featot, {quality}": lambda image, hole, quality=quality: (
            inpaint(image, hole[None].float(), quality=quality).image
        )
        for quality in ("draft", "standard")
    }
    methods["biharmonic (scikit-image)"] = biharmonic
    table = Table("image", "method", "seam", "detail", "seconds", box=SIMPLE)
    for name, (image, marked) in cases.items():
        hole = torch.nn.functional.max_pool2d(marked[None, None].float(), 7, 1, 3)[0, 0] > 0
        for label, fill in methods.items():
            begin = time.perf_counter()
            made = fill(image, hole)
            seconds = time.perf_counter() - begin
            across, inside, outside = jumps(made, hole)
            table.add_row(name, label, f"{across / inside:.2f}", f"{inside / outside:.2f}", f"{seconds:.1f}")
    Console().print(table)

    growth = Table("a hole of 40² in an image of", "seconds", "of them reading and checking it", box=SIMPLE)
    for side in (256, 1024, 4096):
        image = bark[0][:, :, :256, 256:].repeat(1, 1, -(-side // 256), -(-side // 144))[:, :, :side, :side]
        hole = torch.zeros(1, side, side)
        hole[:, side // 2 : side // 2 + 40, side // 2 : side // 2 + 40] = 1
        timings: dict[str, Any] = inpaint(image, hole).record["timings"]
        growth.add_row(f"{side}²", f"{timings['setup'] + timings['match']:.1f}", f"{timings['setup']:.2f}")
    Console().print(growth)


if __name__ == "__main__":
    main()
