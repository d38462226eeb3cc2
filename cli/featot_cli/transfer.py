"""`featot transfer`: an image painted with the texture of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from featot_cli.common import (
    PluginCommand,
    Reports,
    augment_option,
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
@click.argument("content", metavar="CONTENT")
@click.argument("style", metavar="STYLE")
@mixed_option
@click.option("--out", metavar="FILE", help="The image to write.  [default: CONTENT's name with _in_STYLE.png]")
@click.option(
    "--content-weight",
    type=float,
    default=1.0,
    show_default=True,
    help="How much the result stays CONTENT: 0.3 a hint, 4 nearly all.",
)
@click.option(
    "--colors", metavar="WHOSE", default="style", show_default=True, help="style, or keep those of CONTENT."
)
@click.option("--size", metavar="HxW", help="Size of the result, in pixels: 512x384, or 512.  [default: CONTENT's]")
@click.option("--tile", metavar="AXES", default="none", show_default=True, help="Wrap round: both, x, y or none.")
@augment_option
@quality_option
@seed_option
@problem_options("image")
@weights_option
@loop_options
@report_option
@quiet_option
@json_option
@pass_registry
def transfer(
    lazy: LazyRegistry,
    /,
    content: str,
    style: str,
    mixed: tuple[str, ...],
    out: str | None,
    content_weight: float,
    colors: str,
    weights: str | None,
    report: bool,
    quiet: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Paint CONTENT with the texture of STYLE: its patches, laid where CONTENT has light and shade alike.

    \b
    featot transfer portrait.jpg bricks.png
    featot transfer portrait.jpg bricks.png --content-weight 0.3 --colors keep -o painted.png
    featot transfer portrait.jpg oil.jpg --features vgg --loss gram --weights vgg19.pth     as Gatys does
    """
    from featot.progress import progress_bar
    from featot.transferring import transfer as paint

    settings, out = settings_and_output(given, mixed, out, weights)
    path = Path(out) if out is not None else Path(f"{Path(content).stem}_in_{Path(style).stem}.png")
    check_outputs([path], [path.with_suffix(".json")], [content, style], settings.size)
    reports = Reports(report, [path])
    with progress_bar(quiet=quiet or as_json) as show:
        result = paint(
            content,
            style,
            settings,
            content_weight=content_weight,
            colors=colors,
            callback=each(channels_fit(path), show, reports),
            registry=lazy.registry,
        )
    save_result(result, path, quiet=quiet, as_json=as_json)
    reports.write(result, path, [style])
    end_interrupted(result, path)
