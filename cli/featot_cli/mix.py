"""`featot mix`: the texture between several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from featot.errors import UsageError
from featot_cli.common import (
    PluginCommand,
    Reports,
    augment_option,
    channels_fit,
    check_outputs,
    each,
    end_interrupted,
    image_options,
    json_option,
    loop_options,
    mixed_option,
    parsed_weights,
    problem_options,
    quiet_option,
    report_option,
    save_result,
    settings_and_output,
)
from featot_cli.main import LazyRegistry, pass_registry

_FRAME_SECONDS = 0.7


@click.command(cls=PluginCommand)
@click.argument("exemplars", nargs=-1, required=True, metavar="A B...")
@mixed_option
@click.option("--out", metavar="FILE", help="The image to write.  [default: A's name with _mix.png]")
@click.option("--weights", "shares", metavar="X,Y,...", help="How much of each: .3,.7.  [default: alike]")
@click.option("--weight-map", metavar="FILE", help="How much of each where: black is A, white B; of three, red is A.")
@click.option(
    "--path",
    "num_steps",
    type=int,
    metavar="N",
    help="Make N images, from A to B: OUT gets _0, _1, ...; OUT_path.webp shows them in turn.",
)
@augment_option
@image_options
@problem_options("image")
@loop_options
@report_option
@quiet_option
@json_option
@pass_registry
def mix(
    lazy: LazyRegistry,
    /,
    exemplars: tuple[str, ...],
    mixed: tuple[str, ...],
    out: str | None,
    shares: str | None,
    weight_map: str | None,
    num_steps: int | None,
    report: bool,
    quiet: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Make the texture between A and B: the barycenter of their features. They may be of different sizes.

    VGG's weights, where --features vgg needs them, are given by -o vgg.weights=FILE.

    \b
    featot mix rust.png moss.png --weights .3,.7
    featot mix rust.png moss.png --path 5 -o out.png
    featot mix rust.png moss.png --weight-map left_to_right.png --size 512x1024
    """
    from featot.mixing import mix as blend
    from featot.mixing import mix_path
    from featot.progress import progress_bar

    settings, out = settings_and_output(given, mixed, out)
    path = Path(out) if out is not None else Path(f"{Path(exemplars[0]).stem}_mix.png")
    if num_steps is not None and (shares is not None or weight_map is not None):
        raise UsageError("expected one of --path, --weights and --weight-map, got several")
    if num_steps is not None and num_steps < 2:
        raise UsageError(f"expected a --path of at least 2 steps, got {num_steps}")
    paths = [path] if num_steps is None else [path.with_stem(f"{path.stem}_{i}") for i in range(num_steps)]
    animation = path.with_name(f"{path.stem}_path.webp")
    inputs = [*exemplars, *([weight_map] if weight_map else [])]
    check_outputs(
        [*paths, *([animation] if num_steps else [])],
        [file.with_suffix(".json") for file in paths],
        inputs,
        settings.size,
    )
    reports, made = Reports(report, paths), []
    with progress_bar(quiet=quiet or as_json) as show:
        chosen: Any = {"callback": each(channels_fit(path), show, reports), "registry": lazy.registry}
        if num_steps is not None:
            results = mix_path(exemplars, num_steps, settings, **chosen)
        else:
            amounts = None if shares is None else parsed_weights(shares)
            results = iter([blend(exemplars, amounts, settings, weight_map=weight_map, **chosen)])
        for result, file in zip(results, paths, strict=False):
            save_result(result, file, quiet=quiet, as_json=as_json)
            reports.write(result, file, exemplars)
            made.append(result.image)
    if num_steps is not None:
        from featot.images import write_animation

        write_animation(made, animation, seconds=_FRAME_SECONDS)
    end_interrupted(result, file)
