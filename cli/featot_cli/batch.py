"""`featot batch`: a texture from each of many exemplars."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featot.errors import UsageError
from featot_cli.common import (
    PluginCommand,
    augment_option,
    folder_for_outputs,
    image_options,
    loop_options,
    mixed_option,
    problem_options,
    quiet_option,
    report_option,
    settings_and_output,
    typed_command,
    weights_option,
)
from featot_cli.main import LazyRegistry, pass_registry

if TYPE_CHECKING:
    from featot.batch import Item, Outcome


@click.command(cls=PluginCommand)
@click.argument("patterns", nargs=-1, metavar="EXEMPLAR...")
@mixed_option
@click.option("--out", metavar="FOLDER", help="Where the images go, as EXEMPLAR's name with .png.  [required]")
@click.option(
    "--manifest",
    metavar="FILE",
    help="Take exemplars and their own settings from here: .csv with a header, or .json, a list of objects.",
)
@click.option(
    "--jobs", type=int, default=1, show_default=True, help="So many at a time, in processes that share the cores."
)
@image_options
@click.option("--show-tiled", is_flag=True, help="Also write OUT_tiled.png, each result repeated 2×2.")
@click.option("--count", type=int, help="Make so many images of each, with the seeds that follow; OUT gets _seedN.")
@augment_option
@click.option("--alpha", metavar="WHAT", help="Transparency of exemplars: white, ignore or keep.  [default: white]")
@problem_options("image")
@weights_option
@loop_options
@report_option
@quiet_option
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON an image instead of the table.")
@pass_registry
def batch(
    lazy: LazyRegistry,
    /,
    patterns: tuple[str, ...],
    mixed: tuple[str, ...],
    out: str | None,
    manifest: str | None,
    jobs: int,
    show_tiled: bool,
    count: int | None,
    alpha: Any,
    weights: str | None,
    report: bool,
    quiet: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Synthesise from each EXEMPLAR, files or patterns, as `featot synth` does, and put the images into a folder.

    One that fails does not stop the others. An image that is there already, by its record from the same exemplar and
    settings, is skipped: after Ctrl-C the same command goes on. Exit code 1 if any failed.

    A manifest has a column 'exemplar', and any of 'out', 'size', 'seed', 'features' ..., or a plugin's option such as
    'patches.size'; what it says goes before the options here.

    \b
    featot batch 'textures/*.png' --out out/ --size 512 --jobs 4
    featot batch --manifest list.csv --out out/ --quality high
    """
    # Imported here, with torch: --help does not wait for it.
    from featot.batch import check_items, run_items, with_seeds
    from featot.manifest import find_items, read_manifest

    settings, out = settings_and_output(given, mixed, out, weights)
    if out is None:
        raise UsageError("where to? Expected --out FOLDER, as in: featot batch 'textures/*.png' --out out/")
    if bool(patterns) == (manifest is not None):
        got = "both" if patterns else "neither"
        raise UsageError(f"expected EXEMPLARs, as in 'textures/*.png', or a --manifest; got {got}")
    folder, alpha = Path(out), alpha or "white"
    if manifest is None:
        items = find_items(patterns, folder, settings, alpha=alpha)
    else:
        items = read_manifest(manifest, folder, settings, alpha=alpha)
    command = typed_command() if report else None
    items = [dataclasses.replace(item, show_tiled=show_tiled, report=command) for item in items]
    if count is not None:
        items = with_seeds(items, count)
    outcomes: list[Outcome] = []
    interrupted = False
    with folder_for_outputs(folder):
        check_items(items, lazy.registry)
        try:
            with closing(run_items(items, jobs)) as running:
                for outcome in running:
                    outcomes.append(outcome)
                    _tell(outcome, f"[{len(outcomes)}/{len(items)}]", quiet or as_json)
                    if as_json:
                        click.echo(json.dumps(_as_json(outcome)))
        except KeyboardInterrupt:
            interrupted = True
    if not (quiet or as_json):
        _print_summary(items, outcomes)
    if interrupted:
        left = len(items) - len(outcomes)
        click.echo(f"featot: interrupted; {left} of {len(items)} are left: the same command goes on", err=True)
        raise click.exceptions.Exit(130)
    if any(outcome.status == "failed" for outcome in outcomes):
        raise click.exceptions.Exit(1)


def _tell(outcome: Outcome, number: str, quiet: bool) -> None:
    for warning in outcome.warnings:
        click.echo(f"featot: warning: {' '.join(warning.split())}", err=True)
    if not quiet or outcome.status == "failed":
        click.echo(f"{number} {outcome.item.name}: {_what_became(outcome)}", err=True)


def _as_json(outcome: Outcome) -> dict[str, Any]:
    told = {"exemplar": outcome.item.name, "image": str(outcome.item.out), "status": outcome.status}
    return told | {"seconds": round(outcome.seconds, 4), "loss": outcome.loss, "error": outcome.error}


def _what_became(outcome: Outcome) -> str:
    if outcome.status == "failed":
        return f"failed after {outcome.seconds:.1f} s: {outcome.error}"
    if outcome.status == "skipped":
        return f"skipped, {outcome.item.out} is there"
    return f"{outcome.seconds:.1f} s, loss {outcome.loss:.4g}, {outcome.item.out}"


def _print_summary(items: Sequence[Item], outcomes: Sequence[Outcome]) -> None:
    """A row for each item, in the order in which they were given."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console.width = 10_000  # lines are not broken for a file
    counts = {status: sum(o.status == status for o in outcomes) for status in ("made", "skipped", "failed")}
    left = {"left": len(items) - len(outcomes)} if len(outcomes) < len(items) else {}
    total = ", ".join(f"{count} {status}" for status, count in {**counts, **left}.items())
    table = Table(box=box.SIMPLE_HEAD, caption=total, caption_justify="left")
    for name in ("exemplar", "image", "what became of it"):
        table.add_column(name, overflow="fold")
    for name in ("seconds", "loss"):
        table.add_column(name, justify="right")
    done = {outcome.item.out: outcome for outcome in outcomes}
    for item in items:
        outcome = done.get(item.out)
        status = "left" if outcome is None else ": ".join(filter(None, (outcome.status, outcome.error)))
        seconds = "" if outcome is None else f"{outcome.seconds:.1f}"
        loss = "" if outcome is None or outcome.loss is None else f"{outcome.loss:.4g}"
        table.add_row(escape(item.name), escape(str(item.out)), escape(status), seconds, loss)
    console.print(table)
