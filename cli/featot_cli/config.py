"""Options from a file and from the environment: tables of TOML become click's defaults, checked as they are read."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from featot.errors import UsageError, unknown_name
from featot.files import kind_of, what_is_missing

FILE = "featot.toml"
"""What is read where it lies in the present folder."""

_OPTIONS = "options"  # the table of plugins' options, which the command line has as -o KEY=VALUE
# With these a run goes on, or is repeated, as it was: defaults of today have no say in it.
_REPEATING = frozenset({"--from-json", "--resume"})


def default_map(
    file: str | None, command: click.Command | None, name: str, commands: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """What ``file`` says of ``command``, which is called ``name``: its defaults by parameter, as click wants them.

    ``file``: None for featot.toml, if it lies here; "none" for no file. The other tables must only be ``commands``.
    Raises `featot.UsageError` for a file that cannot be read, an unknown command or option, or a wrong type.
    """
    if file == "none" or (file is None and not Path(FILE).exists()):
        return {}
    path = Path(file or FILE)
    tables = _read(path)
    for key, table in tables.items():
        if key not in commands:
            raise UsageError(f"{path}: {unknown_name('command', key, commands)}")
        if not isinstance(table, dict):
            raise UsageError(f"{path}: bad {key} {table!r}: expected a table, [{key}], with options of the command")
    if command is None or name not in tables:
        return {}
    return {name: _defaults(path, name, tables[name], command)}


def _read(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        mode = os.stat(path).st_mode
    except OSError:
        raise UsageError(f"cannot read {path}: {what_is_missing(Path(os.path.abspath(path)))}") from None
    if not stat.S_ISREG(mode):
        raise UsageError(f"cannot read {path}: {kind_of(mode)}; expected a file of TOML")
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; expected a readable file of TOML") from None
    except ValueError as error:  # of TOML, or of UTF-8
        raise UsageError(f"cannot read {path}: {error}; expected TOML, as in docs/configuration.md") from None


def _defaults(path: Path, where: str, table: Mapping[str, Any], command: click.Command) -> dict[str, Any]:
    """The table of one command, by the names of its parameters."""
    options = {option_name(p): p for p in command.params if isinstance(p, click.Option)}
    mixed = options.pop("o", None)
    for name in _REPEATING:
        options.pop(name.lstrip("-"), None)
    inner = command.commands if isinstance(command, click.Group) else {}
    known = [*options, *inner, *([_OPTIONS] if mixed is not None else [])]
    found: dict[str, Any] = {}
    for key, value in table.items():
        place, name = f"{where}.{key}", key.replace("_", "-")
        if name in inner and isinstance(value, dict):
            found[name] = _defaults(path, place, value, inner[name])
        elif name == _OPTIONS and mixed is not None:
            if not isinstance(value, dict):
                raise UsageError(f"{path}: bad {place} {value!r}: expected a table, as in [{place}] pyramid.size = 5")
            found["mixed"] = tuple(f"{option}={text}" for option, text in _flat(path, place, value))
        elif name in options:
            found[str(options[name].name)] = _value(f"{path}: bad {place}", value, options[name])
        else:
            raise UsageError(f"{path}: {unknown_name(f'option of [{where}]', key, known)}")
    return found


def _value(what: str, value: Any, option: click.Option) -> Any:
    """``value``, if it is of the option's type: a single one where the option may be repeated, too."""
    if option.multiple:
        return [_scalar(what, item, option) for item in (value if isinstance(value, list) else [value])]
    if isinstance(value, list) and isinstance(option.type, click.types.StringParamType):
        return ",".join(_scalar(what, item, option) for item in value)  # as in --augment rot90,flip
    return _scalar(what, value, option)


def _scalar(what: str, value: Any, option: click.Option) -> Any:
    expected, fits = _expectation(option)
    if not fits(value):
        raise UsageError(f"{what} {value!r}: expected {expected}")
    return str(value) if isinstance(option.type, click.types.StringParamType) else value


def _expectation(option: click.Option) -> tuple[str, Callable[[Any], bool]]:
    """What an option takes, in words and as a test."""

    def number(*types: type) -> Callable[[Any], bool]:
        return lambda value: isinstance(value, types) and not isinstance(value, bool)

    if option.is_flag:
        return "true or false", lambda value: isinstance(value, bool)
    if isinstance(option.type, click.types.IntParamType):
        return "a whole number", number(int)
    if isinstance(option.type, click.types.FloatParamType):
        return "a number", number(int, float)
    return f"text, such as {option.make_metavar(click.Context(click.Command('')))}", number(str, int, float)


def _flat(path: Path, where: str, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The options of plugins with their dotted names, as they would be typed."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{name}", text) for name, text in _flat(path, f"{where}.{key}", value))
            continue
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str | int | float) for item in items):
            raise UsageError(f"{path}: bad {where}.{key} {value!r}: expected text, a number, true, false or a list")
        yield key, ",".join(str(item).lower() if isinstance(item, bool) else str(item) for item in items)


def option_name(option: click.Option) -> str:
    """The name that it goes by in a file: "max-points" for --max-points, "o" for -o."""
    return max(option.opts, key=len).lstrip("-")


def name_variables(command: click.Command, prefix: str) -> None:
    """Gives options that go by another name than their parameter their environment variable: FEATOT_SYNTH_JSON.

    The others have theirs from click's auto_envvar_prefix, by the same rule.
    """
    for option in command.params:
        if isinstance(option, click.Option) and option_name(option).replace("-", "_") != option.name:
            option.envvar = f"{prefix}_{option_name(option)}".upper().replace("-", "_")


def before_parsing(ctx: click.Context, args: Sequence[str]) -> None:
    """Where ``args`` repeat a run as it was, file and environment are not asked."""
    if _REPEATING & {arg.partition("=")[0] for arg in args}:
        ctx.default_map = ctx.auto_envvar_prefix = None


def after_parsing(ctx: click.Context, args: Sequence[str]) -> None:
    """Joins the options of plugins: those of the file stand where the command line does not name the same."""
    given: tuple[str, ...] = ctx.params.get("mixed") or ()
    source = ctx.get_parameter_source("mixed")
    if source is ParameterSource.ENVIRONMENT and _REPEATING & {arg.partition("=")[0] for arg in args}:
        ctx.params["mixed"] = ()
    elif source in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT):
        kept = [text for text in ctx.lookup_default("mixed") or () if not any(_same(text, other) for other in given)]
        ctx.params["mixed"] = (*kept, *given)


def _same(default: str, given: str) -> bool:
    """Whether "pyramid.size=5" and "size=7" may be about the same option."""
    (first, _, name), (second, _, other) = (text.partition("=")[0].rpartition(".") for text in (default, given))
    return "=" in given and name == other and (first == second or not first or not second)


def origin(error: click.UsageError) -> str:
    """Where the wrong value comes from, if not from the command line."""
    param, ctx = getattr(error, "param", None), error.ctx
    if not isinstance(param, click.Option) or ctx is None or param.name is None:
        return ""
    source = ctx.get_parameter_source(param.name)
    if source is ParameterSource.ENVIRONMENT:
        variable = param.envvar or f"{ctx.auto_envvar_prefix}_{param.name}".upper()
        return f" (from the environment variable {variable})"
    return " (from the configuration file)" if source is ParameterSource.DEFAULT_MAP else ""
