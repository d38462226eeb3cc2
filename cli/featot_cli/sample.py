"""`featot sample` and `featot export`: what a trained model makes, and the model for other programs."""

from __future__ import annotations

import json
import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featot.errors import UsageError
from featot_cli.common import parsed_weights
from featot_cli.main import LazyRegistry, pass_registry

if TYPE_CHECKING:
    import torch

    from featot.interfaces import FrozenGenerator
    from featot.models import Model


@click.command()
@click.argument("model")
@click.option("-o", "--out", metavar="FILE", help="The image to write.  [default: MODEL's name with .png]")
@click.option("--size", default="1024x1024", show_default=True, metavar="HxW", help="In pixels; any size.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same image.")
@click.option("--count", type=int, help="Make so many images, with the seeds that follow; OUT gets _seedN.")
@click.option(
    "--tile", default="both", show_default=True, metavar="AXES", help="Where it wraps round: both, x, y or none."
)
@click.option("--weights", "amounts", metavar="X,Y,...", help="How much of each exemplar: .3,.7.  [default: alike]")
@click.option("--weight-map", metavar="FILE", help="How much where: black is the first; of three, red is the first.")
@click.option(
    "--path",
    "num_steps",
    type=int,
    metavar="N",
    help="Make N images, from one exemplar to the other: OUT_0, ...",
)
@click.option("--show-tiled", is_flag=True, help="Also write OUT_tiled.png, the image repeated 2×2.")
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
    amounts: str | None,
    weight_map: str | None,
    num_steps: int | None,
    show_tiled: bool,
    device: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Make images of any size with MODEL, a file that featot has trained.

    TIFF and PNG are written as they are made, in the memory of a few rows of blocks. With --tile none, a larger image
    goes on where a smaller one of the same seed ends. --weights, --weight-map and --path are for a MODEL of several
    exemplars, by featot train --conditional.

    \b
    featot sample moss.safetensors
    featot sample moss.safetensors -o wall.tif --size 16384x16384 --seed 7
    featot sample moss.safetensors --size 512 --count 4 --tile none
    featot sample rust_moss.safetensors --weights .3,.7
    """
    # Imported here, with torch: --help does not wait for it.
    from featot import render
    from featot.device import find_device
    from featot.files import check_writable
    from featot.images import check_image_suffix, parse_size
    from featot.models import load_model
    from featot.strips import repeated, write_strips
    from featot_cli.progress import strip_bar

    shape = parse_size(size)
    if count is not None and count < 1:
        raise UsageError(f"expected --count of at least 1, got {count}")
    if sum(given is not None for given in (amounts, weight_map, num_steps)) > 1:
        raise UsageError("expected one of --path, --weights and --weight-map, got several")
    if count is not None and num_steps is not None:
        raise UsageError("expected --count or --path, got both")
    path = Path(out) if out is not None else Path(f"{Path(model).stem}.png")
    seeds = [seed] if count is None else list(range(seed, seed + count))
    paths = [path if count is None else path.with_stem(f"{path.stem}_seed{n}") for n in seeds]
    where = find_device(device)
    loaded = load_model(model, where, lazy.registry)
    blends = _blends(loaded, model, amounts, weight_map, num_steps, shape, where)
    if num_steps is not None:
        seeds, paths = [seed] * num_steps, [path.with_stem(f"{path.stem}_{i}") for i in range(num_steps)]
    blends = blends if num_steps is not None else blends * len(paths)
    tiled = [file.with_stem(f"{file.stem}_tiled") if show_tiled else None for file in paths]
    for file, factor in [*((file, 1) for file in paths), *((file, 2) for file in tiled if file)]:
        check_image_suffix(file, (factor * shape[0], factor * shape[1]))
        check_writable(file)
        _check_other(file, model)
        if weight_map is not None:
            _check_other(file, weight_map, "the weight map")
    for n, file, twice, (frozen, weights) in zip(seeds, paths, tiled, blends, strict=True):
        start = time.perf_counter()
        strips = partial(render.sample, frozen, shape, seed=n, tile=tile, device=where)
        with strip_bar(file.name, shape[0], quiet=quiet or as_json) as show:
            write_strips(file, show(strips()), shape, frozen.channels)
        seconds = time.perf_counter() - start
        if twice is not None:
            write_strips(twice, repeated(strips), (2 * shape[0], 2 * shape[1]), frozen.channels)
        if as_json:
            about: dict[str, Any] = {"image": str(file), "size": shape, "seed": n, "tile": tile, "model": model}
            about |= {} if weights is None else {"weights": weights}
            click.echo(json.dumps({**about, "header": dict(loaded.header), "seconds": round(seconds, 4)}))
        elif not quiet:
            speed = shape[0] * shape[1] / seconds / 1e6
            what = "" if weights is None else f", weights {','.join(f'{weight:.3g}' for weight in weights)}"
            click.echo(f"{file}  {shape[0]}x{shape[1]}, seed {n}{what}, {seconds:.2f} s ({speed:.1f} Mpixel/s)")


def _blends(
    loaded: Model,
    model: str,
    amounts: str | None,
    weight_map: str | None,
    num_steps: int | None,
    size: tuple[int, int],
    device: torch.device,
) -> list[tuple[FrozenGenerator, list[float] | None]]:
    """What makes each image of a path, or all images; with the weights where there are any."""
    import torch

    from featot.shares import ShareMap, path_of, read_share_map, shares_of

    frozen = loaded.freeze()
    names = loaded.header.get("conditions", [])
    if not names:
        if amounts is not None or weight_map is not None or num_steps is not None:
            why = "weights are for one of featot train A B --conditional"
            raise UsageError(f"{model} has learnt one texture; {why}")
        return [(frozen, None)]
    if weight_map is not None:
        found = read_share_map(weight_map, len(names), None)
        return [(frozen.shared(ShareMap(found.to(device), size)), None)]
    if num_steps is not None:
        chosen = path_of(len(names), num_steps)
    else:
        chosen = [shares_of(None if amounts is None else parsed_weights(amounts), len(names))]
    return [(frozen.shared(torch.tensor(shares, device=device)), shares) for shares in chosen]


@click.command()
@click.argument("model")
@click.option(
    "-o",
    "--out",
    "--onnx",
    "onnx",
    metavar="FILE",
    help="The ONNX file to write; needs featot[onnx].  [default: MODEL's name with .onnx]",
)
@click.option("-q", "--quiet", is_flag=True, help="No summary.")
@click.option("--json", "as_json", is_flag=True, help="Print what the graph takes as JSON instead of the summary.")
@pass_registry
def export(lazy: LazyRegistry, /, model: str, onnx: str | None, quiet: bool, as_json: bool) -> None:
    """Write MODEL as an ONNX graph that takes its noise as inputs, one for each scale; any size.

    \b
    featot export moss.safetensors
    featot export moss.safetensors --onnx out/moss.onnx
    """
    from featot.export import export_onnx
    from featot.files import check_writable
    from featot.models import load_model

    frozen = load_model(model, "cpu", lazy.registry).freeze()
    onnx = onnx or f"{Path(model).stem}.onnx"
    check_writable(onnx)
    _check_other(Path(onnx), model)
    export_onnx(frozen, onnx)
    if as_json:
        about = {"onnx": onnx, "stride": frozen.stride, "channels": frozen.channels, "conditions": frozen.conditions}
        noise = [{"channels": channels, "margin": margin} for channels, margin in frozen.margins()]
        click.echo(json.dumps({**about, "noise": noise}))
    elif not quiet:
        margins = ", ".join(f"noise{i}: {c} channels, margin {m}" for i, (c, m) in enumerate(frozen.margins()))
        margins += f", weights: {frozen.conditions}" if frozen.conditions else ""
        click.echo(f"{onnx}  image of h x w, multiples of {frozen.stride}, from {margins}")


def _check_other(file: Path, given: str, what: str = "the model") -> None:
    if os.path.exists(file) and os.path.exists(given) and os.path.samefile(file, given):
        raise UsageError(f"cannot write {file}: it is {what}; choose another name")
