"""`featot synth --stack`: all maps of a material at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from featot.errors import UsageError
from featot_cli.common import check_outputs, end_interrupted


def synth_stack(
    stack: Sequence[str],
    out: str | None,
    settings: Any,
    registry: Any,
    *,
    map_weights: Sequence[str],
    linear: Sequence[str],
    quiet: bool,
    as_json: bool,
) -> None:
    """Synthesises the maps NAME=FILE, and writes each to ``out`` with its name in the place of {map}."""
    from featot.images import check_image_suffix
    from featot.progress import progress_bar
    from featot.stacks import map_path, synthesize_stack

    maps = _pairs(stack, "--stack", "albedo=wall.png")
    weights = {}
    for name, text in _pairs(map_weights, "--map-weight", "normal=0.5").items():
        try:
            weights[name] = float(text)
        except ValueError:
            raise UsageError(f"bad --map-weight {name}={text}: expected a number, as normal=0.5") from None
    pattern = out or "{map}_synth.png"
    paths = [map_path(pattern, name) for name in maps]
    folder, sidecar = paths[0].parent, map_path(pattern, "stack").with_suffix(".json")
    for path in paths:
        check_image_suffix(path, settings.size)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder}: {error.strerror}") from error
    check_outputs([*paths], [sidecar], list(maps.values()), settings.size)
    with progress_bar(quiet=quiet or as_json) as show:
        result = synthesize_stack(maps, settings, weights=weights, linear=linear, callback=show, registry=registry)
    record = result.save(pattern)
    if as_json:
        click.echo(json.dumps(result.joint.record))
    elif not quiet and not result.joint.interrupted:
        h, w = result.joint.image.shape[2:]
        seconds = result.joint.record["timings"]["match"]
        files = ", ".join(map(str, paths))
        click.echo(f"{files}  {h}x{w}, loss {result.joint.record['loss']:.4g}, {seconds:.1f} s; record in {record}")
    end_interrupted(result.joint, Path(paths[0]))


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
