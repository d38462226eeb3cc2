"""What the shell is offered for the values of options: names of plugins, the choices of others, and files."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import click
from click.shell_completion import CompletionItem

from featot_cli.config import option_name
from featot_cli.main import lazy_registry

_KINDS = ("features", "param", "loss", "metric")
# What options take that have a choice, named again: asking the engine would import torch.
CHOICES = {
    "alpha": ("white", "ignore", "keep"),
    "augment": ("rot90", "flip"),
    "colors": ("style", "keep"),
    "device": ("auto", "cpu", "cuda"),
    "kind": _KINDS,
    "methods": ("image", "paper", "gatys", "vgg_ot", "random", "sliced", "moments", "texnet"),
    "optimizer": ("adam", "lbfgs", "closed-form"),
    "precision": ("auto", "float32", "bfloat16"),
    "quality": ("draft", "standard", "high"),
    "tile": ("both", "x", "y", "none"),
}
_FILES = ("FILE", "OUT", "EXEMPLAR", "IMAGE", "MODEL")


def complete(command: click.Command) -> click.Command:
    """``command``, whose parameters, and those of its commands, now offer the values that they take."""
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        complete(inner)
    for param in command.params:
        name = option_name(param) if isinstance(param, click.Option) else ""
        words = re.findall(r"[A-Z]+", param.metavar or (param.name or "").upper())
        if name in _KINDS:
            setattr(param, "shell_complete", functools.partial(_plugins, name))  # noqa: B010  # a method, for mypy
        elif name in CHOICES:
            setattr(param, "shell_complete", functools.partial(_choices, CHOICES[name]))  # noqa: B010
        elif "DIR" in words or set(words) & set(_FILES):
            kind = "dir" if "DIR" in words else "file"
            setattr(param, "shell_complete", functools.partial(_paths, kind))  # noqa: B010
    return command


def _plugins(kind: str, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The plugins of a kind; of "ot+sl", or "pyramid,sl", or "vgg=sl", the last name is completed."""
    head, tail = re.fullmatch(r"(.*[+,=*])?(.*)", incomplete, re.S).groups(default="")  # type: ignore[union-attr]
    registry = lazy_registry(ctx).registry
    return [
        CompletionItem(head + name, help=registry.get(kind, name).plugin.summary)
        for name in registry.names(kind)
        if name.startswith(tail.replace("-", "_"))
    ]


def _choices(choices: Sequence[str], ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Of "rot90,fl" the last name is completed."""
    head, comma, tail = incomplete.rpartition(",")
    return [CompletionItem(head + comma + name) for name in choices if name.startswith(tail)]


def _paths(kind: str, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type=kind)]
