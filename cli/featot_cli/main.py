"""The group `featot`: its own commands, those of plugins, and how every error ends."""

from __future__ import annotations

import importlib
import io
import os
import re
import signal
import sys
import time
import warnings
from typing import Any

import click

import featot
from featot.errors import FeatotError, unknown_name
from featot.plugins import PluginProblem, Registry, load_registry
from featot_cli.config import default_map, name_variables, origin

COMPLETING = "_FEATOT_COMPLETE"  # the variable by which a shell asks what could come next

# Named, not imported: `featot --help` loads no torch.
COMMANDS = {
    "synth": ("featot_cli.synth:synth", "Synthesise a texture from an exemplar image."),
    "inpaint": ("featot_cli.inpaint:inpaint", "Fill a hole in an image with what the rest is made of."),
    "mix": ("featot_cli.mix:mix", "Make the texture between several exemplars: their barycenter."),
    "transfer": ("featot_cli.transfer:transfer", "Paint one image with the texture of another."),
    "batch": ("featot_cli.batch:batch", "Synthesise from many exemplars, one image each; goes on where it stopped."),
    "eval": ("featot_cli.eval:evaluate", "Score images against their exemplar: a table of metrics."),
    "grid": ("featot_cli.grid:grid", "Compare features and losses on an exemplar: a contact sheet and a table."),
    "bench-table": ("featot_cli.grid:bench_table", "Compare methods on a folder of exemplars: the paper's table."),
    "train": ("featot_cli.train:train", "Train a generator network: afterwards any size at once."),
    "sample": ("featot_cli.sample:sample", "Make images of any size with a trained model."),
    "export": ("featot_cli.sample:export", "Write a trained model as an ONNX graph."),
    "doctor": ("featot_cli.doctor:doctor", "Tell what is installed, what is slow here and why, and the remedies."),
    "plugins": ("featot_cli.plugins:plugins", "List the plugins: owner, version, summary, options; make a new one."),
}

_SECTIONS = {
    "Make images": ("synth", "inpaint", "mix", "transfer", "batch"),
    "Judge and compare": ("eval", "grid", "bench-table"),
    "Generators": ("train", "sample", "export"),
    "What is here": ("doctor", "plugins"),
}


class FeatotGroup(click.Group):
    """Commands loaded when they are needed; plugins cannot take a built-in's name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *(name for name in _registry(ctx).names("command") if name not in COMMANDS)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS:
            module, attribute = COMMANDS[name][0].split(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
        elif name in _registry(ctx).names("command"):
            command = _registry(ctx).get("command", name).load()
        else:
            return None
        name_variables(command, f"featot_{name}")
        if COMPLETING in os.environ:
            from featot_cli.completion import complete

            complete(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        unknown = args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx)
        if unknown and not ctx.resilient_parsing:  # while the shell asks what could come next, nothing is wrong
            raise unknown_name("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Like click's, but from the summaries: importing every command for its help would import torch."""
        registry = _registry(ctx)
        for title, names in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, COMMANDS[name][1]) for name in names])
        others = [name for name in registry.names("command") if name not in COMMANDS]
        if others:
            with formatter.section("Commands of plugins"):
                formatter.write_dl([(name, registry.get("command", name).plugin.summary) for name in others])
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
            self._registry = registry = load_registry()
            for name in COMMANDS.keys() & registry.plugins["command"].keys():
                taken = registry.plugins["command"].pop(name)
                why = f"command {name!r} is one of featot's own"
                registry.problems.append(PluginProblem(taken.owner, taken.version, why))
            for problem in registry.problems if COMPLETING not in os.environ else ():
                _show_warning(problem)
        return self._registry


def lazy_registry(ctx: click.Context) -> LazyRegistry:
    """The registry of this invocation."""
    return ctx.ensure_object(LazyRegistry)


pass_registry = click.make_pass_decorator(LazyRegistry, ensure=True)


@click.group(
    cls=FeatotGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 110,
        "auto_envvar_prefix": "FEATOT",
    },
)
@click.option(
    "--config", metavar="FILE", help="Read options from this TOML; none: from no file.  [default: ./featot.toml]"
)
@click.version_option(featot.__version__, prog_name="featot", allow_from_autoenv=False)
@click.pass_context
def cli(ctx: click.Context, /, config: str | None) -> None:
    """Matches feature distributions by semi-discrete optimal transport.

    \b
    featot synth bricks.png -o wall.png --size 512x512
    """
    group, name = ctx.command, ctx.invoked_subcommand or ""
    assert isinstance(group, FeatotGroup)
    ctx.default_map = default_map(config, group.get_command(ctx, name), name, group.list_commands(ctx))


def main(args: list[str] | None = None) -> None:
    """Runs the command line. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

    Whatever goes wrong is one line on standard error; with FEATOT_DEBUG set, a bug also shows its traceback.
    """
    _interrupt_once()
    # Threads that wait by spinning make two runs on one machine ten times slower, not two: spin only briefly.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows no ψ gets \u03c8
            stream.reconfigure(errors="backslashreplace")
    try:
        plain = False if os.environ.get("NO_COLOR") else None  # None: styles on a terminal only
        code = cli.main(args=args, prog_name="featot", standalone_mode=False, color=plain)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "featot"
        message = error.format_message()
        message += "" if message.endswith((".", "?", "?)")) else "."
        code = _fail(_what_is_missing(error) or f"{message}{origin(error)} See: {command} --help", error.exit_code)
    except click.ClickException as error:
        code = _fail(error.format_message(), error.exit_code)
    except FeatotError as error:
        code = _fail(str(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        code = _fail("interrupted", 130)
    except OSError as error:
        code = _fail(str(error), 1)
    except Exception as error:
        if os.environ.get("FEATOT_DEBUG"):
            raise
        code = _fail(_what_failed(error), 1)
    if code == 130:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an echo must not hit the interpreter as it ends
    sys.exit(code if isinstance(code, int) else 0)


def _what_failed(error: Exception) -> str:
    from featot.ot.memory import is_out_of_memory

    if is_out_of_memory(error):
        return "not enough memory"
    return f"{type(error).__name__}: {error} (this is a bug; FEATOT_DEBUG=1 shows where)"


def _what_is_missing(error: click.UsageError) -> str | None:
    """For an argument that is missing, the first example of the command's help; None for another error."""
    if not isinstance(error, click.MissingParameter) or error.param is None or error.ctx is None:
        return None
    example = re.search(r"^ *(featot .*?) *(?:$|   )", error.ctx.command.help or "", re.M)
    if example is None:
        return None
    name = error.param.make_metavar(error.ctx).rstrip(".")
    return f"{name} is missing; expected as in: {example[1]}"


def _interrupt_once() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt at most once a second.

    Wrappers such as `timeout` and `uv run` pass on the SIGINT that the terminal has already sent, and hands press
    twice: the echo must not hit while the first is being answered by writing the image.
    """
    last = -1.0

    def interrupt(*_: Any) -> None:
        nonlocal last
        if time.monotonic() - last > 1:
            last = time.monotonic()
            raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in the background
        signal.signal(signal.SIGINT, interrupt)


def _fail(message: str, code: int) -> int:
    click.echo(f"featot: {_one_line(message)}", err=True)
    return code


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    print(f"featot: warning: {_one_line(str(message))}", file=sys.stderr)  # so that it comes above a bar, not into it


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())
