"""`featot plugins`: everything that is installed, and what is wrong with what is not working."""

from __future__ import annotations

import json
from typing import Any

import click

from featot.options import describe
from featot.plugins import Registered
from featot_cli.main import LazyRegistry, pass_registry


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@pass_registry
def plugins(lazy: LazyRegistry, as_json: bool) -> None:
    """List the plugins: owner, version, summary, options."""
    registry = lazy.registry
    rows = [_row(registered) for registered in registry.all()]
    if as_json:
        problems = [str(problem) for problem in registry.problems]
        click.echo(json.dumps({"plugins": rows, "problems": problems}, indent=1))
        return
    for kind in dict.fromkeys(row["kind"] for row in rows):
        click.secho(kind if kind == "command" else f"--{kind}", bold=True)
        for row in rows:
            if row["kind"] == kind:
                click.echo(f"  {row['name']:<10} {row['summary']}  ({row['owner']} {row['version']})")
                for option in row["options"]:
                    click.echo(f"    -o {option['name']}={option['default']}  {option_help(option)}")


def _row(registered: Registered) -> dict[str, Any]:
    plugin = registered.plugin
    return {
        "kind": registered.kind,
        "name": plugin.name,
        "summary": plugin.summary,
        "owner": registered.owner,
        "version": registered.version,
        "options": describe_options(registered),
    }


def describe_options(registered: Registered) -> list[dict[str, Any]]:
    """Name, type, default, help and limits of each of a plugin's options."""
    return [
        {"name": info.name, "type": info.type, "default": info.default, "help": info.help}
        | {limit: value for limit, value in (("min", info.min), ("max", info.max)) if value is not None}
        for info in describe(registered.plugin.options)
    ]


def option_help(option: dict[str, Any]) -> str:
    """What an option is, its type and range: "side of a patch, in pixels [int, at least 1]"."""
    limits = [option["type"]]
    limits += [f"at least {option['min']}"] if "min" in option else []
    limits += [f"at most {option['max']}"] if "max" in option else []
    return f"{option['help']} [{', '.join(limits)}]"
