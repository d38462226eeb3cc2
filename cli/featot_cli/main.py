"""The group `featot`: its own commands, those of plugins, and how every error ends."""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any

import click

import featot
from featot.errors import FeatotError, unknown_name
from featot.plugins import Registry, load_registry

# Named, not imported: `featot --help` loads no torch.
_COMMANDS = {
    "synth": ("featot_cli.synth:synth", "Synthesise a texture from an exemplar image."),
    "plugins": ("featot_cli.plugins:plugins", "List the plugins: owner, version, summary, options."),
}


class FeatotGroup(click.Group):
    """Commands loaded when they are needed; plugins cannot take a built-in's name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_COMMANDS, *(name for name in _registry(ctx).names("command") if name not in _COMMANDS)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in _COMMANDS:
            module, attribute = _COMMANDS[name][0].split(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        if name in _registry(ctx).names("command"):
            loaded: click.Command = _registry(ctx).get("command", name).load()
            return loaded
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            raise unknown_name("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Like click's, but from the summaries: importing every command for its help would import torch."""
        registry = _registry(ctx)
        rows = [(name, summary) for name, (_, summary) in _COMMANDS.items()]
        rows += [
            (name, registry.get("command", name).plugin.summary) for name in self.list_commands(ctx)[len(rows) :]
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
        with formatter.section("Plugins"):
            kinds = ("features", "param", "loss", "metric")
            formatter.write_dl([(f"--{kind}", ", ".join(registry.names(kind)) or "none") for kind in kinds])


def _registry(ctx: click.Context) -> Registry:
    return lazy_registry(ctx).registry


class LazyRegistry:
    """The registry of one invocation, loaded when first asked for; its problems are told once."""

    def __init__(self) -> None:
        self._registry: Registry | None = None

    @property
    def registry(self) -> Registry:
        if self._registry is None:
            self._registry = load_registry()
            for problem in self._registry.problems:
                click.echo(f"featot: warning: {problem}", err=True)
        return self._registry


def lazy_registry(ctx: click.Context) -> LazyRegistry:
    """The registry of this invocation."""
    return ctx.ensure_object(LazyRegistry)


pass_registry = click.make_pass_decorator(LazyRegistry, ensure=True)


@click.group(cls=FeatotGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(featot.__version__, prog_name="featot")
def cli() -> None:
    """Matches feature distributions by semi-discrete optimal transport.

    \b
    featot synth bricks.png -o wall.png --size 512x512
    """


def main(args: list[str] | None = None) -> None:
    """Runs the command line. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    warnings.showwarning = _show_warning
    try:
        code = cli.main(args=args, prog_name="featot", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except FeatotError as error:
        click.echo(f"featot: {error}", err=True)
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("featot: interrupted, nothing was written", err=True)
        code = 130
    except BrokenPipeError:  # the reader of our output has gone: nothing left to say
        sys.stderr.close()
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    click.echo(f"featot: warning: {message}", err=True)
