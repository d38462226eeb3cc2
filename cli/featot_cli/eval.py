"""`featot eval`: a table of scores."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from featot.errors import FeatotError, UsageError
from featot_cli.common import PluginCommand, split_options, weights_option
from featot_cli.main import LazyRegistry, pass_registry

if TYPE_CHECKING:
    from featot.evaluation import Evaluation, Progress
    from featot.interfaces import Metric


class MetricCommand(PluginCommand):
    """A command about metrics."""

    kinds = ("metric",)


@click.command("eval", cls=MetricCommand)
@click.argument("images", nargs=-1, metavar="IMAGE...")
@click.option("--exemplar", metavar="FILE", help="What the images were made from.  [required]")
@click.option(
    "--metric", "metrics", multiple=True, metavar="A,B,...", help="The metrics.  [default: all that can run]"
)
@click.option("-o", "mixed", multiple=True, metavar="KEY=VALUE", help="An option of a metric: msot.scales=3.")
@weights_option
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@click.option("--csv", "csv_file", metavar="FILE", help="Also write the table here, as CSV in full precision.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON instead of the table, with the details of each score."
)
@pass_registry
def evaluate(
    lazy: LazyRegistry,
    /,
    images: tuple[str, ...],
    exemplar: str | None,
    metrics: tuple[str, ...],
    mixed: tuple[str, ...],
    weights: str | None,
    quiet: bool,
    csv_file: str | None,
    as_json: bool,
) -> None:
    """Score each IMAGE against its exemplar, by several metrics. The best of each column is bold.

    The last row is the exemplar against itself, for comparison. Metrics that cannot run, for want of weights, are
    skipped unless they are named.

    \b
    featot eval wall.png --exemplar bricks.png
    featot eval a.png b.png --exemplar bricks.png --metric msot,vgg --weights vgg19.pth --csv scores.csv
    """
    # Imported here, with torch: --help does not wait for it.
    import featot
    from featot.files import check_writable, write_text

    if not images:
        raise UsageError("which images? Expected an IMAGE, as in: featot eval wall.png --exemplar bricks.png")
    if exemplar is None:
        raise UsageError(f"which exemplar? Expected --exemplar, as in: featot eval {images[0]} --exemplar bricks.png")
    options, out = split_options(mixed, None, weights)
    if out is not None:
        raise UsageError(f"bad option {out!r}: expected KEY=VALUE, as in -o msot.scales=3")
    if csv_file is not None:
        check_writable(csv_file)
        for given in (*images, exemplar):
            if os.path.exists(csv_file) and os.path.exists(given) and os.path.samefile(csv_file, given):
                raise UsageError(f"cannot write {csv_file}: it is one of the images")
    names = [name.strip() for text in metrics for name in text.split(",")]
    with _progress_bar(quiet=quiet or as_json) as callback:
        found = featot.evaluate(
            images,
            exemplar,
            metrics=list(dict.fromkeys(names)) or None,
            options=options,
            callback=callback,
            registry=lazy.registry,
        )
    for name, why in found.skipped.items():
        click.echo(f"featot: skipped {name}: {' '.join(why.split())}", err=True)
    if not found.metrics:
        raise FeatotError("no metric could run")
    if csv_file is not None:
        write_text(csv_file, found.to_csv())
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1))
    else:
        _print_table(found)


def _print_table(found: Evaluation) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from featot.tables import arrow

    console = Console()
    if not console.is_terminal:
        console.width = 10_000  # lines are not broken for a file
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("image", overflow="fold")
    for name, metric in found.metrics.items():
        table.add_column(f"{name} {arrow(metric)}", justify="right", no_wrap=True)
    several = len(found.images) > 1
    best = {name: found.best(name) for name in found.metrics} if several else {}
    for row in found.images:
        values = {name: score.value for name, score in row.scores.items()}
        cells = [
            f"[bold]{value:.4g}[/]" if value == best.get(name) else f"{value:.4g}" for name, value in values.items()
        ]
        table.add_row(escape(row.name), *cells)
    table.add_section()
    table.add_row("exemplar itself", *(f"{score.value:.4g}" for score in found.exemplar.scores.values()))
    console.print(table)
    meanings = {arrow(metric): _meaning(metric) for metric in found.metrics.values()}
    console.print("  " + ", ".join(f"{arrow} {meaning}" for arrow, meaning in meanings.items()), highlight=False)


def _meaning(metric: Metric) -> str:
    if metric.ideal is not None:
        return f"the nearer to {metric.ideal:g} the better"
    return "lower is better" if metric.lower_is_better else "higher is better"


@contextmanager
def _progress_bar(*, quiet: bool) -> Iterator[Progress]:
    """A bar on standard error; silent if ``quiet``, or where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("", total=1)
        yield lambda done, total, what: progress.update(
            bar, completed=done, total=total, description=what, refresh=True
        )
