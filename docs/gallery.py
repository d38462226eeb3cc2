"""Makes the gallery's pictures: draws its exemplars, runs the very commands of docs/gallery.md, keeps what it shows.

    python docs/gallery.py [FOLDER]

FOLDER keeps everything that is made on the way (default: a temporary one). Takes about ten minutes on four cores.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import featot

DOCS = Path(__file__).resolve().parent
SIDE, FINE = 160, 3  # pixels of an exemplar; it is drawn so many times larger, and averaged

rng = np.random.default_rng(7)


def noise(side: int, least: int, most: int, stretch: tuple[float, float] = (1, 1)) -> np.ndarray:
    """Smooth noise on a torus: waves of these frequencies, falling like 1/f; of mean 0 and deviation 1."""
    y, x = (np.fft.fftfreq(side, 1 / side) * s for s in stretch)
    length = np.hypot(y[:, None], x[None])
    spectrum = np.where((length >= least) & (length <= most), 1 / np.maximum(length, 1), 0)
    made = np.fft.ifft2(spectrum * np.fft.fft2(rng.standard_normal((side, side)))).real
    return np.asarray((made - made.mean()) / made.std())


def cells(side: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Of random points on a torus: which is nearest, and how much farther the next one is."""
    points = rng.random((count, 2)) * side
    for _ in range(3):  # apart from one another, as stones are
        gap = (points[:, None] - points[None] + side / 2) % side - side / 2
        away = np.hypot(*gap.transpose(2, 0, 1))[..., None] + 1e-9
        points = (points + (gap / away * np.exp(-away / (0.4 * side / count**0.5))).sum(1) * 6) % side
    at = np.arange(side)
    found = np.stack(
        [
            np.hypot(*np.meshgrid(*((at - p + side / 2) % side - side / 2 for p in point), indexing="ij"))
            for point in points
        ]
    )
    nearest = np.sort(found, axis=0)
    return found.argmin(0), nearest[1] - nearest[0]


def mixed(first: str, second: str, share: np.ndarray) -> np.ndarray:
    """From one colour to the other."""
    a, b = (np.array([int(color[i : i + 2], 16) for i in (0, 2, 4)]) / 255 for color in (first, second))
    return np.asarray(a + (b - a) * share[..., None].clip(0, 1))


def stones(side: int) -> np.ndarray:
    """Round pebbles, lit from above, in dark sand."""
    which, apart = cells(side, 120)
    tone = rng.random(120)[which] + 0.1 * noise(side, 6, 90)
    blue = (rng.random(120) < 0.18)[which, None]
    stone = np.where(blue, mixed("5b6a73", "a9bcc0", tone), mixed("8a6f5c", "d8d2c4", tone))
    edge = ((apart / side - 0.012) * 40).clip(0, 1) ** 0.5
    light = 0.65 + 0.5 * edge - 1.6 * np.gradient(edge, axis=0) * side / 60
    sand = mixed("2b231d", "4a3d31", 0.5 + 0.3 * noise(side, 40, 200))
    return np.where(edge[..., None] > 0.1, stone * light[..., None].clip(0.3, 1.25), sand)


def wool(side: int) -> np.ndarray:
    """A knitted cloth of two yarns."""
    v, u = np.mgrid[:side, :side] / side
    v, u = v + 0.004 * noise(side, 2, 8), u + 0.004 * noise(side, 2, 8)
    columns, rows = 10, 12
    across = (u * columns) % 1
    slope = np.abs(across - 0.5)
    along = (v * rows + slope * 1.1) % 1
    row = np.floor(v * rows + slope * 1.1).astype(int)
    body = np.sin(np.pi * along) ** 0.7 * np.sin(np.pi * ((across * 2) % 1)) ** 0.5
    fibre = np.sin(2 * np.pi * (along * 3 + across * 5 * np.sign(across - 0.5))) * 0.08
    yarn = np.where(
        (row % 4 == 0)[..., None], mixed("7a1f2b", "d9656f", body + fibre), mixed("20405c", "8fb4d2", body + fibre)
    )
    return yarn * (0.55 + 0.5 * body + 0.03 * noise(side, 30, 200))[..., None]


def wood(side: int) -> np.ndarray:
    """Planks with a wavy grain."""
    u = np.arange(side) / side
    flow = u * 16 + 0.35 * noise(side, 1, 6, (0.4, 1)) + 0.12 * noise(side, 6, 60, (0.15, 1))
    rings = 0.5 + 0.5 * np.sin(2 * np.pi * flow)
    pores = noise(side, 20, 150, (0.12, 1)) > 1.4
    wood = mixed("5d3517", "c98f52", rings**1.5 * 0.8 + 0.12 * noise(side, 2, 10) + 0.1)
    return wood * np.where(pores, 0.7, 1)[..., None]


def lichen(side: int) -> np.ndarray:
    """Patches of lichen on grey rock."""
    rock = mixed("4b4f52", "a9adab", 0.5 + 0.22 * noise(side, 3, 200))
    depth = noise(side, 3, 14) + 0.25 * noise(side, 15, 90)
    skin = mixed("6f7a1d", "e8d96a", 0.45 + 0.35 * noise(side, 12, 120) + 0.25 * (depth - 1))
    rim = np.exp(-(((depth - 0.55) / 0.12) ** 2))[..., None]
    return np.where(depth[..., None] > 0.55, skin, rock) * (1 - 0.35 * rim)


def portrait(side: int) -> np.ndarray:
    """A sphere above a plain, in soft light: something to paint."""
    v, u = np.mgrid[:side, :side] / side * 2 - 1
    z2 = 0.42 - u**2 - (v + 0.1) ** 2
    z = np.sqrt(np.maximum(z2, 0))
    light = ((-0.5 * u - 0.6 * (v + 0.1) + 0.62 * z) / 0.65).clip(0, 1)
    ball = mixed("3a1020", "ffb37a", light)
    ground = mixed("1d2836", "7fa3b5", 0.9 - 0.35 * (v + 1) + 0.05 * noise(side, 2, 6))
    shadow = np.exp(-(((u - 0.25) / 0.5) ** 2 + ((v - 0.62) / 0.12) ** 2))
    return np.where(z2[..., None] > 0, ball, ground * (1 - 0.6 * shadow)[..., None])


EXEMPLARS: dict[str, Callable[[int], np.ndarray]] = {
    made.__name__: made for made in (stones, wool, wood, lichen, portrait)
}


def draw(folder: Path) -> None:
    """Writes the exemplars, a hole in one of them, the maps of a material, and a map of weights."""
    for name, made in EXEMPLARS.items():
        fine = made(SIDE * FINE).clip(0, 1).reshape(SIDE, FINE, SIDE, FINE, 3).mean((1, 3))
        Image.fromarray((fine * 255).round().astype(np.uint8)).save(folder / f"{name}.png")
    v, u = np.mgrid[:SIDE, :SIDE] / SIDE * 2 - 1
    hole = ((np.abs(u + v * 0.6 + 0.15 * np.sin(4 * v)) < 0.16) * 255).astype(np.uint8)
    Image.fromarray(hole).save(folder / "hole.png")
    torn = np.asarray(Image.open(folder / "stones.png")).copy()
    torn[hole > 0] = (255, 0, 200)
    Image.fromarray(torn).save(folder / "torn.png")
    spec = importlib.util.spec_from_file_location("material", DOCS.parent / "examples" / "material.py")
    assert spec is not None
    assert spec.loader is not None
    material = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(material)
    for name, image in material.pebbles().items():
        featot.write_image(image, folder / f"{name}.png")
    Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8), (8, 1))).save(folder / "ramp.png")


def commands(page: str) -> list[str]:
    """The lines of the page's shell blocks."""
    return [line for block in re.findall(r"```sh\n(.*?)```", page, re.S) for line in block.splitlines() if line]


def main(folder: Path) -> None:
    page = (DOCS / "gallery.md").read_text("utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    draw(folder)
    for line in commands(page):
        print("$", line, flush=True)
        command = [sys.executable, "-m", "featot_cli", *shlex.split(line, comments=True)[1:]]
        subprocess.run(command, cwd=folder, check=True)
    for shown in re.findall(r"\]\((images/gallery/\S+)\.webp\)", page):
        picture = Image.open(folder / f"{Path(shown).name}.png").convert("RGB")
        (DOCS / shown).parent.mkdir(parents=True, exist_ok=True)
        picture.save(DOCS / f"{shown}.webp", quality=86, method=6)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
