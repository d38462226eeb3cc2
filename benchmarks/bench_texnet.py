"""Sampling from generator networks: Mpixel/s against the bare convolutions, the best block, the memory it takes.

    python benchmarks/bench_texnet.py [--threads 4] [--sizes 1024 4096] [--memory 2048 8192 16384]

"Bare" is the time of the network's convolutions alone, after folding: each on random input that gives just the block,
without noise, activations, enlarging, joining, margins or clipping. The share is that time over the whole time of
sampling. The weights are random: speed does not depend on them. Memory is the peak of a process of its own that
writes a TIFF.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from featot.interfaces import FrozenGenerator
from featot.noise import NoiseField
from featot.plugins import load_registry
from featot.render import BLOCK, sample, strips
from featot.strips import write_strips

NETWORKS = ("texnet", "texnet_lite")
PROBE = 2048  # pixels a side of the window in which the scale of each convolution is told by the size it makes


def frozen(name: str) -> FrozenGenerator:
    generator = load_registry().get("param", name).create()
    generator.initialize(torch.rand(1, 3, 64, 64), (64, 64), torch.Generator().manual_seed(0))
    generator.calibrate((64, 64), torch.Generator().manual_seed(0))
    return generator.freeze()


def seconds(work: Callable[[], object], least: float = 1.0) -> float:
    """The least of several runs, the first not counted."""
    work()
    times: list[float] = []
    while len(times) < 3 or sum(times) < least:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def convolutions(network: FrozenGenerator) -> list[tuple[nn.Conv2d, int]]:
    """Each convolution and its scale."""
    found: list[tuple[nn.Conv2d, int]] = []

    def note(module: nn.Module, _: object, made: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        found.append((module, round(math.log2(PROBE / made.shape[2]))))

    hooks = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, nn.Conv2d)]
    noise = NoiseField(0)
    noise.compiled = False  # kernels of our own do some convolutions, which no hook would see
    network.render(noise, range(PROBE), range(PROBE))
    for hook in hooks:
        hook.remove()
    return found


@torch.no_grad()
def bare(network: FrozenGenerator, block: int) -> tuple[float, float]:
    """Seconds and multiplications a pixel of the convolutions alone."""
    total, operations = 0.0, 0.0
    for conv, scale in convolutions(network):
        side = block // 2**scale
        x = torch.rand(1, conv.in_channels, *(side + kernel - 1 for kernel in conv.kernel_size))
        x = x.contiguous(memory_format=torch.channels_last)  # as the networks have it: their faster one
        total += seconds(lambda conv=conv, x=x: conv(x), 0.1)
        operations += conv.weight.numel() * side**2
    return total / block**2, operations / block**2


def drain(network: FrozenGenerator, side: int, block: int) -> None:
    for _ in strips(network, NoiseField(0), range(side), range(side), block=block):
        pass


def write(name: str, side: int, path: Path) -> None:
    """In a process of its own: writes the image, then says its peak memory in MB and the time."""
    network = frozen(name)
    start = time.perf_counter()
    write_strips(path, sample(network, (side, side), tile="none"), (side, side), network.channels)
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024  # Linux
    print(f"{peak:.0f} {time.perf_counter() - start:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1024, 4096])
    parser.add_argument("--memory", type=int, nargs="*", default=[2048, 8192])
    parser.add_argument("--child", nargs=3, metavar=("NAME", "SIDE", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.child:
        name, side, path = arguments.child
        write(name, int(side), Path(path))
        return
    console = Console(width=120)
    speed = Table(box=SIMPLE, title=f"{arguments.threads} threads, Mpixel/s")
    columns = ("network", "multiplications/pixel", "size", "block", "sampling", "bare", "share")
    for heading in columns:
        speed.add_column(heading, justify="left" if heading == "network" else "right")
    for name in NETWORKS:
        network = frozen(name)
        for side in arguments.sizes:
            for block in (128, 256, 512, 1024) if side == arguments.sizes[0] else (BLOCK,):
                per_pixel, operations = bare(network, block)
                ours = seconds(lambda n=network, s=side, b=block: drain(n, s, b)) / side**2
                row = (f"{operations:.0f}", f"{side}²", f"{block}²", f"{1e-6 / ours:.2f}", f"{1e-6 / per_pixel:.2f}")
                speed.add_row(name, *row, f"{per_pixel / ours:.0%}")
    console.print(speed)
    memory = Table(box=SIMPLE, title="Writing a TIFF")
    for heading in ("network", "size", "file", "peak memory", "seconds"):
        memory.add_column(heading, justify="left" if heading == "network" else "right")
    for name in NETWORKS:
        for side in arguments.memory:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "a.tif"
                child = ["--child", name, str(side), str(path), "--threads", str(arguments.threads)]
                done = subprocess.run([sys.executable, __file__, *child], check=True, capture_output=True, text=True)
                peak, took = done.stdout.split()
                memory.add_row(name, f"{side}²", f"{os.path.getsize(path) / 1e6:.0f} MB", f"{peak} MB", took)
    console.print(memory)


if __name__ == "__main__":
    main()
