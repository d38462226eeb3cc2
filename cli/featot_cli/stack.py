"""`featot synth --stack`: all maps of a material at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from featot.errors import UsageError
from featot_cli.common import Reports, check_outputs, each, end_interrupted, folder_for_outputs


def synth_stack(
    stack: Sequence[str],
    out: str | None,
    settings: Any,
    registry: Any,
    *,
    map_weights: Sequence[str],
    linear: Sequence[str],
    report: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Synthesises the maps NAME=FILE, and writes each to ``out`` with its name in the place of {map}.

    ``report``: also writes a page about each.
    """
    from featot.images import check_image_suffix
    from featot.progress import progress_bar
    from featot.stacks import map_path, read_map, synthesize_stack

    maps = _pairs(stack, "--stack", "albedo=wall.png")
    weights = {}
    for name, text in _pairs(map_weights, "--map-weight", "normal=0.5").items():
        try:
            weights[name] = float(text)
        except ValueError:
            raise UsageError(f"bad --map-weight {name}={text}: expected a number, as normal=0.5") from None
    pattern = out or "{map}_synth.png"
    paths = {name: map_path(pattern, name) for name in maps}
    files, sidecar = list(paths.values()), map_path(pattern, "stack").with_suffix(".json")
    for file in files:
        check_image_suffix(file, settings.size)
    with folder_for_outputs(files[0].parent):
        check_outputs(files, [sidecar], list(maps.values()), settings.size)
        reports = Reports(report, files)
        read = {name: read_map(file) for name, file in maps.items()}
        for name, pictures in read.items():
            check_image_suffix(paths[name], channels=pictures.channels)
        with progress_bar(quiet=quiet or as_json) as show:
            callback = each(show, reports)
            result = synthesize_stack(
                read, settings, weights=weights, linear=linear, callback=callback, registry=registry
            )
        record = result.save(pattern)
    if as_json:
        click.echo(json.dumps(result.joint.record))
    elif not quiet and not result.joint.interrupted:
        h, w = result.joint.image.shape[2:]
        seconds = result.joint.record["timings"]["match"]
        told = ", ".join(map(str, files))
        click.echo(f"{told}  {h}x{w}, loss {result.joint.record['loss']:.4g}, {seconds:.1f} s; record in {record}")
    for name, file in paths.items():
        reports.write(result.of(name), file, read[name].exemplars)
    end_interrupted(result.joint, files[0])


def _pairs(texts: Sequence[str], option: str, example: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise UsageError(f"bad {option} {text!r}: expected NAME=..., as {example}")
        if name in found:
            raise UsageError(f"{option} {name} is given twice: {found[name]!r} and {value!r}")
        found[name] = value
    return found
