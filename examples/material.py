"""A material of three maps, drawn by this script and synthesised as one: `featot synth --stack` in Python.

    python examples/material.py [FOLDER]

Writes albedo, normal and roughness of a field of pebbles, the same larger, and a sheet of all six.
"""

import sys
from pathlib import Path

import torch

import featot
from featot.images import side_by_side
from featot.progress import progress_bar
from featot.stacks import synthesize_stack


def pebbles(side: int = 128, count: int = 40, seed: int = 0) -> dict[str, torch.Tensor]:
    """Round stones on sand, on a torus: the maps of one height field."""
    generator = torch.Generator().manual_seed(seed)
    at = torch.arange(side)
    height, stone = torch.zeros(side, side), torch.full((side, side), -1)
    for number in range(count):
        y, x, radius = (torch.rand(3, generator=generator) * torch.tensor([side, side, 0.06 * side])).tolist()
        radius += 0.06 * side
        away = [((at - centre + side / 2) % side - side / 2) for centre in (y, x)]
        dome = (radius**2 - away[0][:, None] ** 2 - away[1][None] ** 2).clamp(min=0).sqrt() * 0.7
        stone[dome > height] = number
        height = torch.maximum(height, dome)
    slope = [(height.roll(-1, axis) - height.roll(1, axis)) / 2 for axis in (1, 0)]
    normal = torch.stack([-slope[0], -slope[1], torch.ones(side, side)])
    normal = normal / normal.square().sum(0).sqrt()
    hue = torch.rand(count + 1, 3, generator=generator) * 0.3 + torch.tensor([0.35, 0.33, 0.3])
    hue[-1] = torch.tensor([0.8, 0.7, 0.5])  # sand
    grain = 0.04 * torch.randn(side, side, generator=generator)
    albedo = (hue[stone].permute(2, 0, 1) + grain).clamp(0, 1)
    roughness = torch.where(stone < 0, 0.9, 0.35) + grain
    return {"albedo": albedo, "normal": (normal + 1) / 2, "roughness": roughness[None].clamp(0, 1)}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    maps = pebbles()
    for name, image in maps.items():
        featot.write_image(image, folder / f"{name}.png")
    with progress_bar(quiet=False) as callback:
        result = synthesize_stack(
            {name: folder / f"{name}.png" for name in maps}, size=(192, 192), seed=0, callback=callback
        )
    result.save(str(folder / "made_{map}.png"))
    featot.write_image(side_by_side([*maps.values(), *result.maps.values()]), folder / "sheet.png")
    print(f"made {folder}/made_albedo.png and the others; all of them in {folder}/sheet.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out"))
