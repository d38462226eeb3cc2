"""`featot plugins`: everything that is installed, and what is wrong with what is not working; new ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from featot.errors import UsageError, unknown_name
from featot.options import as_text, describe
from featot.plugins import Registered, Registry
from featot_cli.main import LazyRegistry, lazy_registry, pass_registry


class PluginsGroup(click.Group):
    """Lists when it is alone; an unknown subcommand is answered as an unknown command is."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise unknown_name("command of featot plugins", args[0], self.commands)
        return super().resolve_command(ctx, args)


@click.group(cls=PluginsGroup, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.pass_context
def plugins(ctx: click.Context, /, as_json: bool) -> None:
    """List the plugins: owner, version, summary, options. With new: make one of your own.

    \b
    featot plugins
    featot plugins new my-features --kind features
    """
    if ctx.invoked_subcommand is not None:
        if as_json:
            raise UsageError("--json is for the list of plugins alone")
        return
    _list(lazy_registry(ctx).registry, as_json)


@plugins.command()
@click.argument("name", required=False)
@click.option("--kind", metavar="KIND", help="features, param, loss or metric: what it is to be.  [required]")
@click.option("--into", metavar="DIR", default=".", help="The folder in which its folder is made.  [default: here]")
@pass_registry
def new(lazy: LazyRegistry, /, name: str | None, kind: str | None, into: str) -> None:
    """Make the package NAME: a plugin that works, with its test. Nothing is overwritten.

    \b
    featot plugins new my-features --kind features
    pip install -e my-features && pytest my-features
    featot synth bricks.png --features my-features
    """
    from featot_cli.scaffold import scaffold

    if name is None:
        raise UsageError("which name? Expected one, as in: featot plugins new my-features --kind features")
    if kind is None:
        raise UsageError(f"which kind? Expected --kind, as in: featot plugins new {name} --kind features")
    for file in scaffold(name, kind, into, lazy.registry):
        click.echo(file)
    folder = Path(into, name)
    click.echo(f"next: pip install -e {folder} && pytest {folder}")


def _list(registry: Registry, as_json: bool) -> None:
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
                    click.echo(f"    -o {option['name']}={as_text(option['default'])}  {option_help(option)}")


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
