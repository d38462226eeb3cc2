"""`featot grid`: each of some features with each of some losses; `featot bench-table`: each of some methods."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featot.errors import FeatotError, UsageError, unknown_name
from featot_cli.common import (
    PluginCommand,
    image_options,
    loop_options,
    mixed_option,
    quiet_option,
    settings_and_output,
    weights_option,
)
from featot_cli.main import LazyRegistry, pass_registry

if TYPE_CHECKING:
    from featot.comparison import Case, Outcome

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
metric_option = click.option(
    "--metric",
    multiple=True,
    metavar="A,B",
    help="Metrics that score each image.  [default: msot, and vgg where its weights are]",
)


@click.command(cls=PluginCommand)
@click.argument("exemplar")
@mixed_option
@click.option("--out", metavar="FILE", help="The contact sheet to write.  [default: EXEMPLAR's name with _grid.png]")
@click.option("--features", metavar="A,B", default="pyramid,vgg", show_default=True, help="The rows.")
@click.option("--loss", metavar="A,B", default="ot,gram", show_default=True, help="The columns.")
@metric_option
@weights_option
@image_options
@loop_options
@quiet_option
@json_option
@pass_registry
def grid(
    lazy: LazyRegistry,
    /,
    exemplar: str,
    mixed: tuple[str, ...],
    out: str | None,
    weights: str | None,
    features: str,
    loss: str,
    metric: tuple[str, ...],
    quiet: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Compare features and losses: a contact sheet of every pair, and a table of their scores.

    The paper's experiment is the default: patches or VGG's responses, by optimal transport or by Gram matrices.
    Patches and Gram does not work; the other three do. Beside the sheet goes the table, as .md and .csv.

    \b
    featot grid bricks.png --weights vgg19.pth
    featot grid bricks.png --features pyramid,random_conv --loss ot,gram,moments --size 128
    """
    from featot.comparison import grid_cases

    settings, out = settings_and_output(given, mixed, out, weights)
    path = Path(out) if out is not None else Path(f"{Path(exemplar).stem}_grid.png")
    if path.suffix.lower() != ".png":
        raise UsageError(f"expected a contact sheet .png, got {path}")
    cases = grid_cases(exemplar, _names(features, "features"), _names(loss, "loss"))
    _run(lazy, cases, settings, metric, sheet=path, quiet=quiet, as_json=as_json, folder=None)


@click.command("bench-table", cls=PluginCommand)
@click.argument("folder", metavar="DIR")
@mixed_option
@click.option("--out", metavar="FOLDER", help="Where tables, sheet and images go.  [default: DIR's name with _table]")
@click.option("--methods", metavar="A,B", default="image,gatys,sliced", show_default=True, help="The columns.")
@metric_option
@weights_option
@image_options
@loop_options
@quiet_option
@json_option
@pass_registry
def bench_table(
    lazy: LazyRegistry,
    /,
    folder: str,
    mixed: tuple[str, ...],
    out: str | None,
    weights: str | None,
    methods: str,
    metric: tuple[str, ...],
    quiet: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Compare methods on a folder of exemplars: the paper's table, the best bold, the second underlined.

    Writes table.md, table.csv and table.tex, a contact sheet and every image.

    \b
    featot bench-table textures/ --methods image,sliced,random --metric msot,copy
    """
    from featot.comparison import METHODS, Case

    settings, out = settings_and_output(given, mixed, out, weights)
    chosen = _names(methods, "methods")
    for name in chosen:
        if name not in METHODS:
            raise unknown_name("method", name, METHODS)
    if not os.path.isdir(folder):
        raise UsageError(f"expected a folder of exemplars, got {folder}")
    exemplars = sorted(file for file in Path(folder).iterdir() if file.suffix.lower() in _SUFFIXES)
    if not exemplars:
        raise UsageError(f"no exemplars in {folder}: expected images such as bricks.png")
    target = Path(out) if out is not None else Path(f"{Path(folder).resolve().name}_table")
    try:
        target.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {target}: {error.strerror}") from error
    cases = [
        Case(row=file.stem, column=name, exemplar=file, changes=METHODS[name])
        for file in exemplars
        for name in chosen
    ]
    _run(lazy, cases, settings, metric, sheet=target / "table.png", quiet=quiet, as_json=as_json, folder=target)


def _run(
    lazy: LazyRegistry,
    cases: Sequence[Case],
    settings: Any,
    metric: tuple[str, ...],
    *,
    sheet: Path,
    quiet: bool,
    as_json: bool,
    folder: Path | None,
) -> None:
    """Goes through the cases, and writes the sheet, the tables and, into the folder, the images."""
    from featot.comparison import choose_metrics, compare, tables, to_json, write_contact_sheet
    from featot.files import check_writable, write_text
    from featot.progress import progress_bar
    from featot.runs import check_plugins
    from featot.tables import FORMATS

    for case in cases:
        check_plugins(case.settings(settings), lazy.registry)
    outputs = [sheet.with_suffix(suffix) for suffix in FORMATS]
    for file in (sheet, *outputs):
        check_writable(file)
    names = _names(",".join(metric), "metrics") if metric else None
    metrics = choose_metrics(names, settings.options, lazy.registry)
    outcomes: list[Outcome] = []
    interrupted = False
    with progress_bar(quiet=quiet or as_json) as show:
        for outcome in compare(cases, settings, metrics=metrics, callback=show, registry=lazy.registry):
            outcomes.append(outcome)
            _tell(outcome, quiet or as_json)
            if outcome.synthesis is not None:
                interrupted = outcome.synthesis.interrupted
                if folder is not None:
                    outcome.synthesis.save(folder / f"{outcome.case.row}_{outcome.case.column}.png")
    made = [outcome for outcome in outcomes if outcome.synthesis is not None]
    if not made:
        raise FeatotError("none of the syntheses could be made")
    write_contact_sheet(outcomes, sheet)
    found = tables(outcomes, metrics)
    for file in outputs:
        write_text(file, FORMATS[file.suffix](found))
    click.echo(json.dumps(to_json(outcomes)) if as_json else FORMATS[".md"](found))
    if not (quiet or as_json):
        click.echo(f"{sheet}; tables in {', '.join(file.name for file in outputs)}", err=True)
    if interrupted:
        raise click.exceptions.Exit(130)
    if len(made) < len(outcomes):
        raise click.exceptions.Exit(1)


def _tell(outcome: Outcome, quiet: bool) -> None:
    where = f"{outcome.case.row}, {outcome.case.column}"
    if outcome.synthesis is None:
        click.echo(f"featot: warning: {where}: {outcome.error}", err=True)
    elif not quiet:
        scores = ", ".join(f"{name} {score:.4f}" for name, score in outcome.scores.items())
        click.echo(f"{where}: {scores} ({outcome.synthesis.record['timings']['match']:.1f} s)", err=True)


def _names(text: str, what: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise UsageError(f"bad {what} {text!r}: expected different names with commas between")
    return names
