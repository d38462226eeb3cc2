"""`featot inpaint`: a hole in an image, filled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from featot_cli.common import (
    PluginCommand,
    Reports,
    channels_fit,
    check_outputs,
    each,
    end_interrupted,
    json_option,
    loop_options,
    mixed_option,
    problem_options,
    quality_option,
    quiet_option,
    report_option,
    save_result,
    seed_option,
    settings_and_output,
    weights_option,
)
from featot_cli.main import LazyRegistry, pass_registry


@click.command(cls=PluginCommand)
@click.argument("image", metavar="IMAGE")
@mixed_option
@click.option("--out", metavar="FILE", help="The image to write.  [default: IMAGE's name with _inpainted.png]")
@click.option("--mask", metavar="FILE", help="White where IMAGE is to be filled.  [default: where it is transparent]")
@click.option("--invert-mask", is_flag=True, help="The mask is black where IMAGE is to be filled.")
@click.option("--grow", type=int, default=0, help="Fill so many pixels more around the hole, against fringes.")
@quality_option
@seed_option
@problem_options("image")
@weights_option
@loop_options
@report_option
@quiet_option
@json_option
@pass_registry
def inpaint(
    lazy: LazyRegistry,
    /,
    image: str,
    mixed: tuple[str, ...],
    out: str | None,
    mask: str | None,
    invert_mask: bool,
    grow: int,
    weights: str | None,
    report: bool,
    quiet: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Fill a hole in IMAGE so that its patches are those of the rest, and no seam shows.

    Only the surroundings of the hole are looked at: a small hole in a large image is quick. All other pixels
    stay as they are, bit for bit where OUT can hold them. Ctrl-C stops at once and keeps the best image so far.

    \b
    featot inpaint wall.png                                   the transparent part is filled
    featot inpaint scan.jpg --mask scratches.png -o clean.png
    featot inpaint bark.jpg --mask keep.png --invert-mask --grow 2 --quality high
    """
    from featot.inpainting import inpaint as fill
    from featot.progress import progress_bar

    settings, out = settings_and_output(given, mixed, out, weights)
    path = Path(out) if out is not None else Path(f"{Path(image).stem}_inpainted.png")
    check_outputs([path], [path.with_suffix(".json")], [image, *([mask] if mask else [])])
    reports = Reports(report, [path])
    with progress_bar(quiet=quiet or as_json) as show:
        result = fill(
            image,
            mask,
            settings,
            invert_mask=invert_mask,
            grow=grow,
            callback=each(channels_fit(path), show, reports),
            registry=lazy.registry,
        )
    save_result(result, path, quiet=quiet, as_json=as_json)
    reports.write(result, path, [image])
    end_interrupted(result, path)
