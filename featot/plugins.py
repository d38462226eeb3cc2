"""Who registered what: plugins are found through the entry-point group "featot", ours like anyone's."""

from __future__ import annotations

import difflib
import functools
import importlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pluggy

from featot import hookspecs
from featot.errors import FeatotError, UsageError, unknown_name
from featot.options import NoOptions, build, describe

GROUP = "featot"
KINDS: Mapping[str, str] = MappingProxyType(
    {
        "features": "featot_register_extractors",
        "param": "featot_register_parametrizations",
        "loss": "featot_register_losses",
        "metric": "featot_register_metrics",
        "command": "featot_register_commands",
    }
)
"""The kinds of plugin, and the hook that registers each."""

_BASES = {"features": "FeatureExtractor", "param": "Parametrization", "loss": "Loss", "metric": "Metric"}


@dataclass(frozen=True)
class Plugin:
    """What a hook returns: a name to choose it by, and where it is.

    ``target``: "module:Class", imported when first used, or the class itself. ``summary``: a line for lists.
    ``options``: the frozen dataclass of its options, which the class takes as first argument.
    Raises `featot.UsageError` for a name or an options type that cannot be used.
    """

    name: str
    target: str | Any
    summary: str
    options: type = NoOptions

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise UsageError(f"bad plugin name {self.name!r}: expected a-z, 0-9 and _, a letter first")
        if isinstance(self.target, str) and not re.fullmatch(r"[\w.]+:\w+", self.target):
            raise UsageError(f"bad target {self.target!r} of plugin {self.name!r}: expected 'module:Class'")
        if not isinstance(self.summary, str):
            raise UsageError(f"the summary of plugin {self.name!r} is no text, but {self.summary!r}")
        frozen = getattr(getattr(self.options, "__dataclass_params__", None), "frozen", False)
        if not (isinstance(self.options, type) and frozen):
            raise UsageError(f"the options of plugin {self.name!r} are no frozen dataclass, but {self.options!r}")
        try:
            describe(self.options)
        except Exception as error:  # a type hint may name anything
            raise UsageError(f"the options of plugin {self.name!r} cannot be read: {_one_line(error)}") from error


@dataclass(frozen=True)
class Registered:
    """A plugin with its kind and the distribution that owns it."""

    kind: str
    plugin: Plugin
    owner: str
    version: str

    def __str__(self) -> str:
        return f"{self.kind} plugin {self.plugin.name!r}"

    def load(self) -> Any:
        """The class (the command, for kind "command"). Raises `featot.FeatotError` naming the owner."""
        target, where = self.plugin.target, f"{self} of {self.owner} {self.version}"
        if isinstance(target, str):
            module, _, attribute = target.partition(":")
            try:
                target = getattr(importlib.import_module(module), attribute)
            except (Exception, SystemExit) as error:
                raise FeatotError(f"{where} failed to import {target}: {_one_line(error)}") from error
        if self.kind == "command":
            import click

            if not isinstance(target, click.Command):
                raise FeatotError(f"{where}: expected a click.Command, got {target!r}")
            return target
        base = getattr(importlib.import_module("featot.interfaces"), _BASES[self.kind])
        if not (isinstance(target, type) and issubclass(target, base)):
            raise FeatotError(f"{where}: expected a subclass of featot.{_BASES[self.kind]}, got {target!r}")
        return target

    def build_options(self, values: Mapping[str, Any]) -> Any:
        """The options object for ``values`` (see `featot.options.build`)."""
        return build(self.plugin.options, values, str(self))

    def create(self, options: Any = None) -> Any:
        """An instance with ``options`` (None: the defaults)."""
        return self.factory(options)()

    def factory(self, options: Any = None) -> Callable[..., Any]:
        """The class with its options filled in: what is left are the other arguments of its constructor."""
        return functools.partial(self.load(), self.build_options({}) if options is None else options)


@dataclass(frozen=True)
class PluginProblem:
    """Why something of a distribution could not be registered."""

    owner: str
    version: str
    message: str

    def __str__(self) -> str:
        return f"plugin distribution {self.owner} {self.version}: {self.message}"


@dataclass
class Registry:
    """The plugins by kind and name, and the problems met on the way."""

    plugins: dict[str, dict[str, Registered]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    problems: list[PluginProblem] = field(default_factory=list)

    def names(self, kind: str) -> list[str]:
        """Those of a kind, in the order of the alphabet."""
        return sorted(self.plugins[kind])

    def get(self, kind: str, name: str) -> Registered:
        """The plugin of that name, in which "-" is read as "_".

        Raises `featot.UsageError` for an unknown name, with the choices and the near miss.
        """
        found = self.plugins[kind].get(plugin_name(name))
        if found is None:
            raise unknown_name(f"{kind} plugin", name, self.plugins[kind])
        return found

    def all(self) -> Iterator[Registered]:
        """Kind by kind in the order of `KINDS`, by name within each."""
        for kind in KINDS:
            for name in self.names(kind):
                yield self.plugins[kind][name]


def plugin_name(text: str) -> str:
    """The name of the plugin that is meant by ``text``: a package my-features is likely to bring "my_features"."""
    return text.strip().replace("-", "_")


def load_registry(entry_points: Sequence[metadata.EntryPoint] | None = None) -> Registry:
    """Finds and registers every plugin; a fresh registry at each call, no state left anywhere.

    Whatever is wrong with a plugin becomes a `PluginProblem` and leaves the others alone. Where two plugins of
    a kind have one name, the built-in wins, else the one whose distribution comes first in the alphabet.
    ``entry_points``: instead of those installed.
    """
    if entry_points is None:
        entry_points = list(metadata.entry_points(group=GROUP))
    found: dict[tuple[bool, str, str, str], tuple[metadata.EntryPoint, str, str]] = {}
    for entry_point in entry_points:
        owner, version = _owner(entry_point)
        normalized = re.sub(r"[-_.]+", "-", owner).lower()
        identity = (normalized != "featot", normalized, entry_point.name, entry_point.value)
        found.setdefault(identity, (entry_point, owner, version))  # an editable install may be listed twice
    registry = Registry()
    for identity in sorted(found):
        _register(registry, *found[identity])
    return registry


def route_options(
    chosen: Mapping[str, Registered],
    values: Mapping[str, Any],
    presets: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Distributes ``values`` over the ``chosen`` plugins (by kind) and builds the options object of each.

    A key is an option's name where only one of the plugins has it, else "plugin.name" or "kind.name".
    ``presets``: by the plugin's name, what stands where no value is given.
    Raises `featot.UsageError` for a key that no plugin, or more than one, answers to.
    """
    routed: dict[str, dict[str, Any]] = {kind: {} for kind in chosen}
    known = {kind: [info.name for info in describe(plugin.plugin.options)] for kind, plugin in chosen.items()}
    for key, value in values.items():
        prefix, dot, name = key.rpartition(".")
        kinds = [kind for kind in chosen if not dot or plugin_name(prefix) in (kind, chosen[kind].plugin.name)]
        if dot and not kinds:
            raise unknown_name("plugin in option", prefix, [*chosen, *(p.plugin.name for p in chosen.values())])
        takers = [kind for kind in kinds if name in known[kind]]
        if not takers:
            raise unknown_name("option", name, [option for kind in kinds for option in known[kind]])
        if len(takers) > 1:
            spelled = " or ".join(f"{kind}.{name}" for kind in takers)
            raise UsageError(f"option {key!r} is ambiguous: say {spelled}")
        if name in routed[takers[0]]:
            raise UsageError(f"option {name!r} of {chosen[takers[0]]} is given twice")
        routed[takers[0]][name] = value
    presets = presets or {}
    return {
        kind: plugin.build_options({**presets.get(plugin.plugin.name, {}), **routed[kind]})
        for kind, plugin in chosen.items()
    }


def _register(registry: Registry, entry_point: metadata.EntryPoint, owner: str, version: str) -> None:
    def problem(message: str) -> None:
        registry.problems.append(PluginProblem(owner, version, message))

    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    try:
        module = entry_point.load()
        marked = {name: manager.parse_hookimpl_opts(module, name) for name in dir(module)}
    except (Exception, SystemExit) as error:  # a plugin may fail in any way it likes
        problem(f"failed to import {entry_point.value}: {_one_line(error)}")
        return
    hooks = list(KINDS.values())
    for name, options in marked.items():
        if options is None:
            continue
        hook = options.get("specname") or name
        if hook not in hooks:
            close = difflib.get_close_matches(hook, hooks, n=1)
            problem(f"unknown hook {hook!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
            continue
        try:  # each on its own, so that a bad one leaves the others alone
            manager.register(SimpleNamespace(**{name: getattr(module, name)}), name)
        except pluggy.PluginValidationError as error:
            problem(f"{name} does not fit its hook: {str(error).splitlines()[-1]}")
    for kind, hook in KINDS.items():
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            try:
                plugins = implementation.function()
            except (Exception, SystemExit) as error:
                problem(f"{hook} failed: {_one_line(error)}")
                continue
            if not isinstance(plugins, list):
                problem(f"{hook} returned {type(plugins).__name__}, expected a list of featot.Plugin")
                continue
            for plugin in plugins:
                if not isinstance(plugin, Plugin):
                    problem(f"{hook} returned a list with {type(plugin).__name__} in it, expected featot.Plugin")
                elif plugin.name in registry.plugins[kind]:
                    first = registry.plugins[kind][plugin.name]
                    problem(f"{kind} plugin {plugin.name!r} is already that of {first.owner} {first.version}")
                else:
                    registry.plugins[kind][plugin.name] = Registered(kind, plugin, owner, version)


def _owner(entry_point: metadata.EntryPoint) -> tuple[str, str]:
    name = version = None
    if entry_point.dist is not None:  # None: made by hand
        with suppress(Exception):  # of a half removed distribution, these are None or raise
            name, version = entry_point.dist.name, entry_point.dist.version
    return name or entry_point.value.partition(":")[0].partition(".")[0], version or "?"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
