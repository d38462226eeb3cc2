"""`featot synth`: a texture from an exemplar."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

import click

from featot.errors import UsageError
from featot_cli.common import (
    PluginCommand,
    Reports,
    augment_option,
    check_outputs,
    each,
    end_interrupted,
    image_options,
    json_option,
    loop_options,
    mixed_option,
    problem_options,
    quiet_option,
    report_option,
    save_result,
    split_options,
    synthesis_settings,
    weights_option,
)
from featot_cli.main import LazyRegistry, pass_registry
from featot_cli.stack import synth_stack


@click.command(cls=PluginCommand)
@click.argument("exemplars", nargs=-1, metavar="EXEMPLAR...")
@mixed_option
@click.option("--out", metavar="FILE", help="The image to write.  [default: EXEMPLAR's name with _synth.png]")
@image_options
@click.option("--show-tiled", is_flag=True, help="Also write OUT_tiled.png, the result repeated 2×2.")
@click.option("--count", type=int, help="Make so many images, with the seeds that follow; OUT gets _seedN.")
@click.option("--seeds", metavar="A,B,...", help="Make an image for each of these seeds; OUT gets _seedN.")
@augment_option
@click.option("--exemplar-mask", metavar="FILE", help="Learn only from where this image is white.")
@click.option("--guide", metavar="FILE", help="A map of the result, in the colours of --exemplar-guide, to follow.")
@click.option("--exemplar-guide", metavar="FILE", help="The same map for EXEMPLAR: what lies where.")
@click.option(
    "--alpha",
    metavar="WHAT",
    help="Transparency of EXEMPLAR: laid over white, dropped (ignore) or synthesised (keep).  [default: white]",
)
@click.option(
    "--stack",
    multiple=True,
    metavar="NAME=FILE ...",
    help="Make all maps of a material at once, aligned: albedo=a.png normal=n.png; OUT has {map} for the name.",
)
@click.option("--map-weight", multiple=True, metavar="NAME=X", help="How much a map of --stack counts.  [default: 1]")
@click.option("--linear", multiple=True, metavar="NAME", help="Compare this map of --stack, which is sRGB, as light.")
@problem_options("image")
@weights_option
@loop_options
@click.option("--from-json", metavar="FILE", help="Repeat the run that this sidecar records, bit for bit.")
@click.option("--preview", is_flag=True, help="Also write OUT.preview.png, about once a second, while it grows.")
@report_option
@quiet_option
@json_option
@pass_registry
def synth(
    lazy: LazyRegistry,
    /,
    exemplars: tuple[str, ...],
    mixed: tuple[str, ...],
    out: str | None,
    weights: str | None,
    count: int | None,
    seeds: str | None,
    exemplar_mask: str | None,
    guide: str | None,
    exemplar_guide: str | None,
    alpha: Any,
    show_tiled: bool,
    stack: tuple[str, ...],
    map_weight: tuple[str, ...],
    linear: tuple[str, ...],
    from_json: str | None,
    preview: bool,
    report: bool,
    quiet: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Synthesise a texture that looks like EXEMPLAR: the same patches, in other places. Several are pooled.

    Beside the image goes a .json with everything needed to repeat it. Ctrl-C stops at once and keeps the best
    image so far.

    \b
    featot synth bricks.png
    featot synth bricks.png -o wall.png --size 512x512 --seed 7 --show-tiled
    featot synth moss.png stone.png --quality high --augment rot90,flip --count 4
    featot synth meadow.png --exemplar-guide meadow_map.png --guide my_map.png
    featot synth bricks.png --features patches -o size=9
    featot synth bricks.png --features pyramid --features vgg:0.5 --loss vgg=gram --weights vgg19.pth
    featot synth --stack albedo=a.png normal=n.png roughness=r.png -o out/{map}.png
    featot synth --from-json wall.json -o again.png
    """
    # Imported here, with torch: --help does not wait for it.
    from featot.exemplars import Sources
    from featot.images import check_image_suffix, write_image
    from featot.progress import progress_bar
    from featot.tasks import synthesize_each
    from featot_cli.progress import preview_file

    options, out = split_options(mixed, out, weights)
    changes = {name: value for name, value in given.items() if value not in (None, ())}
    if options:
        changes["options"] = options
    if stack:
        several = {"count": count, "seeds": seeds, "from-json": from_json, "exemplar-mask": exemplar_mask}
        several |= {"guide": guide, "alpha": alpha, "show-tiled": show_tiled, "preview": preview}
        for name, value in several.items():
            if value:
                raise UsageError(f"--stack cannot go with --{name}")
        settings = synthesis_settings(changes)
        synth_stack(
            [*stack, *exemplars],
            out,
            settings,
            lazy.registry,
            map_weights=map_weight,
            linear=linear,
            report=report,
            quiet=quiet,
            as_json=as_json,
        )
        return
    if map_weight or linear:
        raise UsageError("--map-weight and --linear are for the maps of a --stack")
    maps = {"mask": exemplar_mask, "guide": guide, "exemplar_guide": exemplar_guide}
    if from_json is not None:
        several = {"count": count, "seeds": seeds, "exemplar_mask": exemplar_mask, "guide": guide, "alpha": alpha}
        changes |= {name: value for name, value in several.items() if value is not None}
        sources, settings = _recorded(from_json, exemplars, changes)
    elif exemplars:
        settings = synthesis_settings(changes)
        sources = Sources(exemplars=exemplars, **maps, alpha=alpha or "white")
    else:
        raise UsageError("which image? Expected an EXEMPLAR, as in: featot synth bricks.png")
    chosen = _seeds(count, seeds, changes)
    path = Path(out) if out is not None else Path(f"{Path(str(sources.exemplars[0])).stem}_synth.png")
    paths = [path] if chosen is None else [path.with_stem(f"{path.stem}_seed{seed}") for seed in chosen]
    growing = path.with_suffix(f".preview{path.suffix}") if preview else None
    tiled = [path.with_stem(f"{path.stem}_tiled") for path in paths] if show_tiled else []
    inputs = [str(file) for file in (*sources.exemplars, sources.mask, sources.guide, sources.exemplar_guide) if file]
    check_outputs(
        [*paths, *tiled, *([growing] if growing else [])],
        [p.with_suffix(".json") for p in paths],
        inputs,
        settings.size,
    )
    reports = Reports(report, paths)
    pictures = sources.read()
    for file in (path, *([growing] if growing else [])):
        check_image_suffix(file, channels=pictures.given_channels)

    with progress_bar(quiet=quiet or as_json) as show, preview_file(growing) as grow:
        callback = each(show, grow, reports)
        results = synthesize_each(pictures, settings, chosen or [None], callback=callback, registry=lazy.registry)
        for number, result in enumerate(results):
            file = paths[number]
            save_result(result, file, quiet=quiet, as_json=as_json)
            if show_tiled:
                write_image(result.image.repeat(1, 1, 2, 2), tiled[number], result.format)
            reports.write(result, file, pictures.exemplars)
    end_interrupted(result, file)


def _seeds(count: int | None, seeds: str | None, changes: dict[str, Any]) -> list[int] | None:
    """The seeds of several images; None for one image."""
    if count is not None and seeds is not None:
        raise UsageError("expected --count or --seeds, got both")
    if seeds is not None:
        if not re.fullmatch(r"\d{1,18}(,\d{1,18})*", seeds):
            raise UsageError(f"bad seeds {seeds!r}: expected numbers of at least 0, as in --seeds 1,2,3")
        if "seed" in changes:
            raise UsageError("expected --seed or --seeds, got both")
        chosen = [int(seed) for seed in seeds.split(",")]
        if len(set(chosen)) < len(chosen):
            raise UsageError(f"bad seeds {seeds!r}: the same seed gives the same image; expected different ones")
        return chosen
    if count is None:
        return None
    if count < 1:
        raise UsageError(f"expected --count of at least 1, got {count}")
    first = changes.get("seed", 0)
    return list(range(first, first + count))


def _recorded(from_json: str, exemplars: tuple[str, ...], changes: dict[str, Any]) -> tuple[Any, Any]:
    """The sources and the settings of an earlier run; warns where they may not give the same image."""
    import torch

    from featot.device import find_device
    from featot.exemplars import Sources, pixels
    from featot.provenance import differences, fingerprint, read_record
    from featot.runs import SynthesisSettings

    if changes:
        names = ("-o KEY=VALUE" if name == "options" else "--" + name.replace("_", "-") for name in changes)
        raise UsageError(f"--from-json repeats a run as it was; it cannot go with {', '.join(names)}")
    record = read_record(from_json)
    settings = SynthesisSettings.from_record(record)
    device = find_device(settings.device)
    was = [record["exemplar"], *record.get("more_exemplars", [])]
    if exemplars and len(exemplars) != len(was):
        raise UsageError(f"the run in {from_json} had {len(was)} exemplars, got {len(exemplars)}")
    alpha = record.get("alpha", "white")
    given: dict[Any, str] = dict(enumerate(exemplars))
    maps = {name: record[name] for name in ("mask", "guide", "exemplar_guide") if record.get(name)}
    found: dict[Any, str] = {}
    pictures: dict[Any, Any] = {**dict(enumerate(was)), **maps}
    for key, picture in pictures.items():
        path = given.get(key, picture["path"])
        if path is None or not os.path.exists(path):
            where = "was no file" if path is None else f"{path} is gone"
            what = "exemplar" if isinstance(key, int) else key.replace("_", " ")
            raise UsageError(f"the {what} of {from_json} {where}; name it: featot synth EXEMPLAR --from-json FILE")
        found[key] = path
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # told when it is read for the run
            image = pixels(path, alpha if isinstance(key, int) else "white")
        if key == "mask":
            image = (image.amax(1, keepdim=True) > 0.5).float()
        if picture["shape"][1] == 3 and image.shape[1] == 1:  # a grey guide beside a coloured one
            image = image.expand(-1, 3, -1, -1)
        if fingerprint(image) != picture["sha256"]:
            warnings.warn(f"{path} has changed since the run in {from_json}: the image will differ", stacklevel=1)
    torch.set_num_threads(record["device"]["threads"])  # sums depend on how they are shared out
    if record.get("interrupted"):
        warnings.warn(f"the run in {from_json} was interrupted; this one goes to its end", stacklevel=1)
    for difference in differences(record, device):
        warnings.warn(f"{difference} since the run in {from_json}: the image may differ", stacklevel=1)
    sources = Sources(
        exemplars=[found[i] for i in range(len(was))], **{name: found[name] for name in maps}, alpha=alpha
    )
    return sources, settings
