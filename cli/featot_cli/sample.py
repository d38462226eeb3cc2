"""`featot sample` and `featot export`: what a trained model makes, and the model for other programs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import click

from featot.errors import UsageError
from featot_cli.main import LazyRegistry, pass_registry


@click.command()
@click.argument("model")
@click.option("-o", "--out", metavar="FILE", help="The image to write.  [default: MODEL's name with .png]")
@click.option("--size", default="1024x1024", show_default=True, metavar="HxW", help="In pixels; any size.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same image.")
@click.option("--count", type=int, help="Make so many images, with the seeds that follow; OUT gets _seedN.")
@click.option(
    "--tile", default="both", show_default=True, metavar="AXES", help="Where it wraps round: both, x, y or none."
)
@click.option("--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda or cuda:N.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar, no summary.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON an image instead of the summary.")
@pass_registry
def sample(
    lazy: LazyRegistry,
    /,
    model: str,
    out: str | None,
    size: str,
    seed: int,
    count: int | None,
    tile: str,
    device: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Make images of any size with MODEL, a file that featot has trained.

    TIFF and PNG are written as they are made, in the memory of a few rows of blocks. With --tile none, a larger image
    goes on where a smaller one of the same seed ends.

    \b
    featot sample moss.safetensors
    featot sample moss.safetensors -o wall.tif --size 16384x16384 --seed 7
    featot sample moss.safetensors --size 512 --count 4 --tile none
    """
    # Imported here, with torch: --help does not wait for it.
    from featot import render
    from featot.device import find_device
    from featot.files import check_writable
    from featot.images import check_image_suffix, parse_size
    from featot.models import load_model
    from featot.strips import write_strips
    from featot_cli.progress import strip_bar

    shape = parse_size(size)
    if count is not None and count < 1:
        raise UsageError(f"expected --count of at least 1, got {count}")
    path = Path(out) if out is not None else Path(f"{Path(model).stem}.png")
    seeds = [seed] if count is None else list(range(seed, seed + count))
    paths = [path if count is None else path.with_stem(f"{path.stem}_seed{n}") for n in seeds]
    where = find_device(device)
    loaded = load_model(model, where, lazy.registry)
    for file in paths:
        check_image_suffix(file, shape)
        check_writable(file)
        _check_other(file, model)
    frozen = loaded.generator.freeze()
    for n, file in zip(seeds, paths, strict=True):
        start = time.perf_counter()
        strips = render.sample(frozen, shape, seed=n, tile=tile, device=where)
        with strip_bar(file.name, shape[0], quiet=quiet or as_json) as show:
            write_strips(file, show(strips), shape, frozen.channels)
        seconds = time.perf_counter() - start
        if as_json:
            about: dict[str, Any] = {"image": str(file), "size": shape, "seed": n, "tile": tile, "model": model}
            click.echo(json.dumps({**about, "header": dict(loaded.header), "seconds": round(seconds, 4)}))
        elif not quiet:
            speed = shape[0] * shape[1] / seconds / 1e6
            click.echo(f"{file}  {shape[0]}x{shape[1]}, seed {n}, {seconds:.2f} s ({speed:.1f} Mpixel/s)")


@click.command()
@click.argument("model")
@click.option("--onnx", required=True, metavar="FILE", help="The ONNX file to write; needs featot[onnx].")
@click.option("-q", "--quiet", is_flag=True, help="No summary.")
@pass_registry
def export(lazy: LazyRegistry, /, model: str, onnx: str, quiet: bool) -> None:
    """Write MODEL as an ONNX graph that takes its noise as inputs, one for each scale; any size.

    \b
    featot export moss.safetensors --onnx moss.onnx
    """
    from featot.export import export_onnx
    from featot.files import check_writable
    from featot.models import load_model

    frozen = load_model(model, "cpu", lazy.registry).generator.freeze()
    check_writable(onnx)
    _check_other(Path(onnx), model)
    export_onnx(frozen, onnx)
    if not quiet:
        margins = ", ".join(f"noise{i}: {c} channels, margin {m}" for i, (c, m) in enumerate(frozen.margins()))
        click.echo(f"{onnx}  image of h x w, multiples of {frozen.stride}, from {margins}")


def _check_other(file: Path, model: str) -> None:
    if os.path.exists(file) and os.path.samefile(file, model):
        raise UsageError(f"cannot write {file}: it is the model; choose another name")
